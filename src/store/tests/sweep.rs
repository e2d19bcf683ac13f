//! Deleting expired data in steps.

use std::collections::BTreeMap;

use super::*;
use crate::{
    SweepCursor, SweepCutoffs, SweepResult,
    engine::{Engine, EngineError},
    records::{HelperJobRecord, HelperJobState},
    table,
};
use dapbox_protocol::model::{AggregationJobId, Bucket, TaskId};

const DAY: u64 = 86_400;

/// Sweeps a task completely, one write per step, and sums up the results.
pub(super) async fn sweep_task(store: &Store, task: TaskId, old: SweepCutoffs) -> SweepResult {
    let mut sum = SweepResult::default();
    let mut next = Some(SweepCursor::default());
    while let Some(place) = next {
        let swept = store.write(Point::Test, move |tx| tx.sweep(&task, &old, place)).await.unwrap();
        sum.reports += swept.reports;
        sum.sums += swept.sums;
        sum.batches += swept.batches;
        next = swept.next;
    }
    sum
}

/// Deletes all rows of removed tasks. Returns the number of writes.
pub(super) async fn sweep_removed(store: &Store) -> usize {
    let mut writes = 0;
    while store.write(Point::Test, |tx| tx.sweep_removed()).await.unwrap() {
        writes += 1;
    }
    writes
}

/// Counts the rows of a task by table prefix.
fn rows(dir: &Path, task: TaskId) -> BTreeMap<u8, usize> {
    let engine = Engine::open(&dir.join("tables"), 1 << 20).unwrap();
    let mut rows = BTreeMap::new();
    let count = |key: &[u8]| {
        if key[1..].starts_with(task.as_bytes()) {
            *rows.entry(key[0]).or_default() += 1;
        }
        Ok::<_, EngineError>(())
    };
    engine.keys(&[], count).unwrap();
    rows
}

fn nothing_old() -> SweepCutoffs {
    SweepCutoffs { now: Time(0), answers: Time(0), results: None, jobs: None, generations: None }
}

/// Stores answered jobs of a day.
async fn put_jobs(store: &Store, jobs: std::ops::Range<u32>, day: u64) {
    for chunk in jobs.collect::<Vec<_>>().chunks(2000).map(<[u32]>::to_vec) {
        let put = move |tx: &mut crate::Tx<'_>| {
            for n in chunk {
                let mut id = [0; 16];
                id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
                let state = HelperJobState::Answered(Bytes::from_static(b"answer"));
                let job = HelperJobRecord { request_hash: [1; 32], created: Time(day * DAY + 1), state };
                tx.put_helper_job(&task_id(1), AggregationJobId::new(id), &job)?;
            }
            Ok(())
        };
        store.write(Point::Test, put).await.unwrap();
    }
}

#[tokio::test]
async fn deletes_answers_before_their_jobs_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    put_jobs(&store, 0..2500, 3).await;
    put_jobs(&store, 2500..2600, 4).await;
    let old = SweepCutoffs { answers: Time(4 * DAY), ..nothing_old() };
    sweep_task(&store, task_id(1), old).await;
    store.close().await;
    let found = rows(dir.path(), task_id(1));
    assert_eq!((found[&table::HELPER_JOBS.prefix], found[&table::ANSWERS.prefix]), (2600, 100));

    let store = open(dir.path());
    sweep_task(&store, task_id(1), SweepCutoffs { jobs: Some(Time(4 * DAY)), ..nothing_old() }).await;
    store.close().await;
    let found = rows(dir.path(), task_id(1));
    assert_eq!((found[&table::HELPER_JOBS.prefix], found[&table::ANSWERS.prefix]), (100, 100));
}

/// The rows of a removed task are deleted in steps, across a restart.
#[tokio::test]
async fn resumes_interrupted_removal_after_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    add_task(&store, 2).await;
    let fill = |tx: &mut crate::Tx<'_>| {
        for task in [task_id(1), task_id(2)] {
            for n in 0..1500 {
                tx.bucket_mut(&task, Bucket::Time(Time(n * PRECISION)))?.header.count = 1;
            }
            tx.append_report(&task, &report(1, 5, 200_000))?;
            tx.record_aggregated(&task, &[(report_id(7), Time(1))])?;
            tx.count(&task, "things", 1)?;
        }
        Ok(())
    };
    store.write(Point::Test, fill).await.unwrap();
    store.write(Point::Test, |tx| tx.remove_task(&task_id(1), Time(3))).await.unwrap();
    assert!(store.write(Point::Test, |tx| tx.sweep_removed()).await.unwrap());
    store.close().await;
    let left = rows(dir.path(), task_id(1)).values().sum::<usize>();
    assert!((1..1500).contains(&left), "{left}");

    let store = open(dir.path());
    let is_gone = |store: &Store| store.read(|view| Ok(view.task(&task_id(1)).is_none())).unwrap();
    assert!(is_gone(&store));
    assert!(store.write(Point::Test, |tx| Ok(tx.is_removed(&task_id(1)))).await.unwrap());
    sweep_removed(&store).await;
    store.close().await;
    assert_eq!(rows(dir.path(), task_id(1)).keys().collect::<Vec<_>>(), [&table::REMOVED.prefix]);
    assert_eq!(rows(dir.path(), task_id(2))[&table::BUCKETS.prefix], 1500);
    // Nothing is left to delete.
    let store = open(dir.path());
    assert_eq!((sweep_removed(&store).await, is_gone(&store)), (1, true));
    store.close().await;
}

/// Ids before the horizon are closed immediately and deleted in steps.
#[tokio::test]
async fn deletes_replay_rows_before_the_horizon() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    for n in 0..1200u32 {
        let time = Time(u64::from(n % 2) * 5 * DAY);
        store.write(Point::Test, move |tx| tx.record_aggregated(&task_id(1), &[(report_id(n), time)])).await.unwrap();
    }
    store.write(Point::Test, |tx| tx.raise_horizon(&task_id(1), Time(2 * DAY))).await.unwrap();
    sweep_task(&store, task_id(1), nothing_old()).await;
    store.close().await;
    assert_eq!(rows(dir.path(), task_id(1))[&table::REPLAY.prefix], 600);
    let store = open(dir.path());
    let seen = store.read(|view| {
        let replay = &view.task(&task_id(1)).unwrap().replay;
        Ok((replay.horizon(), replay.len(), replay.contains(&report_id(1))))
    });
    assert_eq!(seen.unwrap(), (Some(Time(2 * DAY)), 600, true));
    store.close().await;
}

/// Measures the cost of a sweep; run with `--ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measures_a_sweep_over_many_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    put_jobs(&store, 0..100_000, 3).await;
    for (what, old) in [
        ("nothing to do", nothing_old()),
        ("100,000 answers to forget", SweepCutoffs { answers: Time(4 * DAY), ..nothing_old() }),
        ("nothing to do", SweepCutoffs { jobs: Some(Time(DAY)), ..nothing_old() }),
        ("100,000 jobs to forget", SweepCutoffs { jobs: Some(Time(4 * DAY)), ..nothing_old() }),
        ("nothing left", nothing_old()),
    ] {
        let begin = std::time::Instant::now();
        sweep_task(&store, task_id(1), old).await;
        eprintln!("{what}: {:?}", begin.elapsed());
    }
    store.close().await;
}

/// Jobs with timestamps years ahead would be kept for years.
#[tokio::test]
async fn deletes_jobs_stored_by_a_fast_clock() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let today = 20_000;
    put_jobs(&store, 0..100, today + 3_650).await;
    let now = Time(today * DAY);
    sweep_task(&store, task_id(1), SweepCutoffs { now, ..nothing_old() }).await;
    let later = Time((today + 3) * DAY);
    sweep_task(&store, task_id(1), SweepCutoffs { now: later, answers: later, ..nothing_old() }).await;
    store.close().await;
    let found = rows(dir.path(), task_id(1));
    assert_eq!((found[&table::HELPER_JOBS.prefix], found.get(&table::ANSWERS.prefix)), (100, None));
    let store = open(dir.path());
    sweep_task(&store, task_id(1), SweepCutoffs { now: later, jobs: Some(later), ..nothing_old() }).await;
    store.close().await;
    assert_eq!(rows(dir.path(), task_id(1)).get(&table::HELPER_JOBS.prefix), None);
}
