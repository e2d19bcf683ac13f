//! What an operator does to a data directory while no server runs on it.

use std::{io::Write, path::Path};

use super::{
    retention::{self, Lost},
    tasks::{self, TaskError},
};
use crate::{
    hpke::Suite,
    model::{
        Fault, Point, Task, TaskId, Time,
        overview::{KeyState, KeyStatus},
        status::TaskStatus,
    },
    store::{BackupError, BackupMade, BackupOptions, KeyRecord, OpenError, Options, Store},
};

/// A data directory, held for as long as this lives.
pub struct Offline {
    store: Store,
}

impl Offline {
    /// Opens a data directory. Fails if a server runs on it.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        Ok(Self { store: Store::open(dir, options)? })
    }

    /// All tasks.
    pub fn tasks(&self) -> Result<Vec<TaskStatus>, Fault> {
        self.store.read(|view| Ok(view.tasks().map(|(_, state)| tasks::status(state)).collect()))
    }

    /// One task.
    pub fn task(&self, id: &TaskId) -> Result<Option<TaskStatus>, Fault> {
        self.store.read(|view| Ok(view.task(id).map(tasks::status)))
    }

    /// The HPKE keys.
    pub fn keys(&self) -> Result<Vec<KeyStatus>, Fault> {
        let status = |record: &KeyRecord| KeyStatus {
            id: record.config.id,
            suite: Suite::of(&record.config).to_string(),
            state: KeyState::Active,
            created: record.created,
            until: None,
        };
        self.store.read(|view| Ok(view.keys().values().map(status).collect()))
    }

    /// Adds a task, as the running server would.
    pub async fn add_task(&self, task: Task) -> Result<Result<(), TaskError>, Fault> {
        if let Err(error) = tasks::check(&task) {
            return Ok(Err(error));
        }
        self.store.write(Point::TaskAdd, move |tx| tasks::add(tx, task)).await
    }

    /// Removes a task, as the running server would. False if there is no such task.
    pub async fn remove_task(&self, id: TaskId) -> Result<bool, Fault> {
        let was_there = self.store.write(Point::TaskRemove, move |tx| tasks::remove(tx, &id, Time::now())).await?;
        // A running server does this when there is time; here there may be none for long.
        while self.store.write(Point::SweepRemoved, |tx| tx.sweep_removed()).await? {}
        Ok(was_there)
    }

    /// Closes everything of a task before a time, as the running server would. Says where the horizon is now; `None` if
    /// there is no such task.
    pub async fn close_before(&self, id: TaskId, before: Time, lost: Lost) -> Result<Option<Time>, Fault> {
        self.store.write(Point::TaskClose, move |tx| retention::close_before(tx, &id, before, lost)).await
    }

    /// Writes a backup of everything.
    pub fn backup(&self, out: impl Write, options: BackupOptions) -> Result<BackupMade, BackupError> {
        self.store.backup(out, options)
    }

    /// Closes the data directory.
    pub async fn close(self) {
        self.store.close().await;
    }
}
