//! The view of one read.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLockReadGuard},
};

use super::{
    records::{CollectedBatch, CollectionJobRecord, HelperJobRecord, KeyRecord, ReportRef},
    rows::{self, Rows},
    state::{State, TaskState},
    table,
    writer::Core,
};
use crate::model::{AggregationJobId, BatchSelector, CollectionJobId, Fault, Report, TaskId};

/// What a read sees: everything as it is between two groups of writes.
///
/// Memory runs ahead of the disk: what it shows may still be on its way there. Whoever reads a row waits until
/// what memory shows is durable, a few milliseconds at most, so rows and memory always agree. Whoever gives out
/// what memory alone shows, and would be wrong if a crash undid it, calls [`View::settle`].
pub struct View<'a> {
    pub(super) state: RwLockReadGuard<'a, State>,
    pub(super) core: &'a Core,
}

impl View<'_> {
    /// Everything that is held in memory.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A task, or `None` if there is none with this id (any more).
    pub fn task(&self, id: &TaskId) -> Option<&TaskState> {
        self.state.tasks.get(id)
    }

    /// All tasks, by id.
    pub fn tasks(&self) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.state.tasks.iter()
    }

    /// All HPKE keys, by configuration id.
    pub fn keys(&self) -> &BTreeMap<u8, KeyRecord> {
        &self.state.keys
    }

    /// Whether a task with this id was removed.
    pub fn is_removed(&self, id: &TaskId) -> bool {
        self.state.removed.contains_key(id)
    }

    /// Waits until everything that this view shows is durable.
    pub fn settle(&self) -> Result<(), Fault> {
        drop(self.core.disk.read().unwrap_or_else(PoisonError::into_inner));
        self.core.check()
    }

    /// The reports at these places, in the same order. A fault if one is not there.
    pub fn load_reports(&self, task: &TaskId, places: &[ReportRef]) -> Result<Vec<Report>, Fault> {
        rows::load_reports(self, task, places)
    }

    /// What is kept of a collected batch.
    pub fn collected(&self, task: &TaskId, batch: &BatchSelector) -> Result<Option<CollectedBatch>, Fault> {
        rows::load(self, &table::COLLECTED, &(*task, *batch))
    }

    /// A collection job in whatever state.
    pub fn collection(&self, task: &TaskId, job: &CollectionJobId) -> Result<Option<CollectionJobRecord>, Fault> {
        rows::load(self, &table::COLLECTIONS, &(*task, *job))
    }

    /// A job that we answered as the helper.
    pub fn helper_job(&self, task: &TaskId, job: &AggregationJobId) -> Result<Option<HelperJobRecord>, Fault> {
        rows::load(self, &table::HELPER_JOBS, &(*task, *job))
    }
}

impl Rows for View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let disk = self.core.disk.read().unwrap_or_else(PoisonError::into_inner);
        self.core.check()?;
        let disk = disk.as_ref().ok_or_else(super::closed)?;
        disk.engine.get(key).map_err(|error| self.core.poison(error.into()))
    }

    fn appended(&self, _: &TaskId, _: &ReportRef) -> Option<Report> {
        None
    }

    fn is_alive(&self, task: &TaskId, at: &ReportRef) -> bool {
        self.task(task).is_some_and(|task| task.waiting.is_alive(at))
    }
}
