//! What is over: closing everything before a time, and forgetting it.
//!
//! A task's *horizon* is a time before which everything is closed, for good: it is stored, and only rises. Reports of
//! before it are refused, batch buckets that begin before it take no more reports and are not collected any more; only a
//! result that there is already is still given out. It is aligned to the task's time precision, so that no bucket is on
//! both sides of it.
//!
//! After a loss (a directory that was restored from a backup, here or at the other aggregator) the two may not agree any
//! more about what is in the batches that there are. [`close_before`] gives all of these up, and what is new is whole on
//! both sides.

use super::{counters, resource_id::ResourceKey};
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

/// What collectors are told whose job was under way when the past was closed.
const ENDED: &str = "the leader was restored from a backup and has given up what was under way; \
                     delete this collection job and ask anew";

/// How much later than its job a report of it may be, and then some: clocks differ, and jobs may be answered late. In
/// seconds.
const MARGIN: u64 = 2 * 86_400;

/// Which of the two aggregators has lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataLoss {
    /// We have: this directory is a restored copy, and what it knows as being under way has long gone on without it.
    Own,
    /// The other one has: what is under way here goes on, since the other may have taken part in it.
    Peer,
}

/// Closes everything before the given time, and all batches of fixed-size tasks that there are. Says where the horizon
/// is now; `None` if there is no such task.
///
/// After a loss, `before` is not earlier than any time that a report may have had that was taken before: the time of the
/// restore, and what clocks may differ by.
pub fn close_before(tx: &mut Tx<'_>, task: &TaskId, before: Time, lost: DataLoss) -> Result<Option<Time>, Fault> {
    let Some(state) = tx.task(task) else { return Ok(None) };
    let horizon = before.round_up(state.task.public.time_precision);
    end_jobs(tx, task, lost, horizon)?;
    if lost == DataLoss::Own {
        end_collections(tx, task)?;
    }
    tx.close_before(task, horizon)?;
    tracing::warn!(%task, before = horizon.0, "everything before this time is closed for good");
    Ok(tx.task(task).and_then(|state| state.replay.horizon()))
}

/// Ends the aggregation jobs that are known to be under way, as far as that is safe.
///
/// The reports of a job that the helper may have seen are never tried again. Such a job ends if all that it could add to
/// is closed: then it does not matter whether the helper has them. Those of a job that it has not seen wait again, and are
/// refused by their times if it comes to that.
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

/// Ends the collection jobs of a copy of the past.
///
/// Of one that goes by its content the copy does not know whether the collector has had its result and released it since:
/// the same request would get the same batch again, and be counted twice. So that is another job from now on.
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

/// Closes a fixed-size batch that will never be collected.
pub(super) fn abandon_batch(tx: &mut Tx<'_>, task: &TaskId, batch: BatchId) -> Result<(), Fault> {
    if tx.abandon_batch(task, batch)? {
        tracing::warn!(%task, %batch, "the helper takes no more reports into a batch, which is given up uncollected");
    }
    Ok(())
}

/// Where the horizon of a task is at least, by its retention.
pub(super) fn retention_horizon(state: &TaskState, now: Time) -> Option<Time> {
    let age = state.task.report_expiry_age?;
    Some(now.saturating_sub(age).truncate(state.task.public.time_precision)).filter(|time| *time > Time(0))
}

/// One step of sweeping a task, to be called with the place that it returns, in another write each, until there is none.
///
/// Reports that are older than the task keeps them are closed first, which is stored with what is forgotten on that
/// account. A clock that was set back, or a longer retention, opens nothing again.
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
    let earlier = |by: u64| results.map(|time| time.saturating_sub(Duration(by)));
    let answers = now.saturating_sub(Duration(limits.answer_age.as_secs()));
    let old = SweepCutoffs { now, answers, results, jobs: earlier(MARGIN), generations: earlier(2 * MARGIN) };
    let SweepResult { next, reports, sums, batches } = tx.sweep(task, &old, place)?;
    if sums > 0 {
        tracing::warn!(%task, reports = sums, "sums were given up: they were not collected in time");
    }
    let dropped = counters::refused(ReportError::ReportDropped);
    for (counter, n) in [(dropped, reports), (counters::SUM_GIVEN_UP, sums), (counters::BATCH_FORGOTTEN, batches)] {
        if n > 0 {
            tx.count(task, counter, n)?;
        }
    }
    Ok(next)
}
