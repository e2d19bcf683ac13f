//! What a DAP aggregator decides, one file for each interaction.
//!
//! Everything here is synchronous and takes `now`: functions over a store transaction, which either mutate or
//! refuse (decide first, then mutate), and pure functions over report shares, which run on the pool. Sockets,
//! waiting and retrying are the server's.

pub mod batches;
pub mod collect;
pub mod counters;
pub mod demand;
mod error;
pub mod helper;
pub mod keys;
pub mod leader;
pub mod offline;
mod shares;
pub mod tasks;
pub mod upload;

use std::sync::Arc;

use crate::{
    model::{Duration, ReportError, ReportId, Role, Task, Time},
    store::Replay,
    vdaf::{self, Preparer, VdafError, Verification},
    wire::{self, Wire},
};

pub use error::Error;
pub use keys::KeyRing;
pub use shares::{Opener, Sums};

/// A task with all that is needed to work on it: its encodings and its VDAF.
pub struct TaskContext {
    /// The task.
    pub task: Arc<Task>,
    /// The encodings of its revision.
    pub wire: &'static dyn Wire,
    /// Its VDAF.
    pub preparer: Arc<dyn Preparer>,
    vdaf_context: Vec<u8>,
}

impl TaskContext {
    /// Makes the VDAF that the task asks for; fails if its parameters are out of range.
    pub fn new(task: Arc<Task>) -> Result<Self, VdafError> {
        let wire = wire::of(task.revision);
        let preparer = vdaf::preparer(task.revision, &task.vdaf)?;
        Ok(Self { vdaf_context: wire.vdaf_context(&task.id), task, wire, preparer })
    }

    /// What verification of the task's reports is bound to.
    pub fn verification(&self) -> Verification<'_> {
        Verification { key: self.task.verify_key.expose(), context: &self.vdaf_context }
    }

    /// Our role in the task.
    pub fn role(&self) -> Role {
        self.task.role()
    }
}

/// Whether a report was not aggregated before, as far as that is still known (DAP-09 section 4.5.1.4).
pub fn check_replay(replay: &Replay, id: &ReportId, time: Time) -> Result<(), ReportError> {
    if replay.horizon().is_some_and(|horizon| time < horizon) {
        return Err(ReportError::ReportDropped);
    }
    if replay.contains(id, time) { Err(ReportError::ReportReplayed) } else { Ok(()) }
}

/// Whether a report's time allows it to be aggregated now (DAP-09 section 4.5.1.4), with `skew` allowed for clocks.
pub fn check_time(task: &Task, now: Time, skew: Duration, time: Time) -> Result<(), ReportError> {
    if time > now.saturating_add(skew) {
        return Err(ReportError::ReportTooEarly);
    }
    if task.task_expiration.is_some_and(|end| time > end) {
        return Err(ReportError::TaskExpired);
    }
    // Of reports this old we may have forgotten whether we aggregated them.
    if task.report_expiry_age.is_some_and(|age| time < now.saturating_sub(age)) {
        return Err(ReportError::ReportDropped);
    }
    Ok(())
}
