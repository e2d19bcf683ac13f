//! Tasks that others set up here and that nobody ever contacted: known as such, and removed if that is wanted.
//!
//! A task is contacted when a request names it: one of the other aggregator, of a client or of the collector, whether it is
//! refused or not. A request for our keys is none, which anybody makes; nor is what a control plane does through the
//! management API. That it was is stored with the first such request, so that a restart does not forget it. In doubt, a
//! task was contacted: what is removed is gone for ever.

use super::{counters, tasks};
use crate::{
    model::{Fault, TaskId, Time},
    store::{TaskState, Tx},
};

/// Whether others have set a task up and nobody has contacted it since, as far as is stored.
pub fn is_untouched(state: &TaskState) -> bool {
    let holds_nothing = state.waiting.is_empty()
        && state.deferred.is_empty()
        && state.reserved.is_empty()
        && state.buckets.is_empty()
        && state.leader_jobs.is_empty()
        && state.collections.is_empty();
    state.provision.is_some() && state.counters.is_empty() && holds_nothing
}

/// Whether it is one of those, and was set up at this time or before it.
pub fn is_forgotten(state: &TaskState, until: Time) -> bool {
    is_untouched(state) && state.provision.as_ref().is_some_and(|provision| provision.at <= until)
}

/// Notes that somebody has contacted a task.
pub fn contact(tx: &mut Tx<'_>, id: &TaskId) -> Result<(), Fault> {
    if tx.task(id).is_some_and(is_untouched) { tx.count(id, counters::CONTACTED, 1) } else { Ok(()) }
}

/// Removes some of the tasks that nobody has contacted and that were set up at this time or before it, at most so many.
/// Says which.
pub fn remove(tx: &mut Tx<'_>, until: Time, most: usize, now: Time) -> Result<Vec<TaskId>, Fault> {
    let forgotten = tx.tasks().filter(|(_, state)| is_forgotten(state, until));
    let found: Vec<TaskId> = forgotten.map(|(id, _)| *id).take(most).collect();
    for id in &found {
        tasks::remove(tx, id, now)?;
    }
    Ok(found)
}
