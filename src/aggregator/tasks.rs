//! Adding, removing and describing tasks.

use crate::{
    hpke,
    model::{Fault, Task, TaskId, Time, status::TaskStatus},
    store::{TaskState, Tx},
    vdaf,
};

/// Why a task is not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A parameter is out of range.
    #[error("the task's {0}")]
    Parameter(String),
    /// The id is in use for another task.
    #[error("a task with the same id and other parameters exists; tasks never change, make a new one")]
    Differs,
    /// The id was in use for a task that was removed.
    #[error("a task with the same id was removed; its id is never used again, make a new task")]
    Removed,
}

/// Checks a task's parameters, so that nothing later has to.
pub fn check(task: &Task) -> Result<(), TaskError> {
    let refuse = |what: &str| Err(TaskError::Parameter(what.to_owned()));
    let preparer =
        vdaf::preparer(task.revision, &task.vdaf).map_err(|why| TaskError::Parameter(format!("VDAF: {why}")))?;
    let (expected, given) = (preparer.verify_key_length(), task.verify_key.expose().len());
    if expected != given {
        return refuse(&format!("verification key has {given} bytes and must have {expected}"));
    }
    if task.min_batch_size == 0 {
        return refuse("minimum batch size must be at least 1");
    }
    if task.max_batch_size().is_some_and(|max| max < task.min_batch_size) {
        return refuse("maximum batch size must not be below the minimum");
    }
    if task.max_batch_query_count == 0 {
        return refuse("maximum batch query count must be at least 1");
    }
    if task.time_precision.0 == 0 {
        return refuse("time precision must be at least a second");
    }
    if !hpke::is_supported(&task.collector_hpke_config) {
        return refuse(
            "collector HPKE configuration names an algorithm that is not supported, or its key is malformed",
        );
    }
    for (name, url) in [("leader", &task.leader_url), ("helper", &task.helper_url)] {
        if !url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return refuse(&format!("{name} URL must be an http or https URL"));
        }
    }
    Ok(())
}

/// Adds a checked task. The same task again is fine.
pub fn add(tx: &mut Tx<'_>, task: Task) -> Result<Result<(), TaskError>, Fault> {
    if tx.is_removed(&task.id) {
        return Ok(Err(TaskError::Removed));
    }
    match tx.task(&task.id) {
        Some(state) if *state.task == task => Ok(Ok(())),
        Some(_) => Ok(Err(TaskError::Differs)),
        None => tx.add_task(task).map(Ok),
    }
}

/// Removes a task and all that is known of it but that it existed. False if there is no such task.
pub fn remove(tx: &mut Tx<'_>, id: &TaskId, now: Time) -> Result<bool, Fault> {
    if tx.task(id).is_none() {
        return Ok(false);
    }
    tx.remove_task(id, now)?;
    Ok(true)
}

/// Describes a task and how far it is.
pub fn status(state: &TaskState) -> TaskStatus {
    let task = &state.task;
    let open = state.buckets.iter().filter(|(bucket, _)| !state.collected.covers(bucket));
    TaskStatus {
        id: task.id,
        revision: task.revision,
        role: task.role(),
        leader_url: task.leader_url.clone(),
        helper_url: task.helper_url.clone(),
        vdaf: task.vdaf.clone(),
        batch_mode: task.batch_mode,
        min_batch_size: task.min_batch_size,
        time_precision: task.time_precision,
        task_expiration: task.task_expiration,
        counters: state.counters.clone(),
        waiting: state.waiting.len() as u64,
        jobs: state.leader_jobs.len() as u64,
        aggregated: open.map(|(_, record)| record.count).sum(),
        batches_collected: state.collected.len() as u64,
        collections_waiting: state.collections.len() as u64,
        last_trouble: None,
    }
}
