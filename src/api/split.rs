//! Splits oversized requests.

use std::ops::Range;

use crate::error::{Error, Form};

/// The ranges of `len` elements that are sent in a request each, after one with all of them failed with `error`: the last
/// first, as on a stack.
///
/// If the limit is this client's, each has as many elements as fit, by their `sizes` in the form that has the limit. Limits of
/// servers and proxies are not known, and the ranges are halves.
///
/// # Errors
///
/// `error`, if it is not of the size, or if one element is over the limit by itself.
pub(crate) fn ranges(
    error: Error,
    len: usize,
    sizes: impl FnOnce(Form) -> Result<Vec<usize>, Error>,
) -> Result<Vec<Range<usize>>, Error> {
    if !error.is_of_size() || len < 2 {
        return Err(error);
    }
    let Some(excess) = error.excess() else { return Ok(vec![len / 2..len, 0..len / 2]) };
    let sizes = sizes(excess.form)?;
    // The rest of the request is in each part.
    let rest = excess.bytes.saturating_sub(sizes.iter().sum());
    let parts = excess.limit.checked_sub(rest).and_then(|capacity| pack(&sizes, capacity));
    parts.ok_or_else(|| error.and(", and one part of it is over the limit by itself"))
}

/// The longest ranges of elements that fit, the last first. `None` if one element does not fit by itself.
fn pack(sizes: &[usize], capacity: usize) -> Option<Vec<Range<usize>>> {
    let (mut parts, mut begin, mut taken) = (Vec::new(), 0, 0_usize);
    for (index, &size) in sizes.iter().enumerate() {
        if size > capacity {
            return None;
        }
        if taken + size > capacity {
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
            rest in 0_usize..20,
            limit in 0_usize..500,
        ) {
            let bytes = rest + sizes.iter().sum::<usize>();
            prop_assume!(bytes > limit);
            let error = Error::over_limit(Excess { form: Form::Json, bytes, limit });
            let fits_alone = sizes.iter().all(|size| rest + size <= limit);
            match ranges(error, sizes.len(), |_| Ok(sizes.clone())) {
                Ok(mut parts) => {
                    prop_assert!(fits_alone);
                    parts.reverse();
                    prop_assert!(parts.len() > 1);
                    let mut indices = Vec::new();
                    for part in parts {
                        prop_assert!(!part.is_empty());
                        prop_assert!(rest + sizes[part.clone()].iter().sum::<usize>() <= limit);
                        indices.extend(part);
                    }
                    prop_assert_eq!(indices, (0..sizes.len()).collect::<Vec<_>>());
                }
                Err(error) => {
                    prop_assert!(!fits_alone);
                    prop_assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotSent));
                }
            }
        }
    }

    #[test]
    fn what_a_server_finds_too_large_is_halved() {
        let refused = || Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused);
        let halves = |len| ranges(refused(), len, |_| unreachable!("sizes do not matter")).ok();
        assert_eq!(halves(5), Some(vec![2..5, 0..2]));
        assert_eq!(halves(2), Some(vec![1..2, 0..1]));
        assert_eq!(halves(1), None);
        assert_eq!(halves(0), None);
    }

    #[test]
    fn what_may_have_taken_effect_is_not_split() {
        let reply = Error::new(ErrorKind::TooLarge, "the reply is too large").with_outcome(Outcome::Unknown);
        assert!(ranges(reply, 5, |_| unreachable!("sizes do not matter")).is_err());
    }
}
