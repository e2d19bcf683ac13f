//! Failure points: the moments at which a power cut, a full disk or a broken line would hurt most, each with a name, so
//! that tests can let something go wrong at any one of them.
//!
//! There is one at every write to the store and at every request to a helper, and one where an aggregate share is begun. Whoever adds one of those adds a [`Point`]
//! and puts it into [`Point::ALL`]: the compiler asks for the point, and `tests/failpoints` fails as long as it is not
//! in the list, or nothing that the test does comes by there.
//!
//! A server has no failure points but those that its caller gives it, and no configuration, argument or variable does.

use std::{fmt, sync::Arc, time::Duration};

use crate::Part;

/// A place in the code where something can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// A write of a test or benchmark: never one of a server, and not in [`Point::ALL`].
    Test,
    /// The first HPKE key is made, and at each start what the configuration asks for.
    KeysFirst,
    /// A server notes how far ahead of its clock it takes reports.
    ClockSkew,
    /// HPKE keys become what it is time for.
    KeysAdvance,
    /// An operator wants new HPKE keys.
    KeysRotate,
    /// A pending HPKE key is handed out at once.
    KeysActivate,
    /// An HPKE key is not to be handed out any more.
    KeysDisable,
    /// An HPKE key is not to open anything any more.
    KeysDelete,
    /// A task is added.
    TaskAdd,
    /// A task is removed.
    TaskRemove,
    /// A task gets another name.
    TaskRename,
    /// Everything of a task before a time is closed.
    TaskClose,
    /// A token of a task is replaced.
    TokenChange,
    /// The secret is made that tokens of tasks are derived from.
    ManagementSeed,
    /// A control plane sets a task up.
    TaskProvision,
    /// A control plane changes the end of a task.
    TaskEnd,
    /// A task is named in a request for the first time.
    TaskContact,
    /// Tasks that others set up and that nobody has contacted are removed.
    TaskSweep,
    /// A task is set up in-band, by a request that is about it.
    TaskOptIn,
    /// A control plane names a peer whose tasks are taken.
    PeerAdd,
    /// A control plane takes a peer back.
    PeerRemove,
    /// An API token is made.
    ApiTokenAdd,
    /// An API token is revoked.
    ApiTokenRevoke,
    /// Some of what is over of a task is forgotten.
    Sweep,
    /// Some rows of a removed task are deleted.
    SweepRemoved,
    /// Reports are accepted.
    Upload,
    /// An upload that does not decode is counted.
    UploadMalformed,
    /// The leader makes a job of waiting reports.
    LeaderPick,
    /// The leader stores what a job's request is made of.
    LeaderSeal,
    /// The leader stores what a job came to.
    LeaderCommit,
    /// The leader takes a job back that the helper refused.
    LeaderDissolve,
    /// The leader gives a job up about which the helper broke the protocol.
    LeaderAbandon,
    /// The helper reserves a job's reports.
    HelperReserve,
    /// The helper stores a job's request, to be answered later.
    HelperDefer,
    /// The helper reserves the reports of a job that it had put off.
    HelperResume,
    /// The helper stores a job's sums and answer.
    HelperCommit,
    /// The helper gives up the reservations of a job that failed.
    HelperRelease,
    /// The helper deletes a job.
    HelperDelete,
    /// A collection job is made.
    CollectionCreate,
    /// A collection job's batch is closed, or found to be none.
    CollectionAdvance,
    /// A collection job's result is stored.
    CollectionFinish,
    /// A collection job ends with the helper's refusal.
    CollectionFail,
    /// A collection job's outcome is sent to the collector for the first time.
    CollectionFetch,
    /// A collection job is deleted.
    CollectionDelete,
    /// An aggregate share is begun, with a sample of noise where the task has noise. Not a write: a plan may block it, and a
    /// worker with it.
    NoiseSample,
    /// The helper gives its aggregate share.
    ShareGive,
    /// The helper's aggregate share is deleted.
    ShareDelete,
    /// The leader sends an aggregation job.
    SendJob,
    /// The leader asks how an aggregation job is.
    PollJob,
    /// The leader deletes an aggregation job at the helper.
    DeleteJob,
    /// The leader asks for an aggregate share.
    SendShare,
    /// The leader asks how an aggregate share is.
    PollShare,
}

impl Point {
    /// All points of a server.
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
        Self::TaskClose,
        Self::TokenChange,
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
        Self::NoiseSample,
        Self::ShareGive,
        Self::ShareDelete,
        Self::SendJob,
        Self::PollJob,
        Self::DeleteJob,
        Self::SendShare,
        Self::PollShare,
    ];
}

/// Which moment of a point it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// A write has run and nothing of it is on disk; or nothing of a request is sent.
    Before,
    /// A write is durable and not answered; or a request is answered, and we have not looked at the answer.
    After,
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Go,
    /// The disk, or the line, fails.
    Fail,
    /// It takes that much longer.
    Wait(Duration),
    /// The code panics.
    Panic,
}

/// What a test wants to happen at the points of a server. Without a plan, which is the default, nothing does.
#[derive(Clone, Default)]
pub struct Failpoints {
    plan: Option<Arc<Plan>>,
    panics: Option<Arc<Panics>>,
}

/// Says what happens. It is called in the store's thread too and may block it, as a slow disk would.
type Plan = dyn Fn(Point, Phase) -> Act + Send + Sync;

/// Says whether a part of the server panics now. It is called each time that the part begins or looks for work.
type Panics = dyn Fn(Part) -> bool + Send + Sync;

impl Failpoints {
    /// Asks the plan at every point.
    pub fn new(plan: impl Fn(Point, Phase) -> Act + Send + Sync + 'static) -> Self {
        Self { plan: Some(Arc::new(plan)), panics: None }
    }

    /// The same with background parts that panic.
    pub fn with_panics(self, panics: impl Fn(Part) -> bool + Send + Sync + 'static) -> Self {
        Self { panics: Some(Arc::new(panics)), ..self }
    }

    /// What happens at a point.
    pub fn at(&self, point: Point, phase: Phase) -> Act {
        self.plan.as_ref().map_or(Act::Go, |plan| plan(point, phase))
    }

    /// Passes the failure point of a background part.
    ///
    /// # Panics
    ///
    /// If the test's plan says so.
    pub fn turn(&self, part: Part) {
        if self.panics.as_ref().is_some_and(|panics| panics(part)) {
            panic!("made to panic in {part}");
        }
    }
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_planned = self.plan.is_some() || self.panics.is_some();
        f.write_str(if is_planned { "Failpoints(planned)" } else { "Failpoints(none)" })
    }
}
