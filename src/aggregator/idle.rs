//! In-band tasks that are unused or have ended.
//!
//! Any client can set up a task of a known peer at its leader, and a peer may have a limited number of tasks
//! ([`taskprov`](super::taskprov)). A new task therefore replaces tasks that were never used, and the sweeper removes
//! tasks that have ended.

use super::{counters, tasks};
use dapbox_protocol::model::{Duration, TaskId, Time};
use dapbox_store::{TaskState, Tx};
use dapbox_support::Fault;

/// How long a new task is kept although it is unused, in seconds: its first report is stored by a later write.
const NEW: Duration = Duration(60);
/// How long a task is kept after its end although none of its batches can be collected, in seconds: clocks differ.
const MARGIN: Duration = Duration(86_400);

/// Whether no report of a task was ever aggregated and none waits.
pub fn is_unused(state: &TaskState) -> bool {
    let has_past = state.counters.contains_key(counters::AGGREGATE_SUCCESS)
        || !state.buckets.is_empty()
        || !state.replay.is_empty()
        || !state.collected.is_empty();
    is_quiet(state) && !has_past
}

/// Whether a task has no waiting reports and no running jobs or collections.
fn is_quiet(state: &TaskState) -> bool {
    state.waiting.is_empty()
        && state.deferred.is_empty()
        && state.reserved.is_empty()
        && state.leader_jobs.is_empty()
        && state.collections.is_empty()
}

/// Whether a task ended at or before this time, with too few reports in open batches for a collection.
fn has_ended(state: &TaskState, until: Time) -> bool {
    let open = state.buckets.iter().filter(|(bucket, _)| !state.is_closed(bucket));
    let count: u64 = open.map(|(_, record)| record.count).sum();
    is_quiet(state) && state.end().is_some_and(|end| end <= until) && count < state.task.public.min_batch_size
}

/// Whether an in-band task has ended, cannot be collected, and keeps no result that may still be fetched.
pub fn is_over(state: &TaskState, now: Time) -> bool {
    let until = now.saturating_sub(MARGIN);
    let keeps_no_result = state.collected.is_empty()
        || state.task.report_expiry_age.is_some_and(|age| has_ended(state, until.saturating_sub(age)));
    state.in_band.is_some() && has_ended(state, until) && keeps_no_result
}

/// Whether an in-band task was set up at or before `until` and never used, or has ended by then. Kept results do not
/// prevent an operator's request.
pub fn is_forgotten(state: &TaskState, until: Time, now: Time) -> bool {
    is_old(state, until, now) || (state.in_band.is_some() && has_ended(state, until))
}

/// Whether an in-band task was set up at or before `until` and never used. A set-up time in the future comes from a
/// wrong clock.
fn is_old(state: &TaskState, until: Time, now: Time) -> bool {
    let at = state.in_band.as_ref().map(|in_band| in_band.at);
    at.is_some_and(|at| at <= until || at > now) && is_unused(state)
}

/// Removes an in-band task. An unused task leaves no tombstone and may be set up again, because none of its reports was
/// aggregated.
pub fn remove(tx: &mut Tx<'_>, id: &TaskId, now: Time) -> Result<(), Fault> {
    if tx.task(id).is_some_and(|state| state.in_band.is_some() && is_unused(state)) && tx.forget_task(id)? {
        return Ok(());
    }
    tasks::remove(tx, id, now).map(drop)
}

/// Removes up to `most` tasks that [`is_forgotten`] selects. Returns their ids.
pub fn remove_forgotten(tx: &mut Tx<'_>, until: Time, most: usize, now: Time) -> Result<Vec<TaskId>, Fault> {
    remove_some(tx, most, now, |state| is_forgotten(state, until, now))
}

/// Removes up to `most` tasks that have ended, or that were set up at or before `unused_until` and never used. Returns
/// their ids.
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

/// The oldest tasks of a peer that new ones can replace: exactly `needed`, or `None` if there are fewer.
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
