//! Backups under concurrent writes, and their restores.

use std::{
    fs,
    io::{self, Write},
    ops::ControlFlow,
};

use tokio::runtime::Handle;

use super::*;
use crate::{
    BackupError, BackupOptions, FormatError, KeyError, KeySource, OpenError, RestoreError, VerifyError,
    engine::{Engine, EngineError, Row},
    restore, table, verify,
};
use dapbox_protocol::model::{AggregationJobId, Bucket, Role};
use dapbox_support::Fault;

const CACHE: u64 = 1 << 20;
const PLENTY: usize = 1 << 20;

/// The encryption key of all directories.
fn key() -> Secret {
    Secret::new(vec![7; 32])
}

fn options() -> Options {
    Options { cache_bytes: CACHE, key: KeySource::Given(key()), ..Options::default() }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, options()).unwrap()
}

/// The `n`th write: adds or replaces one row, deletes another, and counts.
async fn write(store: &Store, n: u64) {
    let job = |n: u64| AggregationJobId::new([(n * 7 % 97) as u8; 16]);
    let body = Bytes::from(vec![n as u8; if n % 10 == 3 { 150_000 } else { 500 }]);
    let done = store.write(Point::Test, move |tx| {
        let mut bucket = tx.bucket_mut(&task_id(1), Bucket::Time(Time(n * 7 % 97)))?;
        bucket.header.count = n;
        bucket.replace_share(body.to_vec());
        tx.put_helper_request(&task_id(1), job(n), &body)?;
        tx.end_helper_request(&task_id(1), &job(n + 31))?;
        tx.count(&task_id(1), "writes", 1)
    });
    done.await.unwrap();
}

async fn written(dir: &Path, writes: u64) -> Store {
    let store = open(dir);
    add_task(&store, 1).await;
    for n in 0..writes {
        write(&store, n).await;
    }
    store
}

fn rows(dir: &Path) -> Vec<Row> {
    let engine = Engine::open(&dir.join("tables"), CACHE).unwrap();
    let mut rows = Vec::new();
    // Encryption is randomized, and each directory has its own key for fingerprints.
    let sealed = [table::TASKS.0.prefix, table::KEYS.0.prefix, table::SECRETS.0.prefix];
    let visit = |key: &[u8], value| {
        rows.push((key.to_vec(), if sealed.contains(&key[0]) { Vec::new() } else { value }));
        Ok::<_, EngineError>(ControlFlow::Continue(()))
    };
    engine.scan_after(None, visit).unwrap();
    engine.close().unwrap();
    rows
}

/// Receives a backup, and writes to the store whenever it receives bytes, up to a number of writes.
struct WriteDuringBackup {
    store: Store,
    next: u64,
    left: u64,
    taken: Vec<u8>,
}

impl Write for WriteDuringBackup {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left > 0 {
            Handle::current().block_on(write(&self.store, self.next));
            self.next += 1;
            self.left -= 1;
        }
        self.taken.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn back_up(store: &Store, next: u64, left: u64, tracking_bytes: usize) -> (Vec<u8>, Result<(), BackupError>) {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || {
        let mut writer = WriteDuringBackup { store: store.clone(), next, left, taken: Vec::new() };
        let done = store.backup(&mut writer, BackupOptions { key: None, tracking_bytes });
        (writer.taken, done.map(drop))
    });
    done.await.unwrap()
}

fn restore_into(dir: &Path, bytes: &[u8]) -> Result<(), RestoreError> {
    restore(dir, &options(), bytes, None, |_, _| Ok(()), |_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_is_consistent_under_concurrent_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = written(&dir.path().join("a"), 120).await;
    // With little memory, changed rows are written again before all rows are copied.
    for (n, left, tracking_bytes) in [(120, 0, PLENTY), (120, 400, PLENTY), (520, 400, 24_000)] {
        let (bytes, made) = back_up(&store, n, left, tracking_bytes).await;
        made.unwrap();
        let copy = dir.path().join(format!("copy-{n}-{left}"));
        restore_into(&copy, &bytes).unwrap();
        let opened = open(&copy);
        let writes = opened.read(|view| Ok(view.task(&task_id(1)).unwrap().counters["writes"])).unwrap();
        opened.close().await;
        assert!(writes >= n, "{writes}: what was answered before is in it");
        assert!(left == 0 || writes > n, "nothing was written meanwhile");
        // The same number of writes without a backup makes the same rows.
        let model = dir.path().join(format!("model-{n}-{left}"));
        written(&model, writes).await.close().await;
        assert!(rows(&model) == rows(&copy), "after {writes} writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_fails_on_too_many_changes_and_next_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let store = written(dir.path(), 120).await;
    let (bytes, made) = back_up(&store, 120, 400, 200).await;
    assert!(matches!(made, Err(BackupError::TooManyChanges)), "{made:?}");
    assert!(matches!(verify(&bytes[..], |_| ()), Err(VerifyError::Format(FormatError::CutOff))));
    let (bytes, made) = back_up(&store, 0, 0, 200).await;
    made.unwrap();
    verify(&bytes[..], |_| ()).unwrap();
}

/// Starts a second backup during the first, then fails.
struct NestedBackup(Store);

impl Write for NestedBackup {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        let another = self.0.backup(Vec::new(), BackupOptions { key: None, tracking_bytes: PLENTY });
        assert!(matches!(another, Err(BackupError::Busy)));
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn allows_one_backup_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = written(dir.path(), 10).await;
    let made = store.backup(NestedBackup(store.clone()), BackupOptions { key: None, tracking_bytes: PLENTY });
    assert!(matches!(made, Err(BackupError::Write(_))));
    store.backup(Vec::new(), BackupOptions { key: None, tracking_bytes: PLENTY }).unwrap();
    store.close().await;
    let made = store.backup(Vec::new(), BackupOptions { key: None, tracking_bytes: PLENTY });
    assert!(matches!(made, Err(BackupError::Fault(_))));
}

#[tokio::test]
async fn describes_backup_without_restoring() {
    let dir = tempfile::tempdir().unwrap();
    let store = written(dir.path(), 10).await;
    store.write(Point::Test, |tx| tx.append_report(&task_id(1), &report(1, 7, 10)).map(drop)).await.unwrap();
    store
        .write(Point::Test, |tx| tx.record_aggregated(&task_id(1), &[(report_id(5), Time(7)), (report_id(6), Time(7))]))
        .await
        .unwrap();
    let mut bytes = Vec::new();
    store.backup(&mut bytes, BackupOptions { key: None, tracking_bytes: PLENTY }).unwrap();
    let task = &verify(&bytes[..], |_| ()).unwrap().tasks[0];
    assert_eq!((task.id, task.waiting, task.remembered, task.role), (task_id(1), 1, 2, None));
    bytes.clear();
    store.backup(&mut bytes, BackupOptions { key: Some(key()), tracking_bytes: PLENTY }).unwrap();
    let contents = verify(&bytes[..], |_| ()).unwrap();
    let task = &contents.tasks[0];
    assert_eq!((task.id, task.waiting, task.remembered, task.role), (task_id(1), 1, 2, Some(Role::Leader)));
    assert_eq!((contents.has_key, contents.bytes), (true, bytes.len() as u64));
}

#[tokio::test]
async fn takes_key_from_backup_or_argument() {
    let dir = tempfile::tempdir().unwrap();
    let store = written(&dir.path().join("a"), 1).await;
    let back_up = |key| {
        let mut bytes = Vec::new();
        store.backup(&mut bytes, BackupOptions { key, tracking_bytes: PLENTY }).unwrap();
        bytes
    };
    let (bare, with_key) = (back_up(None), back_up(Some(key())));
    let in_directory = Options { key: KeySource::InDirectory, ..options() };
    let restore = |name: &str, bytes: &[u8], key: Option<Secret>| {
        let copy = dir.path().join(name);
        restore(&copy, &in_directory, bytes, key, |_, _| Ok(()), |_| ())?;
        Ok::<_, RestoreError>(KeySource::InDirectory.read(&copy).unwrap())
    };
    assert!(matches!(restore("b", &bare, None), Err(RestoreError::NoKey)));
    let wrong = restore("b", &bare, Some(Secret::new(vec![8; 32])));
    assert!(matches!(wrong, Err(RestoreError::Directory(OpenError::Key(KeyError::Wrong)))));
    assert_eq!(fs::read_dir(dir.path().join("b")).map_or(0, Iterator::count), 0);
    assert_eq!(restore("b", &bare, Some(key())).unwrap(), key());
    assert_eq!(restore("c", &with_key, None).unwrap(), key());
    for name in ["b", "c"] {
        Store::open(&dir.path().join(name), in_directory.clone()).unwrap().close().await;
    }
}

#[tokio::test]
async fn rejects_bad_backup_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = written(&dir.path().join("a"), 10).await;
    let mut bytes = Vec::new();
    store.backup(&mut bytes, BackupOptions { key: None, tracking_bytes: PLENTY }).unwrap();
    let copy = dir.path().join("copy");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    for bad in [&bytes[..bytes.len() - 1], &bytes[..bytes.len() / 2], &flipped] {
        assert!(matches!(restore_into(&copy, bad), Err(RestoreError::Backup(_))));
        assert_eq!(fs::read_dir(&copy).map_or(0, Iterator::count), 0);
    }
    // The function that closes the past may fail too.
    let failed = restore(&copy, &options(), &bytes[..], None, |_, _| Err::<(), _>(Fault::new("on purpose")), |_| ());
    assert!(matches!(failed, Err(RestoreError::Fault(_))));
    restore_into(&copy, &bytes).unwrap();
    assert!(matches!(restore_into(&copy, &bytes), Err(RestoreError::Directory(OpenError::NotEmpty))));
    open(&copy).close().await;
}

#[tokio::test]
async fn names_row_of_another_release() {
    let dir = tempfile::tempdir().unwrap();
    let back_up = async |key: Vec<u8>, value: Vec<u8>| {
        let _ = fs::remove_dir_all(dir.path().join("a"));
        let store = written(&dir.path().join("a"), 1).await;
        store
            .write(Point::Test, move |tx| {
                tx.group.set(key, Some(value));
                Ok(())
            })
            .await
            .unwrap();
        let mut bytes = Vec::new();
        store.backup(&mut bytes, BackupOptions { key: None, tracking_bytes: PLENTY }).unwrap();
        store.close().await;
        verify(&bytes[..], |_| ()).unwrap_err().to_string()
    };
    let error = back_up(table::TASKS.key(&task_id(1)), vec![255; 100]).await;
    assert!(error.contains("newer"), "{error}");
    let error = back_up(vec![200, 1], vec![1]).await;
    assert!(error.contains("unknown table"), "{error}");
    let error = back_up(table::TASKS.key(&task_id(1)), vec![1, 2, 3]).await;
    assert!(error.contains("damaged"), "{error}");
}

#[tokio::test]
async fn rejects_directory_during_restore() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dapbox-data"), "dapbox data directory, being restored\n").unwrap();
    assert!(matches!(Store::open(dir.path(), options()), Err(OpenError::IncompleteRestore)));
    // A directory cannot be opened during its restore.
    let store = written(&dir.path().join("a"), 10).await;
    let mut bytes = Vec::new();
    store.backup(&mut bytes, BackupOptions { key: None, tracking_bytes: PLENTY }).unwrap();
    let copy = dir.path().join("copy");
    let at_the_end = |tx: &mut crate::Tx<'_>, _| {
        assert!(tx.task(&task_id(1)).is_some());
        assert!(matches!(Store::open(&copy, options()), Err(OpenError::Locked | OpenError::IncompleteRestore)));
        Ok(())
    };
    restore(&copy, &options(), &bytes[..], None, at_the_end, |_| ()).unwrap();
    open(&copy).close().await;
}
