//! Batches: which reports belong together, and how a collector names them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::{BatchId, Interval, ReportId, Time};

/// What a collector asks for (DAP-09 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Query {
    /// Everything whose time lies in the interval.
    TimeInterval(Interval),
    /// A batch of a fixed-size task.
    FixedSize(FixedSizeQuery),
}

/// Which batch of a fixed-size task is asked for (DAP-09 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FixedSizeQuery {
    /// One that an earlier collection named.
    ByBatchId(BatchId),
    /// Any that is ready and was not collected before.
    CurrentBatch,
}

/// What is known of a batch while its reports are aggregated (DAP-09 section 4.5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PartialBatchSelector {
    /// Each report's time decides.
    TimeInterval,
    /// All reports of the job belong to this batch.
    FixedSize(BatchId),
}

/// A batch, named in full (DAP-09 section 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BatchSelector {
    /// All reports whose time lies in the interval.
    TimeInterval(Interval),
    /// The batch of a fixed-size task.
    FixedSize(BatchId),
}

impl BatchSelector {
    /// Whether the bucket is part of the batch.
    pub fn contains(&self, bucket: &Bucket) -> bool {
        match (self, bucket) {
            (Self::TimeInterval(interval), Bucket::Time(start)) => interval.contains(*start),
            (Self::FixedSize(batch), Bucket::Batch(id)) => batch == id,
            _ => false,
        }
    }

    /// The part of the selector that aggregation and the collector's result carry.
    pub fn partial(&self) -> PartialBatchSelector {
        match self {
            Self::TimeInterval(_) => PartialBatchSelector::TimeInterval,
            Self::FixedSize(id) => PartialBatchSelector::FixedSize(*id),
        }
    }
}

/// A batch bucket: the smallest unit that is summed on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Bucket {
    /// One time precision long, by its start (time-interval tasks).
    Time(Time),
    /// A whole batch (fixed-size tasks).
    Batch(BatchId),
}

/// The XOR of the SHA-256 hashes of a batch's report ids (DAP-09 section 4.6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum(#[serde(with = "serde_bytes")] [u8; 32]);

impl Checksum {
    /// Wraps a checksum that a peer sent.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the checksum.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes a report into the checksum.
    pub fn add(&mut self, id: &ReportId) {
        self.merge(&Self(Sha256::digest(id.as_bytes()).into()));
    }

    /// Takes another set of reports, disjoint from this one, into the checksum.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine ^= theirs;
        }
    }
}
