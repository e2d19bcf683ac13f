//! The task that a control plane asks for.

use crate::model::{BatchMode, Duration, Epsilon, HpkeConfig, Role, Secret, Time, TokenHash, VdafConfig};

/// A task that a control plane asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Which aggregator we are to be.
    pub role: Role,
    /// Base URL of the other one.
    pub peer_url: String,
    /// How reports are put into batches.
    pub batch_mode: BatchMode,
    /// What is measured.
    pub vdaf: VdafConfig,
    /// How much noise we add to our share of every aggregate.
    pub noise: Option<Epsilon>,
    /// The key that leader and helper share. The task's id is its hash.
    pub verify_key: Secret,
    /// How many aggregation parameters a batch may be queried with.
    pub max_batch_query_count: u64,
    /// Reports after this time are refused.
    pub end: Option<Time>,
    /// No aggregate of fewer reports is ever given out.
    pub min_batch_size: u64,
    /// The unit of report times and batch intervals.
    pub time_precision: Duration,
    /// The key that aggregate shares are sealed to.
    pub collector_key: HpkeConfig,
    /// What we present to the helper (leader).
    pub helper_token: Option<Secret>,
    /// The hash of what the collector presents to us (leader).
    pub collector_token: Option<TokenHash>,
}
