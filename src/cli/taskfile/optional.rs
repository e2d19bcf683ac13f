//! Formats of optional values in task files, for serde.

use crate::{
    cli::timestamp,
    model::{Secret, Time, secret::token},
};

/// An optional time as RFC 3339 text, for serde.
pub mod instant {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Time, timestamp};

    pub fn serialize<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.serialize_str(&timestamp::show(*time)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
        timestamp::parse(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
    }
}

/// An optional token, for serde.
pub mod optional_token {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Secret, token};

    #[derive(Deserialize)]
    struct Token(#[serde(with = "token")] Secret);

    pub fn serialize<S: Serializer>(old: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
        match old {
            Some(old) => token::serialize(old, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
        Token::deserialize(deserializer).map(|token| Some(token.0))
    }
}
