//! Changes the verification keys of tasks.

use dapbox_protocol::{
    model::{
        AggregationJobId, Duration, TaskId, Time,
        verify_keys::{VerifyKeyAction, VerifyKeyChange, VerifyKeyError, VerifyKeyStatus},
    },
    vdaf, wire,
};
use dapbox_store::{TaskState, Tx, WriteError};
use dapbox_support::Fault;

/// How much later than the retirement of a key a leader may send jobs with it: its clock may differ, and it falls back to
/// the key while the helper does not have the next one. In seconds.
const MARGIN: u64 = 2 * 86_400;

/// Why the verification keys of a task are not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyKeysError {
    /// The task does not exist.
    #[error("the task does not exist; list tasks with 'dapbox task list'")]
    NoTask,
    /// The revision has one key for each task.
    #[error("a task of {0} keeps its verification key; create a new task instead")]
    OneKey(String),
    /// The key is derived.
    #[error("the verification key of an in-band task is derived from the secret of its peer; change that instead")]
    InBand,
    /// The key does not fit the VDAF.
    #[error("the verification key has {found} bytes, but the task's VDAF needs {needed}")]
    Length {
        /// Its length, in bytes.
        found: usize,
        /// The right length, in bytes.
        needed: usize,
    },
    /// The task's keys do not allow the change.
    #[error(transparent)]
    Keys(#[from] VerifyKeyError),
}

/// Changes the verification keys of a task. Returns all of them.
///
/// # Errors
///
/// Refuses a task that does not exist, has one key for its life or is in-band, and what
/// [`VerifyKeys::change`](dapbox_protocol::model::VerifyKeys::change) refuses.
pub fn change(
    tx: &mut Tx<'_>,
    change: VerifyKeyChange,
    now: Time,
) -> Result<Vec<VerifyKeyStatus>, WriteError<VerifyKeysError>> {
    let VerifyKeyChange { task: id, change } = change;
    let state = tx.task(&id).ok_or(WriteError::Refused(VerifyKeysError::NoTask))?;
    check(state, &change).map_err(WriteError::Refused)?;
    let mut keys = state.verify_keys.clone();
    keys.change(change, now).map_err(|error| WriteError::Refused(error.into()))?;
    let statuses = keys.statuses(now);
    tx.put_verify_keys(&id, keys)?;
    Ok(statuses)
}

fn check(state: &TaskState, change: &VerifyKeyAction) -> Result<(), VerifyKeysError> {
    let task = &state.task.public;
    let wire = wire::for_revision(task.revision);
    if wire.report_policy().unknown_key_aborts_job {
        return Err(VerifyKeysError::OneKey(wire.path_prefix().to_uppercase()));
    }
    if state.in_band.is_some() {
        return Err(VerifyKeysError::InBand);
    }
    let VerifyKeyAction::Add { key, .. } = change else { return Ok(()) };
    let found = key.expose().len();
    // The VDAF of a stored task is valid.
    let needed = vdaf::preparer_for_task(task).map_or(found, |preparer| preparer.verify_key_length());
    if found == needed { Ok(()) } else { Err(VerifyKeysError::Length { found, needed }) }
}

/// Uses an earlier key for the reports made until now, because the helper does not have the key of this job.
pub(super) fn fall_back(tx: &mut Tx<'_>, task: &TaskId, job: &AggregationJobId, now: Time) -> Result<(), Fault> {
    let Some(state) = tx.task(task) else { return Ok(()) };
    let Some(key) = state.leader_jobs.get(job).and_then(|job| job.verify_key_id) else { return Ok(()) };
    let mut keys = state.verify_keys.clone();
    if keys.fall_back(key, now) {
        tx.put_verify_keys(task, keys)?;
    }
    Ok(())
}

/// Deletes retired keys that no report can need any more: all reports from before their retirement are closed.
pub(super) fn sweep(tx: &mut Tx<'_>, task: &TaskId) -> Result<(), Fault> {
    let Some(state) = tx.task(task) else { return Ok(()) };
    let horizon = state.replay.horizon().unwrap_or(Time(0)).saturating_sub(Duration(MARGIN));
    let needed: Vec<u8> =
        state.leader_jobs.values().map(|job| job.verify_key_id.unwrap_or(state.task.verify_key_id)).collect();
    let mut keys = state.verify_keys.clone();
    if let Some(deleted) = keys.sweep(horizon, |id| needed.contains(&id)) {
        tx.put_verify_keys(task, keys)?;
        for key_id in deleted {
            tracing::info!(task_id = %task, key_id, "verification key deleted");
        }
    }
    Ok(())
}
