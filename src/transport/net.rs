//! What both transports need of the network: names, headers, TLS.

pub(crate) mod headers;
pub(crate) mod names;
#[cfg(feature = "tls")]
pub(crate) mod tls;
