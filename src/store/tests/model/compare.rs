//! Compares the store with the model.

use super::*;

pub(super) fn check(store: &Store, model: &Model) {
    let compare = |view: &View<'_>| {
        let tasks: Vec<u8> = view.state.tasks.keys().map(|id| id.as_bytes()[0]).collect();
        assert!(tasks.iter().eq(model.tasks.keys()));
        assert!(view.state.sums.bytes() <= SUM_CACHE_BYTES);
        assert!((0..TASKS).all(|n| view.state.removed.contains_key(&task_id(n)) == model.removed.contains(&n)));
        for (n, known) in &model.tasks {
            let id = task_id(*n);
            check_memory(view.task(&id).unwrap(), known);
            check_rows(view, &id, known)?;
        }
        Ok(())
    };
    store.read(compare).unwrap();
}

pub(super) fn check_memory(task: &TaskState, known: &ModelTask) {
    assert_eq!(task.counters, known.counters);
    assert_eq!((task.replay.len(), task.replay.horizon()), (known.remembered.len(), known.horizon));
    assert!(known.remembered.keys().all(|n| task.replay.contains(&report_id(*n))));
    let headers: BTreeMap<_, _> =
        known.buckets.iter().map(|(bucket, row)| (*bucket, BucketHeader::from(row))).collect();
    assert_eq!((&task.buckets, &task.names), (&headers, &known.names));
    assert_eq!(task.open_buckets(), known.open_buckets().len());
    assert!(known.open_buckets().iter().all(|bucket| task.is_open(bucket)));
    assert_eq!(task.results, known.results);
    assert_eq!(task.provision, known.provision);
    assert_eq!((&task.in_band, task.tokens == Tokens::default()), (&known.in_band, known.in_band.is_some()));
    assert_eq!(task.collected.len(), known.collected.len());
    assert!(known.collected.iter().all(|row| task.collected.contains_exactly(&row.batch)));

    assert!((0..3).all(|n| {
        let id = BatchId::new([n; 32]);
        task.collected.is_abandoned(&id) == known.abandoned.contains_key(&id)
    }));

    let waiting = known.waiting();
    assert_eq!(task.waiting.len(), waiting.len());
    assert!((0..60).all(|n| {
        let is_known = known.reports.values().any(|(other, _)| *other == n);
        task.waiting.contains(&report_id(n)) == is_known
    }));
    let jobs: BTreeMap<_, _> =
        known.assigned.iter().map(|(job, positions)| (job_id(*job), leader_job(positions.clone()))).collect();
    assert_eq!(task.leader_jobs, jobs);
    let active = known.collections.iter().filter(|(_, job)| job.state.is_active());
    let mut deferred = task.deferred.clone();
    deferred.sort();
    assert!(deferred.into_iter().eq(known.helper_requests.keys().map(|job| job_id(*job))));
    assert_eq!(task.collections, active.map(|(n, job)| (collection_id(*n), job.clone())).collect::<BTreeMap<_, _>>());
}

pub(super) fn check_rows(view: &View<'_>, id: &TaskId, known: &ModelTask) -> Result<(), Fault> {
    let positions: Vec<_> = known.reports.keys().copied().collect();
    let reports = view.load_reports(id, &positions)?;
    assert!(reports.iter().eq(known.reports.values().map(|(_, report)| report)));
    for (bucket, row) in &known.buckets {
        assert_eq!(rows::load(view, &table::BUCKETS, &(*id, *bucket))?.as_ref(), Some(row));
    }
    for row in &known.collected {
        assert_eq!(view.collected(id, &row.batch)?.as_ref(), Some(row));
    }
    for n in 0..4 {
        assert_eq!(view.collection(id, &collection_id(n))?.as_ref(), known.collections.get(&n));
        assert_eq!(view.helper_job(id, &job_id(n))?.as_ref(), known.helper_jobs.get(&n));
        assert_eq!(view.helper_request(id, &job_id(n))?.as_ref(), known.helper_requests.get(&n));
        assert_eq!(view.share(id, &share_id(n))?.as_ref(), known.shares.get(&n));
    }
    Ok(())
}

/// Asserts that no row of a removed task is left, nor a piece of one.
pub(super) fn check_nothing_is_left(dir: &Path, removed: &BTreeSet<u8>) {
    let engine = Engine::open(&dir.join("tables"), 1 << 20).unwrap();
    for id in removed.iter().map(|n| task_id(*n)) {
        for table in table::TASK_TABLE_PREFIXES {
            for prefix in [vec![table], vec![0xff, table]] {
                let prefix = [&prefix[..], id.as_bytes()].concat();
                let visit = |key: &[u8]| Err(EngineError::Damaged(format!("there is still {key:?}")));
                engine.keys(&prefix, visit).unwrap();
            }
        }
    }
}
