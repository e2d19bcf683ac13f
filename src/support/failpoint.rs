//! Failpoints: named places where tests inject failures, such as a power cut, a full disk or a broken connection.
//!
//! Every write to the store and every request to a helper has a failpoint, and so has the start of an aggregate share.
//! To add one, add a [`Point`] and list it in [`Point::ALL`]. The compiler requires the point; the test `failpoints`
//! fails while the point is not listed or not reached.
//!
//! Failpoints can only be set by the code that starts a server, not by configuration, arguments or the environment.

use std::{fmt, sync::Arc, time::Duration};

use crate::Part;

/// A place where a failure can be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// A write of a test or benchmark. Servers do not use it, and [`Point::ALL`] omits it.
    Test,
    /// Creates the first HPKE key, and at every start the keys that the configuration requires.
    KeysFirst,
    /// Stores the tolerated clock skew.
    ClockSkew,
    /// Activates, expires and deletes HPKE keys that are due.
    KeysAdvance,
    /// Creates new HPKE keys for the operator.
    KeysRotate,
    /// Activates a pending HPKE key immediately.
    KeysActivate,
    /// Expires an HPKE key.
    KeysDisable,
    /// Deletes an HPKE key.
    KeysDelete,
    /// Adds a task.
    TaskAdd,
    /// Removes a task.
    TaskRemove,
    /// Renames a task.
    TaskRename,
    /// Changes the privacy budget of a task.
    TaskPrivacy,
    /// Closes a task before a point in time.
    TaskClose,
    /// Rotates a token of a task.
    TokenChange,
    /// Changes the verification keys of a task.
    VerifyKeyChange,
    /// Creates the seed of task tokens.
    ManagementSeed,
    /// Provisions a task for a control plane.
    TaskProvision,
    /// Changes the end of a task for a control plane.
    TaskEnd,
    /// Records the first request for a task.
    TaskContact,
    /// Removes provisioned tasks that were never contacted.
    TaskSweep,
    /// Provisions a task in-band.
    TaskOptIn,
    /// Adds an in-band peer for a control plane.
    PeerAdd,
    /// Removes an in-band peer for a control plane.
    PeerRemove,
    /// Creates an API token.
    ApiTokenAdd,
    /// Revokes an API token.
    ApiTokenRevoke,
    /// Deletes expired data of a task.
    Sweep,
    /// Deletes rows of a removed task.
    SweepRemoved,
    /// Accepts reports.
    Upload,
    /// Counts a malformed upload.
    UploadMalformed,
    /// Creates a leader job from waiting reports.
    LeaderPick,
    /// Stores the input of a leader job's request.
    LeaderSeal,
    /// Stores the result of a leader job.
    LeaderCommit,
    /// Dissolves a leader job that the helper rejected.
    LeaderDissolve,
    /// Abandons a leader job after a protocol violation of the helper.
    LeaderAbandon,
    /// Reserves the reports of a helper job.
    HelperReserve,
    /// Stores a helper job for deferred processing.
    HelperDefer,
    /// Reserves the reports of a deferred helper job.
    HelperResume,
    /// Stores the sums and the response of a helper job.
    HelperCommit,
    /// Releases the reservations of a failed helper job.
    HelperRelease,
    /// Deletes a helper job.
    HelperDelete,
    /// Creates a collection job.
    CollectionCreate,
    /// Closes or rejects the batch of a collection job.
    CollectionAdvance,
    /// Stores the result of a collection job.
    CollectionFinish,
    /// Stores the helper's rejection of a collection job.
    CollectionFail,
    /// Records that the outcome of a collection job was fetched.
    CollectionFetch,
    /// Deletes a collection job.
    CollectionDelete,
    /// Adds or changes a task that this server collects.
    CollectorPut,
    /// Removes a task that this server collects.
    CollectorRemove,
    /// Creates, joins and activates windows.
    WindowPlan,
    /// Stores the request of a window.
    WindowRequest,
    /// Stores how far a window is.
    WindowProgress,
    /// Stores the result of a window.
    WindowResult,
    /// Adds or removes a link to results.
    ResultLink,
    /// Stores or removes a webhook event.
    WebhookEvent,
    /// Starts an aggregate share, with sampled noise if the task has noise. Not a write: a plan may block it together
    /// with a worker.
    NoiseSample,
    /// Stores the helper's aggregate share.
    ShareGive,
    /// Deletes the helper's aggregate share.
    ShareDelete,
    /// Sends an aggregation job to the helper.
    SendJob,
    /// Polls an aggregation job at the helper.
    PollJob,
    /// Deletes an aggregation job at the helper.
    DeleteJob,
    /// Requests an aggregate share from the helper.
    SendShare,
    /// Polls an aggregate share at the helper.
    PollShare,
    /// Requests a window from the leader (collector).
    SendCollection,
    /// Polls or deletes a window's collection job at the leader (collector).
    PollCollection,
    /// Sends a notification to a webhook (collector).
    SendWebhook,
}

impl Point {
    /// All failpoints of a server.
    pub const ALL: &[Self] = &[
        Self::KeysFirst,
        Self::ClockSkew,
        Self::KeysAdvance,
        Self::KeysRotate,
        Self::KeysActivate,
        Self::KeysDisable,
        Self::KeysDelete,
        Self::TaskAdd,
        Self::TaskRemove,
        Self::TaskRename,
        Self::TaskPrivacy,
        Self::TaskClose,
        Self::TokenChange,
        Self::VerifyKeyChange,
        Self::ManagementSeed,
        Self::TaskProvision,
        Self::TaskEnd,
        Self::TaskContact,
        Self::TaskSweep,
        Self::TaskOptIn,
        Self::PeerAdd,
        Self::PeerRemove,
        Self::ApiTokenAdd,
        Self::ApiTokenRevoke,
        Self::Sweep,
        Self::SweepRemoved,
        Self::Upload,
        Self::UploadMalformed,
        Self::LeaderPick,
        Self::LeaderSeal,
        Self::LeaderCommit,
        Self::LeaderDissolve,
        Self::LeaderAbandon,
        Self::HelperReserve,
        Self::HelperDefer,
        Self::HelperResume,
        Self::HelperCommit,
        Self::HelperRelease,
        Self::HelperDelete,
        Self::CollectionCreate,
        Self::CollectionAdvance,
        Self::CollectionFinish,
        Self::CollectionFail,
        Self::CollectionFetch,
        Self::CollectionDelete,
        Self::CollectorPut,
        Self::CollectorRemove,
        Self::WindowPlan,
        Self::WindowRequest,
        Self::WindowProgress,
        Self::WindowResult,
        Self::ResultLink,
        Self::WebhookEvent,
        Self::NoiseSample,
        Self::ShareGive,
        Self::ShareDelete,
        Self::SendJob,
        Self::PollJob,
        Self::DeleteJob,
        Self::SendShare,
        Self::PollShare,
        Self::SendCollection,
        Self::PollCollection,
        Self::SendWebhook,
    ];
}

/// A moment at a failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// A write was applied and is not on disk yet, or a request was not sent yet.
    Before,
    /// A write is durable and not confirmed yet, or a response was received and not processed yet.
    After,
}

/// The action at a failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Continue normally.
    Go,
    /// Fail the write or the request.
    Fail,
    /// Continue after a delay.
    Wait(Duration),
    /// Panic.
    Panic,
}

/// The plan of a test for the failpoints of a server. The default is no plan, so that nothing fails.
#[derive(Clone, Default)]
pub struct Failpoints {
    plan: Option<Arc<Plan>>,
    panics: Option<Arc<Panics>>,
}

/// Selects the action. Also runs in the store's writer thread and may block it, like a slow disk.
type Plan = dyn Fn(Point, Phase) -> Act + Send + Sync;

/// Whether a component panics now. Called each time the component starts or looks for work.
type Panics = dyn Fn(Part) -> bool + Send + Sync;

impl Failpoints {
    /// Creates a plan for every failpoint.
    pub fn new(plan: impl Fn(Point, Phase) -> Act + Send + Sync + 'static) -> Self {
        Self { plan: Some(Arc::new(plan)), panics: None }
    }

    /// Adds panics of background components.
    pub fn with_panics(self, panics: impl Fn(Part) -> bool + Send + Sync + 'static) -> Self {
        Self { panics: Some(Arc::new(panics)), ..self }
    }

    /// The action at a failpoint.
    pub fn at(&self, point: Point, phase: Phase) -> Act {
        self.plan.as_ref().map_or(Act::Go, |plan| plan(point, phase))
    }

    /// Passes the failpoint of a background component.
    ///
    /// # Panics
    ///
    /// If the plan of the test says so.
    pub fn turn(&self, part: Part) {
        if self.panics.as_ref().is_some_and(|panics| panics(part)) {
            panic!("injected panic in {part}");
        }
    }
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_planned = self.plan.is_some() || self.panics.is_some();
        f.write_str(if is_planned { "Failpoints(planned)" } else { "Failpoints(none)" })
    }
}
