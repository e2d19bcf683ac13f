//! Compaction: rebuilds a database and merges the rows of aggregated report ids. The store writes one such row per
//! group commit; after compaction they have the best length.

use std::path::Path;

use super::{
    engine::{Engine, Row},
    open,
    open_error::OpenError,
    rebuild::{ProgressFn, rebuild},
    swap::{self, OldDatabase},
    table::{self, RowError},
};

/// The maximum length of a merged row, in bytes.
pub(super) const JOINED_BYTES: usize = 64_000;

/// The result of a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionResult {
    /// The size of the files before, in bytes.
    pub bytes_before: u64,
    /// The size of the files after, in bytes.
    pub bytes_after: u64,
    /// The number of rows.
    pub rows: u64,
    /// The total length of keys and values, in bytes.
    pub row_bytes: u64,
}

/// Rebuilds the database of a data directory in its smallest form. Fails if a server runs on the directory.
pub fn compact(dir: &Path, cache_bytes: u64, progress: ProgressFn<'_>) -> Result<CompactionResult, OpenError> {
    let _lock = open::claim_existing(dir)?;
    let tables = dir.join(swap::TABLES);
    let bytes_before = size(&tables)?;
    let from = Engine::open(&tables, cache_bytes)?;
    if from.get(&table::SEQUENCES.key(&table::NEXT_PACK))?.is_none() {
        return Err(OpenError::Damaged("the database has lost all rows".into()));
    }
    let mut joiner = ReplayRowMerger::default();
    let map = |row: Option<Row>, out: &mut Vec<Row>| joiner.map(row, out);
    let totals = rebuild::<OpenError>(dir, cache_bytes, from, OldDatabase::Delete, map, progress)?;
    Ok(CompactionResult { bytes_before, bytes_after: size(&tables)?, rows: totals.rows, row_bytes: totals.bytes })
}

/// The size of all files of a database, in bytes.
fn size(tables: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(tables)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// Merges neighbouring id rows of one task and day. Independent of the length of the ids.
#[derive(Default)]
struct ReplayRowMerger {
    /// The key and the ids of the row under construction.
    filling: Option<(Vec<u8>, Vec<u8>)>,
}

impl ReplayRowMerger {
    fn map(&mut self, row: Option<Row>, out: &mut Vec<Row>) -> Result<(), OpenError> {
        let Some((key, value)) = row else { return self.flush(out) };
        if key.first() != Some(&table::REPLAY.prefix) {
            self.flush(out)?;
            out.push((key, value));
            return Ok(());
        }
        let read = |error: RowError| OpenError::Damaged(error.to_string());
        let (task, day, _) = table::REPLAY.read_key(&key).map_err(read)?;
        let ids = table::REPLAY.read(&value).map_err(read)?;
        let is_neighbour = |(other, joined): &(Vec<u8>, Vec<u8>)| {
            let other = table::REPLAY.read_key(other);
            other.is_ok_and(|other| (other.0, other.1) == (task, day)) && joined.len() + ids.len() <= JOINED_BYTES
        };
        match self.filling.as_mut().filter(|filling| is_neighbour(filling)) {
            Some((_, joined)) => joined.extend_from_slice(&ids),
            None => {
                self.flush(out)?;
                self.filling = Some((key, ids.into_vec()));
            }
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<Row>) -> Result<(), OpenError> {
        if let Some((key, ids)) = self.filling.take() {
            let value = table::REPLAY.value(&serde_bytes::ByteBuf::from(ids));
            out.push((key, value.map_err(|fault| OpenError::Damaged(fault.to_string()))?));
        }
        Ok(())
    }
}
