//! The results of collected batches at the leader.
//!
//! # Decision: a leader-selected batch is returned until its job is deleted
//!
//! Some collectors never delete a collection job. A request for the next batch returns the same batch until its job is
//! deleted, or for `leader.next_batch_after` after its result was fetched. The result stays at the URL of its job. A
//! collector stores the result first and deletes the job afterwards, so a result lost in transit can be fetched again.
//!
//! # Decision: a fetch is stored before the result is sent
//!
//! The leader records that a result was fetched before it sends it. Operators see results that were never fetched, and
//! a result can be fetched any number of times.

use crate::views::status::{CollectedBatchStatus, ResultState};
use dapbox_protocol::model::{BatchSelector, Bucket, CollectionJobId, Duration, FixedSizeQuery, Query, TaskId, Time};
use dapbox_store::{CollectionJobRecord, CollectionState, ResultRecord, ResultStage, TaskState, Tx};
use dapbox_support::Fault;

/// The batch of a collection job, once it has one.
pub fn batch_of(job: &CollectionJobRecord) -> Option<BatchSelector> {
    job.batch.or(match job.query {
        Query::TimeInterval(interval) => Some(BatchSelector::TimeInterval(interval)),
        Query::FixedSize(FixedSizeQuery::ByBatchId(id)) => Some(BatchSelector::FixedSize(id)),
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => None,
    })
}

/// The stage of a result after its outcome was sent to the collector; `None` if nothing changes.
fn stage_after_report(job: &CollectionJobRecord, result: &ResultRecord, now: Time) -> Option<ResultStage> {
    match (&job.state, result.stage) {
        (CollectionState::Done { .. }, ResultStage::Ready) => Some(ResultStage::Fetched { at: now }),
        (CollectionState::Failed { .. }, ResultStage::Failed { reported: None }) => {
            Some(ResultStage::Failed { reported: Some(now) })
        }
        _ => None,
    }
}

/// Whether the outcome of a job's batch was not sent to the collector yet, by this job or another.
pub fn has_unreported_outcome(state: &TaskState, job: &CollectionJobRecord) -> bool {
    let result = batch_of(job).and_then(|batch| state.results.get(&batch));
    result.is_some_and(|result| stage_after_report(job, result, Time(0)).is_some())
}

/// Records that the outcome of a job is sent to the collector.
pub fn record_reported(tx: &mut Tx<'_>, task: &TaskId, id: CollectionJobId, now: Time) -> Result<(), Fault> {
    let Some(job) = tx.collection(task, &id)? else { return Ok(()) };
    let Some(batch) = batch_of(&job) else { return Ok(()) };
    let result = tx.task(task).and_then(|state| state.results.get(&batch)).copied();
    match result.and_then(|result| Some((result, stage_after_report(&job, &result, now)?))) {
        Some((result, stage)) => tx.put_result(task, batch, ResultRecord { stage, ..result }),
        None => Ok(()),
    }
}

/// The stage of a batch's result; `None` if the batch is not collected, or was collected by an earlier release.
pub(super) fn stage(tx: &Tx<'_>, task: &TaskId, batch: &BatchSelector) -> Option<ResultStage> {
    tx.task(task)?.results.get(batch).map(|result| result.stage)
}

/// Stores the stage of a batch's result. Ignores batches that an earlier release closed.
pub(super) fn advance(tx: &mut Tx<'_>, task: &TaskId, batch: BatchSelector, stage: ResultStage) -> Result<(), Fault> {
    let result = tx.task(task).and_then(|state| state.results.get(&batch)).copied();
    match result {
        Some(result) if result.stage != stage => tx.put_result(task, batch, ResultRecord { stage, ..result }),
        _ => Ok(()),
    }
}

/// Whether a repeated request for the next batch means another batch than that of its existing job: the collector
/// received the outcome of that job at least `pause` ago (DAP-18 section 5.2).
pub fn is_superseded(
    tx: &Tx<'_>,
    task: &TaskId,
    id: &CollectionJobId,
    now: Time,
    pause: Duration,
) -> Result<bool, Fault> {
    let Some(job) = tx.collection(task, id)? else { return Ok(false) };
    if job.query != Query::FixedSize(FixedSizeQuery::CurrentBatch) {
        return Ok(false);
    }
    let stage = batch_of(&job).and_then(|batch| tx.task(task)?.results.get(&batch)).map(|result| result.stage);
    Ok(match (job.state, stage) {
        (CollectionState::Done { .. }, Some(ResultStage::Fetched { at }))
        | (CollectionState::Failed { .. }, Some(ResultStage::Failed { reported: Some(at) })) => {
            at.saturating_add(pause) <= now
        }
        _ => false,
    })
}

/// Lists at most `most` collected batches: unfetched results first, newest first in each group. Also counts the
/// unfetched results and the unlisted batches.
pub fn list(state: &TaskState, most: usize) -> (Vec<CollectedBatchStatus>, u64, u64) {
    let mut all: Vec<_> = state.collected.iter().map(|batch| status(state, &batch)).collect();
    let is_open = |batch: &CollectedBatchStatus| matches!(batch.result, ResultState::Pending | ResultState::NotFetched);
    let open = all.iter().filter(|batch| is_open(batch)).count() as u64;
    all.sort_by_key(|batch| std::cmp::Reverse((is_open(batch), batch.closed, batch.interval)));
    let unlisted = all.len().saturating_sub(most) as u64;
    all.truncate(most);
    (all, open, unlisted)
}

fn status(state: &TaskState, batch: &BatchSelector) -> CollectedBatchStatus {
    let result = state.results.get(batch);
    let (id, interval) = match batch {
        BatchSelector::TimeInterval(interval) => (None, Some(*interval)),
        BatchSelector::FixedSize(id) => (Some(*id), result.map(|result| result.interval)),
    };
    let counted = || match batch {
        BatchSelector::FixedSize(id) => state.buckets.get(&Bucket::Batch(*id)).map(|bucket| bucket.count),
        BatchSelector::TimeInterval(_) => None,
    };
    let (result_state, fetched) = match result.map(|result| result.stage) {
        None => (ResultState::Unknown, None),
        Some(ResultStage::Pending) => (ResultState::Pending, None),
        Some(ResultStage::Ready) => (ResultState::NotFetched, None),
        Some(ResultStage::Fetched { at }) => (ResultState::Fetched, Some(at)),
        Some(ResultStage::Failed { .. }) => (ResultState::Failed, None),
    };
    CollectedBatchStatus {
        id,
        interval,
        report_count: result.map(|result| result.report_count).or_else(counted),
        closed: result.map(|result| result.closed),
        result: result_state,
        fetched,
    }
}
