//! The phases of a leader's collection jobs.

use std::collections::BTreeSet;

use super::{
    batches::{self, Refusal},
    privacy,
};
use dapbox_protocol::model::{BatchSelector, CollectionJobId, FixedSizeQuery, Interval, Query};
use dapbox_store::{CollectionJobRecord, CollectionState, ReportRef, TaskState};

/// The phase of a waiting collection job.
#[derive(Debug, PartialEq, Eq)]
pub enum CollectionPhase {
    /// Too few reports are aggregated. Waiting reports are demanded now.
    TooFewReports,
    /// Reports accepted before the collection are not aggregated yet. They are demanded now.
    AwaitingAggregation,
    /// Running aggregation jobs touch the batch. No new job may start.
    AwaitingJobs,
    /// The batch can be closed.
    Ready(BatchSelector),
    /// The same batch was closed before.
    Closed(BatchSelector),
    /// The collection is refused.
    Refused(Refusal),
}

/// Determines the phase of a waiting collection job.
pub fn collection_phase(state: &TaskState, query: &Query, accepted_before: ReportRef) -> CollectionPhase {
    match query {
        Query::TimeInterval(interval) => interval_phase(state, interval, accepted_before),
        Query::FixedSize(FixedSizeQuery::ByBatchId(id)) => CollectionPhase::Closed(BatchSelector::FixedSize(*id)),
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => batches::ready_batch(state)
            .map_or(CollectionPhase::TooFewReports, |id| CollectionPhase::Ready(BatchSelector::FixedSize(id))),
    }
}

fn interval_phase(state: &TaskState, interval: &Interval, accepted_before: ReportRef) -> CollectionPhase {
    let batch = BatchSelector::TimeInterval(*interval);
    if state.collected.contains_exactly(&batch) {
        return CollectionPhase::Closed(batch);
    }
    if let Err(refusal) =
        batches::check_not_abandoned(state, &batch).and_then(|()| batches::check_overlap(state, &batch))
    {
        return CollectionPhase::Refused(refusal);
    }
    if batches::check_size(state, batches::totals(state, &batch).count).is_err() {
        return CollectionPhase::TooFewReports;
    }
    if state.waiting.has_before(*interval, accepted_before) {
        return CollectionPhase::AwaitingAggregation;
    }
    if state.waiting.has_assigned(*interval) {
        return CollectionPhase::AwaitingJobs;
    }
    CollectionPhase::Ready(batch)
}

/// Whether aggregated and waiting reports suffice for the batch of a query.
pub fn has_enough_reports(state: &TaskState, query: &Query) -> bool {
    let reports = match query {
        Query::FixedSize(FixedSizeQuery::ByBatchId(_)) => return true,
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => {
            let open = state.buckets.iter().filter(|(bucket, _)| !state.is_closed(bucket));
            open.map(|(_, record)| record.count).sum::<u64>() + state.waiting.len() as u64
        }
        Query::TimeInterval(interval) => {
            let batch = BatchSelector::TimeInterval(*interval);
            if state.collected.contains_exactly(&batch) {
                return true;
            }
            let waiting = state.waiting.by_bucket().into_iter().filter(|(start, _)| interval.contains(*start));
            batches::totals(state, &batch).count + waiting.map(|(_, count)| count).sum::<u64>()
        }
    };
    reports >= state.task.public.min_batch_size.max(1)
}

/// The collection jobs of a task that can advance, oldest first, because jobs for the current batch compete.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DueCollections {
    /// Waiting jobs for [`advance`](super::collect::advance).
    pub waiting: Vec<CollectionJobId>,
    /// Jobs with a closed batch: the helper must be asked for its share.
    pub closed: Vec<CollectionJobId>,
}

/// Finds the collection jobs of a task that can advance.
pub fn due(state: &TaskState) -> DueCollections {
    let batch_asked_for = |job: &CollectionJobRecord| match job.state {
        CollectionState::Closed { batch } => Some(batch),
        _ => None,
    };
    // Another job for one of these batches waits for the result.
    let asked_for: BTreeSet<BatchSelector> = state.collections.values().filter_map(batch_asked_for).collect();
    let is_due = |job: &CollectionJobRecord| match collection_phase(state, &job.query, job.accepted_before) {
        CollectionPhase::TooFewReports | CollectionPhase::AwaitingAggregation | CollectionPhase::AwaitingJobs => false,
        CollectionPhase::Ready(_) | CollectionPhase::Refused(_) => true,
        CollectionPhase::Closed(batch) => !asked_for.contains(&batch),
    };
    let mut jobs: Vec<_> = state.collections.iter().collect();
    jobs.sort_unstable_by_key(|(id, job)| (job.created, job.accepted_before, **id));
    let mut due = DueCollections::default();
    for (id, job) in jobs {
        match job.state {
            CollectionState::Closed { .. } => due.closed.push(*id),
            CollectionState::Waiting if is_due(job) => due.waiting.push(*id),
            _ => {}
        }
    }
    due
}

/// Whether [`advance`](super::collect::advance) would close a batch for a collection job, which needs a noise sample.
/// `None` if it would do nothing.
pub fn closes_batch(state: &TaskState, id: &CollectionJobId) -> Option<bool> {
    let job = state.collections.get(id).filter(|job| matches!(job.state, CollectionState::Waiting))?;
    match collection_phase(state, &job.query, job.accepted_before) {
        CollectionPhase::TooFewReports | CollectionPhase::AwaitingAggregation | CollectionPhase::AwaitingJobs => None,
        CollectionPhase::Closed(_) | CollectionPhase::Refused(_) => Some(false),
        CollectionPhase::Ready(_) => privacy::check(state).is_ok().then_some(true),
    }
}
