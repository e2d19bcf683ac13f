//! What an operator is told about a running aggregator.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{
    BatchId, BatchMode, Duration, Epsilon, Interval, Revision, Role, TaskId, Time, VdafConfig,
};
use dapbox_store::name::TaskName;

/// A task and how far it is. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// The task's id.
    pub id: TaskId,
    /// What the operator calls it, if anything.
    #[serde(default)]
    pub name: Option<TaskName>,
    /// The protocol revision that the task is pinned to.
    pub revision: Revision,
    /// Tells the task from others that are configured alike; empty where the protocol has no such text.
    #[serde(default)]
    pub info: String,
    /// Our role in it.
    pub role: Role,
    /// Base URL of the leader.
    pub leader_url: String,
    /// Base URL of the helper.
    pub helper_url: String,
    /// What is measured.
    pub vdaf: VdafConfig,
    /// How reports are put into batches.
    pub batch_mode: BatchMode,
    /// No aggregate of fewer reports is given out.
    pub min_batch_size: u64,
    /// The epsilon of the noise that each aggregator adds to every aggregate, if there is noise.
    #[serde(default)]
    pub noise: Option<Epsilon>,
    /// The unit of report times and batch intervals, in seconds.
    pub time_precision: Duration,
    /// Reports after this time are refused.
    pub task_expiration: Option<Time>,
    /// Reports outside of this interval are refused.
    #[serde(default)]
    pub task_interval: Option<Interval>,
    /// Everything before this time is closed for good.
    #[serde(default)]
    pub horizon: Option<Time>,
    /// How often what happened to a report, by name: `report_success`, `report_replayed` and so on.
    pub counters: BTreeMap<String, u64>,
    /// Reports that wait for aggregation (leader).
    pub waiting: u64,
    /// Aggregation jobs in flight.
    pub jobs: u64,
    /// Reports aggregated into batches that were not collected yet.
    pub aggregated: u64,
    /// Batches that were collected.
    pub batches_collected: u64,
    /// Collection jobs that have no result yet (leader).
    pub collections_waiting: u64,
    /// Batches that were collected, those first whose result was not fetched, and the newest first among each (leader). Where
    /// all tasks are listed, there are none of them.
    #[serde(default)]
    pub collected: Vec<CollectedBatchStatus>,
    /// How many collected batches have a result that was not fetched (leader).
    #[serde(default)]
    pub results_not_fetched: u64,
    /// How many collected batches are not in `collected`, because there are too many.
    #[serde(default)]
    pub collected_unlisted: u64,
    /// What the driver of a stuck aggregation or collection job last ran into, if anything (leader).
    pub last_error: Option<String>,
    /// If a control plane has set the task up, what is known of that.
    #[serde(default)]
    pub provisioned: Option<Provisioned>,
    /// If the task was set up in-band, what is known of that.
    #[serde(default)]
    pub in_band: Option<SetUpInBand>,
}

/// A batch that was collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedBatchStatus {
    /// The batch's id, where batches have one.
    pub id: Option<BatchId>,
    /// The interval that was collected; of a batch with an id, the times of its reports.
    pub interval: Option<Interval>,
    /// How many reports it has; none if that is not known any more.
    pub report_count: Option<u64>,
    /// When it was closed; none if an earlier release did.
    pub closed: Option<Time>,
    /// What became of its result.
    pub result: ResultState,
    /// When its result was sent to the collector first.
    pub fetched: Option<Time>,
}

/// What became of the result of a collected batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultState {
    /// The helper has not given its share.
    Pending,
    /// It is there, and was never sent to the collector.
    NotFetched,
    /// It was sent to the collector.
    Fetched,
    /// The helper refused its share for good.
    Failed,
    /// The batch was closed by an earlier release, which did not note it.
    Unknown,
}

impl ResultState {
    /// What it is called.
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

/// That a task was set up in-band.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetUpInBand {
    /// When it was.
    pub at: Time,
    /// The other aggregator, by which it was taken.
    pub peer: String,
}

/// That a control plane has set a task up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// When it did.
    pub at: Time,
    /// The name of the API token that it showed.
    pub by: String,
    /// Whether nobody has contacted it ever since: no request has named it, but for the list of keys and by the control
    /// plane.
    pub is_never_contacted: bool,
    /// From when on it is removed if nobody does; none if it is not, or if no server runs.
    #[serde(default)]
    pub removed_from: Option<Time>,
}

/// An operator's question for the tasks that others set up and that nobody has contacted, or order to remove them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeverContactedRequest {
    /// Those that were set up at this time or before it.
    pub until: Time,
    /// Whether to remove them.
    pub remove: bool,
}

/// An operator's order to give a task another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameRequest {
    /// Which task.
    pub task: TaskId,
    /// The new name; none for no name.
    pub name: Option<TaskName>,
}

/// What is left of a task that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalOutcome {
    /// That it existed: its id is refused for ever.
    Tombstone,
    /// Nothing: no request had ever named it, and it may be added again.
    Forgotten,
}

/// An operator's order to close everything of a task before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseRequest {
    /// Which task.
    pub task: TaskId,
    /// Before which time.
    pub before: Time,
}

/// How a running server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The server's release.
    pub version: String,
    /// The address that it listens on.
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// The address for those who watch, if there is one.
    #[serde(default)]
    pub monitor: Option<SocketAddr>,
    /// Why the store has stopped, if it has: the server must be started again.
    pub fault: Option<String>,
    /// The disk of the data directory.
    pub disk: DiskStatus,
}

/// Room on the disk of a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The data directory.
    pub dir: PathBuf,
    /// What was free when the server last looked.
    pub free_bytes: u64,
    /// With less free space, uploads and new aggregation jobs are refused.
    pub reserve_bytes: u64,
    /// With this much free space they are taken again.
    pub needed_bytes: u64,
    /// Whether there is a ballast, should one be wanted.
    pub has_ballast: bool,
    /// Whether uploads and new aggregation jobs are refused.
    pub is_short: bool,
}

impl DiskStatus {
    /// What to do, if anything.
    pub fn advice(&self) -> Option<String> {
        let (dir, mib) = (self.dir.display(), |bytes: u64| bytes.div_ceil(1 << 20));
        self.is_short.then(|| {
            format!(
                "short of disk space: {dir} has {} MiB free and needs {} MiB; uploads and new aggregation jobs are refused \
                 until then. Enlarge the disk, delete other files on it, or remove tasks that are done ('dapbox task \
                 remove'), whose space is used again; 'dapbox compact' gives it back, with the server stopped and room \
                 for a copy",
                self.free_bytes >> 20,
                mib(self.needed_bytes)
            )
        })
    }
}
