//! Picks waiting reports for aggregation jobs.

use std::collections::BTreeSet;

use super::drop_report;
use crate::{batches, check_replay, check_time, config, counters, demand::CollectionDemand};
use dapbox_protocol::model::{
    AggregationJobId, BatchMode, Duration, PartialBatchSelector, ReportError, Task, TaskId, Time,
};
use dapbox_store::{
    CollectedBatches, LeaderJobRecord, LeaderJobState, Pick, Picked, ReplayIndex, ReportEntry, TaskState, Tx,
};
use dapbox_support::Fault;

/// The most reports that one write drops, so that other writes need not wait long.
const MAX_DROPPED: usize = 10_000;

/// Whether [`pick`] may find work: another job may start, and there are enough reports or a collection demands them.
/// `is_overdue` says that the oldest report has waited for the maximum delay.
pub fn may_pick(state: &TaskState, limits: &config::Leader, is_overdue: bool) -> bool {
    state.leader_jobs.len() < limits.jobs_in_flight
        && !state.waiting.is_empty()
        && (has_enough(state, limits, is_overdue) || !CollectionDemand::of(state).is_empty())
}

fn has_enough(state: &TaskState, limits: &config::Leader, is_overdue: bool) -> bool {
    is_overdue || state.waiting.len() >= limits.min_job_size
}

/// Limits on the batch buckets of a new job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobBounds {
    /// The most batch buckets of a job: each has a sum at both aggregators.
    pub max_buckets: usize,
    /// The most open batches of a fixed-size task. Beyond it, reports wait for a collection.
    pub max_open_batches: usize,
}

impl JobBounds {
    /// No limits.
    pub const NONE: Self = Self { max_buckets: usize::MAX, max_open_batches: usize::MAX };
}

/// Creates an aggregation job of waiting reports, if [`may_pick`] still holds. Drops and counts reports that cannot be
/// aggregated any more.
pub fn pick(
    tx: &mut Tx<'_>,
    now: Time,
    limits: &config::Leader,
    bounds: JobBounds,
    task: &TaskId,
    is_overdue: bool,
) -> Result<Option<AggregationJobId>, Fault> {
    let Some(state) = tx.task_mut(task) else { return Ok(None) };
    if !may_pick(state, limits, is_overdue) {
        return Ok(None);
    }
    let (demand, enough) = (CollectionDemand::of(state), has_enough(state, limits, is_overdue));
    let mut filling = match state.task.public.batch_mode {
        BatchMode::TimeInterval => None,
        BatchMode::FixedSize { .. } => Some(batches::BatchAssigner::new(state, bounds.max_open_batches)),
    };
    let most = JobCapacity { reports: limits.max_job_size, buckets: bounds.max_buckets };
    let mut errors = Vec::new();
    // Demanded reports go first.
    let mut picked = take(state, now, most, &mut errors, filling.as_mut(), |entry| demand.is_wanted(entry));
    if picked.taken.is_empty() && enough {
        let others = take(state, now, most, &mut errors, filling.as_mut(), |entry| !demand.is_paused(entry.time));
        picked.taken = others.taken;
        picked.dropped.extend(others.dropped);
    }
    for (entry, error) in picked.dropped.iter().zip(errors) {
        drop_report(tx, task, entry.id, entry.at, counters::refused(error))?;
    }
    if picked.taken.is_empty() {
        return Ok(None);
    }
    let batch = filling
        .and_then(|filling| filling.batch())
        .map_or(PartialBatchSelector::TimeInterval, PartialBatchSelector::FixedSize);
    let verify_key_id = tx.task(task).and_then(|state| verify_key_id(state, &picked.taken));
    let reports = picked.taken.iter().map(|entry| entry.at).collect();
    let id = AggregationJobId::random();
    let job = LeaderJobRecord { batch, now, created: now, reports, state: LeaderJobState::Picked, verify_key_id };
    tx.put_leader_job(task, id, job)?;
    Ok(Some(id))
}

/// The verification key of the reports of a job, unless it is the one that the task began with.
fn verify_key_id(state: &TaskState, taken: &[ReportEntry]) -> Option<u8> {
    let id = state.verify_keys.for_report(taken.first()?.time)?;
    (id != state.task.verify_key_id).then_some(id)
}

/// The size of a job.
#[derive(Clone, Copy)]
struct JobCapacity {
    reports: usize,
    buckets: usize,
}

/// Picks up to `most` waiting reports, and the reports on the way that cannot be aggregated any more, with their
/// errors. If `is_eligible` or the batch assigner rejects a report, they must reject all later ones of the same time
/// bucket.
fn take(
    state: &mut TaskState,
    now: Time,
    most: JobCapacity,
    errors: &mut Vec<ReportError>,
    mut filling: Option<&mut batches::BatchAssigner>,
    is_eligible: impl Fn(&ReportEntry) -> bool,
) -> Picked {
    let end = state.end();
    let TaskState { task, replay, collected, waiting, verify_keys, .. } = state;
    let (mut buckets, mut job_key) = (BTreeSet::new(), None);
    waiting.pick(now, most.reports, |entry| {
        if !is_eligible(entry) {
            return Pick::SkipBucket;
        }
        let key = verify_keys.for_report(entry.time);
        let checked = check_entry(task, end, replay, collected, now, entry);
        match checked.and_then(|()| key.ok_or(ReportError::UnknownVerificationKeyId)) {
            // Later times have later keys.
            Ok(key) if *job_key.get_or_insert(key) != key => Pick::Stop,
            Ok(_) if filling.as_mut().is_some_and(|filling| !filling.admits(entry.time)) => Pick::SkipBucket,
            Ok(_) => match task.public.time_bucket(entry.time) {
                Some(bucket) if buckets.len() >= most.buckets && !buckets.contains(&bucket) => Pick::Stop,
                bucket => {
                    buckets.extend(bucket);
                    Pick::Take
                }
            },
            Err(_) if errors.len() == MAX_DROPPED => Pick::SkipBucket,
            Err(error) => {
                errors.push(error);
                Pick::Drop
            }
        }
    })
}

/// Whether a waiting report may still be aggregated.
///
/// This is the leader's last check for replays and collected batches. The upload check may be long past, and after the
/// helper's answer it is too late.
fn check_entry(
    task: &Task,
    end: Option<Time>,
    replay: &ReplayIndex,
    collected: &CollectedBatches,
    now: Time,
    entry: &ReportEntry,
) -> Result<(), ReportError> {
    // The upload check allowed for clock differences; accepted reports are not rejected for them here.
    check_time(task, end, now, Duration(u64::MAX), entry.time)?;
    check_replay(replay, &entry.id, entry.time)?;
    if task.public.time_bucket(entry.time).is_some_and(|bucket| collected.covers(&bucket)) {
        return Err(ReportError::BatchCollected);
    }
    Ok(())
}
