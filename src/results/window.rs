//! Windows: what is collected once, and how far it is.

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{BatchId, CollectionJobId, Interval, Query, Time, secret::base64url};

/// A span of time of a time-interval task, or one batch of a fixed-size task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Identifies the window in its task. Later windows have larger numbers. Joined windows keep the number of the first.
    pub number: u64,
    /// The span of time: of the schedule for time-interval tasks; `None` for fixed-size tasks.
    pub interval: Option<Interval>,
    /// Whether the window was joined with later ones, because it had too few reports.
    #[serde(default)]
    pub is_joined: bool,
    /// How far the window is.
    pub state: WindowState,
    /// When the state last changed.
    pub changed: Time,
}

/// How far a window is. Every window has exactly one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowState {
    /// The window, or the grace period after it, has not ended.
    Upcoming,
    /// The window can be requested.
    Due,
    /// The request is stored and may have reached the leader. The same request is repeated until it is answered.
    Requested {
        /// The request.
        request: CollectionRequest,
        /// The last failure, for the operator.
        last_error: Option<String>,
    },
    /// The leader accepted the request and has no result yet.
    Pending {
        /// The request.
        request: CollectionRequest,
        /// Path of the collection job at the leader.
        location: String,
        /// When the leader accepted the request.
        since: Time,
        /// The last failure of a poll, for the operator.
        last_error: Option<String>,
    },
    /// The result is stored.
    Collected(CollectedWindow),
    /// The leader has fewer reports than the minimum batch size.
    ///
    /// If there is a `request`, it is still polled. Without one, a later window is joined (`extend`), the window is requested
    /// again later (`wait`), or nothing more happens (`skip`).
    TooFewReports {
        /// The request that the leader still has.
        request: Option<CollectionRequest>,
        /// Path of its collection job at the leader.
        location: Option<String>,
        /// When this was first noticed.
        since: Time,
        /// Whether the window is given up, because the task's policy is `skip`.
        is_final: bool,
    },
    /// The result cannot be collected, or cannot be read.
    Lost {
        /// Why.
        reason: LossReason,
        /// What the leader or this collector said, for the operator.
        detail: String,
    },
    /// The leader refused the request, for a reason that concerns this collector rather than the window: for example its
    /// token. It is repeated slowly.
    Refused {
        /// The request.
        request: CollectionRequest,
        /// Path of its collection job at the leader, if it was accepted earlier.
        location: Option<String>,
        /// What the leader said.
        detail: String,
    },
}

/// A request for a collection job, stored before it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionRequest {
    /// Id of the collection job.
    pub id: CollectionJobId,
    /// The query.
    pub query: Query,
    /// The encoded body, to which the aggregate shares are bound.
    #[serde(with = "base64url")]
    pub body: Vec<u8>,
    /// When the request was stored.
    pub created: Time,
}

/// The part of a result that is kept in memory. The numbers are a row of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedWindow {
    /// Number of reports in the aggregate.
    pub report_count: u64,
    /// The smallest aligned interval that contains the times of the reports.
    pub report_interval: Interval,
    /// The batch, if the leader reports one.
    pub batch_id: Option<BatchId>,
    /// When the result was stored.
    pub collected: Time,
    /// Path of a collection job that is yet to be deleted at the leader, so that it returns the next batch.
    pub to_release: Option<String>,
}

/// Why a result is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The aggregators no longer have the reports or the result.
    Expired,
    /// The leader has deleted the collection job.
    Deleted,
    /// Another collector, or an earlier request, collected a part of the window.
    CollectedElsewhere,
    /// The aggregators disagree about the batch.
    Mismatch,
    /// The leader refused the window for another reason.
    Rejected,
    /// The result was received but does not open with the task's key. It is stored, and opened when the key is replaced.
    Unreadable,
}

impl LossReason {
    /// Whether requesting or opening the window again may succeed.
    pub fn is_recoverable(self) -> bool {
        matches!(self, Self::Deleted | Self::Rejected | Self::Unreadable | Self::Mismatch)
    }

    /// The reason in a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Expired => "the aggregators no longer have the reports",
            Self::Deleted => "the leader deleted the collection job",
            Self::CollectedElsewhere => "a part of the window was collected before",
            Self::Mismatch => "the aggregators disagree about the batch",
            Self::Rejected => "the leader refused the window",
            Self::Unreadable => "the result does not open with the task's key",
        }
    }
}

impl WindowState {
    /// Stable name of the state, for tables, JSON and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Upcoming => "upcoming",
            Self::Due => "due",
            Self::Requested { .. } => "requested",
            Self::Pending { .. } => "pending",
            Self::Collected(_) => "collected",
            Self::TooFewReports { .. } => "too_few_reports",
            Self::Lost { .. } => "lost",
            Self::Refused { .. } => "refused",
        }
    }

    /// The names of all states, in the order of a window's life.
    pub const NAMES: [&str; 8] =
        ["upcoming", "due", "requested", "pending", "collected", "too_few_reports", "lost", "refused"];

    /// Whether nothing more happens unless the operator asks for it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Collected(_) | Self::Lost { .. } | Self::TooFewReports { is_final: true, .. })
    }
}

impl Window {
    /// The span of time to show: of the schedule, or of the reports of a collected batch.
    pub fn shown_interval(&self) -> Option<Interval> {
        match (&self.interval, &self.state) {
            (Some(interval), _) => Some(*interval),
            (None, WindowState::Collected(collected)) => Some(collected.report_interval),
            (None, _) => None,
        }
    }

    /// The stored result's header, if the window is collected.
    pub fn collected(&self) -> Option<&CollectedWindow> {
        match &self.state {
            WindowState::Collected(collected) => Some(collected),
            _ => None,
        }
    }
}
