//! Reads rows for writes and reads.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    records::{HelperJobRecord, HelperJobRow, HelperJobRowState, HelperJobState},
    replay,
    table::{self, Key, Table},
};
use dapbox_protocol::model::{AggregationJobId, TaskId};
use dapbox_support::Fault;

/// A source of rows: the disk, or the disk below the changes of a group.
pub(super) trait Rows {
    /// Reads the value of a row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault>;

    /// Whether the task exists. Remaining rows of a removed task do not count.
    fn has_task(&self, task: &TaskId) -> bool;
}

/// Reads a row of a task.
pub(super) fn load_of<K: Key, V: Serialize + DeserializeOwned>(
    rows: &impl Rows,
    task: &TaskId,
    table: &Table<K, V>,
    key: &K,
) -> Result<Option<V>, Fault> {
    if rows.has_task(task) { load(rows, table, key) } else { Ok(None) }
}

/// Reads a row.
pub(super) fn load<K: Key, V: Serialize + DeserializeOwned>(
    rows: &impl Rows,
    table: &Table<K, V>,
    key: &K,
) -> Result<Option<V>, Fault> {
    match rows.get(&table.key(key))? {
        Some(value) => Ok(Some(table.read(&value)?)),
        None => Ok(None),
    }
}

/// Reads an aggregation job of the helper with its answer.
pub(super) fn helper_job(
    rows: &impl Rows,
    task: &TaskId,
    job: &AggregationJobId,
) -> Result<Option<HelperJobRecord>, Fault> {
    let Some(row) = load_of(rows, task, &table::HELPER_JOBS, &(*task, *job))? else { return Ok(None) };
    let HelperJobRow { request_hash, created, state } = row;
    let state = match state {
        HelperJobRowState::Pending => HelperJobState::Pending,
        HelperJobRowState::Deleted => HelperJobState::Deleted,
        HelperJobRowState::AnsweredInline(answer) => HelperJobState::Answered(answer),
        HelperJobRowState::Answered => {
            let answer = load(rows, &table::ANSWERS, &(*task, replay::day(created), *job))?;
            answer.map_or(HelperJobState::Expired, HelperJobState::Answered)
        }
    };
    Ok(Some(HelperJobRecord { request_hash, created, state }))
}
