//! The guides: what does not belong to one type.

// They are the files of `docs/`. Their links to each other are by reference (`[errors]`), with definitions at their ends that work
// in the repository. Here a definition that stands before them, and so takes precedence, leads to the page.

macro_rules! guides {
    ($($(#[$when:meta])? $name:ident)+) => { $(
        #[doc = "
[configuration]: crate::guide::configuration
[transports]: crate::guide::transports
[errors]: crate::guide::errors
[reliability]: crate::guide::reliability
[publisher]: crate::guide::publisher
[backend]: crate::guide::backend
[testing]: crate::guide::testing
[cli]: crate::guide::cli
[versions]: crate::guide::versions
[surprises]: crate::guide::surprises
[performance]: crate::guide::performance
[migration]: crate::guide::migration
[backend]: crate::guide::backend
"]
        #[doc = include_str!(concat!("../docs/", stringify!($name), ".md"))]
        $(#[$when])?
        pub mod $name {}
    )+ };
}

// Without the features its examples do not compile.
guides! { configuration transports errors reliability publisher #[cfg(any(not(doctest), all(feature = "token", feature = "proxy-grpc")))] backend testing cli versions surprises performance migration }
