//! Batches: which exist, which may be collected, and which batch a report of a fixed-size task joins (DAP-09 section
//! 4.6.5).
//!
//! # Decision: the time window of a batch follows from its reports
//!
//! A fixed-size task may limit each batch to a time window. The window of a batch is that of its reports, aggregated or
//! in running jobs. It is not stored separately, so that it cannot contradict the reports.

use std::collections::BTreeMap;

use dapbox_protocol::{
    model::{BatchId, BatchSelector, Bucket, Checksum, Duration, Interval, PartialBatchSelector, Time},
    wire::ProblemType,
};
use dapbox_store::{BucketHeader, LeaderJobRecord, TaskState};
use dapbox_support::timestamp;

/// The totals of the buckets of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTotals {
    /// The number of aggregated reports.
    pub count: u64,
    /// The checksum of their ids.
    pub checksum: Checksum,
    /// The earliest and the latest time of these reports.
    pub span: Option<(Time, Time)>,
}

impl BatchTotals {
    /// The smallest aligned interval that contains the times of the reports (DAP-09 section 4.6.1).
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
    // Buckets exist only where reports are, so a batch of any length has few.
    let (low, high) = match batch {
        BatchSelector::TimeInterval(interval) => (Bucket::Time(interval.start()), Bucket::Time(interval.end())),
        BatchSelector::FixedSize(id) => (Bucket::Batch(*id), Bucket::Batch(*id)),
    };
    state.buckets.range(low..=high).filter(move |(bucket, _)| batch.contains(bucket))
}

/// Whether a leader may accept a report of this time, in a task with at most `max_open` open batch buckets: its bucket
/// is open, or another may be opened. Waiting reports count, so that everything accepted can be aggregated. A time
/// window with waiting reports counts as one bucket, because it becomes at least one batch.
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

/// Sums up the aggregated buckets of a batch, collected or not.
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

/// Checks that the boundaries of an interval match the time precision (DAP-09 section 4.6.5.1.1). A fixed-size batch
/// has no boundaries.
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

/// Rejects a batch that was abandoned: an interval before the horizon, or an abandoned batch id. The drafts define no
/// error for it; `batchInvalid` is final.
pub fn check_not_abandoned(state: &TaskState, batch: &BatchSelector) -> Result<(), Refusal> {
    let detail = match batch {
        BatchSelector::TimeInterval(interval) => match state.replay.horizon() {
            Some(horizon) if interval.start() < horizon => format!(
                "the interval starts before {} (seconds since 1970); earlier reports were deleted and cannot be \
                 collected",
                horizon.0
            ),
            _ => return Ok(()),
        },
        BatchSelector::FixedSize(id) if state.collected.is_abandoned(id) => {
            "the batch was abandoned and cannot be collected".to_owned()
        }
        BatchSelector::FixedSize(_) => return Ok(()),
    };
    Err(Refusal { kind: ProblemType::BatchInvalid, detail })
}

/// Checks the number of reports against the limits of the task (DAP-09 sections 4.6.5.1.2 and 4.6.5.2.2).
pub fn check_size(state: &TaskState, count: u64) -> Result<(), Refusal> {
    let refuse = |detail| Err(Refusal { kind: ProblemType::InvalidBatchSize, detail });
    if count < state.task.public.min_batch_size.max(1) {
        return refuse(format!(
            "the batch has {count} reports and needs at least {}",
            state.task.public.min_batch_size
        ));
    }
    match state.task.public.max_batch_size() {
        Some(max) if count > max => refuse(format!("the batch has {count} reports, and the maximum is {max}")),
        _ => Ok(()),
    }
}

/// Rejects a batch that overlaps a collected one (DAP-09 section 4.6.5). The refusal names the free parts of the
/// interval.
pub fn check_overlap(state: &TaskState, batch: &BatchSelector) -> Result<(), Refusal> {
    if !state.collected.overlaps(batch) {
        return Ok(());
    }
    let detail = match batch {
        BatchSelector::FixedSize(id) => format!("batch {id} is collected already"),
        BatchSelector::TimeInterval(wanted) => {
            let taken =
                state.collected.overlapping(wanted).take(MAX_NAMED_INTERVALS).map(show).collect::<Vec<_>>().join(", ");
            let free = free_intervals(state, wanted);
            let free = match free.len() {
                0 => "the whole interval is collected".to_owned(),
                _ => format!("free: {}", free.into_iter().map(show).collect::<Vec<_>>().join(", ")),
            };
            format!("the interval overlaps collected batches ({taken}); {free}")
        }
    };
    Err(Refusal { kind: ProblemType::BatchOverlap, detail })
}

/// The most intervals that a refusal names.
const MAX_NAMED_INTERVALS: usize = 4;

fn show(interval: Interval) -> String {
    format!("{} to {}", timestamp::show(interval.start()), timestamp::show(interval.end()))
}

/// The parts of an interval that are neither collected nor abandoned, earliest first; at most [`MAX_NAMED_INTERVALS`].
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

/// Why a batch must not be collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The problem type for the peer.
    pub kind: ProblemType,
    /// The description for people.
    pub detail: String,
}

/// An open batch of a fixed-size task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenBatch {
    /// The reports assigned to the batch, aggregated or in running jobs. An overfull batch could never be collected.
    pub assigned: u64,
    /// The start of the time window of its reports, if the task has windows and the batch has reports.
    pub window: Option<Time>,
}

/// The open batches of a fixed-size task. Their windows follow from stored reports and survive a restart.
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

/// The time of the first report of a job.
fn time_of(state: &TaskState, job: &LeaderJobRecord) -> Option<Time> {
    state.waiting.assigned(job.reports.get(..1)?).first().map(|entry| entry.time)
}

/// The number of unassigned reports of a fixed-size task, by the start of their time window (leader).
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

/// Assigns reports of a fixed-size task to the batch of the next aggregation job.
///
/// The first report determines the batch; the other reports must have the same time window. The fullest batch below the
/// minimum size is filled first. Batches get exactly the minimum size; the room up to the maximum is a margin for
/// errors (DAP-09 section 4.1.2).
pub struct BatchAssigner {
    window: Option<Duration>,
    target: u64,
    /// For each window, the fullest batch below the minimum size and the number of missing reports.
    short: BTreeMap<Option<Time>, (BatchId, u64)>,
    /// Whether the task may open another batch.
    may_begin: bool,
    /// The window and id of the chosen batch, and how many more reports it takes.
    chosen: Option<(Option<Time>, BatchId, u64)>,
}

impl BatchAssigner {
    /// Creates an assigner. A task without time windows opens no batch beyond `max_open`; its reports wait for a
    /// collection. With time windows clients determine the number of batches, and [`has_room`] limits them.
    pub fn new(state: &TaskState, max_open: usize) -> Self {
        let public = &state.task.public;
        let (window, target) = (public.batch_window_size(), public.min_batch_size.max(1));
        let mut short: BTreeMap<_, (BatchId, u64)> = BTreeMap::new();
        let all = open_batches(state);
        let may_begin = window.is_some() || all.len() < max_open;
        for (id, batch) in all {
            // A batch without reports may have any window: the helper may have reports of it that we dropped.
            let is_known = window.is_none() || batch.window.is_some();
            let Some(lack) = target.checked_sub(batch.assigned).filter(|lack| *lack > 0 && is_known) else { continue };
            let best = short.entry(batch.window).or_insert((id, lack));
            if lack <= best.1 {
                *best = (id, lack);
            }
        }
        Self { window, target, short, may_begin, chosen: None }
    }

    /// Whether a report joins the batch, which then has room for one less.
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

    /// The chosen batch, once a report was offered.
    pub fn batch(&self) -> Option<BatchId> {
        self.chosen.map(|(_, id, _)| id)
    }
}

/// A batch of a fixed-size task that can be collected now: large enough, not collected, without running jobs.
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
