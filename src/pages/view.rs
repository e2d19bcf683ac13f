//! What pages and files show of a task.

use std::collections::BTreeMap;

use dapbox_protocol::{
    model::{TaskId, TaskParameters, Time},
    vdaf::AggregateResult,
};
use dapbox_results::{CollectorSettings, Window};

/// A task of a collector with the results of some of its windows.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// The task.
    pub id: TaskId,
    /// The operator's name of the task.
    pub name: Option<String>,
    /// The public parameters.
    pub parameters: TaskParameters,
    /// Schedule and presentation.
    pub settings: CollectorSettings,
    /// All windows, in order of time.
    pub windows: Vec<Window>,
    /// The results of the collected windows that the caller selected, by number.
    pub results: BTreeMap<u64, AggregateResult>,
    /// The current time.
    pub now: Time,
}

/// Where the parts of a task's results are, as absolute paths on the same host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The overview of all tasks; `None` for the holder of a link.
    pub overview: Option<String>,
    /// The page of the task. Files have the same path with `.csv`, `.ndjson` or `.json`.
    pub task: String,
}

impl TaskView {
    /// The title to show.
    pub fn title(&self) -> String {
        let named = self.settings.presentation.title.clone().or_else(|| self.name.clone());
        named.unwrap_or_else(|| format!("Task {}", self.id))
    }
}
