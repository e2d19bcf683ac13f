//! Numbers of the interop test API: implementations disagree about which are JSON numbers and which are decimal text.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::vdaf::JsonU128;

/// A number written as decimal text, as the design has it for VDAF parameters and values. Reads both forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecimalText(pub u128);

/// A number written as a JSON number, as the design has it for everything else. Reads both forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonNumber(pub u64);

impl DecimalText {
    /// Converts the number, if it fits; `name` is used in the error.
    pub fn fits<T: TryFrom<u128>>(self, name: &str) -> Result<T, String> {
        self.0.try_into().map_err(|_| format!("{name} is {}, which is too large", self.0))
    }
}

impl From<usize> for DecimalText {
    fn from(number: usize) -> Self {
        Self(number as u128)
    }
}

impl Serialize for DecimalText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DecimalText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        JsonU128::deserialize(deserializer).map(|JsonU128(number)| Self(number))
    }
}

impl Serialize for JsonNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for JsonNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let JsonU128(number) = JsonU128::deserialize(deserializer)?;
        u64::try_from(number).map(Self).map_err(|_| de::Error::custom(format!("{number} is too large")))
    }
}

/// A measurement or an aggregate result: one number or a vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Numbers {
    /// One number.
    One(DecimalText),
    /// A vector.
    Many(Vec<DecimalText>),
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An untagged enum of serde would hide why neither form fits.
        let value = Value::deserialize(deserializer)?;
        let read = if value.is_array() {
            serde_json::from_value(value).map(Self::Many)
        } else {
            serde_json::from_value(value).map(Self::One)
        };
        read.map_err(de::Error::custom)
    }
}

impl Numbers {
    /// One number.
    pub fn one(number: u128) -> Self {
        Self::One(DecimalText(number))
    }

    /// A vector.
    pub fn many(numbers: impl IntoIterator<Item = u128>) -> Self {
        Self::Many(numbers.into_iter().map(DecimalText).collect())
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(number) => write!(f, "{}", number.0),
            Self::Many(numbers) => f.debug_list().entries(numbers.iter().map(|number| number.0)).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_text_or_json() {
        for text in ["12", "\"12\""] {
            let number: DecimalText = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&number).unwrap(), "\"12\"");
            let number: JsonNumber = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&number).unwrap(), "12");
        }
        let largest: DecimalText = serde_json::from_str(&format!("\"{}\"", u128::MAX)).unwrap();
        assert_eq!(largest.0, u128::MAX);
        for wrong in ["-1", "\"-1\"", "\"+1\"", "\"\"", "\" 1\"", "1.5", "true", "null", "\"0x1\""] {
            assert!(serde_json::from_str::<DecimalText>(wrong).is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<JsonNumber>("\"18446744073709551616\"").is_err());
    }

    #[test]
    fn reads_one_number_or_a_list() {
        let read = |text: &str| serde_json::from_str::<Numbers>(text);
        assert_eq!(read("\"7\"").unwrap(), Numbers::one(7));
        assert_eq!(read("[\"1\", 2]").unwrap(), Numbers::many([1, 2]));
        assert_eq!(read("[]").unwrap(), Numbers::many([]));
        assert!(read("[[1]]").is_err() && read("{}").is_err());
        assert_eq!(Numbers::many([1, 2]).to_string(), "[1, 2]");
    }
}
