//! A task requested by a control plane.

use crate::model::{BatchMode, Duration, Epsilon, HpkeConfig, Role, Secret, Time, TokenHash, VdafConfig};

/// A task requested by a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Role of this aggregator.
    pub role: Role,
    /// Base URL of the other aggregator.
    pub peer_url: String,
    /// How reports are assigned to batches.
    pub batch_mode: BatchMode,
    /// The VDAF and its parameters.
    pub vdaf: VdafConfig,
    /// Noise that this aggregator adds to its aggregate shares.
    pub noise: Option<Epsilon>,
    /// The verification key that leader and helper share. The task id is its hash.
    pub verify_key: Secret,
    /// Maximum number of aggregation parameters per batch.
    pub max_batch_query_count: u64,
    /// End of the task: later reports are rejected.
    pub end: Option<Time>,
    /// Minimum number of reports in an aggregate.
    pub min_batch_size: u64,
    /// The unit of report times and batch intervals.
    pub time_precision: Duration,
    /// The collector's key, which aggregate shares are sealed to.
    pub collector_key: HpkeConfig,
    /// Token to present to the helper (leader only).
    pub helper_token: Option<Secret>,
    /// Hash of the collector's token (leader only).
    pub collector_token: Option<TokenHash>,
}
