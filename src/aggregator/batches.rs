//! Which batches exist, which may be collected, and which batch a report of a fixed-size task goes into
//! (DAP-09 section 4.6.5).

use std::collections::BTreeMap;

use dapbox_protocol::{
    model::{BatchId, BatchSelector, Bucket, Checksum, Duration, Interval, PartialBatchSelector, Time},
    wire::ProblemType,
};
use dapbox_store::{BucketHeader, LeaderJobRecord, TaskState};
use dapbox_support::timestamp;

/// The batch buckets of a batch, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTotals {
    /// Reports aggregated into the batch.
    pub count: u64,
    /// The checksum of their ids.
    pub checksum: Checksum,
    /// The times of the first and the last of them.
    pub span: Option<(Time, Time)>,
}

impl BatchTotals {
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
) -> impl Iterator<Item = (&'a Bucket, &'a BucketHeader)> {
    // Buckets exist only where reports are, so that a batch of any length has few of them.
    let (low, high) = match batch {
        BatchSelector::TimeInterval(interval) => (Bucket::Time(interval.start()), Bucket::Time(interval.end())),
        BatchSelector::FixedSize(id) => (Bucket::Batch(*id), Bucket::Batch(*id)),
    };
    state.buckets.range(low..=high).filter(move |(bucket, _)| batch.contains(bucket))
}

/// Whether a report of this time may be taken at upload by a task that may have `max_open` open batch buckets: it adds to
/// what there is, or there is room for another. Reports that wait count, so that what is taken can be aggregated. A window
/// of batches with reports that wait counts as one bucket: it becomes one batch at least.
pub fn has_room(state: &TaskState, time: Time, max_open: usize) -> bool {
    let public = &state.task.public;
    match (public.time_bucket(time), public.batch_window(time)) {
        (Some(bucket), _) => state.is_open(&bucket) || state.open_buckets() < max_open,
        (None, Some(window)) => {
            state.waiting.has_unit(window) || state.open_buckets() + state.waiting.unit_count() < max_open
        }
        (None, None) => true,
    }
}

/// Sums up a batch as far as it is aggregated, whether or not it was collected.
pub fn totals(state: &TaskState, batch: &BatchSelector) -> BatchTotals {
    let mut totals = BatchTotals::default();
    for (_, record) in buckets_of(state, batch).filter(|(_, record)| record.count > 0) {
        totals.count += record.count;
        totals.checksum.merge(&record.checksum);
        totals.span = Some(match totals.span {
            None => (record.first, record.last),
            Some((first, last)) => (first.min(record.first), last.max(record.last)),
        });
    }
    totals
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
pub fn check_not_abandoned(state: &TaskState, batch: &BatchSelector) -> Result<(), Refusal> {
    let detail = match batch {
        BatchSelector::TimeInterval(interval) => match state.replay.horizon() {
            Some(horizon) if interval.start() < horizon => format!(
                "the interval begins before {} (seconds since 1970), and what is before that was given up for good",
                horizon.0
            ),
            _ => return Ok(()),
        },
        BatchSelector::FixedSize(id) if state.collected.is_abandoned(id) => {
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

/// Whether none of the batch's reports was collected in another batch (DAP-09 section 4.6.5). If not, the refusal names
/// what of the batch is free.
pub fn check_overlap(state: &TaskState, batch: &BatchSelector) -> Result<(), Refusal> {
    if !state.collected.overlaps(batch) {
        return Ok(());
    }
    let detail = match batch {
        BatchSelector::FixedSize(id) => format!("batch {id} was collected already"),
        BatchSelector::TimeInterval(wanted) => {
            let taken =
                state.collected.overlapping(wanted).take(MAX_NAMED_INTERVALS).map(show).collect::<Vec<_>>().join(", ");
            let free = free_intervals(state, wanted);
            let free = match free.len() {
                0 => "no part of the interval is free".to_owned(),
                _ => format!("free: {}", free.into_iter().map(show).collect::<Vec<_>>().join(", ")),
            };
            format!("the interval includes reports that were collected in a different batch ({taken}); {free}")
        }
    };
    Err(Refusal { kind: ProblemType::BatchOverlap, detail })
}

/// The most intervals that a refusal names.
const MAX_NAMED_INTERVALS: usize = 4;

fn show(interval: Interval) -> String {
    format!("{} to {}", timestamp::show(interval.start()), timestamp::show(interval.end()))
}

/// What of an interval was neither collected nor given up, the earliest first; no more than a refusal names.
fn free_intervals(state: &TaskState, wanted: &Interval) -> Vec<Interval> {
    let horizon = state.replay.horizon().unwrap_or(Time(0));
    let between = |start: Time, end: Time| {
        let length = end.0.checked_sub(start.0).filter(|length| *length > 0)?;
        Interval::new(start, Duration(length))
    };
    let (mut free, mut start) = (Vec::new(), wanted.start().max(horizon));
    for taken in state.collected.overlapping(wanted) {
        if free.len() == MAX_NAMED_INTERVALS {
            return free;
        }
        free.extend(between(start, taken.start()));
        start = start.max(taken.end());
    }
    if free.len() < MAX_NAMED_INTERVALS {
        free.extend(between(start, wanted.end()));
    }
    free
}

/// A batch that must not be collected, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the peer is told.
    pub kind: ProblemType,
    /// In words.
    pub detail: String,
}

/// A batch of a fixed-size task that is still open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenBatch {
    /// How many reports are assigned to it: those aggregated and those of aggregation jobs in flight, since an overfull
    /// batch could never be collected.
    pub assigned: u64,
    /// The beginning of the time window that all of them are from, if the task has windows and there is a report to tell.
    pub window: Option<Time>,
}

/// The batches of a fixed-size task that are still open. The window of each is that of its reports, which are stored: it
/// is the same after a restart.
pub fn open_batches(state: &TaskState) -> BTreeMap<BatchId, OpenBatch> {
    let window = |time: Time| state.task.public.batch_window(time);
    let mut all: BTreeMap<BatchId, OpenBatch> = BTreeMap::new();
    for (bucket, record) in &state.buckets {
        if let Bucket::Batch(id) = bucket
            && !state.collected.covers(bucket)
        {
            let batch = all.entry(*id).or_default();
            batch.assigned += record.count;
            if record.count > 0 {
                batch.window = window(record.first);
            }
        }
    }
    for job in state.leader_jobs.values() {
        if let PartialBatchSelector::FixedSize(id) = job.batch
            && !state.collected.covers(&Bucket::Batch(id))
        {
            let batch = all.entry(id).or_default();
            batch.assigned += job.reports.len() as u64;
            batch.window = batch.window.or_else(|| window(time_of(state, job)?));
        }
    }
    all
}

/// The time of a job's first report.
fn time_of(state: &TaskState, job: &LeaderJobRecord) -> Option<Time> {
    state.waiting.assigned(job.reports.get(..1)?).first().map(|entry| entry.time)
}

/// How many reports of a fixed-size task belong to no batch yet, by the beginning of their time window (leader).
pub fn unassigned(state: &TaskState) -> BTreeMap<Option<Time>, u64> {
    let window = |time: Time| state.task.public.batch_window(time);
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    if state.task.public.batch_window(Time(0)).is_none() {
        counts.insert(None, state.waiting.len() as u64);
    } else {
        for (start, count) in state.waiting.by_bucket() {
            *counts.entry(window(start)).or_default() += count;
        }
        for job in state.leader_jobs.values() {
            let known = time_of(state, job).and_then(|time| counts.get_mut(&window(time)));
            known.into_iter().for_each(|count| *count = count.saturating_sub(job.reports.len() as u64));
        }
    }
    counts.retain(|_, count| *count > 0);
    counts
}

/// Chooses the batch of the next aggregation job of a fixed-size task, by the first report that is offered to it, and
/// which other reports go into it.
///
/// In a task with time windows all of them are of the first one's window. The fullest batch that is short of the minimum
/// is filled up first; batches get the minimum size exactly, the room up to the maximum stays for error (DAP-09 section
/// 4.1.2).
pub struct BatchAssigner {
    window: Option<Duration>,
    target: u64,
    /// The fullest batch that is short of the minimum, for each window, and what it lacks.
    short: BTreeMap<Option<Time>, (BatchId, u64)>,
    /// Whether the task may have another batch.
    may_begin: bool,
    /// What was chosen, and how many more reports go into it.
    chosen: Option<(Option<Time>, BatchId, u64)>,
}

impl BatchAssigner {
    /// For a task of fixed-size batches. One without time windows that has `max_open` batches begins no other: its reports
    /// wait until a batch is collected. With time windows, clients decide how many there are, and [`has_room`] bounds them.
    pub fn new(state: &TaskState, max_open: usize) -> Self {
        let public = &state.task.public;
        let (window, target) = (public.batch_window_size(), public.min_batch_size.max(1));
        let mut short: BTreeMap<_, (BatchId, u64)> = BTreeMap::new();
        let all = open_batches(state);
        let may_begin = window.is_some() || all.len() < max_open;
        for (id, batch) in all {
            // Without a report to tell, a batch may be of any window: the helper may know more about it than we do.
            let is_known = window.is_none() || batch.window.is_some();
            let Some(lack) = target.checked_sub(batch.assigned).filter(|lack| *lack > 0 && is_known) else { continue };
            let best = short.entry(batch.window).or_insert((id, lack));
            if lack <= best.1 {
                *best = (id, lack);
            }
        }
        Self { window, target, short, may_begin, chosen: None }
    }

    /// Whether a report goes into the batch, which has room for one less then.
    pub fn admits(&mut self, time: Time) -> bool {
        let window = self.window.map(|size| time.truncate(size));
        if self.chosen.is_none() && !self.may_begin && !self.short.contains_key(&window) {
            return false;
        }
        let (chosen, _, room) = self.chosen.get_or_insert_with(|| {
            let (id, room) = self.short.get(&window).copied().unwrap_or_else(|| (BatchId::random(), self.target));
            (window, id, room)
        });
        if *chosen != window || *room == 0 {
            return false;
        }
        *room -= 1;
        true
    }

    /// The batch, once a report was offered.
    pub fn batch(&self) -> Option<BatchId> {
        self.chosen.map(|(_, id, _)| id)
    }
}

/// A batch of a fixed-size task that can be collected now: large enough, not collected, and no job in flight.
pub fn ready_batch(state: &TaskState) -> Option<BatchId> {
    let busy = |id: &BatchId| state.leader_jobs.values().any(|job| job.batch == PartialBatchSelector::FixedSize(*id));
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
