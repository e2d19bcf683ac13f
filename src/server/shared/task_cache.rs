//! What a server keeps in memory about each task.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dapbox_aggregator::{TaskContext, never_contacted};
use dapbox_protocol::model::{TaskId, Time, TokenHash};
use dapbox_store::{Store, TaskState, View};
use dapbox_support::Fault;

use crate::shared::taskprov_peers::TaskprovPeers;

/// Keeps state of tasks that must be dropped when a task is removed.
pub trait ForgetTask: Send + Sync {
    /// Drops the state of a removed task.
    fn forget(&self, id: &TaskId);
}

/// The tasks in memory, with state that is lost at a restart.
pub struct TaskCache {
    store: Store,
    peers: Arc<TaskprovPeers>,
    contexts: Mutex<HashMap<TaskId, Arc<TaskContext>>>,
    errors: Mutex<HashMap<TaskId, String>>,
    job_caps: Mutex<HashMap<TaskId, usize>>,
    token_uses: Mutex<HashMap<(TaskId, TokenHash), Time>>,
    dependents: Vec<Arc<dyn ForgetTask>>,
}

impl TaskCache {
    /// Creates an empty cache. `dependents` forget a task together with it.
    pub fn new(store: Store, peers: Arc<TaskprovPeers>, dependents: Vec<Arc<dyn ForgetTask>>) -> Self {
        let (contexts, errors) = (Mutex::default(), Mutex::default());
        let (job_caps, token_uses) = (Mutex::default(), Mutex::default());
        Self { store, peers, contexts, errors, job_caps, token_uses, dependents }
    }

    /// The task with the given id, if it exists.
    pub fn get(&self, id: &TaskId) -> Result<Option<Arc<TaskContext>>, Fault> {
        if let Some(context) = lock(&self.contexts).get(id) {
            return Ok(Some(context.clone()));
        }
        let stored = |view: &View<'_>| {
            let of = |state: &TaskState| {
                let tokens = self.peers.tokens(view, state);
                let keys = state.verify_keys.clone();
                (state.task.clone(), (tokens, keys), never_contacted::is_unused(state), state.in_band.clone())
            };
            Ok(view.task(id).map(of))
        };
        let Some((task, (tokens, keys), is_never_contacted, in_band)) = self.store.read(stored)? else {
            return Ok(None);
        };
        let context =
            TaskContext::new(task).map_err(|error| Fault::while_doing("creating the VDAF of a stored task", error))?;
        let context = context.with_tokens(tokens).with_verify_keys(keys).with_never_contacted(is_never_contacted);
        let context = Arc::new(match in_band {
            Some(in_band) => context.with_advertisement(&in_band.bytes),
            None => context,
        });
        lock(&self.contexts).insert(*id, context.clone());
        // The task may have been removed, or its secrets changed, between the read and the insertion.
        let is_current = |view: &View<'_>| {
            let is_same = |state: &TaskState| {
                self.peers.tokens(view, state) == context.tokens && state.verify_keys == context.verify_keys
            };
            Ok(view.task(id).map(is_same))
        };
        match self.store.read(is_current)? {
            Some(true) => Ok(Some(context)),
            Some(false) => {
                self.invalidate(id);
                self.get(id)
            }
            None => {
                self.forget(id);
                Ok(None)
            }
        }
    }

    /// Reads the task from the store at the next access, because its secrets have changed.
    pub fn invalidate(&self, id: &TaskId) {
        lock(&self.contexts).remove(id);
    }

    /// Reads in-band tasks from the store at the next access, because the tokens of peers may have changed.
    pub fn invalidate_in_band(&self) {
        lock(&self.contexts).retain(|_, context| context.advertisement.is_none());
    }

    /// Drops all state of a removed task.
    pub fn forget(&self, id: &TaskId) {
        lock(&self.contexts).remove(id);
        lock(&self.errors).remove(id);
        lock(&self.job_caps).remove(id);
        lock(&self.token_uses).retain(|(task, _), _| task != id);
        self.dependents.iter().for_each(|dependent| dependent.forget(id));
    }

    /// Maximum number of reports in one job that the helper of a task is known to accept.
    pub fn job_cap(&self, id: &TaskId) -> usize {
        lock(&self.job_caps).get(id).copied().unwrap_or(usize::MAX)
    }

    /// Halves the maximum number of reports in a job after the helper refused a job of `refused` reports as too large.
    ///
    /// The limit is not stored: the helper's operator may raise it.
    pub fn lower_job_cap(&self, id: &TaskId, refused: usize) {
        let mut caps = lock(&self.job_caps);
        let cap = caps.entry(*id).or_insert(usize::MAX);
        *cap = (refused / 2).clamp(1, *cap);
    }

    /// Records that a token was presented during a rotation, so that the operator sees when the old one is unused.
    pub fn record_token_use(&self, id: &TaskId, hash: TokenHash, now: Time) {
        lock(&self.token_uses).insert((*id, hash), now);
    }

    /// When a token was last presented during a rotation.
    pub fn token_use(&self, id: &TaskId, hash: TokenHash) -> Option<Time> {
        lock(&self.token_uses).get(&(*id, hash)).copied()
    }

    /// Sets or clears the error that the operator sees for a task.
    pub fn set_error(&self, id: &TaskId, error: Option<String>) {
        match error {
            Some(error) => lock(&self.errors).insert(*id, error),
            None => lock(&self.errors).remove(id),
        };
    }

    /// The current error of a task.
    pub fn error(&self, id: &TaskId) -> Option<String> {
        lock(&self.errors).get(id).cloned()
    }
}

/// Locks a map. A panic elsewhere cannot leave a map half changed, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
