//! Expiry: closes everything before a time and deletes it.
//!
//! The *horizon* of a task is a stored time that never decreases. Everything before it is closed permanently: reports
//! are rejected, buckets take no reports and are not collected, and only existing results are still returned. The
//! horizon is aligned to the time precision, so that no bucket spans it.
//!
//! After a loss (a directory restored from a backup, here or at the other aggregator) both sides may disagree about
//! existing batches. [`close_before`] abandons all of these batches; new batches are complete on both sides.

use super::{counters, resource_id::ResourceKey, verify_keys};
use crate::config;
use dapbox_protocol::{
    model::{BatchId, Duration, ReportError, ReportId, TaskId, Time},
    wire::{ProblemType, ResourceKind},
};
use dapbox_store::{
    CollectionJobRecord, CollectionState, LeaderJobRecord, ReportRef, SweepCursor, SweepCutoffs, SweepResult,
    TaskState, Tx,
};
use dapbox_support::Fault;

/// The message for collectors whose job was running when the past was closed.
const ENDED: &str = "the leader was restored from a backup and abandoned its running jobs; delete this collection job \
                     and create a new one";

/// How much later than its job a report of it may be, with a margin for clock differences and deferred answers, in
/// seconds.
const MARGIN: u64 = 2 * 86_400;

/// The aggregator that lost data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataLoss {
    /// This one: the directory is a restored copy, and its running jobs have long ended elsewhere.
    Own,
    /// The other one: running jobs continue, because the other aggregator may have taken part.
    Peer,
}

/// Closes everything before a time, and all batches of fixed-size tasks. Returns the new horizon; `None` if the task
/// does not exist.
///
/// After a loss, `before` must not be earlier than the time of any report accepted before it: the time of the restore
/// plus the clock difference.
pub fn close_before(tx: &mut Tx<'_>, task: &TaskId, before: Time, lost: DataLoss) -> Result<Option<Time>, Fault> {
    let Some(state) = tx.task(task) else { return Ok(None) };
    let horizon = before.round_up(state.task.public.time_precision);
    end_jobs(tx, task, lost, horizon)?;
    if lost == DataLoss::Own {
        end_collections(tx, task)?;
    }
    tx.close_before(task, horizon)?;
    tracing::warn!(task_id = %task, closed_before = horizon.0, "task closed before time");
    Ok(tx.task(task).and_then(|state| state.replay.horizon()))
}

/// Ends running aggregation jobs as far as that is safe.
///
/// Reports of a job that the helper may have seen are never retried. Such a job ends if all its batches are closed,
/// because then the helper's state does not matter. Reports of an unsent job wait again and are rejected by their
/// times.
fn end_jobs(tx: &mut Tx<'_>, task: &TaskId, lost: DataLoss, horizon: Time) -> Result<(), Fault> {
    let Some(state) = tx.task(task) else { return Ok(()) };
    let is_before_horizon = |job: &LeaderJobRecord| {
        let is_closed = state.task.public.time_bucket(Time(0)).is_none();
        is_closed || state.waiting.assigned(&job.reports).iter().all(|entry| entry.time < horizon)
    };
    let may_end = |job: &LeaderJobRecord| lost == DataLoss::Own || !job.was_sent() || is_before_horizon(job);
    let over: Vec<_> = state.leader_jobs.iter().filter(|(_, job)| may_end(job)).map(|(id, _)| *id).collect();
    for id in over {
        let Some(job) = tx.task(task).and_then(|state| state.leader_jobs.get(&id)) else { continue };
        let (reports, was_sent) = (job.reports.clone(), job.was_sent());
        let assigned = tx.task(task).map(|state| state.waiting.assigned(&reports)).unwrap_or_default();
        if lost == DataLoss::Own || was_sent {
            let deleted: Vec<(ReportId, ReportRef)> = assigned.iter().map(|entry| (entry.id, entry.at)).collect();
            tx.delete_reports(task, &deleted)?;
            tx.count(task, counters::refused(ReportError::ReportDropped), deleted.len() as u64)?;
        } else if let Some(state) = tx.task_mut(task) {
            state.waiting.defer(&assigned, Time(0));
        }
        tx.end_leader_job(task, &id)?;
    }
    Ok(())
}

/// Ends the collection jobs of a restored copy.
///
/// The copy does not know whether the collector fetched a derived job's result and deleted the job since. The same
/// request would return the same batch again, which would be counted twice. So the ids of such jobs are invalidated.
fn end_collections(tx: &mut Tx<'_>, task: &TaskId) -> Result<(), Fault> {
    let is_fixed = tx.task(task).is_some_and(|state| state.task.public.time_bucket(Time(0)).is_none());
    for id in tx.collection_ids(task)? {
        let Some(job) = tx.collection(task, &id)? else { continue };
        let content = ResourceKey::new(*task, ResourceKind::CollectionJob, &job.request);
        let state = if is_fixed && content.invalidate(tx, id.as_bytes())? {
            CollectionState::Deleted
        } else if job.state.is_active() {
            CollectionState::Failed { kind: ProblemType::BatchInvalid.urn(), detail: ENDED.to_owned() }
        } else {
            continue;
        };
        tx.put_collection(task, id, CollectionJobRecord { state, ..job })?;
    }
    Ok(())
}

/// Abandons a fixed-size batch that will never be collected.
pub(super) fn abandon_batch(tx: &mut Tx<'_>, task: &TaskId, batch: BatchId) -> Result<(), Fault> {
    if tx.abandon_batch(task, batch)? {
        tracing::warn!(task_id = %task, batch_id = %batch, "batch abandoned");
    }
    Ok(())
}

/// The horizon that follows from the retention period of a task.
pub(super) fn retention_horizon(state: &TaskState, now: Time) -> Option<Time> {
    let age = state.task.report_expiry_age?;
    Some(now.saturating_sub(age).truncate(state.task.public.time_precision)).filter(|time| *time > Time(0))
}

/// Runs one step of a sweep. Call it in separate writes with the returned cursor until it is `None`.
///
/// Expired reports are closed first, in the same write as their deletion. A clock that is set back or a longer
/// retention period reopens nothing.
pub fn sweep(
    tx: &mut Tx<'_>,
    task: &TaskId,
    now: Time,
    limits: &config::Retention,
    place: SweepCursor,
) -> Result<Option<SweepCursor>, Fault> {
    let Some(state) = tx.task(task) else { return Ok(None) };
    let results = retention_horizon(state, now);
    if let Some(time) = results
        && results > state.replay.horizon()
    {
        tx.raise_horizon(task, time)?;
    }
    verify_keys::sweep(tx, task)?;
    let earlier = |by: u64| results.map(|time| time.saturating_sub(Duration(by)));
    let answers = now.saturating_sub(Duration(limits.answer_age.as_secs()));
    let old = SweepCutoffs { now, answers, results, jobs: earlier(MARGIN), generations: earlier(2 * MARGIN) };
    let SweepResult { next, reports, sums, batches } = tx.sweep(task, &old, place)?;
    if sums > 0 {
        tracing::warn!(task_id = %task, report_count = sums, "uncollected reports expired");
    }
    let dropped = counters::refused(ReportError::ReportDropped);
    for (counter, n) in [(dropped, reports), (counters::SUM_GIVEN_UP, sums), (counters::BATCH_FORGOTTEN, batches)] {
        if n > 0 {
            tx.count(task, counter, n)?;
        }
    }
    Ok(next)
}
