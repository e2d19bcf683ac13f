//! Group commits: order, visibility, failures and durability.

use std::{
    fs,
    path::Path,
    sync::{atomic::Ordering, mpsc},
    thread,
};

use futures_util::future::join_all;

use super::*;
use crate::{HelperJobRecord, HelperJobState, KeyRecord, KeyStage, TaskState};
use dapbox_protocol::model::AggregationJobId;
use dapbox_support::Fault;

const SEEN: &str = "seen";

fn seen(task: &TaskState) -> u64 {
    task.counters.get(SEEN).copied().unwrap_or(0)
}

fn helper_job(n: u64) -> HelperJobRecord {
    HelperJobRecord {
        request_hash: [n as u8; 32],
        created: Time(n),
        state: HelperJobState::Answered(Bytes::from(n.to_be_bytes().to_vec())),
    }
}

/// Increments the counter and returns its previous value.
async fn count(store: &Store) -> Result<u64, Fault> {
    let count = |tx: &mut crate::Tx<'_>| {
        let before = seen(tx.task(&task_id(1)).unwrap());
        tx.count(&task_id(1), SEEN, 1)?;
        Ok(before)
    };
    store.write(Point::Test, count).await
}

/// The number of committed groups.
fn commits(store: &Store) -> u64 {
    store.inner.core.commits.load(Ordering::Relaxed)
}

/// Blocks the writer thread until the sender is dropped, so that writes in the meantime form one group.
fn hold(store: &Store) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel();
    let store = store.clone();
    let (started, has_started) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let write = store.write(Point::Test, move |_| {
            started.send(()).unwrap();
            let _ = receiver.recv();
            Ok(())
        });
        let _ = runtime.block_on(write);
    });
    has_started.recv().unwrap();
    sender
}

#[tokio::test]
async fn queued_writes_run_in_order_and_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let before = commits(&store);
    let held = hold(&store);
    let writes = (0..100).map(|_| count(&store));
    let release = async move { drop(held) };
    let (results, ()) = tokio::join!(join_all(writes), release);
    let results: Vec<u64> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(results, (0..100).collect::<Vec<_>>());
    // The blocking group changes nothing; then follow groups of 64 and 36.
    assert_eq!(commits(&store) - before, 2);
}

#[tokio::test]
async fn unchanged_write_makes_no_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = commits(&store);
    assert_eq!(store.write(Point::Test, |tx| Ok(tx.state.tasks.len())).await.unwrap(), 0);
    assert_eq!(commits(&store), before);
}

#[tokio::test]
async fn fault_stops_store_and_undoes_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    count(&store).await.unwrap();
    let stopped = tokio::spawn(store.poisoned());
    let held = hold(&store);
    let faulty = store.write(Point::Test, |tx| {
        tx.count(&task_id(1), SEEN, 50)?;
        Err::<(), _>(Fault::new("it broke"))
    });
    let release = async move { drop(held) };
    let (before, faulty, after, ()) = tokio::join!(count(&store), faulty, count(&store), release);
    assert_eq!(faulty.unwrap_err().to_string(), "it broke");
    assert_eq!(before.unwrap_err().to_string(), "it broke");
    assert!(after.is_err());
    assert_eq!(stopped.await.unwrap().to_string(), "it broke");
    assert!(count(&store).await.is_err());
    assert!(store.read(|_| Ok(())).is_err());
    store.close().await;
    let store = open(dir.path());
    assert_eq!(store.read(|view| Ok(seen(view.task(&task_id(1)).unwrap()))).unwrap(), 1);
}

#[tokio::test]
async fn panic_becomes_fault() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let write = store.write(Point::Test, |tx| {
        tx.count(&task_id(1), SEEN, 50)?;
        let nothing: [u8; 0] = [];
        Ok(nothing[tx.state.tasks.len()..].len())
    });
    assert!(write.await.is_err());
    assert!(store.poisoned().await.to_string().contains("panicked"));
    assert!(count(&store).await.is_err());
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.read(|view| Ok(seen(view.task(&task_id(1)).unwrap()))).unwrap(), 0);
}

#[tokio::test]
async fn changing_missing_task_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(store.write(Point::Test, |tx| tx.append_report(&task_id(1), &report(1, 1, 1))).await.is_err());
    assert!(store.read(|_| Ok(())).is_err());
}

#[tokio::test]
async fn failed_read_does_not_stop_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(store.read(|_| Err::<(), _>(Fault::new("no"))).is_err());
    add_task(&store, 1).await;
}

#[tokio::test]
async fn completes_write_after_its_future_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let held = hold(&store);
    let mut write = Box::pin(count(&store));
    assert!(futures_util::poll!(&mut write).is_pending());
    drop(write);
    drop(held);
    assert_eq!(count(&store).await.unwrap(), 1);
}

#[tokio::test]
async fn writers_wait_for_full_queue() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options { queue: 2, group: 3, ..Options::default() }).unwrap();
    add_task(&store, 1).await;
    let held = hold(&store);
    let release = async move { drop(held) };
    let (results, ()) = tokio::join!(join_all((0..20).map(|_| count(&store))), release);
    assert_eq!(results.into_iter().map(Result::unwrap).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn close_completes_queued_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let held = hold(&store);
    let release = async move { drop(held) };
    let (results, (), ()) = tokio::join!(join_all((0..20).map(|_| count(&store))), store.close(), release);
    assert!(results.into_iter().all(|result| result.is_ok()));
    assert!(count(&store).await.is_err());
    let store = open(dir.path());
    assert_eq!(store.read(|view| Ok(seen(view.task(&task_id(1)).unwrap()))).unwrap(), 20);
}

#[tokio::test]
async fn write_may_drop_the_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let inside = store.clone();
    let mut write = Box::pin(store.write(Point::Test, move |_| {
        drop(inside);
        Ok(())
    }));
    let _ = futures_util::poll!(&mut write);
    drop(write);
    drop(store);
    // The store closes here or on the writer thread.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while Store::open(dir.path(), Options::default()).is_err() {
        assert!(std::time::Instant::now() < deadline, "the directory is still locked");
        thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_see_rows_and_memory_in_agreement() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let id = AggregationJobId::new([1; 16]);
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 1..=100 {
                let write = move |tx: &mut crate::Tx<'_>| {
                    tx.count(&task_id(1), SEEN, 1)?;
                    tx.put_helper_job(&task_id(1), id, &helper_job(n))
                };
                store.write(Point::Test, write).await.unwrap();
            }
        }
    });
    let mut reads = 0;
    while !writer.is_finished() || reads == 0 {
        let (seen, job) =
            store.read(|view| Ok((seen(view.task(&task_id(1)).unwrap()), view.helper_job(&task_id(1), &id)?))).unwrap();
        assert_eq!(job, (seen > 0).then(|| helper_job(seen)));
        reads += 1;
    }
    writer.await.unwrap();
    assert_eq!(store.read(|view| view.helper_job(&task_id(1), &id)).unwrap(), Some(helper_job(100)));
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[tokio::test]
async fn answered_writes_are_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    for n in 0..5 {
        assert_eq!(count(&store).await.unwrap(), n);
        // Copies the files of the open store, as a kill would leave them.
        let image = tempfile::tempdir().unwrap();
        copy(dir.path(), image.path());
        let store = open(image.path());
        assert_eq!(store.read(|view| Ok(seen(view.task(&task_id(1)).unwrap()))).unwrap(), n + 1);
    }
}

#[tokio::test]
async fn debug_output_hides_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let secret = [222u8, 173, 190, 239];
    store
        .write(Point::Test, move |tx| {
            let config = task(1).collector_hpke_config;
            tx.put_key(KeyRecord {
                config,
                private_key: Secret::new(secret.to_vec()),
                created: Time(0),
                stage: KeyStage::Active { since: Time(0) },
            })?;
            tx.bucket_mut(&task_id(1), dapbox_protocol::model::Bucket::Time(Time(0)))?.replace_share(secret.to_vec());
            Ok(())
        })
        .await
        .unwrap();
    let shown = store.read(|view| Ok(format!("{:?}", view.state))).unwrap();
    assert!(shown.contains("BucketHeader") && shown.contains("KeyRecord"));
    assert!(!shown.contains("222") && !shown.contains("3q2-7w"), "{shown}");
}

/// Memory holds the counts of all buckets and a limited number of sums, also after a restart.
#[tokio::test]
async fn keeps_sums_beyond_the_cache_on_disk() {
    const BUCKETS: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    add_task(&store, 1).await;
    let bucket = |n: u64| dapbox_protocol::model::Bucket::Time(Time(n * PRECISION));
    for round in 1..=2u8 {
        for n in 0..BUCKETS {
            let add = move |tx: &mut crate::Tx<'_>| {
                let mut record = tx.bucket_mut(&task_id(1), bucket(n))?;
                let known = if round == 1 { Vec::new() } else { vec![n as u8; 30_000] };
                assert_eq!(record.share(), known, "bucket {n}");
                record.header.count += 1;
                record.replace_share(vec![n as u8 * round; 30_000]);
                Ok(())
            };
            store.write(Point::Test, add).await.unwrap();
            let held = store.read(|view| Ok(view.state.sums.bytes())).unwrap();
            assert!((30_000..=SUM_CACHE_BYTES).contains(&held), "{held} bytes");
        }
        store.close().await;
        store = open(dir.path());
        let (held, open) =
            store.read(|view| Ok((view.state.sums.bytes(), view.state.tasks[&task_id(1)].open_buckets()))).unwrap();
        assert_eq!((held, open), (0, BUCKETS as usize));
    }
}
