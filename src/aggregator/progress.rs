//! The progress of a task's batches before their collection.

use std::collections::BTreeMap;

use super::batches::{self, OpenBatch};
use crate::views::overview::{BatchState, BatchView, StateCounts, TaskView};
use dapbox_protocol::model::{BatchMode, Bucket, Interval, Role, Time};
use dapbox_store::{CollectionState, LeaderJobState, TaskState};

/// Lists the uncollected batches with reports, newest first, up to a limit, and counts batches and jobs by state.
///
/// The cost is proportional to the buckets since the horizon and the jobs.
pub fn batches(state: &TaskState) -> (Vec<BatchView>, StateCounts) {
    let mut all = match state.task.public.batch_mode {
        BatchMode::TimeInterval => time_interval_batches(state),
        BatchMode::FixedSize { .. } => fixed_size_batches(state),
    };
    let mut counts = StateCounts { jobs_deferred: state.deferred.len() as u64, ..StateCounts::default() };
    for batch in &all {
        *match batch.state {
            BatchState::Ready => &mut counts.batches_ready,
            BatchState::NotAggregatedYet => &mut counts.batches_not_aggregated_yet,
            BatchState::TooFew => &mut counts.batches_too_few,
        } += 1;
    }
    for job in state.leader_jobs.values() {
        *match job.state {
            LeaderJobState::Picked => &mut counts.jobs_picked,
            LeaderJobState::Sent { .. } => &mut counts.jobs_sent,
        } += 1;
    }
    for job in state.collections.values() {
        *match job.state {
            CollectionState::Waiting => &mut counts.collections_waiting,
            _ => &mut counts.collections_closed,
        } += 1;
    }
    all.truncate(TaskView::MAX_BATCHES);
    (all, counts)
}

/// The state of a batch with these numbers of reports.
fn batch_state(state: &TaskState, aggregated: u64, waiting: u64) -> BatchState {
    let needed = state.task.public.min_batch_size.max(1);
    if aggregated >= needed {
        BatchState::Ready
    } else if aggregated.saturating_add(waiting) >= needed {
        BatchState::NotAggregatedYet
    } else {
        BatchState::TooFew
    }
}

/// The buckets of a time-interval task. A collector may query several together.
fn time_interval_batches(state: &TaskState) -> Vec<BatchView> {
    let mut waiting = state.waiting.by_bucket();
    let view = |start: Time, aggregated, waiting| {
        let interval = Interval::new(start, state.task.public.time_precision);
        BatchView { id: None, interval, aggregated, waiting, state: batch_state(state, aggregated, waiting) }
    };
    let horizon = Bucket::Time(state.replay.horizon().unwrap_or(Time(0)));
    let open = |bucket: &Bucket| !state.is_closed(bucket);
    let mut views = Vec::new();
    for (bucket, record) in state.buckets.range(horizon..).rev().filter(|(_, record)| record.count > 0) {
        if let Bucket::Time(start) = bucket
            && open(bucket)
        {
            views.push(view(*start, record.count, waiting.remove(start).unwrap_or(0)));
        }
    }
    // Buckets without aggregated reports are few and mostly the newest.
    waiting.retain(|start, _| open(&Bucket::Time(*start)));
    if !waiting.is_empty() {
        views.extend(waiting.into_iter().map(|(start, count)| view(start, 0, count)));
        views.sort_by_key(|view| std::cmp::Reverse(view.interval));
    }
    views
}

/// The batches of a fixed-size task. A leader also lists the batches that unassigned reports will form: the fullest of
/// a time window is filled first (see [`batches::BatchAssigner`]).
fn fixed_size_batches(state: &TaskState) -> Vec<BatchView> {
    let public = &state.task.public;
    let needed = public.min_batch_size.max(1);
    let mut unassigned = match state.task.role() {
        Role::Leader => batches::unassigned(state),
        _ => BTreeMap::new(),
    };
    let whole = |start: Time| Interval::new(start, public.batch_window_size()?);
    let mut open: Vec<_> = batches::open_batches(state).into_iter().filter(|(_, batch)| batch.assigned > 0).collect();
    open.sort_unstable_by_key(|(_, batch)| std::cmp::Reverse(batch.assigned));
    let mut views = Vec::with_capacity(open.len() + 1);
    for (id, OpenBatch { assigned, window }) in open {
        let filling = unassigned.get_mut(&window).map_or(0, |left| {
            let filling = (*left).min(needed.saturating_sub(assigned));
            *left -= filling;
            filling
        });
        let record = state.buckets.get(&Bucket::Batch(id)).filter(|record| record.count > 0);
        let aggregated = record.map_or(0, |record| record.count);
        let of_reports =
            record.and_then(|record| Interval::aligned_hull(record.first, record.last, public.time_precision));
        let waiting = assigned - aggregated + filling;
        let view = BatchView {
            id: Some(id.to_string()),
            interval: of_reports.or_else(|| window.and_then(whole)),
            aggregated,
            waiting,
            state: batch_state(state, aggregated, waiting),
        };
        views.push((record.map_or(Time(u64::MAX), |record| record.last), view));
    }
    for (window, waiting) in unassigned.into_iter().filter(|(_, left)| *left > 0) {
        let (state, interval) = (batch_state(state, 0, waiting), window.and_then(whole));
        views.push((Time(u64::MAX), BatchView { id: None, interval, aggregated: 0, waiting, state }));
    }
    views.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
    views.into_iter().map(|(_, view)| view).collect()
}
