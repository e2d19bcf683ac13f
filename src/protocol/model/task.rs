//! Tasks: the parameters that all parties agree on before the first report, and one party's own part of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Duration, Epsilon, HpkeConfig, Interval, Secret, TaskId, Time, TokenHash};

/// A revision of the protocol. A task is pinned to one when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Revision {
    /// draft-ietf-ppm-dap-09 with draft-irtf-cfrg-vdaf-08.
    #[serde(rename = "dap-09")]
    Dap09,
    /// draft-ietf-ppm-dap-18 with draft-irtf-cfrg-vdaf-18, of which -19 and -20 changed no bytes.
    #[serde(rename = "dap-18")]
    Dap18,
}

impl Revision {
    /// Every revision that there is, the oldest first.
    pub const ALL: [Self; 2] = [Self::Dap09, Self::Dap18];
}

/// The parties of the protocol, by their numbers on the wire (DAP-09 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads aggregates.
    Collector = 0,
    /// Uploads measurements.
    Client = 1,
    /// Takes uploads and drives the protocol.
    Leader = 2,
    /// Answers the leader.
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

/// How reports are put into batches (`QueryType`, DAP-09 section 4.1; `BatchMode`, DAP-18 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", deny_unknown_fields)]
pub enum BatchMode {
    /// The collector names an interval of time.
    TimeInterval,
    /// The leader makes batches of about the same size (DAP-18 calls them leader-selected).
    FixedSize {
        /// No batch may have more reports than this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_batch_size: Option<u64>,
        /// The leader puts reports together only if their times are in the same multiple of this (Janus's
        /// `batch_time_window_size`; no draft has it). A multiple of the time precision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch_time_window_size: Option<Duration>,
    },
}

impl BatchMode {
    /// Batches made by the leader, of at most so many reports if there is a limit, whatever the reports' times.
    pub const fn fixed_size(max_batch_size: Option<u64>) -> Self {
        Self::FixedSize { max_batch_size, batch_time_window_size: None }
    }
}

/// A VDAF and its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum VdafConfig {
    /// Counts how many measurements are true.
    Prio3Count,
    /// Adds numbers.
    Prio3Sum {
        /// The largest number.
        #[serde(flatten)]
        max: MaxMeasurement,
    },
    /// Adds vectors of `length` numbers.
    Prio3SumVec {
        /// The largest number.
        #[serde(flatten)]
        max: MaxMeasurement,
        /// Numbers in each vector.
        length: usize,
        /// Size of the proof's gadget calls.
        chunk_length: usize,
    },
    /// Counts how many measurements fall into each of `length` bins.
    Prio3Histogram {
        /// Number of bins.
        length: usize,
        /// Size of the proof's gadget calls.
        chunk_length: usize,
    },
    /// Adds vectors of `length` flags of which at most `max_weight` are set.
    Prio3MultihotCountVec {
        /// Flags in each vector.
        length: usize,
        /// How many may be set at once.
        max_weight: usize,
        /// Size of the proof's gadget calls.
        chunk_length: usize,
    },
    /// Prio3SumVec over a 64-bit field with several proofs and an HMAC-based XOF, as Janus and Daphne deploy it.
    Prio3SumVecField64MultiproofHmacSha256Aes128 {
        /// Bits of each number.
        bits: usize,
        /// Numbers in each vector.
        length: usize,
        /// Size of the proof's gadget calls.
        chunk_length: usize,
        /// Number of proofs, at least two.
        proofs: u8,
    },
}

/// The largest number that may be measured.
///
/// VDAF-08 knows only maxima of whole bits (section 7.4.2), later drafts any (VDAF-18 section 7.4.2). As text it is
/// `bits = 8` where that says it, and `max_measurement = 100` otherwise; both are understood.
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
    /// The largest number of `bits` bits; zero or more than 64 make a maximum of zero, which no VDAF accepts.
    pub const fn of_bits(bits: u32) -> Self {
        match bits {
            1..=64 => Self(u64::MAX >> (64 - bits)),
            _ => Self(0),
        }
    }

    /// How many bits it takes to write any of the numbers.
    pub const fn bit_length(self) -> usize {
        (u64::BITS - self.0.leading_zeros()) as usize
    }

    /// The number of bits, if every number of so many bits is allowed.
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

/// What all parties of a task know and agree on (DAP-09 section 4.2, DAP-18 section 4.2). Nothing in it is secret,
/// and nothing in it ever changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskParameters {
    /// The task's id.
    pub id: TaskId,
    /// The protocol that all parties of the task speak.
    pub revision: Revision,
    /// Tells the task from others that are configured alike (`task_info`); empty where the protocol has none.
    #[serde(default)]
    pub info: String,
    /// Base URL of the leader, as the bytes that were given.
    pub leader_url: String,
    /// Base URL of the helper, as the bytes that were given.
    pub helper_url: String,
    /// How reports are put into batches.
    pub batch_mode: BatchMode,
    /// What is measured.
    pub vdaf: VdafConfig,
    /// No aggregate of fewer reports is ever given out.
    pub min_batch_size: u64,
    /// The unit of report times and batch intervals; at least a second.
    pub time_precision: Duration,
    /// Reports after this time are refused.
    #[serde(default)]
    pub task_expiration: Option<Time>,
    /// Reports outside of this interval are refused (`task_interval`).
    #[serde(default)]
    pub task_interval: Option<Interval>,
    /// How much noise each aggregator adds to its share of every aggregate; none adds none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Epsilon>,
}

/// A task as one aggregator knows it. Nothing in it ever changes; tokens are replaced beside it, see
/// [`Tokens`](crate::model::Tokens), and so is the end of a task that a control plane has set up, see
/// [`Provision`](dapbox_store::api_token::Provision).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What all parties know.
    pub public: TaskParameters,
    /// The key that leader and helper share to verify reports.
    pub verify_key: Secret,
    /// What leader and helper call that key, where the protocol names it.
    pub verify_key_id: u8,
    /// How many aggregation parameters a batch may be queried with.
    pub max_batch_query_count: u64,
    /// Reports older than this are refused, and what is known of them may be forgotten.
    pub report_expiry_age: Option<Duration>,
    /// The key that aggregate shares are sealed to.
    pub collector_hpke_config: HpkeConfig,
    /// Which party we are, and the secrets that only it has.
    pub party: Party,
}

/// Which aggregator of a task we are, with what only it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Party {
    /// We take uploads and drive the protocol.
    Leader {
        /// The token that we present to the helper, as the task came.
        helper_token: Secret,
        /// The token that the collector presents to us, as the task came.
        collector_token: TokenHash,
    },
    /// We answer the leader.
    Helper {
        /// The token that the leader presents to us, as the task came.
        leader_token: TokenHash,
    },
}

impl Task {
    /// Our role in the task.
    pub fn role(&self) -> Role {
        match self.party {
            Party::Leader { .. } => Role::Leader,
            Party::Helper { .. } => Role::Helper,
        }
    }
}

impl TaskParameters {
    /// The most reports that a batch may have, if there is a limit.
    pub fn max_batch_size(&self) -> Option<u64> {
        match self.batch_mode {
            BatchMode::TimeInterval => None,
            BatchMode::FixedSize { max_batch_size, .. } => max_batch_size,
        }
    }

    /// How long the time windows are that no batch reaches over, if there are such.
    pub fn batch_window_size(&self) -> Option<Duration> {
        match self.batch_mode {
            BatchMode::TimeInterval => None,
            BatchMode::FixedSize { batch_time_window_size, .. } => batch_time_window_size,
        }
    }

    /// The beginning of the time window of a report with the given time, if the task has windows.
    pub fn batch_window(&self, time: Time) -> Option<Time> {
        self.batch_window_size().map(|size| time.truncate(size))
    }

    /// The batch bucket of a report with the given time; `None` for fixed-size tasks, where the leader decides.
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
