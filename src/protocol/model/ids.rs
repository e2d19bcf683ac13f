//! Identifiers: byte strings of fixed length, shown as unpadded base64url.

use std::{
    fmt::{self, Debug, Display},
    hash::Hash,
    marker::PhantomData,
    str::FromStr,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{RngCore, TryRngCore, rand_core::OsRng};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An identifier of `N` bytes. `K` distinguishes identifiers of different kinds at compile time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id<K, const N: usize>([u8; N], PhantomData<K>);

/// Identifies a task (DAP-09 section 4.2): 32 bytes.
pub type TaskId = Id<kind::Task, 32>;
/// Identifies a report within a task and is the VDAF nonce (DAP-09 section 4): 16 bytes.
pub type ReportId = Id<kind::Report, 16>;
/// Identifies a batch of a fixed-size task (DAP-09 section 4.1): 32 bytes.
pub type BatchId = Id<kind::Batch, 32>;
/// Identifies an aggregation job within a task (DAP-09 section 4.5.1): 16 bytes.
pub type AggregationJobId = Id<kind::AggregationJob, 16>;
/// Identifies a collection job within a task (DAP-09 section 4.6.1): 16 bytes.
pub type CollectionJobId = Id<kind::CollectionJob, 16>;

/// Identifies an aggregate share of a helper within a task (DAP-18 section 4.6.4): 16 bytes.
pub type AggregateShareId = Id<kind::AggregateShare, 16>;

/// Kinds of identifiers, as type parameters of [`Id`].
pub mod kind {
    /// A task.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Task {}
    /// A report.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Report {}
    /// A batch of a fixed-size task.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Batch {}
    /// An aggregation job.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum AggregationJob {}
    /// A collection job.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum CollectionJob {}
    /// An aggregate share of a helper.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum AggregateShare {}
}

/// The input is not an identifier of the expected length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0} bytes as unpadded base64url")]
pub struct InvalidId(usize);

impl<K, const N: usize> Id<K, N> {
    /// Wraps the bytes of an identifier.
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes, PhantomData)
    }

    /// Generates an identifier with the operating system's random number generator.
    pub fn random() -> Self {
        let mut bytes = [0; N];
        OsRng.unwrap_err().fill_bytes(&mut bytes);
        Self::new(bytes)
    }

    /// The identifier's bytes.
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<K, const N: usize> TryFrom<&[u8]> for Id<K, N> {
    type Error = InvalidId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
        Ok(Self::new(bytes.try_into().map_err(|_| InvalidId(N))?))
    }
}

impl<K, const N: usize> FromStr for Id<K, N> {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidId(N))?;
        Self::try_from(bytes.as_slice())
    }
}

impl<K, const N: usize> Display for Id<K, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<K, const N: usize> Debug for Id<K, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl<K, const N: usize> Serialize for Id<K, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de, K, const N: usize> Deserialize<'de> for Id<K, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
            Self::try_from(bytes.as_slice()).map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_unpadded_base64url_of_exact_length() {
        let id = TaskId::new([0xfb; 32]);
        let text = id.to_string();
        assert_eq!(text.len(), 43);
        assert_eq!(text.parse(), Ok(id));
        assert!(format!("{text}=").parse::<TaskId>().is_err());
        assert!(text[1..].parse::<TaskId>().is_err());
        assert!(text.parse::<ReportId>().is_err());
    }
}
