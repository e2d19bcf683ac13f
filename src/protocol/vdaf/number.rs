//! 128-bit numbers in JSON.
//!
//! Few JSON parsers support numbers above 2^64, and serde's untagged enums do not support `u128`. Numbers that do not
//! fit in 64 bits are therefore written as decimal text. Both forms are accepted.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A non-negative number of up to 128 bits.
pub struct JsonU128(pub u128);

impl Serialize for JsonU128 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match u64::try_from(self.0) {
            Ok(number) => serializer.serialize_u64(number),
            Err(_) => serializer.collect_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for JsonU128 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(U128Visitor).map(Self)
    }
}

struct U128Visitor;

impl de::Visitor<'_> for U128Visitor {
    type Value = u128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a non-negative integer or its decimal text")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u128, E> {
        Ok(number.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u128, E> {
        let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_decimal);
        number.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// For `#[serde(with)]` on a number.
pub mod one {
    use super::*;

    pub fn serialize<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        JsonU128(*number).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        Ok(JsonU128::deserialize(deserializer)?.0)
    }
}

/// For `#[serde(with)]` on a vector of numbers.
pub mod many {
    use super::*;

    pub fn serialize<S: Serializer>(numbers: &[u128], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(numbers.iter().map(|number| JsonU128(*number)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u128>, D::Error> {
        let numbers = Vec::<JsonU128>::deserialize(deserializer)?;
        Ok(numbers.into_iter().map(|number| number.0).collect())
    }
}

/// A signed number of up to 128 bits.
struct JsonI128(i128);

impl Serialize for JsonI128 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(self.0) {
            Ok(number) => serializer.serialize_i64(number),
            Err(_) => serializer.collect_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for JsonI128 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(I128Visitor).map(Self)
    }
}

struct I128Visitor;

impl de::Visitor<'_> for I128Visitor {
    type Value = i128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer or its decimal text")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<i128, E> {
        Ok(number.into())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<i128, E> {
        Ok(number.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<i128, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// For `#[serde(with)]` on a signed number.
pub mod signed_one {
    use super::*;

    pub fn serialize<S: Serializer>(number: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        JsonI128(*number).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        Ok(JsonI128::deserialize(deserializer)?.0)
    }
}

/// For `#[serde(with)]` on a vector of signed numbers.
pub mod signed {
    use super::*;

    pub fn serialize<S: Serializer>(numbers: &[i128], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(numbers.iter().map(|number| JsonI128(*number)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i128>, D::Error> {
        let numbers = Vec::<JsonI128>::deserialize(deserializer)?;
        Ok(numbers.into_iter().map(|number| number.0).collect())
    }
}
