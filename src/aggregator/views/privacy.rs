//! The account of a task's noise.

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{Epsilon, TaskId};

/// What the collected batches of a task with noise have spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivacyAccount {
    /// The epsilon of each batch.
    pub epsilon: Epsilon,
    /// The number of collected batches.
    pub batches: u64,
    /// The sum of the epsilons of all batches (basic composition); `None` of no batch.
    pub spent: Option<Epsilon>,
    /// The largest sum that is allowed; `None` for no limit.
    pub budget: Option<Epsilon>,
    /// The number of further batches within the budget.
    pub batches_left: Option<u64>,
    /// Whether more batches may have been collected: the aggregator was restored from a backup.
    pub is_uncertain: bool,
}

/// A change of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivacyChange {
    /// The task.
    pub task: TaskId,
    /// What happens to the budget.
    pub budget: BudgetChange,
    /// The number of batches that were ever collected, if the operator states it.
    pub batches: Option<u64>,
}

/// What happens to a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetChange {
    /// It stays as it is.
    Keep,
    /// It is removed: no limit.
    Remove,
    /// It is replaced.
    Set(Epsilon),
}
