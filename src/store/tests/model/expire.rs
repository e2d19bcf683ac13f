//! Sweeps the store and the model.

use super::*;

/// Sweeps the store, in several writes, and the model.
pub(super) fn sweep(runtime: &tokio::runtime::Runtime, store: &Store, model: &mut Model, old: SweepCutoffs) {
    for (n, known) in &mut model.tasks {
        let old = SweepCutoffs { results: old.results.min(known.horizon), ..old };
        let dropped = runtime.block_on(sweep_task(store, task_id(*n), old));
        let waiting = known.waiting();
        let past = waiting.into_iter().filter(|at| Some(known.reports[at].1.metadata.time) < known.horizon);
        let past: Vec<_> = past.collect();
        past.iter().for_each(|at| drop(known.reports.remove(at)));
        let sums = sweep_buckets(known);
        assert_eq!((dropped.reports, dropped.sums), (past.len() as u64, sums));
        assert_eq!(dropped.batches, sweep_collected(known, &old));
        if let Some(before) = old.results {
            let ModelTask { abandoned, buckets, .. } = known;
            let is_empty = |id: &BatchId| !buckets.contains_key(&Bucket::Batch(*id));
            abandoned.retain(|id, since| !is_empty(id) || since.is_none_or(|since| since >= before));
            let over = abandoned.iter_mut().filter(|(id, _)| is_empty(id));
            over.for_each(|(_, since)| *since = since.or(Some(old.now)));
        }
        known.helper_jobs.retain(|_, job| job.state == HelperJobState::Pending || Some(job.created) >= old.jobs);
        for job in known.helper_jobs.values_mut() {
            let is_old = job.created.0 / DAY < old.answers.0 / DAY;
            if is_old && matches!(job.state, HelperJobState::Answered(_)) {
                job.state = HelperJobState::Expired;
            }
        }
        if let Some(before) = old.results {
            known.collections.retain(|_, job| job.state.is_active() || job.ended.is_none_or(|ended| ended >= before));
            let over = known.collections.values_mut().filter(|job| !job.state.is_active());
            over.for_each(|job| job.ended = job.ended.or(Some(old.now)));
        }
        // A running collection keeps all generations.
        let is_active = known.collections.values().any(|job| job.state.is_active());
        if let Some(before) = old.generations.filter(|_| !is_active) {
            known.generations.retain(|_, (_, since)| since.is_none_or(|since| since >= before));
            known.generations.values_mut().for_each(|(_, since)| *since = since.or(Some(old.now)));
        }
        let collected = &known.collected;
        known.shares.retain(|_, batch| collected.iter().any(|row| row.batch == *batch));
    }
    runtime.block_on(sweep_removed(store));
}

/// Returns the number of reports in deleted uncollected sums.
pub(super) fn sweep_buckets(known: &mut ModelTask) -> u64 {
    let mut sums = 0;
    let is_over = |bucket: &Bucket, last: Time| match bucket {
        Bucket::Time(start) => Some(*start) < known.horizon,
        Bucket::Batch(id) if known.abandoned.contains_key(id) => true,
        Bucket::Batch(id) => {
            let batch = BatchSelector::FixedSize(*id);
            Some(last) < known.horizon && known.collected.iter().all(|row| row.batch != batch)
        }
    };
    let over: Vec<_> = known.buckets.iter().filter(|(bucket, record)| is_over(bucket, record.last)).collect();
    let over: Vec<_> = over.into_iter().map(|(bucket, record)| (*bucket, record.clone())).collect();
    for (bucket, record) in over {
        known.buckets.remove(&bucket);
        if !record.share.is_empty() {
            sums += record.count;
            if let Bucket::Batch(id) = bucket {
                known.abandoned.entry(id).or_default();
            }
        }
    }
    sums
}

/// Returns the number of deleted batches.
pub(super) fn sweep_collected(known: &mut ModelTask, old: &SweepCutoffs) -> u64 {
    let Some(before) = old.results else { return 0 };
    let before_sweep = known.collected.len();
    let ModelTask { collected, collections, buckets, names, results, .. } = known;
    collected.retain(|row| {
        let is_active = collections.values().any(|job| job.state == CollectionState::Closed { batch: row.batch });
        let is_old = match row.batch {
            BatchSelector::TimeInterval(interval) => interval.end() <= before,
            BatchSelector::FixedSize(id) => buckets.get(&Bucket::Batch(id)).is_none_or(|record| record.last < before),
        };
        if is_old
            && !is_active
            && let BatchSelector::FixedSize(id) = row.batch
        {
            names.remove(&id);
            buckets.remove(&Bucket::Batch(id));
        }
        if is_old && !is_active {
            results.remove(&row.batch);
        }
        !is_old || is_active
    });
    (before_sweep - collected.len()) as u64
}

pub(super) fn overlap(a: &BatchSelector, b: &BatchSelector) -> bool {
    match (a, b) {
        (BatchSelector::TimeInterval(a), BatchSelector::TimeInterval(b)) => a.overlaps(b),
        (a, b) => a == b,
    }
}
