//! Making aggregation jobs of waiting reports.

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

/// The most reports that one write drops: many may have become useless at once, and other writes wait meanwhile.
const MAX_DROPPED: usize = 10_000;

/// Whether [`pick`] may find something to do: a job may start, and there are enough reports or somebody waits for
/// them. `is_overdue` says that the oldest has waited for the longest delay.
pub fn may_pick(state: &TaskState, limits: &config::Leader, is_overdue: bool) -> bool {
    state.leader_jobs.len() < limits.jobs_in_flight
        && !state.waiting.is_empty()
        && (has_enough(state, limits, is_overdue) || !CollectionDemand::of(state).is_empty())
}

fn has_enough(state: &TaskState, limits: &config::Leader, is_overdue: bool) -> bool {
    is_overdue || state.waiting.len() >= limits.min_job_size
}

/// What bounds the batch buckets of a new job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobBounds {
    /// Batch buckets of one job: each has a sum at both aggregators.
    pub max_buckets: usize,
    /// Open batches of a task of fixed-size batches. With that many, reports wait until one is collected.
    pub max_open_batches: usize,
}

impl JobBounds {
    /// No bounds.
    pub const NONE: Self = Self { max_buckets: usize::MAX, max_open_batches: usize::MAX };
}

/// Makes an aggregation job of waiting reports, if [`may_pick`] still holds.
/// Reports that must not be aggregated any more are dropped and counted on the way.
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
    // What collections wait for goes first, however much else there is.
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
    let reports = picked.taken.iter().map(|entry| entry.at).collect();
    let id = AggregationJobId::random();
    let job = LeaderJobRecord { batch, now, created: now, reports, state: LeaderJobState::Picked };
    tx.put_leader_job(task, id, job)?;
    Ok(Some(id))
}

/// How much goes into one job.
#[derive(Clone, Copy)]
struct JobCapacity {
    reports: usize,
    buckets: usize,
}

/// Takes up to `most` waiting reports, and those on the way that must not be aggregated any more, with the reasons.
/// If `is_eligible` says no to a report, then also to all later ones of the same bucket of time, and so does the batch that
/// is being filled: windows are made of whole buckets.
fn take(
    state: &mut TaskState,
    now: Time,
    most: JobCapacity,
    errors: &mut Vec<ReportError>,
    mut filling: Option<&mut batches::BatchAssigner>,
    is_eligible: impl Fn(&ReportEntry) -> bool,
) -> Picked {
    let end = state.end();
    let TaskState { task, replay, collected, waiting, .. } = state;
    let mut buckets = BTreeSet::new();
    waiting.pick(now, most.reports, |entry| {
        if !is_eligible(entry) {
            return Pick::SkipBucket;
        }
        match check_entry(task, end, replay, collected, now, entry) {
            Ok(()) if filling.as_mut().is_some_and(|filling| !filling.admits(entry.time)) => Pick::SkipBucket,
            Ok(()) => match task.public.time_bucket(entry.time) {
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
/// This is the leader's only check for replays and collected batches: once the helper has answered it is too late.
fn check_entry(
    task: &Task,
    end: Option<Time>,
    replay: &ReplayIndex,
    collected: &CollectedBatches,
    now: Time,
    entry: &ReportEntry,
) -> Result<(), ReportError> {
    // The upload allowed for clocks that differ; what it took is not refused for its clock here.
    check_time(task, end, now, Duration(u64::MAX), entry.time)?;
    check_replay(replay, &entry.id, entry.time)?;
    if task.public.time_bucket(entry.time).is_some_and(|bucket| collected.covers(&bucket)) {
        return Err(ReportError::BatchCollected);
    }
    Ok(())
}
