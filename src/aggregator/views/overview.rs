//! A snapshot of a running aggregator, shown by `dapbox status`, the status page, the metrics and the readiness check.
//! Contains no secrets and no reports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::views::status::{DiskStatus, TaskStatus};
use dapbox_protocol::model::{Duration, Interval, KeyState, Time};

/// A running aggregator at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The release and commit of the server, as in `dapbox --version`.
    pub version: String,
    /// The name of the server: the host of its public URL, or of the machine.
    #[serde(default)]
    pub server: String,
    /// The time of the snapshot, by the server's clock.
    pub now: Time,
    /// When the server started.
    pub started: Time,
    /// Why the server is not ready; empty if it is.
    pub not_ready: Vec<String>,
    /// Work in progress and queued.
    pub load: Load,
    /// The disk of the data directory.
    pub disk: DiskStatus,
    /// The HPKE keys of the server.
    pub keys: Vec<KeyStatus>,
    /// The state of HTTPS, if the server uses it.
    pub tls: Option<TlsStatus>,
    /// Log lines dropped since the start because standard error was blocked.
    #[serde(default)]
    pub log_lines_dropped: u64,
    /// All tasks, in the order of their ids.
    pub tasks: Vec<TaskView>,
}

/// A stored timestamp far ahead of the clock, which was wrong when it was stored or is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FutureTimestamp {
    /// The record, such as `HPKE key 7`.
    pub record: String,
    /// The timestamp.
    pub time: Time,
    /// Whether reports are rejected until then. Nothing corrects that.
    pub is_permanent: bool,
}

/// Work in progress and queued.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Open connections.
    pub connections: u64,
    /// Requests in progress.
    pub requests: u64,
    /// Aggregation jobs admitted to the workers.
    pub computing: u64,
    /// Durable commits since the start.
    pub commits: u64,
}

/// An HPKE key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Its configuration id.
    pub id: u8,
    /// The name of its algorithms.
    pub suite: String,
    /// Its state.
    pub state: KeyState,
    /// When it was created.
    pub created: Time,
    /// When its state changes next, if that is scheduled.
    pub until: Option<Time>,
}

/// The state of HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TlsStatus {
    /// The certificate in use; `None` before the first one.
    pub certificate: Option<CertificateStatus>,
    /// The error of the last attempt to obtain, renew or reload a certificate, if it failed.
    pub last_error: Option<String>,
}

/// A TLS certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The names in it.
    pub names: Vec<String>,
    /// The start of its validity.
    pub not_before: Time,
    /// The end of its validity.
    pub not_after: Time,
}

/// A task with its status and activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// The task and its counters.
    pub status: TaskStatus,
    /// Accepted uploads per second over the last minute (leader).
    pub upload_rate: f64,
    /// Aggregated reports per second over the last minute.
    pub aggregation_rate: f64,
    /// When the oldest waiting report arrived; reports from before the start count from the start (leader).
    pub oldest_waiting: Option<Time>,
    /// Rejected reports by counter name, without zeros.
    pub refused: BTreeMap<String, u64>,
    /// Uncollected batches with reports, newest first; at most [`TaskView::MAX_BATCHES`].
    pub batches: Vec<BatchView>,
    /// The numbers of batches and jobs by state.
    #[serde(default)]
    pub counts: StateCounts,
    /// The connection to the other aggregator (leader).
    pub peer: Option<PeerStatus>,
    /// Recent activity, oldest first.
    pub history: Vec<Sample>,
}

impl TaskView {
    /// The most batches listed for a task.
    pub const MAX_BATCHES: usize = 50;
}

/// The numbers of batches and jobs of a task by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StateCounts {
    /// Batches that can be collected.
    pub batches_ready: u64,
    /// Batches that can be collected once waiting reports are aggregated.
    pub batches_not_aggregated_yet: u64,
    /// Batches with too few reports, including waiting ones.
    pub batches_too_few: u64,
    /// Aggregation jobs that are not sent yet (leader).
    pub jobs_picked: u64,
    /// Aggregation jobs that the helper may have seen (leader).
    pub jobs_sent: u64,
    /// Deferred aggregation jobs (helper).
    pub jobs_deferred: u64,
    /// Collection jobs whose batch is still open (leader).
    pub collections_waiting: u64,
    /// Collection jobs with a closed batch and no result yet (leader).
    pub collections_closed: u64,
}

impl StateCounts {
    /// The number of uncollected batches with reports.
    pub fn batches(&self) -> u64 {
        self.batches_ready + self.batches_not_aggregated_yet + self.batches_too_few
    }
}

/// An uncollected batch bucket (time interval) or batch (fixed size).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchView {
    /// The id of the batch, if it has one.
    pub id: Option<String>,
    /// The time of its reports, as far as it is known.
    pub interval: Option<Interval>,
    /// Aggregated reports.
    pub aggregated: u64,
    /// Reports that wait or are in running jobs (leader). Unassigned reports are counted in the batch that they will
    /// join, or in a batch without an id.
    pub waiting: u64,
    /// Its state.
    pub state: BatchState,
}

impl BatchView {
    /// When the interval of the batch ends; `None` if it is over or the batch has an id.
    pub fn open_until(&self, now: Time) -> Option<Time> {
        self.interval.filter(|_| self.id.is_none()).map(|interval| interval.end()).filter(|end| now < *end)
    }
}

/// The progress of a batch towards its collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// There are enough reports once waiting ones are aggregated.
    NotAggregatedYet,
    /// Too few reports, including waiting ones.
    TooFew,
    /// Enough reports: the batch can be collected.
    Ready,
}

/// The connection to the other aggregator. Rejections are in the last error of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The time of the last successful request.
    pub last_success: Option<Time>,
    /// The time of the last failed request.
    pub last_failure: Option<Time>,
}

/// The activity of a task in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The start of the period.
    pub start: Time,
    /// The length of the period, in seconds.
    pub duration: Duration,
    /// Accepted uploads (leader).
    pub uploaded: u64,
    /// Aggregated reports.
    pub aggregated: u64,
    /// Rejected reports and uploads.
    pub refused: u64,
}
