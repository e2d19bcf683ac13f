//! In-band tasks of which nothing more can come: they were never used, or they are over.
//!
//! Where we lead, any client can set up a task of a known peer, and a peer has a limited number of places
//! ([`taskprov`](super::taskprov)). So a task that was never used gives its place to the next one that needs it, and the
//! sweeper removes tasks that are over.

use super::{counters, tasks};
use dapbox_protocol::model::{Duration, TaskId, Time};
use dapbox_store::{TaskState, Tx};
use dapbox_support::Fault;

/// How long a new task keeps its place although it was not used: its first report is stored by a later write than the
/// task. In seconds.
const NEW: Duration = Duration(60);
/// How long after its end a task is kept although no batch of it can be collected: clocks differ. In seconds.
const MARGIN: Duration = Duration(86_400);

/// Whether no report of a task was ever aggregated, and none waits.
pub fn is_unused(state: &TaskState) -> bool {
    let has_past = state.counters.contains_key(counters::AGGREGATE_SUCCESS)
        || !state.buckets.is_empty()
        || !state.replay.is_empty()
        || !state.collected.is_empty();
    is_quiet(state) && !has_past
}

/// Whether no report waits and no job or collection is under way.
fn is_quiet(state: &TaskState) -> bool {
    state.waiting.is_empty()
        && state.deferred.is_empty()
        && state.reserved.is_empty()
        && state.leader_jobs.is_empty()
        && state.collections.is_empty()
}

/// Whether a task ended at this time or before it, and all its open batches together have too few reports to be collected.
fn has_ended(state: &TaskState, until: Time) -> bool {
    let open = state.buckets.iter().filter(|(bucket, _)| !state.is_closed(bucket));
    let count: u64 = open.map(|(_, record)| record.count).sum();
    is_quiet(state) && state.end().is_some_and(|end| end <= until) && count < state.task.public.min_batch_size
}

/// Whether a task that was set up in-band has ended, cannot be collected, and keeps no result that may still be fetched.
pub fn is_over(state: &TaskState, now: Time) -> bool {
    let until = now.saturating_sub(MARGIN);
    let keeps_no_result = state.collected.is_empty()
        || state.task.report_expiry_age.is_some_and(|age| has_ended(state, until.saturating_sub(age)));
    state.in_band.is_some() && has_ended(state, until) && keeps_no_result
}

/// Whether a task that was set up in-band was set up at `until` or before and never used, or has ended by then. For an
/// operator who asks, results that are kept do not matter.
pub fn is_forgotten(state: &TaskState, until: Time, now: Time) -> bool {
    is_old(state, until, now) || (state.in_band.is_some() && has_ended(state, until))
}

/// Whether a task was set up in-band at `until` or before and never used. A time ahead of ours is one of a clock that was
/// wrong.
fn is_old(state: &TaskState, until: Time, now: Time) -> bool {
    let at = state.in_band.as_ref().map(|in_band| in_band.at);
    at.is_some_and(|at| at <= until || at > now) && is_unused(state)
}

/// Removes a task that was set up in-band. One that was never used leaves no tombstone: nothing of it was aggregated, so it
/// may come again.
pub fn remove(tx: &mut Tx<'_>, id: &TaskId, now: Time) -> Result<(), Fault> {
    if tx.task(id).is_some_and(|state| state.in_band.is_some() && is_unused(state)) && tx.forget_task(id)? {
        return Ok(());
    }
    tasks::remove(tx, id, now).map(drop)
}

/// Removes some of the tasks that [`is_forgotten`] by `until`. Returns which.
pub fn remove_forgotten(tx: &mut Tx<'_>, until: Time, most: usize, now: Time) -> Result<Vec<TaskId>, Fault> {
    remove_some(tx, most, now, |state| is_forgotten(state, until, now))
}

/// Removes some of the tasks that are over or ended without use, and of those that were set up at `unused_until` or before
/// without use. Returns which.
pub fn sweep(tx: &mut Tx<'_>, unused_until: Option<Time>, most: usize, now: Time) -> Result<Vec<TaskId>, Fault> {
    remove_some(tx, most, now, |state| {
        is_over(state, now) || unused_until.is_some_and(|until| is_old(state, until, now))
    })
}

fn remove_some(
    tx: &mut Tx<'_>,
    most: usize,
    now: Time,
    is_unwanted: impl Fn(&TaskState) -> bool,
) -> Result<Vec<TaskId>, Fault> {
    let unwanted = tx.tasks().filter(|(_, state)| is_unwanted(state));
    let found: Vec<TaskId> = unwanted.map(|(id, _)| *id).take(most).collect();
    for id in &found {
        remove(tx, id, now)?;
    }
    Ok(found)
}

/// Which of a peer's tasks can give their places to others, the oldest first: as many as are needed, or `None` if there are
/// not enough.
pub fn replaceable(tx: &Tx<'_>, of_peer: &[TaskId], needed: usize, now: Time) -> Option<Vec<TaskId>> {
    let mut found: Vec<(Time, TaskId)> = Vec::new();
    for id in of_peer {
        let Some((state, in_band)) = tx.task(id).and_then(|state| Some((state, state.in_band.as_ref()?))) else {
            continue;
        };
        if is_over(state, now) || is_old(state, now.saturating_sub(NEW), now) {
            found.push((in_band.at, *id));
        }
    }
    found.sort_unstable();
    (found.len() >= needed).then(|| found.into_iter().take(needed).map(|(_, id)| id).collect())
}
