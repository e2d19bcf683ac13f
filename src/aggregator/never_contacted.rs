//! Tasks that were never contacted: those that others set up are removed if that is wanted, and those that an operator
//! adds may be removed without a tombstone.
//!
//! A task is contacted when a request names it: one of the other aggregator, of a client or of the collector, whether it is
//! refused or not. A request for our keys is none, which anybody makes; nor is what a control plane does through the
//! management API. That it was is stored with the first such request, so that a restart does not forget it. In doubt, a
//! task was contacted: what is removed is gone for ever.

use super::{counters, retention};
use dapbox_protocol::model::{TaskId, Time};
use dapbox_store::{TaskState, Tx};
use dapbox_support::Fault;

/// Whether no request has named a task yet, as far as is stored. One that was set up in-band was named by a request.
pub fn is_unused(state: &TaskState) -> bool {
    let holds_nothing = state.waiting.is_empty()
        && state.deferred.is_empty()
        && state.reserved.is_empty()
        && state.buckets.is_empty()
        && state.leader_jobs.is_empty()
        && state.collections.is_empty();
    let has_no_past = state.replay.is_empty() && state.collected.is_empty() && state.names.is_empty();
    state.in_band.is_none() && state.counters.is_empty() && holds_nothing && has_no_past
}

/// Whether others have set a task up and nobody has contacted it since, as far as is stored.
pub fn is_never_contacted(state: &TaskState) -> bool {
    state.provision.is_some() && is_unused(state)
}

/// Whether a task may be removed without a tombstone: it could come back without a report being accepted or an aggregate
/// being given out a second time, because none was a first time.
///
/// A restored data directory does not know what came after its backup, so none of its tasks qualifies. Nor does one that
/// an operator has closed a past of; a horizon that only follows from the age of reports does not matter. A control plane
/// relies on tombstones of its tasks.
pub fn needs_no_tombstone(tx: &Tx<'_>, state: &TaskState, now: Time) -> bool {
    let is_closed = state.replay.horizon() > retention::retention_horizon(state, now);
    tx.history_lost_before().is_none() && state.provision.is_none() && is_unused(state) && !is_closed
}

/// Whether it is one of those, and was set up at this time or before it.
pub fn is_forgotten(state: &TaskState, until: Time) -> bool {
    is_never_contacted(state) && state.provision.as_ref().is_some_and(|provision| provision.at <= until)
}

/// Notes that somebody has contacted a task.
pub fn contact(tx: &mut Tx<'_>, id: &TaskId) -> Result<(), Fault> {
    if tx.task(id).is_some_and(is_unused) { tx.count(id, counters::CONTACTED, 1) } else { Ok(()) }
}

/// Removes some of the tasks that nobody has contacted and that were set up at this time or before it, at most so many.
/// Says which.
pub fn remove(tx: &mut Tx<'_>, until: Time, most: usize, now: Time) -> Result<Vec<TaskId>, Fault> {
    let forgotten = tx.tasks().filter(|(_, state)| is_forgotten(state, until));
    let found: Vec<TaskId> = forgotten.map(|(id, _)| *id).take(most).collect();
    for id in &found {
        tx.remove_task(id, now)?;
    }
    Ok(found)
}
