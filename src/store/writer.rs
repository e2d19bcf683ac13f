//! The state shared by the writer thread and the handles of a store, and the commit of a group.

use std::{
    collections::VecDeque,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use tokio::sync::{mpsc, watch};

use super::{backup::ChangeTracker, engine::Engine, group::Group, state::State, tx::Tx};
use crate::latency::LatencyHistogram;
use dapbox_support::{Act, Failpoints, Fault, Phase, Point, fault::panic_text};

/// A queued write.
pub(super) struct QueuedWrite {
    pub(super) point: Point,
    pub(super) run: Box<Run>,
}

/// Runs a write. Returns whether the group can continue, and how to answer the write.
type Run = dyn FnOnce(&mut Tx<'_>) -> (Result<(), Fault>, Answer) + Send;
/// Answers a write: with its own result if the group is durable, else with the fault.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// The state in memory and the database.
///
/// Locks are taken in the order of the fields. The writer holds `state` while a group runs, acquires `disk` before it
/// releases `state`, and holds `disk` until the group is durable. A read that holds `state` and then acquires `disk`
/// therefore finds on disk exactly what it sees in memory.
pub(super) struct Core {
    pub(super) state: RwLock<State>,
    /// `None` after the store is closed.
    pub(super) disk: RwLock<Option<Disk>>,
    /// The fault that stopped the store.
    pub(super) stopped: watch::Sender<Option<Fault>>,
    pub(super) commits: AtomicU64,
    /// The durations of the commits.
    pub(super) commit_latencies: LatencyHistogram,
    pub(super) failpoints: Failpoints,
    /// The number of bytes committed.
    pub(super) written: AtomicU64,
    /// Tracks the rows committed during a backup.
    pub(super) changes: ChangeTracker,
}

/// The database and its lock, released in this order when the store closes.
pub(super) struct Disk {
    pub(super) engine: Engine,
    /// Excludes other processes.
    pub(super) _lock: File,
}

impl Core {
    /// Runs queued writes group by group until all senders are gone or the store has stopped.
    pub(super) fn run(&self, mut queue: mpsc::Receiver<QueuedWrite>, group: usize) {
        let mut works = VecDeque::new();
        while let Some(first) = works.pop_front().or_else(|| queue.blocking_recv()) {
            works.push_front(first);
            while works.len() < group
                && let Ok(work) = queue.try_recv()
            {
                works.push_back(work);
            }
            if self.run_group(&mut works).is_err() {
                // The dropped senders of queued writes make their callers ask for the fault.
                return;
            }
        }
    }

    /// Runs writes, commits them together and answers them. Writes that exceed the group stay queued.
    fn run_group(&self, works: &mut VecDeque<QueuedWrite>) -> Result<(), Fault> {
        let mut answers = Vec::with_capacity(works.len());
        let done = catch_unwind(AssertUnwindSafe(|| self.commit(works, &mut answers)));
        let done = done.unwrap_or_else(|panic| Err(Fault::while_doing("a write panicked", panic_text(&*panic))));
        // Stop before answering: a caller that gets a fault must find the store stopped.
        let done = done.map_err(|fault| self.poison(fault));
        answers.into_iter().for_each(|answer| answer(done.clone()));
        done
    }

    fn commit(&self, works: &mut VecDeque<QueuedWrite>, answers: &mut Vec<Answer>) -> Result<(), Fault> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        let mut points = Vec::with_capacity(works.len());
        let rows = {
            let disk = self.disk.read().unwrap_or_else(PoisonError::into_inner);
            let engine = &disk.as_ref().ok_or_else(super::closed)?.engine;
            let mut group = Group::default();
            while !group.is_large()
                && let Some(work) = works.pop_front()
            {
                points.push(work.point);
                let (outcome, answer) = (work.run)(&mut Tx { state: &mut state, group: &mut group, engine });
                answers.push(answer);
                outcome?;
            }
            group.finish(&mut state)?
        };
        if rows.is_empty() {
            drop(state);
            self.hit_failpoints(&points, Phase::Before)?;
            return self.hit_failpoints(&points, Phase::After);
        }
        let disk = self.disk.write().unwrap_or_else(PoisonError::into_inner);
        drop(state);
        self.hit_failpoints(&points, Phase::Before)?;
        self.changes.record(&rows);
        // Stop before a read can see rows that may not be durable.
        let begin = Instant::now();
        let committed = disk.as_ref().ok_or_else(super::closed)?.engine.commit(&rows);
        self.commit_latencies.observe(begin.elapsed());
        committed.map_err(|error| self.poison(error.into()))?;
        drop(disk);
        self.commits.fetch_add(1, Ordering::Relaxed);
        let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.hit_failpoints(&points, Phase::After)
    }

    /// Runs the failure points of a group's writes, before or after its commit.
    fn hit_failpoints(&self, points: &[Point], phase: Phase) -> Result<(), Fault> {
        points.iter().try_for_each(|point| match self.failpoints.at(*point, phase) {
            Act::Go => Ok(()),
            Act::Fail => Err(Fault::new(format!("injected failure at {point:?}, {phase:?}"))),
            Act::Wait(delay) => {
                thread::sleep(delay);
                Ok(())
            }
            Act::Panic => panic!("injected panic at {point:?}, {phase:?}"),
        })
    }

    /// Returns the fault if the store has stopped.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match &*self.stopped.borrow() {
            Some(fault) => Err(fault.clone()),
            None => Ok(()),
        }
    }

    /// Stops the store permanently and returns the fault.
    pub(super) fn poison(&self, fault: Fault) -> Fault {
        let is_first = self.stopped.send_if_modified(|stopped| {
            let is_first = stopped.is_none();
            stopped.get_or_insert_with(|| fault.clone());
            is_first
        });
        if is_first {
            tracing::error!(error = %fault, "store stopped");
        }
        fault
    }
}
