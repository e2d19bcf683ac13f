//! The store of an aggregator: one data directory that survives crashes and power failures.
//!
//! The store keeps its working state in memory and rebuilds it from disk when it opens. One thread runs the closures
//! passed to [`Store::write`] in order. It commits several of them as one group and answers each write once the group
//! is durable.
//!
//! # Guarantees
//!
//! | guarantee | holds from | tested by |
//! |---|---|---|
//! | A group of writes is atomic | always | `tests/group.rs`: a fault or a panic undoes the group |
//! | An answered write is in the files | the answer | `tests/group.rs`: copies the files of an open store |
//! | An answered write survives a power failure | the answer | `tests/durability/power_cut.rs`; `engine.rs` lists the measures |
//! | A write sees all earlier writes | its execution | `tests/group.rs` |
//! | A read sees memory and rows of the same moment, and durable rows only | always | `tests/group.rs`: concurrent reads and writes |
//! | A reopened store equals the closed one, except for state kept in memory only | opening | `tests/model.rs`: random writes against a simple model |
//! | A write or request that fails or crashes can be repeated and counts once | always | `tests/durability/failpoints`: error, delay and crash at every write |
//! | A directory that is locked, damaged, foreign or newer is rejected; foreign and newer ones stay unchanged | opening | `tests/directory.rs`, `tests/durability/corruption.rs` |
//! | A database that lost rows, or commits older than a second, is rejected | opening | `tests/damage.rs`: flipped, truncated, swapped and missing files |
//! | A directory of an earlier layout is migrated, and the original is kept | opening | `tests/directory.rs` |
//! | A full disk does not prevent opening, thanks to the ballast | opening | `tests/durability/disk_full.rs` |
//! | Keys and tokens are encrypted on disk | always | `tests/directory.rs`: searches the files |
//! | Everything before a task's horizon is closed; the horizon is stored no later than the deletions that it allows | the answer | `tests/model.rs`, `tests/sweep.rs`, `tests/durability/retention.rs` |
//! | A removed task disappears immediately; its rows are deleted in steps, across restarts | the answer | `tests/sweep.rs`, `tests/model.rs` |
//! | A backup is a snapshot that includes all writes answered before it started | its end | `tests/backup.rs`: compares the rows |
//! | A restored directory cannot be opened until its past is closed | always | `tests/backup.rs`, `tests/durability/backup.rs` |
//! | A rebuilt database replaces the old one atomically | always | `swap.rs`: every intermediate state |
//!
//! Reservations of report ids and the times of deferred reports are kept in memory only. A read may see state in memory
//! that is not durable yet: see [`View`].
//!
//! A commit fails on a full disk and stops the store. The database file shrinks only through [`compact()`], not while
//! the store is open.
//!
//! # Fail-stop
//!
//! A write that returns a [`Fault`] or panics stops the store, and so does any error of the database. No write of the
//! group is acknowledged, and every later call faults. After a failed commit only a restart tells whether the group is
//! durable. A restart recovers everything committed. Mistakes of peers and operators therefore never are faults: a
//! write refuses them with [`WriteError::Refused`] before it changes anything.
//!
//! Each write has a name, its [`Point`]. Tests inject failures before or after the commit of a write through
//! [`Options::failpoints`].
//!
//! # Files
//!
//! `open.rs` claims the directory, `engine.rs` wraps the database, `table.rs` and `records.rs` define its rows.
//! `state.rs` holds the state in memory, with `waiting.rs`, `replay.rs`, `fingerprints.rs` and `collected.rs` for its
//! larger parts. `sums.rs` caches the sums of batch buckets. `tx.rs` and `view.rs` are the interfaces of a write and a
//! read, `rows.rs` reads rows for both, and `sweep.rs` closes and deletes expired data. `group.rs` collects the changes
//! of a group, `writer.rs` commits them.
//!
//! `vault.rs` encrypts secrets. `ledger.rs` detects silent loss in the database. `space.rs` measures disk space and
//! keeps the ballast. `backup.rs` makes and restores backups. `swap.rs`, `rebuild.rs` and `compact.rs` replace one database by
//! another. `legacy.rs` reads rows of earlier releases, and `migrate.rs` migrates their directories.

pub mod api_token;
mod backup;
mod collected;
mod collecting;
mod collector;
mod compact;
mod engine;
mod fingerprints;
mod group;
pub mod latency;
mod ledger;
mod legacy;
mod migrate;
pub mod name;
mod open;
mod open_error;
mod owner;
mod rebuild;
mod records;
mod replay;
mod rows;
pub mod space;
mod state;
mod sums;
mod swap;
mod sweep;
mod table;
mod tx;
mod vault;
mod view;
mod waiting;
mod write_error;
mod writer;

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, oneshot, watch};

use self::writer::{Answer, Core, QueuedWrite};
use crate::latency::LatencyHistogram;
use dapbox_support::{Failpoints, Fault, Point, fault::panic_text};

pub use backup::{
    BackupContents, BackupError, BackupOptions, BackupSummary, CollectorContents, FormatError, Header, RestoreError,
    TaskContents, VerifyError, restore, verify,
};
pub use collected::CollectedBatches;
pub use collector::{CollectorRecord, CollectorState, ResultLink, WebhookEvent};
pub use compact::{CompactionResult, compact};
pub use engine::is_own_thread;
pub use open_error::OpenError;
pub use owner::check_user;
pub use rebuild::{CompactStage, ProgressFn};
pub use records::{
    BucketHeader, CollectedBatch, CollectedBy, CollectionJobRecord, CollectionProgress, CollectionState, Counters,
    HelperJobRecord, HelperJobState, KeyRecord, KeyStage, LeaderJobRecord, LeaderJobState, PrivacyRecord, ReportRef,
    ResultRecord, ResultStage, Tombstone,
};
pub use replay::ReplayIndex;
pub use state::TaskState;
pub use sums::BucketMut;
pub use sweep::{SweepCursor, SweepCutoffs, SweepResult};
pub use tx::Tx;
pub use vault::{KeyError, KeySource};
pub use view::View;
pub use waiting::{Pick, Picked, ReportEntry, WaitingReports};
pub use write_error::WriteError;

/// Resource limits of a store and the source of its encryption key.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for the page cache of the database, in bytes.
    pub cache_bytes: u64,
    /// Memory for the cached sums of batch buckets of all tasks, in bytes. Other sums are read from disk when a write
    /// changes them.
    pub sum_cache_bytes: usize,
    /// The maximum number of queued writes; further writers wait.
    pub queue: usize,
    /// The maximum number of writes in one commit.
    pub group: usize,
    /// The source of the key that encrypts secrets.
    pub key: KeySource,
    /// Failures to inject; none outside of tests.
    pub failpoints: Failpoints,
    /// The size of the ballast, in bytes; 0 for none. The ballast is released when the disk is too full to open the
    /// store.
    pub ballast_bytes: u64,
    /// Whether opening migrates a directory of an earlier release. Read-only commands leave it unchanged.
    pub migrate: bool,
    /// The durability of commits; no configuration option sets it.
    pub durability: Durability,
}

/// Whether a commit survives a power failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A commit is synced to disk before it is answered.
    #[default]
    Synced,
    /// A commit is not synced, so answered writes can be lost. Only the power-cut test uses this, to show that it
    /// detects the loss.
    Unsynced,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            sum_cache_bytes: 32 << 20,
            queue: 1024,
            group: 64,
            ballast_bytes: 0,
            key: KeySource::default(),
            failpoints: Failpoints::default(),
            migrate: false,
            durability: Durability::Synced,
        }
    }
}

/// A handle of an open store. Clones share the store. Dropping the last handle completes the queued writes and closes
/// the store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    /// `None` after the store is closed.
    writer: Mutex<Option<Writer>>,
}

struct Writer {
    queue: mpsc::Sender<QueuedWrite>,
    thread: JoinHandle<()>,
}

impl Store {
    /// Opens the store in a directory, or creates it. Blocks until all rows are read.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let (disk, state) = open::open(dir, &options)?;
        let core = Arc::new(Core {
            state: RwLock::new(state),
            disk: RwLock::new(Some(disk)),
            stopped: watch::Sender::new(None),
            commits: AtomicU64::new(0),
            commit_latencies: LatencyHistogram::default(),
            failpoints: options.failpoints,
            written: AtomicU64::new(0),
            changes: backup::ChangeTracker::default(),
        });
        let (sender, receiver) = mpsc::channel(options.queue.max(1));
        let thread = thread::Builder::new().name("store".into()).spawn({
            let core = core.clone();
            move || {
                // A panic outside of any write stops the store, so its partial changes are never visible.
                let run = AssertUnwindSafe(|| core.run(receiver, options.group.max(1)));
                if let Err(panic) = catch_unwind(run) {
                    core.poison(Fault::while_doing("the storage thread panicked", panic_text(&*panic)));
                }
            }
        })?;
        let writer = Mutex::new(Some(Writer { queue: sender, thread }));
        Ok(Self { inner: Arc::new(Inner { core, writer }) })
    }

    /// Runs `f` on the writer thread and returns its result once its changes are durable. `point` names the write for
    /// failure injection; each write in the code has its own.
    ///
    /// `f` sees the effects of all earlier writes. It must not block or call the store, and it must decide before it
    /// changes anything: see [`Tx`]. Once queued, `f` runs even if the returned future is dropped.
    ///
    /// # Errors
    ///
    /// Returns a fault if `f`, another write of its group or the database fails, or if the store is closed or stopped.
    /// Whether this write is durable is then unknown until a restart.
    pub async fn write<T: Send + 'static>(
        &self,
        point: Point,
        f: impl FnOnce(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let core = &self.inner.core;
        core.check()?;
        let queue = self.lock_writer().as_ref().map(|writer| writer.queue.clone()).ok_or_else(closed)?;
        let (sender, receiver) = oneshot::channel();
        let stopped = || core.check().err().unwrap_or_else(closed);
        queue.send(work(point, f, sender)).await.map_err(|_| stopped())?;
        drop(queue);
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Runs a write that `f` may refuse. See [`Self::write`].
    ///
    /// # Errors
    ///
    /// Returns [`WriteError::Refused`] if `f` refuses, and the store continues. Returns [`WriteError::Fault`] as
    /// [`Self::write`] does.
    pub async fn try_write<T: Send + 'static, R: Send + 'static>(
        &self,
        point: Point,
        f: impl FnOnce(&mut Tx<'_>) -> Result<T, WriteError<R>> + Send + 'static,
    ) -> Result<T, WriteError<R>> {
        let write = self.write(point, |tx| match f(tx) {
            Ok(value) => Ok(Ok(value)),
            Err(WriteError::Refused(refusal)) => Ok(Err(refusal)),
            Err(WriteError::Fault(fault)) => Err(fault),
        });
        write.await?.map_err(WriteError::Refused)
    }

    /// Runs `f` between two groups of writes. `f` must be short, because writes wait for it, and must not call the
    /// store. It blocks for at most one commit if it reads rows: see [`View`].
    ///
    /// # Errors
    ///
    /// Returns the fault of `f`, or the fault that stopped the store. A failing read stops the store only if the
    /// database failed.
    pub fn read<T>(&self, f: impl FnOnce(&View<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let core = &*self.inner.core;
        if self.lock_writer().is_none() {
            return Err(closed());
        }
        let state = core.state.read().unwrap_or_else(PoisonError::into_inner);
        core.check()?;
        f(&View { state, core })
    }

    /// The number of bytes of rows committed since the store opened.
    pub fn written(&self) -> u64 {
        self.inner.core.written.load(Ordering::Relaxed)
    }

    /// The number of durable commits since the store opened.
    pub fn commits(&self) -> u64 {
        self.inner.core.commits.load(Ordering::Relaxed)
    }

    /// The durations of these commits.
    pub fn commit_latencies(&self) -> &LatencyHistogram {
        &self.inner.core.commit_latencies
    }

    /// The number of queued writes.
    pub fn queued(&self) -> usize {
        self.lock_writer().as_ref().map_or(0, |writer| writer.queue.max_capacity() - writer.queue.capacity())
    }

    /// Completes the queued writes and closes the database. Every later call faults.
    pub async fn close(&self) {
        let Some(writer) = self.lock_writer().take() else { return };
        let core = self.inner.core.clone();
        let done = tokio::task::spawn_blocking(move || finish(&core, writer)).await;
        if let Err(error) = done {
            tracing::error!(%error, "cannot close store");
        }
    }

    /// Waits until a failure stops the store and returns the fault. Pending while the store works.
    pub fn poisoned(&self) -> impl Future<Output = Fault> + Send + 'static {
        let core = self.inner.core.clone();
        async move {
            let mut stopped = core.stopped.subscribe();
            match stopped.wait_for(Option::is_some).await.map(|fault| fault.clone()) {
                Ok(Some(fault)) => fault,
                // Unreachable: `core` holds the sender.
                _ => std::future::pending().await,
            }
        }
    }

    fn lock_writer(&self) -> std::sync::MutexGuard<'_, Option<Writer>> {
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            finish(&self.core, writer);
        }
    }
}

/// Waits for the writer thread to complete the queue, then closes the database.
fn finish(core: &Core, Writer { queue, thread }: Writer) {
    drop(queue);
    if thread.thread().id() == thread::current().id() {
        // A write dropped the last handle. The writer thread cannot join itself; it ends soon and closes the database.
        return;
    }
    if thread.join().is_err() {
        core.poison(Fault::new("the storage thread has panicked"));
    }
    *core.disk.write().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Boxes a write for the queue.
fn work<T: Send + 'static>(
    point: Point,
    f: impl FnOnce(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    sender: oneshot::Sender<Result<T, Fault>>,
) -> QueuedWrite {
    let run = Box::new(move |tx: &mut Tx<'_>| {
        let result = f(tx);
        let outcome = result.as_ref().map(|_| ()).map_err(Fault::clone);
        let answer: Answer = Box::new(move |durable| {
            // The caller may have dropped its future.
            let _ = sender.send(durable.and(result));
        });
        (outcome, answer)
    });
    QueuedWrite { point, run }
}

fn closed() -> Fault {
    Fault::new("the store is closed")
}

#[cfg(test)]
mod tests;
