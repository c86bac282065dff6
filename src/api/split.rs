//! How what is too large for one request goes in several.

use std::ops::Range;

use crate::error::{Error, Form};

/// The ranges, of `len` elements, that go in a request each, after one with all of them ended with `error`. In the order in
/// which a stack gives them back: the last first.
///
/// If the limit is this client's, they are as many as the limit lets into one, by the `sizes` of the elements in the form
/// that has the limit; otherwise nobody tells how much is too much, and they are halves.
///
/// # Errors
///
/// `error`, if it does not come of the size, or if one element is over the limit all by itself.
pub(crate) fn divide(
    error: Error,
    len: usize,
    sizes: impl FnOnce(Form) -> Result<Vec<usize>, Error>,
) -> Result<Vec<Range<usize>>, Error> {
    if !error.is_of_size() || len < 2 {
        return Err(error);
    }
    let Some(excess) = error.excess() else { return Ok(vec![len / 2..len, 0..len / 2]) };
    let sizes = sizes(excess.form)?;
    // What is around the elements is in each part.
    let around = excess.bytes.saturating_sub(sizes.iter().sum());
    let parts = excess.limit.checked_sub(around).and_then(|room| pack(&sizes, room));
    parts.ok_or_else(|| error.and(", and it has a part that is over it alone"))
}

/// Ranges of elements that fit into the room, each as long as can be, the last first. `None` if one does not fit alone.
fn pack(sizes: &[usize], room: usize) -> Option<Vec<Range<usize>>> {
    let (mut parts, mut begin, mut taken) = (Vec::new(), 0, 0_usize);
    for (index, &size) in sizes.iter().enumerate() {
        if size > room {
            return None;
        }
        if taken + size > room {
            parts.push(begin..index);
            (begin, taken) = (index, 0);
        }
        taken += size;
    }
    parts.push(begin..sizes.len());
    parts.reverse();
    Some(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{ErrorKind, Excess, Outcome};

    proptest! {
        #![proptest_config(crate::property::config())]

        #[test]
        fn the_parts_are_under_the_limit_in_order_and_lose_nothing(
            sizes in prop::collection::vec(0_usize..50, 2..100),
            around in 0_usize..20,
            limit in 0_usize..500,
        ) {
            let bytes = around + sizes.iter().sum::<usize>();
            prop_assume!(bytes > limit);
            let error = Error::over_limit(Excess { form: Form::Json, bytes, limit });
            let fits_alone = sizes.iter().all(|size| around + size <= limit);
            match divide(error, sizes.len(), |_| Ok(sizes.clone())) {
                Ok(mut parts) => {
                    prop_assert!(fits_alone);
                    parts.reverse();
                    prop_assert!(parts.len() > 1);
                    let mut places = Vec::new();
                    for part in parts {
                        prop_assert!(!part.is_empty());
                        prop_assert!(around + sizes[part.clone()].iter().sum::<usize>() <= limit);
                        places.extend(part);
                    }
                    prop_assert_eq!(places, (0..sizes.len()).collect::<Vec<_>>());
                }
                Err(error) => {
                    prop_assert!(!fits_alone);
                    prop_assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotSent));
                }
            }
        }
    }

    #[test]
    fn what_somebody_else_finds_too_large_is_halved() {
        let refused = || Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused);
        let halves = |len| divide(refused(), len, |_| unreachable!("nobody asks")).ok();
        assert_eq!(halves(5), Some(vec![2..5, 0..2]));
        assert_eq!(halves(2), Some(vec![1..2, 0..1]));
        assert_eq!(halves(1), None);
        assert_eq!(halves(0), None);
    }

    #[test]
    fn what_may_have_been_carried_out_is_not_divided() {
        let reply = Error::new(ErrorKind::TooLarge, "the reply is too large").with_outcome(Outcome::Unknown);
        assert!(divide(reply, 5, |_| unreachable!("nobody asks")).is_err());
    }
}
