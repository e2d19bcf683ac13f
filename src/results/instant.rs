//! Times as text: RFC 3339, or a date in UTC.

/// A time.
pub mod required {
    use dapbox_protocol::model::Time;
    use dapbox_support::timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes a time as text.
    pub fn serialize<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&timestamp::show(*time))
    }

    /// Reads a time.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        timestamp::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// An optional time.
pub mod optional {
    use dapbox_protocol::model::Time;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Instant(#[serde(with = "super::required")] Time);

    /// Writes a time as text.
    pub fn serialize<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::required::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a time, if there is one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
        Ok(Option::<Instant>::deserialize(deserializer)?.map(|instant| instant.0))
    }
}
