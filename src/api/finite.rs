//! Whether every number of a value has a JSON form. `serde_json` writes `null` for those that have none.

use std::fmt;

use serde::ser::{self, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::error::Error;

/// What is wrong with a value that is [lossy](is_lossy).
pub(crate) const LOSSY: &str = "cannot be written as JSON, which has neither NaN nor infinities";

/// Whether a value with this JSON form holds NaN or an infinity.
pub(crate) fn is_lossy<T: Serialize + ?Sized>(value: &T, json: &str) -> bool {
    // Without `null` nothing was lost, and most values have none.
    json.contains("null") && value.serialize(Finite).is_err()
}

/// The parameters of a call in JSON.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when they have no JSON form.
pub(crate) fn parameters<T: Serialize + ?Sized>(params: &T) -> Result<Box<RawValue>, Error> {
    match to_raw_value(params) {
        Ok(json) if is_lossy(params, json.get()) => Err(Error::invalid(format!("the parameters {LOSSY}"))),
        Ok(json) => Ok(json),
        Err(_) => Err(Error::invalid("the parameters cannot be written as JSON")),
    }
}

/// Writes nothing, and fails at a number that is not finite.
#[derive(Clone, Copy)]
struct Finite;

/// A number is not finite, or the value does not serialize.
#[derive(Debug)]
struct Lossy;

impl fmt::Display for Lossy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number has no JSON form")
    }
}

impl std::error::Error for Lossy {}

impl ser::Error for Lossy {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type Checked = Result<(), Lossy>;

macro_rules! nothing_to_check {
    ($($name:ident($($value:ty),*))*) => {
        $(fn $name(self, $(_: $value),*) -> Checked {
            Ok(())
        })*
    };
}

#[rustfmt::skip] // The arguments are names that no one reads.
impl Serializer for Finite {
    type Ok = ();
    type Error = Lossy;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    nothing_to_check! {
        serialize_bool(bool) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
        serialize_none() serialize_unit() serialize_unit_struct(&'static str)
        serialize_unit_variant(&'static str, u32, &'static str)
    }

    fn serialize_f32(self, value: f32) -> Checked {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Checked {
        if value.is_finite() { Ok(()) } else { Err(Lossy) }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Checked {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Checked {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self, _: &'static str, _: u32, _: &'static str, value: &T,
    ) -> Checked {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Lossy> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Lossy> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Lossy> {
        Ok(self)
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Lossy> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Lossy> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Lossy> {
        Ok(self)
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Lossy> {
        Ok(self)
    }
}

macro_rules! parts {
    ($($part:ident::$name:ident($($key:ty)?))*) => {
        $(impl ser::$part for Finite {
            type Ok = ();
            type Error = Lossy;

            fn $name<T: Serialize + ?Sized>(&mut self, $(_: $key,)? value: &T) -> Checked {
                value.serialize(*self)
            }

            fn end(self) -> Checked {
                Ok(())
            }
        })*
    };
}

parts! {
    SerializeSeq::serialize_element()
    SerializeTuple::serialize_element()
    SerializeTupleStruct::serialize_field()
    SerializeTupleVariant::serialize_field()
    SerializeStruct::serialize_field(&'static str)
    SerializeStructVariant::serialize_field(&'static str)
}

impl ser::SerializeMap for Finite {
    type Ok = ();
    type Error = Lossy;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Checked {
        // `serde_json` refuses keys that are not finite.
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Checked {
        value.serialize(*self)
    }

    fn end(self) -> Checked {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{json, to_string};

    use super::*;

    #[derive(serde::Serialize)]
    enum Shape {
        Unit,
        New(f64),
        Tuple(f64, f32),
        Struct { number: Option<f64> },
    }

    /// Whether a value is lossy that has this number: in each place that a number can have.
    #[track_caller]
    fn nested(number: f64) -> bool {
        #[allow(clippy::cast_possible_truncation, reason = "the same class of number")]
        let single = number as f32;
        let all = [
            is(&number),
            is(&single),
            is(&Some(number)),
            is(&vec![None, Some(number)]),
            is(&((), number)),
            is(&BTreeMap::from([("a", vec![None, Some(single)])])),
            is(&(Shape::New(number), ())),
            is(&(Shape::Tuple(number, 1.0), ())),
            is(&(Shape::Struct { number: Some(number) }, None::<u8>)),
        ];
        assert!(all.iter().all(|lossy| *lossy == all[0]), "{number}: {all:?}");
        all[0]
    }

    fn is<T: Serialize>(value: &T) -> bool {
        is_lossy(value, &to_string(value).unwrap())
    }

    #[test]
    fn a_number_that_is_not_finite_is_lossy_wherever_it_stands() {
        for number in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(nested(number), "{number}");
        }
        for number in [0.0, -0.0, f64::MIN_POSITIVE] {
            assert!(!nested(number), "{number}");
        }
        assert!(!is(&json!({"null": [null, 1.5, "null"]})));
        assert!(!is(&(Shape::Unit, Shape::Struct { number: None })));
        assert!(!is(&to_raw_value(&json!([null, 1.5])).unwrap()));
    }
}
