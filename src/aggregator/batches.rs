//! Which batches exist, which may be collected, and which batch a report of a fixed-size task goes into
//! (DAP-09 section 4.6.5).

use std::collections::BTreeMap;

use crate::{
    model::{BatchId, BatchSelector, Bucket, Checksum, Interval, PartialBatch, Time},
    store::{BucketRecord, TaskState},
    wire::ProblemType,
};

/// The batch buckets of a batch, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Reports aggregated into the batch.
    pub count: u64,
    /// The checksum of their ids.
    pub checksum: Checksum,
    /// The times of the first and the last of them.
    pub span: Option<(Time, Time)>,
}

impl Tally {
    /// The smallest aligned interval that holds the reports' times (DAP-09 section 4.6.1).
    pub fn interval(&self, state: &TaskState) -> Option<Interval> {
        let (first, last) = self.span?;
        Interval::aligned_hull(first, last, state.task.public.time_precision)
    }
}

/// The buckets of a batch, in order.
pub fn buckets_of<'a>(
    state: &'a TaskState,
    batch: &'a BatchSelector,
) -> impl Iterator<Item = (&'a Bucket, &'a BucketRecord)> {
    // Buckets exist only where reports are, so that a batch of any length has few of them.
    let (low, high) = match batch {
        BatchSelector::TimeInterval(interval) => (Bucket::Time(interval.start()), Bucket::Time(interval.end())),
        BatchSelector::FixedSize(id) => (Bucket::Batch(*id), Bucket::Batch(*id)),
    };
    state.buckets.range(low..=high).filter(move |(bucket, _)| batch.contains(bucket))
}

/// Sums up a batch as far as it is aggregated, whether or not it was collected.
pub fn tally(state: &TaskState, batch: &BatchSelector) -> Tally {
    let mut tally = Tally::default();
    for (_, record) in buckets_of(state, batch).filter(|(_, record)| record.count > 0) {
        tally.count += record.count;
        tally.checksum.merge(&record.checksum);
        tally.span = Some(match tally.span {
            None => (record.first, record.last),
            Some((first, last)) => (first.min(record.first), last.max(record.last)),
        });
    }
    tally
}

/// Whether the batch's boundaries are those of the task, as far as both aggregators can tell
/// (DAP-09 section 4.6.5.1.1). A fixed-size batch has none.
pub fn check_boundaries(state: &TaskState, batch: &BatchSelector) -> Result<(), Refusal> {
    match batch {
        BatchSelector::TimeInterval(interval) if !interval.is_aligned(state.task.public.time_precision) => {
            Err(Refusal {
                kind: ProblemType::BatchInvalid,
                detail: format!(
                    "start and duration of the interval must be multiples of the task's time precision, {} seconds",
                    state.task.public.time_precision.0
                ),
            })
        }
        _ => Ok(()),
    }
}

/// Whether the batch is not one that was given up: what is before the horizon is closed, and so are some batch ids. The
/// drafts have no name for that; that the batch cannot be had is what `batchInvalid` says, and it is final.
pub fn check_past(state: &TaskState, batch: &BatchSelector) -> Result<(), Refusal> {
    let detail = match batch {
        BatchSelector::TimeInterval(interval) => match state.replay.horizon() {
            Some(horizon) if interval.start() < horizon => format!(
                "the interval begins before {} (seconds since 1970), and what is before that was given up for good",
                horizon.0
            ),
            _ => return Ok(()),
        },
        BatchSelector::FixedSize(id) if state.collected.is_given_up(id) => {
            "the batch was given up for good before it was collected".to_owned()
        }
        BatchSelector::FixedSize(_) => return Ok(()),
    };
    Err(Refusal { kind: ProblemType::BatchInvalid, detail })
}

/// Whether the batch has as many reports as the task asks for (DAP-09 sections 4.6.5.1.2 and 4.6.5.2.2).
pub fn check_size(state: &TaskState, count: u64) -> Result<(), Refusal> {
    let refuse = |detail| Err(Refusal { kind: ProblemType::InvalidBatchSize, detail });
    if count < state.task.public.min_batch_size.max(1) {
        return refuse(format!("the batch has {count} reports and needs {}", state.task.public.min_batch_size));
    }
    match state.task.public.max_batch_size() {
        Some(max) if count > max => refuse(format!("the batch has {count} reports and must not have more than {max}")),
        _ => Ok(()),
    }
}

/// Whether none of the batch's reports was collected in another batch (DAP-09 section 4.6.5).
pub fn check_overlap(state: &TaskState, batch: &BatchSelector) -> Result<(), Refusal> {
    if state.collected.overlaps(batch) {
        let detail = "the batch includes reports that were collected in a different batch".to_owned();
        return Err(Refusal { kind: ProblemType::BatchOverlap, detail });
    }
    Ok(())
}

/// A batch that must not be collected, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the peer is told.
    pub kind: ProblemType,
    /// In words.
    pub detail: String,
}

/// How many reports are assigned to each batch of a fixed-size task that is still open: those aggregated and those
/// of aggregation jobs in flight, since an overfull batch could never be collected.
pub fn assigned(state: &TaskState) -> BTreeMap<BatchId, u64> {
    let mut assigned = BTreeMap::new();
    for (bucket, record) in &state.buckets {
        if let Bucket::Batch(id) = bucket
            && !state.collected.covers(bucket)
        {
            *assigned.entry(*id).or_default() += record.count;
        }
    }
    for job in state.leader_jobs.values() {
        if let PartialBatch::FixedSize(id) = job.batch {
            *assigned.entry(id).or_default() += job.reports.len() as u64;
        }
    }
    assigned
}

/// The batch that the next reports of a fixed-size task go into, and how many of them.
///
/// The fullest batch that is short of the minimum is filled up first; batches get the minimum size exactly, the room
/// up to the maximum stays for error (DAP-09 section 4.1.2).
pub fn next_batch(state: &TaskState) -> (BatchId, u64) {
    let target = state.task.public.min_batch_size.max(1);
    assigned(state)
        .into_iter()
        .filter(|(_, count)| *count < target)
        .max_by_key(|(_, count)| *count)
        .map_or_else(|| (BatchId::random(), target), |(id, count)| (id, target - count))
}

/// A batch of a fixed-size task that can be collected now: large enough, not collected, and no job in flight.
pub fn ready_batch(state: &TaskState) -> Option<BatchId> {
    let busy = |id: &BatchId| state.leader_jobs.values().any(|job| job.batch == PartialBatch::FixedSize(*id));
    state
        .buckets
        .iter()
        .filter_map(|(bucket, record)| match bucket {
            Bucket::Batch(id) if !state.collected.covers(bucket) && check_size(state, record.count).is_ok() => {
                Some((record.first, *id))
            }
            _ => None,
        })
        .filter(|(_, id)| !busy(id))
        .min()
        .map(|(_, id)| id)
}
