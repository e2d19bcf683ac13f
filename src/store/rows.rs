//! Reading rows, which writes and reads do alike.

use serde::{Serialize, de::DeserializeOwned};

use super::table::{Key, Table};
use crate::model::Fault;

/// Where rows are read from: the disk alone, or the disk below the changes of a group of writes.
pub(super) trait Rows {
    /// The value of a row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault>;
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
