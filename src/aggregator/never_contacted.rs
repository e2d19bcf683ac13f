//! Tasks that were never contacted. Provisioned ones can be removed by age, and an operator's own can be removed
//! without a tombstone.
//!
//! A request that names a task contacts it, whether it succeeds or not. It may come from the other aggregator, a client
//! or the collector. Requests for HPKE keys and of control planes do not count.
//!
//! # Decision: the first contact is stored
//!
//! The contact is stored together with the first request, which does not wait for it, so that a restart does not forget
//! it. Only tasks without a stored contact are removed by age. When in doubt, as after a restore, every task counts as
//! contacted, because removal is permanent.

use super::{counters, retention};
use dapbox_protocol::model::{TaskId, Time};
use dapbox_store::{TaskState, Tx};
use dapbox_support::Fault;

/// Whether no request has named a task, as far as is stored. An in-band task was named by a request.
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

/// Whether a provisioned task was never contacted, as far as is stored.
pub fn is_never_contacted(state: &TaskState) -> bool {
    state.provision.is_some() && is_unused(state)
}

/// Whether a task may be removed without a tombstone: if it came back, no report would be accepted and no aggregate
/// given out a second time.
///
/// Tasks of a restored directory never qualify, because later requests are unknown. Neither do tasks whose past an
/// operator closed; a horizon that follows from the retention period does not matter. Control planes rely on the
/// tombstones of their tasks.
pub fn needs_no_tombstone(tx: &Tx<'_>, state: &TaskState, now: Time) -> bool {
    let is_closed = state.replay.horizon() > retention::retention_horizon(state, now);
    tx.history_lost_before().is_none() && state.provision.is_none() && is_unused(state) && !is_closed
}

/// Whether a provisioned task was set up at or before `until` and never contacted.
pub fn is_forgotten(state: &TaskState, until: Time) -> bool {
    is_never_contacted(state) && state.provision.as_ref().is_some_and(|provision| provision.at <= until)
}

/// Records the contact of a task.
pub fn contact(tx: &mut Tx<'_>, id: &TaskId) -> Result<(), Fault> {
    if tx.task(id).is_some_and(is_unused) { tx.count(id, counters::CONTACTED, 1) } else { Ok(()) }
}

/// Removes up to `most` tasks that were set up at or before `until` and never contacted. Returns their ids.
pub fn remove(tx: &mut Tx<'_>, until: Time, most: usize, now: Time) -> Result<Vec<TaskId>, Fault> {
    let forgotten = tx.tasks().filter(|(_, state)| is_forgotten(state, until));
    let found: Vec<TaskId> = forgotten.map(|(id, _)| *id).take(most).collect();
    for id in &found {
        tx.remove_task(id, now)?;
    }
    Ok(found)
}
