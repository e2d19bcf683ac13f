//! All that is to be seen of a running aggregator at one moment: what `dapbox status`, the status page, the metrics and
//! the readiness check show. Holds no secret and no report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::views::status::{DiskStatus, TaskStatus};
use dapbox_protocol::model::{Duration, Interval, KeyState, Time};

/// A running aggregator at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The server's release and commit, as `dapbox --version` has it.
    pub version: String,
    /// The server's name: the host of its public URL, or of the machine.
    #[serde(default)]
    pub server: String,
    /// When this was seen, by the server's clock.
    pub now: Time,
    /// When the server started.
    pub started: Time,
    /// What keeps the server from its work; empty if it is ready.
    pub not_ready: Vec<String>,
    /// Work in progress and waiting.
    pub load: Load,
    /// The disk of the data directory.
    pub disk: DiskStatus,
    /// The HPKE keys that reports are sealed to.
    pub keys: Vec<KeyStatus>,
    /// How HTTPS is, if the server speaks it itself.
    pub tls: Option<TlsStatus>,
    /// Lines of the log that were dropped since the start, because standard error did not take them.
    #[serde(default)]
    pub log_lines_dropped: u64,
    /// All tasks, in the order of their ids.
    pub tasks: Vec<TaskView>,
}

/// A stored time that is so far ahead of the clock that the clock was wrong when it was stored, or is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FutureTimestamp {
    /// What the time is of: `HPKE key 7`.
    pub record: String,
    /// The time.
    pub time: Time,
    /// Whether it keeps reports from being taken until then. Nothing corrects that.
    pub is_permanent: bool,
}

/// Work in progress and waiting.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Connections that are open.
    pub connections: u64,
    /// Requests in progress.
    pub requests: u64,
    /// Aggregation jobs admitted to the threads that compute.
    pub computing: u64,
    /// Durable commits since the start.
    pub commits: u64,
}

/// An HPKE key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Its configuration id.
    pub id: u8,
    /// Its algorithms, for people.
    pub suite: String,
    /// What it is used for.
    pub state: KeyState,
    /// When it was made.
    pub created: Time,
    /// When its state changes next by itself, if it does.
    pub until: Option<Time>,
}

/// How a server's HTTPS is.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TlsStatus {
    /// The certificate in use; none before there is a first one.
    pub certificate: Option<CertificateStatus>,
    /// What the last attempt to get, renew or reload one ran into, if it failed.
    pub last_error: Option<String>,
}

/// A TLS certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The names in it.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub not_before: Time,
    /// Until when it is valid.
    pub not_after: Time,
}

/// A task, how far it is, and how it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// What it is and what was counted since it was added.
    pub status: TaskStatus,
    /// Uploads taken per second, over the last minute (leader).
    pub upload_rate: f64,
    /// Reports aggregated per second, over the last minute.
    pub aggregation_rate: f64,
    /// When the oldest report arrived that is not aggregated; that of one from before the start counts as the start (leader).
    pub oldest_waiting: Option<Time>,
    /// Why reports were refused, by the names of the task's counters, with how many; only what is not zero.
    pub refused: BTreeMap<String, u64>,
    /// Batches that hold reports and were not collected, the newest first; at most [`TaskView::MAX_BATCHES`].
    pub batches: Vec<BatchView>,
    /// How many batches and jobs are how far.
    #[serde(default)]
    pub counts: StateCounts,
    /// Whether the other aggregator answers (leader), as far as we have asked.
    pub peer: Option<PeerStatus>,
    /// What happened lately, the oldest first.
    pub history: Vec<Sample>,
}

impl TaskView {
    /// The most batches that are listed for a task.
    pub const MAX_BATCHES: usize = 50;
}

/// How many batches and jobs of a task are how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StateCounts {
    /// Batches that can be collected.
    pub batches_ready: u64,
    /// Batches that could be if those reports were aggregated that wait.
    pub batches_not_aggregated_yet: u64,
    /// Batches of too few reports, even so.
    pub batches_too_few: u64,
    /// Aggregation jobs of which nothing was sent yet (leader).
    pub jobs_picked: u64,
    /// Aggregation jobs that the helper may have seen (leader).
    pub jobs_sent: u64,
    /// Aggregation jobs that are answered later (helper).
    pub jobs_deferred: u64,
    /// Collection jobs whose batch cannot be closed yet (leader).
    pub collections_waiting: u64,
    /// Collection jobs whose batch is closed and whose result is not there yet (leader).
    pub collections_closed: u64,
}

impl StateCounts {
    /// How many batches hold reports and were not collected.
    pub fn batches(&self) -> u64 {
        self.batches_ready + self.batches_not_aggregated_yet + self.batches_too_few
    }
}

/// A batch bucket (time interval) or batch (fixed size) that was not collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchView {
    /// The batch's id, for people, where batches have one.
    pub id: Option<String>,
    /// The time that its reports are from, as far as it is known.
    pub interval: Option<Interval>,
    /// Reports that are aggregated in it.
    pub aggregated: u64,
    /// Reports that wait to be aggregated into it or are in aggregation jobs under way (leader). Those that belong to no
    /// batch of fixed size yet are counted where they will go, or in a batch without an id.
    pub waiting: u64,
    /// How far it is.
    pub state: BatchState,
}

impl BatchView {
    /// Until when reports of the batch's time come in; `None` if that is over, or does not go by time.
    pub fn open_until(&self, now: Time) -> Option<Time> {
        self.interval.filter(|_| self.id.is_none()).map(|interval| interval.end()).filter(|end| now < *end)
    }
}

/// How far a batch is towards being collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// There would be enough reports if those that wait were aggregated.
    NotAggregatedYet,
    /// Too few reports, even with those that wait.
    TooFew,
    /// There are enough: it can be collected.
    Ready,
}

/// Whether the other aggregator answers. What it does not take, if so, is the task's last trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// When it last answered as it should.
    pub last_success: Option<Time>,
    /// When a request to it last failed.
    pub last_failure: Option<Time>,
}

/// What happened to a task in one stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When the stretch began.
    pub start: Time,
    /// How long it was.
    pub duration: Duration,
    /// Uploads taken (leader).
    pub uploaded: u64,
    /// Reports aggregated.
    pub aggregated: u64,
    /// Reports and uploads refused.
    pub refused: u64,
}
