//! The last failures of collector tasks, in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use dapbox_protocol::model::TaskId;

/// The last failures of collector tasks. A success clears them.
#[derive(Default)]
pub struct ResultsStatus {
    errors: Mutex<HashMap<TaskId, String>>,
    /// Windows to request without further delay; `None` for all of the task.
    requested: Mutex<Vec<(TaskId, Option<u64>)>>,
}

impl ResultsStatus {
    /// The last failure of a request to the leader of a task, until a request succeeds.
    pub fn error(&self, task: &TaskId) -> Option<String> {
        self.lock().get(task).cloned()
    }

    /// Records a failure. Returns whether it differs from the last one.
    pub fn set_error(&self, task: TaskId, error: String) -> bool {
        self.lock().insert(task, error.clone()).is_none_or(|last| last != error)
    }

    /// Clears the failure of a task. Returns whether there was one.
    pub fn clear(&self, task: &TaskId) -> bool {
        self.lock().remove(task).is_some()
    }

    /// Makes the driver request a window of a task without further delay, or all of them. The caller wakes the driver.
    pub fn request_now(&self, task: TaskId, window: Option<u64>) {
        self.requested.lock().unwrap_or_else(PoisonError::into_inner).push((task, window));
    }

    /// Takes the windows to request without further delay.
    pub fn take_requested(&self) -> Vec<(TaskId, Option<u64>)> {
        std::mem::take(&mut *self.requested.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, String>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
