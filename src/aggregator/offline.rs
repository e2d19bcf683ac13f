//! Administration of a data directory while no server runs on it. Each operation matches one of the running server.

use std::{io::Write, path::Path};

use super::{
    api_tokens::{self, ApiTokenError},
    collecting::tasks::{self as collecting, CollectorTaskError},
    future_timestamps::future_timestamps,
    idle, keys, never_contacted, privacy,
    retention::{self, DataLoss},
    tasks::{self, TaskError, TaskListError},
    tokens::{self, TokenError},
    verify_keys::{self, VerifyKeysError},
};
use crate::views::{
    ApiTokenStatus,
    keys::{KeyChange, ListedKey},
    overview::FutureTimestamp,
    privacy::{PrivacyAccount, PrivacyChange},
    results::{CollectorTaskChange, CollectorTaskStatus},
    status::{NeverContactedRequest, RemovalOutcome, TaskStatus},
};
use dapbox_protocol::{
    model::{
        Task, TaskId, Time,
        tokens::{TokenChange, TokenStatus},
        verify_keys::{VerifyKeyChange, VerifyKeyStatus},
    },
    wire::Problem,
};
use dapbox_store as store;
use dapbox_store::{
    BackupError, BackupOptions, BackupSummary, CollectorRecord, OpenError, Options, Store, TaskState, Tx, WriteError,
    api_token::ApiToken, name::TaskName,
};
use dapbox_support::{Fault, Point, clock};

/// An open data directory.
pub struct Offline {
    store: Store,
}

impl Offline {
    /// Opens a data directory. Fails if a server runs on it, or if that server could not read the files we create.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        store::check_user(dir)?;
        Ok(Self { store: Store::open(dir, options)? })
    }

    /// All tasks.
    pub fn tasks(&self) -> Result<Vec<TaskStatus>, Fault> {
        self.store.read(|view| Ok(view.tasks().map(|(_, state)| tasks::status(state)).collect()))
    }

    /// The status of a task.
    pub fn task(&self, id: &TaskId) -> Result<Option<TaskStatus>, Fault> {
        self.store.read(|view| Ok(view.task(id).map(|state| tasks::status_with_collected(state, tasks::MAX_COLLECTED))))
    }

    /// Adds a task.
    pub async fn add_task(&self, task: Task) -> Result<(), WriteError<TaskError>> {
        tasks::check(&task).map_err(WriteError::Refused)?;
        self.store.try_write(Point::TaskAdd, move |tx| tasks::add(tx, task)).await
    }

    /// Adds several tasks with different ids, or none of them.
    pub async fn add_tasks(&self, tasks: Vec<Task>) -> Result<(), WriteError<TaskListError>> {
        tasks::check_all(&tasks).map_err(WriteError::Refused)?;
        self.store.try_write(Point::TaskAdd, move |tx| tasks::add_all(tx, tasks)).await
    }

    /// Sets or clears the name of a task. Returns false if the task does not exist.
    pub async fn rename_task(&self, id: TaskId, name: Option<TaskName>) -> Result<bool, Fault> {
        self.store.write(Point::TaskRename, move |tx| tasks::rename(tx, &id, name)).await
    }

    /// Changes the privacy budget of a task. Returns its account.
    pub async fn change_privacy(&self, change: PrivacyChange) -> Result<PrivacyAccount, WriteError<Problem>> {
        self.store.try_write(Point::TaskPrivacy, move |tx| privacy::change(tx, &change)).await
    }

    /// Removes a task. Returns `None` if the task does not exist.
    pub async fn remove_task(&self, id: TaskId) -> Result<Option<RemovalOutcome>, Fault> {
        let remove = move |tx: &mut Tx<'_>| tasks::remove_or_forget(tx, &id, clock::now(), || true);
        let remains = self.store.write(Point::TaskRemove, remove).await?;
        // A running server deletes rows in the background.
        while self.store.write(Point::SweepRemoved, |tx| tx.sweep_removed()).await? {}
        Ok(remains)
    }

    /// Lists or removes the tasks that others set up and that were never contacted.
    pub async fn never_contacted(&self, request: NeverContactedRequest) -> Result<Vec<TaskId>, Fault> {
        let (NeverContactedRequest { until, remove }, now) = (request, clock::now());
        if !remove {
            return self.store.read(|view| {
                let is_forgotten = |state: &TaskState| {
                    never_contacted::is_forgotten(state, until) || idle::is_forgotten(state, until, now)
                };
                let forgotten = view.tasks().filter(|(_, state)| is_forgotten(state));
                Ok(forgotten.map(|(id, _)| *id).collect())
            });
        }
        let write = move |tx: &mut Tx<'_>| {
            let mut removed = never_contacted::remove(tx, until, usize::MAX, now)?;
            removed.extend(idle::remove_forgotten(tx, until, usize::MAX, now)?);
            Ok(removed)
        };
        let removed = self.store.write(Point::TaskSweep, write).await?;
        while self.store.write(Point::SweepRemoved, |tx| tx.sweep_removed()).await? {}
        Ok(removed)
    }

    /// Closes everything of a task before a time. Returns the new horizon; `None` if the task does not exist.
    pub async fn close_before(&self, id: TaskId, before: Time, lost: DataLoss) -> Result<Option<Time>, Fault> {
        self.store.write(Point::TaskClose, move |tx| retention::close_before(tx, &id, before, lost)).await
    }

    /// The tasks that this directory collects.
    pub fn collector_tasks(&self, now: Time) -> Result<Vec<CollectorTaskStatus>, Fault> {
        self.store
            .read(|view| Ok(view.collectors().keys().filter_map(|id| collecting::status(view, id, now)).collect()))
    }

    /// Adds or changes a task to collect.
    pub async fn put_collector_task(
        &self,
        record: CollectorRecord,
    ) -> Result<CollectorTaskChange, WriteError<CollectorTaskError>> {
        collecting::check(&record).map_err(WriteError::Refused)?;
        self.store.try_write(Point::CollectorPut, move |tx| collecting::put(tx, record)).await
    }

    /// Removes a task to collect, with its results. Returns whether it existed.
    pub async fn remove_collector_task(&self, id: TaskId) -> Result<bool, Fault> {
        self.store.write(Point::CollectorRemove, move |tx| collecting::remove(tx, &id)).await
    }

    /// The valid tokens of a task; `None` if the task does not exist.
    pub fn tokens(&self, id: &TaskId) -> Result<Option<Vec<TokenStatus>>, Fault> {
        self.store.read(|view| Ok(view.task(id).map(|state| state.tokens.statuses(clock::now()))))
    }

    /// The verification keys of a task; `None` if the task does not exist.
    pub fn verify_keys(&self, id: &TaskId) -> Result<Option<Vec<VerifyKeyStatus>>, Fault> {
        self.store.read(|view| Ok(view.task(id).map(|state| state.verify_keys.statuses(clock::now()))))
    }

    /// Changes the verification keys of a task.
    pub async fn change_verify_keys(
        &self,
        change: VerifyKeyChange,
    ) -> Result<Vec<VerifyKeyStatus>, WriteError<VerifyKeysError>> {
        self.store.try_write(Point::VerifyKeyChange, move |tx| verify_keys::change(tx, change, clock::now())).await
    }

    /// Replaces a token of a task.
    pub async fn change_token(&self, change: TokenChange) -> Result<Vec<TokenStatus>, WriteError<TokenError>> {
        self.store.try_write(Point::TokenChange, move |tx| tokens::change(tx, change, clock::now())).await
    }

    /// All HPKE keys that are not deleted.
    pub fn keys(&self, now: Time, policy: &keys::Policy) -> Result<Vec<ListedKey>, Fault> {
        self.store.read(|view| Ok(keys::listed(view, now, policy)))
    }

    /// The stored timestamps ahead of the clock.
    pub fn future_timestamps(&self, now: Time) -> Result<Vec<FutureTimestamp>, Fault> {
        self.store.read(|view| Ok(future_timestamps(view, now)))
    }

    /// Changes HPKE keys.
    pub async fn change_keys(
        &self,
        policy: keys::Policy,
        request: keys::Request,
    ) -> Result<Vec<KeyChange>, WriteError<keys::KeyError>> {
        self.store.try_write(request.point(), move |tx| keys::change(tx, clock::now(), &policy, request)).await
    }

    /// All tokens of the management API.
    pub fn api_tokens(&self) -> Result<Vec<ApiTokenStatus>, Fault> {
        let status = |token: &ApiToken| ApiTokenStatus { token: token.clone(), last_used: None };
        self.store.read(|view| Ok(view.api_tokens().values().map(status).collect()))
    }

    /// Adds a token of the management API.
    pub async fn add_api_token(&self, token: ApiToken) -> Result<(), WriteError<ApiTokenError>> {
        self.store.try_write(Point::ApiTokenAdd, move |tx| api_tokens::add(tx, token, clock::now())).await
    }

    /// Revokes a token of the management API.
    pub async fn revoke_api_token(&self, name: String) -> Result<ApiToken, WriteError<ApiTokenError>> {
        self.store.try_write(Point::ApiTokenRevoke, move |tx| api_tokens::revoke(tx, &name)).await
    }

    /// Writes a backup.
    pub fn backup(&self, out: impl Write, options: BackupOptions) -> Result<BackupSummary, BackupError> {
        self.store.backup(out, options)
    }

    /// Closes the data directory.
    pub async fn close(self) {
        self.store.close().await;
    }
}
