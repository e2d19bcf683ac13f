//! Batches: groups of reports, and how a collector selects them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::{BatchId, Interval, ReportId, Time};

/// The batch that a collector requests (DAP-09 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Query {
    /// All reports with a time in the interval.
    TimeInterval(Interval),
    /// A batch of a fixed-size task.
    FixedSize(FixedSizeQuery),
}

/// A batch of a fixed-size task (DAP-09 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FixedSizeQuery {
    /// The batch with this id, known from an earlier collection.
    ByBatchId(BatchId),
    /// Any batch that is ready and was not collected before.
    CurrentBatch,
}

/// A batch selector during aggregation (`PartialBatchSelector`, DAP-09 section 4.5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PartialBatchSelector {
    /// The time of each report determines its batch.
    TimeInterval,
    /// All reports of the job belong to this batch.
    FixedSize(BatchId),
}

/// A batch, fully identified (DAP-09 section 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BatchSelector {
    /// All reports with a time in the interval.
    TimeInterval(Interval),
    /// A batch of a fixed-size task.
    FixedSize(BatchId),
}

impl BatchSelector {
    /// Whether the bucket belongs to the batch.
    pub fn contains(&self, bucket: &Bucket) -> bool {
        match (self, bucket) {
            (Self::TimeInterval(interval), Bucket::Time(start)) => interval.contains(*start),
            (Self::FixedSize(batch), Bucket::Batch(id)) => batch == id,
            _ => false,
        }
    }

    /// The partial selector that aggregation jobs and collection results contain.
    pub fn partial(&self) -> PartialBatchSelector {
        match self {
            Self::TimeInterval(_) => PartialBatchSelector::TimeInterval,
            Self::FixedSize(id) => PartialBatchSelector::FixedSize(*id),
        }
    }
}

/// A batch bucket: the smallest unit with an aggregate share of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Bucket {
    /// An interval of one time precision, by its start (time-interval tasks).
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

    /// Adds a report to the checksum.
    pub fn add(&mut self, id: &ReportId) {
        self.merge(&Self(Sha256::digest(id.as_bytes()).into()));
    }

    /// Adds a disjoint set of reports to the checksum.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine ^= theirs;
        }
    }
}
