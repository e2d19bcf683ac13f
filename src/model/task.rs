//! Tasks: the parameters that all parties agree on before the first report, and one party's own part of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Duration, HpkeConfig, Secret, TaskId, Time, TokenHash};

/// A revision of the protocol. A task is pinned to one when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Revision {
    /// draft-ietf-ppm-dap-09 with draft-irtf-cfrg-vdaf-08.
    #[serde(rename = "dap-09")]
    Dap09,
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

/// How reports are put into batches (`QueryType`, DAP-09 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", deny_unknown_fields)]
pub enum BatchMode {
    /// The collector names an interval of time.
    TimeInterval,
    /// The leader makes batches of about the same size.
    FixedSize {
        /// No batch may have more reports than this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_batch_size: Option<u64>,
    },
}

/// A VDAF and its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum VdafConfig {
    /// Counts how many measurements are true.
    Prio3Count,
    /// Adds numbers below `2^bits`.
    Prio3Sum {
        /// Bits of each number.
        bits: usize,
    },
    /// Adds vectors of `length` numbers below `2^bits`.
    Prio3SumVec {
        /// Bits of each number.
        bits: usize,
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

/// A task as one aggregator knows it (DAP-09 section 4.2). Nothing in it ever changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The task's id.
    pub id: TaskId,
    /// The protocol that all parties of the task speak.
    pub revision: Revision,
    /// Base URL of the leader, as the bytes that were given.
    pub leader_url: String,
    /// Base URL of the helper, as the bytes that were given.
    pub helper_url: String,
    /// How reports are put into batches.
    pub batch_mode: BatchMode,
    /// What is measured.
    pub vdaf: VdafConfig,
    /// The key that leader and helper share to verify reports.
    pub verify_key: Secret,
    /// No aggregate of fewer reports is ever given out.
    pub min_batch_size: u64,
    /// How many aggregation parameters a batch may be queried with.
    pub max_batch_query_count: u64,
    /// The unit of report times and batch intervals; at least a second.
    pub time_precision: Duration,
    /// Reports after this time are refused.
    pub task_expiration: Option<Time>,
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
        /// The token that we present to the helper.
        helper_token: Secret,
        /// The token that the collector presents to us.
        collector_token: TokenHash,
    },
    /// We answer the leader.
    Helper {
        /// The token that the leader presents to us.
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

    /// The most reports that a batch may have, if there is a limit.
    pub fn max_batch_size(&self) -> Option<u64> {
        match self.batch_mode {
            BatchMode::TimeInterval => None,
            BatchMode::FixedSize { max_batch_size } => max_batch_size,
        }
    }

    /// The batch bucket of a report with the given time; `None` for fixed-size tasks, where the leader decides.
    pub fn time_bucket(&self, time: Time) -> Option<super::Bucket> {
        match self.batch_mode {
            BatchMode::TimeInterval => Some(super::Bucket::Time(time.truncate(self.time_precision))),
            BatchMode::FixedSize { .. } => None,
        }
    }
}
