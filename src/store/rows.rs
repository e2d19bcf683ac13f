//! Reading rows, which writes and reads do alike.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    records::{PackRecord, ReportRef},
    table::{self, Key, Table},
};
use crate::model::{Fault, Report, TaskId};

/// Where rows are read from: the disk alone, or the disk below the changes of a group of writes.
pub(super) trait Rows {
    /// The value of a row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault>;
    /// A report that is not in a row yet.
    fn appended(&self, task: &TaskId, at: &ReportRef) -> Option<Report>;
    /// Whether there is a report at this place, and not a buried one.
    fn is_alive(&self, task: &TaskId, at: &ReportRef) -> bool;
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

/// Reads the reports at these places. Each pack is read once, if the places are in order.
pub(super) fn load_reports(rows: &impl Rows, task: &TaskId, places: &[ReportRef]) -> Result<Vec<Report>, Fault> {
    let missing = |at: &ReportRef| Fault::new(format!("report {at:?} of task {task} is not there"));
    let mut current: Option<(u64, PackRecord)> = None;
    let mut reports = Vec::with_capacity(places.len());
    for at in places {
        if !rows.is_alive(task, at) {
            return Err(missing(at));
        }
        if let Some(report) = rows.appended(task, at) {
            reports.push(report);
            continue;
        }
        let pack = match current.take() {
            Some((number, pack)) if number == at.pack => pack,
            _ => load(rows, &table::PACKS, &(*task, at.pack))?.ok_or_else(|| missing(at))?,
        };
        let report = pack.get(at.slot as usize).ok_or_else(|| missing(at))?;
        reports.push(report.clone().into());
        current = Some((at.pack, pack));
    }
    Ok(reports)
}
