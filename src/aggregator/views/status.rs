//! The status of tasks and of the server, and requests of operators.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::privacy::PrivacyAccount;
use dapbox_protocol::model::{
    BatchId, BatchMode, Duration, Epsilon, Interval, Revision, Role, TaskId, Time, VdafConfig,
};
use dapbox_store::name::TaskName;

/// The status of a task. Contains no secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// The task's id.
    pub id: TaskId,
    /// Its name, if it has one.
    #[serde(default)]
    pub name: Option<TaskName>,
    /// The protocol revision of the task.
    pub revision: Revision,
    /// The task info, which distinguishes tasks with equal parameters; empty if the revision has none.
    #[serde(default)]
    pub info: String,
    /// Our role.
    pub role: Role,
    /// Base URL of the leader.
    pub leader_url: String,
    /// Base URL of the helper.
    pub helper_url: String,
    /// The VDAF.
    pub vdaf: VdafConfig,
    /// The batch mode.
    pub batch_mode: BatchMode,
    /// The minimum batch size.
    pub min_batch_size: u64,
    /// The epsilon of the noise that each aggregator adds to every aggregate, if there is noise.
    #[serde(default)]
    pub noise: Option<Epsilon>,
    /// What the noise of all collected batches has spent, if there is noise.
    #[serde(default)]
    pub privacy: Option<PrivacyAccount>,
    /// The time precision, in seconds.
    pub time_precision: Duration,
    /// Reports after this time are rejected.
    pub task_expiration: Option<Time>,
    /// Reports outside this interval are rejected.
    #[serde(default)]
    pub task_interval: Option<Interval>,
    /// Everything before this time is closed.
    #[serde(default)]
    pub horizon: Option<Time>,
    /// Counters by name: `report_success`, `report_replayed` and others.
    pub counters: BTreeMap<String, u64>,
    /// Reports that wait for aggregation (leader).
    pub waiting: u64,
    /// Running aggregation jobs.
    pub jobs: u64,
    /// Aggregated reports in uncollected batches.
    pub aggregated: u64,
    /// The number of collected batches.
    pub batches_collected: u64,
    /// Collection jobs without a result (leader).
    pub collections_waiting: u64,
    /// Collected batches: unfetched results first, newest first in each group (leader). Empty in lists of tasks.
    #[serde(default)]
    pub collected: Vec<CollectedBatchStatus>,
    /// Collected batches with an unfetched result (leader).
    #[serde(default)]
    pub results_not_fetched: u64,
    /// Collected batches that `collected` omits.
    #[serde(default)]
    pub collected_unlisted: u64,
    /// The last error of a stuck aggregation or collection job, if any (leader).
    pub last_error: Option<String>,
    /// How the task was provisioned, if a control plane did.
    #[serde(default)]
    pub provisioned: Option<Provisioned>,
    /// How the task was set up in-band, if it was.
    #[serde(default)]
    pub in_band: Option<SetUpInBand>,
}

/// A collected batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedBatchStatus {
    /// The id of the batch, if it has one.
    pub id: Option<BatchId>,
    /// The collected interval; of a batch with an id, the interval of its reports.
    pub interval: Option<Interval>,
    /// The number of reports; `None` if it is unknown.
    pub report_count: Option<u64>,
    /// When the batch was closed; `None` if an earlier release did.
    pub closed: Option<Time>,
    /// The state of its result.
    pub result: ResultState,
    /// When the result was first sent to the collector.
    pub fetched: Option<Time>,
}

/// The state of the result of a collected batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultState {
    /// The helper's share is missing.
    Pending,
    /// The result was never sent to the collector.
    NotFetched,
    /// The result was sent to the collector.
    Fetched,
    /// The helper refused its share permanently.
    Failed,
    /// An earlier release closed the batch without recording the state.
    Unknown,
}

impl ResultState {
    /// The text of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "waiting for the helper",
            Self::NotFetched => "not fetched",
            Self::Fetched => "fetched",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// The origin of an in-band task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetUpInBand {
    /// When it was set up.
    pub at: Time,
    /// The URL of the other aggregator.
    pub peer: String,
}

/// The origin of a provisioned task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// When it was provisioned.
    pub at: Time,
    /// The name of the API token.
    pub by: String,
    /// Whether no request has named the task, apart from requests for keys and of the control plane.
    pub is_never_contacted: bool,
    /// When the task is removed if it is not contacted; `None` if never, or if no server runs.
    #[serde(default)]
    pub removed_from: Option<Time>,
}

/// A request to list or remove provisioned tasks that were never contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeverContactedRequest {
    /// Selects tasks that were set up at or before this time.
    pub until: Time,
    /// Whether to remove them.
    pub remove: bool,
}

/// A request to rename a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameRequest {
    /// The task.
    pub task: TaskId,
    /// The new name; `None` to clear it.
    pub name: Option<TaskName>,
}

/// The remaining rows of a removed task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalOutcome {
    /// A tombstone: the id is rejected permanently.
    Tombstone,
    /// Nothing: no request ever named the task, and it may be added again.
    Forgotten,
}

/// A request to close everything of a task before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseRequest {
    /// The task.
    pub task: TaskId,
    /// The time.
    pub before: Time,
}

/// The health of a running server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The release of the server.
    pub version: String,
    /// The address that it listens on.
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// The address of the private listener, if there is one.
    #[serde(default)]
    pub monitor: Option<SocketAddr>,
    /// The fault that stopped the store, if any; the server must be restarted.
    pub fault: Option<String>,
    /// The disk of the data directory.
    pub disk: DiskStatus,
}

/// The free space of a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The data directory.
    pub dir: PathBuf,
    /// Free bytes at the last check.
    pub free_bytes: u64,
    /// Below this, uploads and new aggregation jobs are refused, in bytes.
    pub reserve_bytes: u64,
    /// From this on, they are accepted again, in bytes.
    pub needed_bytes: u64,
    /// Whether the ballast is complete, if one is configured.
    pub has_ballast: bool,
    /// Whether uploads and new aggregation jobs are refused.
    pub is_short: bool,
}

impl DiskStatus {
    /// Returns what the operator should do, if anything.
    pub fn advice(&self) -> Option<String> {
        let (dir, mib) = (self.dir.display(), |bytes: u64| bytes.div_ceil(1 << 20));
        self.is_short.then(|| {
            format!(
                "low on disk space: {dir} has {} MiB free and needs {} MiB; uploads and new aggregation jobs are \
                 refused until then. Enlarge the disk, delete other files, or remove finished tasks ('dapbox task \
                 remove'), whose space is reused; 'dapbox compact' returns it to the file system, with the server \
                 stopped and room for a copy",
                self.free_bytes >> 20,
                mib(self.needed_bytes)
            )
        })
    }
}
