//! The store: everything that an aggregator must not forget, in one directory.
//!
//! Decisions are made from `State`, which is held in memory and rebuilt when the store is opened. One thread runs
//! the closures given to [`Store::write`], in order, several of them as one group, and commits what a group has
//! changed at once. A write is answered when it survives a loss of power.
//!
//! # What is promised
//!
//! | promise | from when on | tested by |
//! |---|---|---|
//! | A write is done whole or not at all, and so is its group | always | `tests/group.rs`: a fault or a panic undoes its group |
//! | A write that is answered is in the files | the answer | `tests/group.rs`: the files are copied while the store is open, as a kill leaves them |
//! | ... and survives a loss of power | the answer | `tests/power_cut.rs`, with whole aggregators; `engine.rs` says what it rests on |
//! | Writes see those before them, in order | the write's turn | `tests/group.rs` |
//! | A read sees memory and rows of the same moment, and no row that is not durable | always | `tests/group.rs`, with reads and writes at once |
//! | Opened again, the store is what it was, but for what is said to be in memory only | opening | `tests/model.rs`: random writes, compared with a simple model |
//! | What fails at any write or request, or crashes there, may be repeated and counts once | always | `tests/failpoints`: an error, a delay and a crash before and after every one of them |
//! | A directory that is in use, damaged, foreign or newer is refused; one of the last two is not touched | opening | `tests/directory.rs`; the crate's `tests/corruption.rs` |
//! | A database that has lost rows, or commits but for those of the last second, is refused | opening | `tests/damage.rs`: flipped, cut, swapped and missing files |
//! | A directory of an earlier layout is brought up to date, and what it was is kept | opening | `tests/directory.rs` |
//! | A disk that is full can be opened, thanks to a ballast | opening | the crate's `tests/disk_full.rs` |
//! | Keys and tokens are not in the files in the clear | always | `tests/directory.rs` searches the files |
//! | Everything before a task's horizon is closed; the horizon is stored with or before what is forgotten on its account | the answer | `tests/model.rs`, `tests/sweep.rs`, the crate's `tests/retention.rs` |
//! | A removed task is gone at once; its rows go in steps, over restarts too, until only the tombstone is left | the answer | `tests/sweep.rs`, `tests/model.rs` |
//! | A backup shows one moment, after all writes answered before it was begun | its end | `tests/backup.rs`: equals the rows of that many writes |
//! | A restored directory whose past is not closed cannot be opened | always | `tests/backup.rs`, here and of the crate |
//! | A rewritten database is used whole or not at all | always | `swap.rs`: every state by hand |
//!
//! In memory only are the reservations of report ids and until when a report is deferred. What a read takes from memory
//! may still be on its way to the disk: see [`View`].
//!
//! Not promised: that a commit succeeds when the disk is full (it fails, and stops the store); and that the file shrinks
//! while the store is open: [`compact()`] writes it anew.
//!
//! # Fail-stop
//!
//! A write that returns a [`Fault`] or panics, and any error of the database, stops the store: nothing of its group is
//! acknowledged and every later call faults. If it was the commit that failed, only a restart tells whether the group is
//! durable. The remedy is a restart, which recovers what was committed. So what a peer or an operator may get wrong is
//! never a fault: a refusal is an `Ok` value, decided before anything is changed.
//!
//! Each write has a name, a [`Point`]. Tests make it fail before its commit or after it, through
//! [`Options::failpoints`]; nothing else can.
//!
//! # Files
//!
//! `open.rs` claims the directory, `engine.rs` is the database, `table.rs` and `records.rs` say what its rows are.
//! `state.rs` is what is held in memory, with `waiting.rs`, `replay.rs` (and `fingerprints.rs`) and `collected.rs` for its
//! larger parts; `sums.rs` caches the sums of batch buckets, which are on disk. `tx.rs` and `view.rs` are what a write and a read may do (`rows.rs` what both do), `sweep.rs` what closes and forgets what is over.
//! `group.rs` collects the changes of a group, `writer.rs` commits them.
//!
//! `vault.rs` encrypts secrets. `ledger.rs` tells when the database has lost something without noticing, `space.rs` is
//! room on the disk and the ballast. `backup.rs` has backups; `swap.rs` and `compact.rs` are how one database takes
//! another's place. `older.rs` reads rows of earlier releases, `migrate.rs` makes directories of theirs into ours.

pub mod api_token;
mod backup;
mod collected;
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
mod owner;
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
    BackupContents, BackupError, BackupOptions, BackupSummary, FormatError, Header, RestoreError, TaskContents,
    VerifyError, restore, verify,
};
pub use collected::CollectedBatches;
pub use compact::{CompactStage, CompactionResult, ProgressFn, compact};
pub use engine::is_own_thread;
pub use open::OpenError;
pub use owner::check_user;
pub use records::{
    BucketHeader, CollectedBatch, CollectedBy, CollectionJobRecord, CollectionProgress, CollectionState, Counters,
    HelperJobRecord, HelperJobState, KeyRecord, KeyStage, LeaderJobRecord, LeaderJobState, ReportRef, ResultRecord,
    ResultStage, Tombstone,
};
pub use replay::ReplayIndex;
pub use state::TaskState;
pub use sums::BucketMut;
pub use sweep::{SweepCursor, SweepCutoffs, SweepResult};
pub use tx::Tx;
pub use vault::{KeyError, KeySource};
pub use view::View;
pub use waiting::{Pick, Picked, ReportEntry, WaitingReports};

/// How much a store may use, and where the key for its secrets is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for the database's page cache, in bytes.
    pub cache_bytes: u64,
    /// Memory for the sums of batch buckets of all tasks, in bytes. Sums that do not fit are read from the disk when a
    /// write changes them.
    pub sum_cache_bytes: usize,
    /// How many writes may wait; more have to wait for a place.
    pub queue: usize,
    /// How many writes are committed at once, at most.
    pub group: usize,
    /// Where the key that secrets are encrypted under comes from.
    pub key: KeySource,
    /// What is made to fail: nothing, outside of tests.
    pub failpoints: Failpoints,
    /// The size of the ballast, which is given up when the disk is too full to open the store; 0 if there is none.
    pub ballast_bytes: u64,
    /// Whether a directory of an earlier release is brought up to date. Whoever only looks at it leaves it as it is.
    pub migrate: bool,
    /// What a commit does for durability; no configuration can say.
    pub durability: Durability,
}

/// What a commit does so that it survives a loss of power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is synced to the disk before it is answered.
    #[default]
    Synced,
    /// Nothing: what is answered can be lost. For one purpose only: a test that cuts the power must find that out, or it
    /// proves nothing about [`Durability::Synced`].
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

/// A handle of an open store. Clones are handles of the same store; the last one to go closes it, after the writes
/// that wait.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    /// `None` once the store is closed.
    writer: Mutex<Option<Writer>>,
}

struct Writer {
    queue: mpsc::Sender<QueuedWrite>,
    thread: JoinHandle<()>,
}

impl Store {
    /// Opens the store in a directory, or creates it. Blocks while it reads everything.
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
                // A panic that no write has caught. Nothing is seen of what it left but that the store has stopped.
                let run = AssertUnwindSafe(|| core.run(receiver, options.group.max(1)));
                if let Err(panic) = catch_unwind(run) {
                    core.poison(Fault::while_doing("the store's thread panicked", panic_text(&*panic)));
                }
            }
        })?;
        let writer = Mutex::new(Some(Writer { queue: sender, thread }));
        Ok(Self { inner: Arc::new(Inner { core, writer }) })
    }

    /// Runs `f` when its turn has come and returns its result when what it did is durable. `point` is the write's name,
    /// for those who want it to fail: each write in the code has its own.
    ///
    /// `f` sees the effects of all writes before it. It must not block, nor call the store. It must decide first and
    /// mutate then: see [`Tx`]. Once a place in the queue is found, `f` runs even if nobody waits for the result any more.
    ///
    /// # Errors
    ///
    /// If `f`, or another write that was committed with it, or the database fails; or if the store was closed or
    /// has stopped before. It is then unknown whether this write is durable, and a restart will tell.
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

    /// Runs `f` between two groups of writes. It must be short, because writes wait for it, and must not call the
    /// store again. It blocks for the time of a commit, at most, if it reads rows: see [`View`].
    ///
    /// # Errors
    ///
    /// If `f` does, or if the store has stopped. A read that fails does not stop the store, unless it was the
    /// database that failed.
    pub fn read<T>(&self, f: impl FnOnce(&View<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let core = &*self.inner.core;
        if self.lock_writer().is_none() {
            return Err(closed());
        }
        let state = core.state.read().unwrap_or_else(PoisonError::into_inner);
        core.check()?;
        f(&View { state, core })
    }

    /// How many bytes of rows were committed since the store was opened.
    pub fn written(&self) -> u64 {
        self.inner.core.written.load(Ordering::Relaxed)
    }

    /// How many durable commits there were since the store was opened.
    pub fn commits(&self) -> u64 {
        self.inner.core.commits.load(Ordering::Relaxed)
    }

    /// How long those commits took.
    pub fn commit_latencies(&self) -> &LatencyHistogram {
        &self.inner.core.commit_latencies
    }

    /// How many writes are in the queue.
    pub fn queued(&self) -> usize {
        self.lock_writer().as_ref().map_or(0, |writer| writer.queue.max_capacity() - writer.queue.capacity())
    }

    /// Finishes the writes that wait, then closes the database. Every later call faults.
    pub async fn close(&self) {
        let Some(writer) = self.lock_writer().take() else { return };
        let core = self.inner.core.clone();
        let done = tokio::task::spawn_blocking(move || finish(&core, writer)).await;
        if let Err(error) = done {
            tracing::error!(%error, "closing the store failed");
        }
    }

    /// Waits until the store stops because something failed, and says what. Pending as long as all is well.
    pub fn poisoned(&self) -> impl Future<Output = Fault> + Send + 'static {
        let core = self.inner.core.clone();
        async move {
            let mut stopped = core.stopped.subscribe();
            match stopped.wait_for(Option::is_some).await.map(|fault| fault.clone()) {
                Ok(Some(fault)) => fault,
                // The sender lives in `core`, which we hold, and a fault is what was waited for.
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

/// Lets the writer thread finish what waits, and closes the database.
fn finish(core: &Core, Writer { queue, thread }: Writer) {
    drop(queue);
    if thread.thread().id() == thread::current().id() {
        // A write held the last handle. Its thread cannot wait for itself; it ends soon, and the database with it.
        return;
    }
    if thread.join().is_err() {
        core.poison(Fault::new("the store's thread has panicked"));
    }
    *core.disk.write().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Makes a closure into something that waits in the queue.
fn work<T: Send + 'static>(
    point: Point,
    f: impl FnOnce(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    sender: oneshot::Sender<Result<T, Fault>>,
) -> QueuedWrite {
    let run = Box::new(move |tx: &mut Tx<'_>| {
        let result = f(tx);
        let outcome = result.as_ref().map(|_| ()).map_err(Fault::clone);
        let answer: Answer = Box::new(move |durable| {
            // Nobody may be waiting any more.
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
