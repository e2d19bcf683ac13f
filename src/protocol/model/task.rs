//! Tasks: the parameters that all parties agree on, and the private part of one aggregator.
//!
//! # Decision: public parameters are one type
//!
//! Client, collector and aggregators share [`TaskParameters`]. DAP-18 binds every sealed share to all of the
//! parameters, so every party needs the same set.
//!
//! # Decision: a maximum is a number
//!
//! [`MaxMeasurement`] stores the largest measurement rather than its number of bits, because VDAF-18 allows any
//! maximum. VDAF-08 rejects a maximum that does not have the form 2^bits - 1. VDAF-18 sums in a 64-bit field, where
//! maxima stay below 2^32 so that the sum of a realistic batch does not wrap around.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Duration, Epsilon, HpkeConfig, Interval, Secret, TaskId, Time, TokenHash};

/// A protocol revision. A task uses one revision for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Revision {
    /// draft-ietf-ppm-dap-09 with draft-irtf-cfrg-vdaf-08.
    #[serde(rename = "dap-09")]
    Dap09,
    /// draft-ietf-ppm-dap-18 with draft-irtf-cfrg-vdaf-18. VDAF-19 and VDAF-20 changed no bytes.
    #[serde(rename = "dap-18")]
    Dap18,
    /// draft-ietf-ppm-dap-19 with draft-irtf-cfrg-vdaf-20, whose bytes are those of VDAF-18.
    #[serde(rename = "dap-19")]
    Dap19,
}

impl Revision {
    /// All supported revisions, the oldest first.
    pub const ALL: [Self; 3] = [Self::Dap09, Self::Dap18, Self::Dap19];
}

/// The parties of the protocol, by their codes on the wire (DAP-09 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Queries aggregates.
    Collector = 0,
    /// Uploads measurements.
    Client = 1,
    /// Receives uploads and drives aggregation and collection.
    Leader = 2,
    /// Processes the leader's requests.
    Helper = 3,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Collector => "collector",
            Self::Client => "client",
            Self::Leader => "leader",
            Self::Helper => "helper",
        })
    }
}

/// How reports are assigned to batches (`QueryType`, DAP-09 section 4.1; `BatchMode`, DAP-18 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", deny_unknown_fields)]
pub enum BatchMode {
    /// The collector selects a time interval.
    TimeInterval,
    /// The leader creates batches of similar size ("leader-selected" in DAP-18).
    FixedSize {
        /// Maximum number of reports in a batch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_batch_size: Option<u64>,
        /// Reports in one batch have times in the same window of this length, a multiple of the time precision. An
        /// extension of Janus (`batch_time_window_size`); no draft has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch_time_window_size: Option<Duration>,
    },
}

impl BatchMode {
    /// Fixed-size batches with an optional maximum size and without time windows.
    pub const fn fixed_size(max_batch_size: Option<u64>) -> Self {
        Self::FixedSize { max_batch_size, batch_time_window_size: None }
    }
}

/// A VDAF with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum VdafConfig {
    /// Counts true measurements.
    Prio3Count,
    /// Sums numbers.
    Prio3Sum {
        /// Largest allowed number.
        #[serde(flatten)]
        max: MaxMeasurement,
    },
    /// Sums vectors of `length` numbers.
    Prio3SumVec {
        /// Largest allowed number.
        #[serde(flatten)]
        max: MaxMeasurement,
        /// Length of each vector.
        length: usize,
        /// Chunk length of the proof's gadget.
        chunk_length: usize,
    },
    /// Counts the measurements in each of `length` buckets.
    Prio3Histogram {
        /// Number of buckets.
        length: usize,
        /// Chunk length of the proof's gadget.
        chunk_length: usize,
    },
    /// Sums vectors of `length` flags, of which at most `max_weight` are set.
    Prio3MultihotCountVec {
        /// Length of each vector.
        length: usize,
        /// Maximum number of set flags.
        max_weight: usize,
        /// Chunk length of the proof's gadget.
        chunk_length: usize,
    },
    /// Sums vectors of `length` numbers whose sum is at most `max_value` (draft-ietf-ppm-l1-bound-sum-02).
    Prio3L1BoundSum {
        /// Largest allowed sum of the numbers of a vector, and thus of each number.
        max_value: u64,
        /// Length of each vector.
        length: usize,
        /// Chunk length of the proof's gadget.
        chunk_length: usize,
    },
    /// Prio3SumVec over a 64-bit field with several proofs and an HMAC-based XOF, as deployed by Janus and Daphne.
    Prio3SumVecField64MultiproofHmacSha256Aes128 {
        /// Bits of each number.
        bits: usize,
        /// Length of each vector.
        length: usize,
        /// Chunk length of the proof's gadget.
        chunk_length: usize,
        /// Number of proofs, at least two.
        proofs: u8,
    },
}

impl VdafConfig {
    /// Number of numbers in an aggregate: the length of vectors and histograms, and 1 for counts and sums.
    pub fn vector_length(&self) -> usize {
        match self {
            Self::Prio3Count | Self::Prio3Sum { .. } => 1,
            Self::Prio3SumVec { length, .. }
            | Self::Prio3Histogram { length, .. }
            | Self::Prio3MultihotCountVec { length, .. }
            | Self::Prio3L1BoundSum { length, .. }
            | Self::Prio3SumVecField64MultiproofHmacSha256Aes128 { length, .. } => *length,
        }
    }
}

/// The largest allowed measurement.
///
/// VDAF-08 supports maxima of the form 2^bits - 1 only (section 7.4.2); later drafts support any (VDAF-18 section
/// 7.4.2). As text it is `bits = 8` if possible and `max_measurement = 100` otherwise; both are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "MaxMeasurementRepr", into = "MaxMeasurementRepr")]
pub struct MaxMeasurement(pub u64);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MaxMeasurementRepr {
    Bits(u32),
    MaxMeasurement(u64),
}

impl MaxMeasurement {
    /// The largest number of `bits` bits. Zero or more than 64 bits yield a maximum of zero, which every VDAF rejects.
    pub const fn of_bits(bits: u32) -> Self {
        match bits {
            1..=64 => Self(u64::MAX >> (64 - bits)),
            _ => Self(0),
        }
    }

    /// Number of bits that the largest number needs.
    pub const fn bit_length(self) -> usize {
        (u64::BITS - self.0.leading_zeros()) as usize
    }

    /// Number of bits, if the maximum has the form 2^bits - 1.
    pub const fn bits(self) -> Option<usize> {
        let bits = self.bit_length();
        if bits > 0 && self.0 == Self::of_bits(bits as u32).0 { Some(bits) } else { None }
    }
}

impl From<MaxMeasurementRepr> for MaxMeasurement {
    fn from(text: MaxMeasurementRepr) -> Self {
        match text {
            MaxMeasurementRepr::Bits(bits) => Self::of_bits(bits),
            MaxMeasurementRepr::MaxMeasurement(max) => Self(max),
        }
    }
}

impl From<MaxMeasurement> for MaxMeasurementRepr {
    fn from(max: MaxMeasurement) -> Self {
        match max.bits() {
            Some(bits) => Self::Bits(bits as u32),
            None => Self::MaxMeasurement(max.0),
        }
    }
}

/// The parameters that all parties of a task agree on (DAP-09 section 4.2, DAP-18 section 4.2). They are public and
/// immutable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskParameters {
    /// The task's id.
    pub id: TaskId,
    /// The protocol revision of the task.
    pub revision: Revision,
    /// Distinguishes tasks with otherwise equal parameters (`task_info`); empty if the revision has no such field.
    #[serde(default)]
    pub info: String,
    /// Base URL of the leader, byte for byte as configured.
    pub leader_url: String,
    /// Base URL of the helper, byte for byte as configured.
    pub helper_url: String,
    /// How reports are assigned to batches.
    pub batch_mode: BatchMode,
    /// The VDAF and its parameters.
    pub vdaf: VdafConfig,
    /// Minimum number of reports in an aggregate.
    pub min_batch_size: u64,
    /// The unit of report times and batch intervals; at least one second.
    pub time_precision: Duration,
    /// End of the task: later reports are rejected.
    #[serde(default)]
    pub task_expiration: Option<Time>,
    /// Reports with a time outside this interval are rejected (`task_interval`).
    #[serde(default)]
    pub task_interval: Option<Interval>,
    /// The noise that each aggregator adds to its aggregate shares; `None` adds no noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Epsilon>,
}

/// A task as one aggregator stores it. Immutable: [`Tokens`](crate::model::Tokens) and the end of a task that a control
/// plane manages (`Provision` of the store) are stored separately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Public parameters.
    pub public: TaskParameters,
    /// The VDAF verification key that leader and helper share.
    pub verify_key: Secret,
    /// Identifies the verification key, if the revision has such an id.
    pub verify_key_id: u8,
    /// Maximum number of aggregation parameters per batch.
    pub max_batch_query_count: u64,
    /// Retention period: older reports are rejected and their records may be deleted.
    pub report_expiry_age: Option<Duration>,
    /// The collector's key, which aggregate shares are sealed to.
    pub collector_hpke_config: HpkeConfig,
    /// The role of this aggregator, with its secrets.
    pub party: Party,
}

/// The role of an aggregator in a task, with its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Party {
    /// Receives uploads and drives the protocol.
    Leader {
        /// The initial token that the leader presents to the helper.
        helper_token: Secret,
        /// Hash of the initial token that the collector presents to the leader.
        collector_token: TokenHash,
    },
    /// Processes the leader's requests.
    Helper {
        /// Hash of the initial token that the leader presents to the helper.
        leader_token: TokenHash,
    },
}

impl Task {
    /// The role of this aggregator.
    pub fn role(&self) -> Role {
        match self.party {
            Party::Leader { .. } => Role::Leader,
            Party::Helper { .. } => Role::Helper,
        }
    }
}

impl TaskParameters {
    /// Maximum number of reports in a batch, if limited.
    pub fn max_batch_size(&self) -> Option<u64> {
        match self.batch_mode {
            BatchMode::TimeInterval => None,
            BatchMode::FixedSize { max_batch_size, .. } => max_batch_size,
        }
    }

    /// Length of the time windows of batches, if the task has windows.
    pub fn batch_window_size(&self) -> Option<Duration> {
        match self.batch_mode {
            BatchMode::TimeInterval => None,
            BatchMode::FixedSize { batch_time_window_size, .. } => batch_time_window_size,
        }
    }

    /// Start of the time window for a report time, if the task has windows.
    pub fn batch_window(&self, time: Time) -> Option<Time> {
        self.batch_window_size().map(|size| time.truncate(size))
    }

    /// The batch bucket for a report time; `None` for fixed-size tasks, where the leader assigns reports.
    pub fn time_bucket(&self, time: Time) -> Option<crate::model::Bucket> {
        match self.batch_mode {
            BatchMode::TimeInterval => Some(crate::model::Bucket::Time(time.truncate(self.time_precision))),
            BatchMode::FixedSize { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serializes_maximum_as_bits_if_exact() {
        for (max, text) in [
            (MaxMeasurement::of_bits(1), r#"{"bits":1}"#),
            (MaxMeasurement::of_bits(64), r#"{"bits":64}"#),
            (MaxMeasurement(100), r#"{"max_measurement":100}"#),
            (MaxMeasurement(0), r#"{"max_measurement":0}"#),
        ] {
            assert_eq!(serde_json::to_string(&max).unwrap(), text);
            assert_eq!(serde_json::from_str::<MaxMeasurement>(text).unwrap(), max);
        }
        assert_eq!(
            serde_json::from_str::<MaxMeasurement>(r#"{"max_measurement":255}"#).unwrap(),
            MaxMeasurement::of_bits(8)
        );
        assert_eq!(
            (MaxMeasurement(255).bits(), MaxMeasurement(256).bits(), MaxMeasurement(0).bits()),
            (Some(8), None, None)
        );
        assert_eq!(
            (MaxMeasurement(255).bit_length(), MaxMeasurement(256).bit_length(), MaxMeasurement(u64::MAX).bit_length()),
            (8, 9, 64)
        );
        for bits in [0, 65, u32::MAX] {
            assert_eq!(MaxMeasurement::of_bits(bits), MaxMeasurement(0));
        }
    }

    #[test]
    fn rejects_unknown_vdaf_parameters() {
        let read = |text: &str| serde_json::from_str::<VdafConfig>(text);
        assert_eq!(read(r#"{"type":"Prio3Sum","bits":8}"#).unwrap(), VdafConfig::Prio3Sum { max: MaxMeasurement(255) });
        assert!(read(r#"{"type":"Prio3Sum","bits":8,"length":2}"#).is_err());
        assert!(read(r#"{"type":"Prio3Sum","bits":8,"max_measurement":255}"#).is_err());
        assert!(read(r#"{"type":"Prio3Sum"}"#).is_err());
    }
}
