//! Verifies a backup and describes its content.

use std::{collections::BTreeMap, io::Read};

use serde::{Serialize, de::DeserializeOwned};

use super::format::{FormatError, Header, Reader, Record};
use crate::{
    open,
    table::{self, EncryptedTable, Key, RowError, Table},
    vault::Vault,
};
use dapbox_protocol::model::{Revision, Role, TaskId, Time};

/// The length of a recorded id, in bytes.
const ID_BYTES: u64 = 8;
/// The number of records between two progress reports.
const RECORDS_PER_TICK: u64 = 256;

/// Why a backup is invalid.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Its bytes are invalid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Its layout is unknown.
    #[error("the backup has an unknown layout ({0}); restore it with the release that made it or a newer one")]
    OtherLayout(u32),
    /// It contains an invalid row.
    #[error("the backup contains {0}; use the release that made it, a newer one, or another backup")]
    Row(String),
}

impl From<RowError> for VerifyError {
    fn from(error: RowError) -> Self {
        Self::Row(error.to_string())
    }
}

/// The content of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupContents {
    /// When the backup started.
    pub begun: Time,
    /// The moment of the snapshot.
    pub moment: Time,
    /// The version of the program.
    pub program: String,
    /// The layout version of the data directory.
    pub layout: u32,
    /// Whether it includes the encryption key.
    pub has_key: bool,
    /// The length, in bytes.
    pub bytes: u64,
    /// The number of records.
    pub records: u64,
    /// The number of HPKE keys.
    pub hpke_keys: u64,
    /// The number of removed tasks.
    pub removed_tasks: u64,
    /// The tasks of the aggregator.
    pub tasks: Vec<TaskContents>,
    /// The tasks that the server collects.
    pub collector_tasks: Vec<CollectorContents>,
}

/// The content of a backup for one task that the server collects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CollectorContents {
    /// The task's id.
    pub id: TaskId,
    /// Stored windows. The server derives the upcoming ones from the schedule.
    pub windows: u64,
    /// Results, including those that could not be opened.
    pub results: u64,
}

/// The content of a backup for one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskContents {
    /// The task's id.
    pub id: TaskId,
    /// The protocol revision, if the backup includes the encryption key.
    pub revision: Option<Revision>,
    /// Our role, if the backup includes the encryption key.
    pub role: Option<Role>,
    /// Reports that wait or are in running jobs (leader).
    pub waiting: u64,
    /// Reports in sums, including collected ones.
    pub aggregated: u64,
    /// Recorded ids of aggregated reports.
    pub remembered: u64,
    /// Collected batches.
    pub batches_collected: u64,
}

/// Verifies a backup and returns its content. `read` receives the number of bytes read so far.
pub fn verify(input: impl Read, mut read: impl FnMut(u64)) -> Result<BackupContents, VerifyError> {
    let mut reader = Reader::new(input)?;
    check_header(reader.header())?;
    let vault =
        reader.header().key.as_ref().map(Vault::new).transpose().map_err(|why| VerifyError::Row(why.to_string()))?;
    let mut tally = Tally { vault, ..Tally::default() };
    while let Some(record) = reader.next()? {
        match &record {
            Record::Row(key, value) | Record::Changed(key, value) => {
                check_row(key, value)?;
                tally.put(key, value)?;
            }
            Record::Gone(key) => tally.remove(key),
        }
        if reader.progress().0.is_multiple_of(RECORDS_PER_TICK) {
            read(reader.progress().1);
        }
    }
    let (records, bytes) = reader.progress();
    let Header { begun, program, layout, key } = reader.header().clone();
    let moment = reader.moment().unwrap_or(begun);
    Ok(BackupContents {
        begun,
        moment,
        program,
        layout,
        has_key: key.is_some(),
        bytes,
        records,
        hpke_keys: tally.rows_of(table::KEYS.0.prefix),
        removed_tasks: tally.rows_of(table::REMOVED.prefix),
        tasks: tally.tasks(),
        collector_tasks: tally.collector_tasks(),
    })
}

/// Rejects a backup of another layout.
pub(super) fn check_header(header: &Header) -> Result<(), VerifyError> {
    if header.layout == open::LAYOUT { Ok(()) } else { Err(VerifyError::OtherLayout(header.layout)) }
}

/// Checks that a row belongs to a known table and version.
pub(super) fn check_row(key: &[u8], value: &[u8]) -> Result<(), VerifyError> {
    let prefix = key.first().copied().unwrap_or_default();
    let Some((_, check)) = TABLES.iter().find(|(of, _)| *of == prefix) else {
        return Err(VerifyError::Row(format!("a row of an unknown table ({prefix})")));
    };
    Ok(check(key, value)?)
}

type Check = fn(&[u8], &[u8]) -> Result<(), RowError>;

/// The checks of the tables.
const TABLES: [(u8, Check); 36] = [
    (table::SEQUENCES.prefix, |key, value| decodes(&table::SEQUENCES, key, value)),
    (table::TASKS.0.prefix, |key, value| check_encrypted(&table::TASKS, key, value)),
    (table::REMOVED.prefix, |key, value| decodes(&table::REMOVED, key, value)),
    (table::KEYS.0.prefix, |key, value| check_encrypted(&table::KEYS, key, value)),
    (table::SECRETS.0.prefix, |key, value| check_encrypted(&table::SECRETS, key, value)),
    (table::COUNTERS.prefix, |key, value| decodes(&table::COUNTERS, key, value)),
    (table::REPLAY.prefix, |key, value| decodes(&table::REPLAY, key, value)),
    (table::HORIZONS.prefix, |key, value| decodes(&table::HORIZONS, key, value)),
    (table::PACKS.prefix, |key, value| decodes(&table::PACKS, key, value)),
    (table::DEAD.prefix, |key, value| decodes(&table::DEAD, key, value)),
    (table::BUCKETS.prefix, |key, value| decodes(&table::BUCKETS, key, value)),
    (table::COLLECTED.prefix, |key, value| decodes(&table::COLLECTED, key, value)),
    (table::LEADER_JOBS.prefix, |key, value| decodes(&table::LEADER_JOBS, key, value)),
    (table::HELPER_JOBS.prefix, |key, value| decodes(&table::HELPER_JOBS, key, value)),
    (table::COLLECTIONS.prefix, |key, value| decodes(&table::COLLECTIONS, key, value)),
    (table::NAMES.prefix, |key, value| decodes(&table::NAMES, key, value)),
    (table::HELPER_REQUESTS.prefix, |key, value| decodes(&table::HELPER_REQUESTS, key, value)),
    (table::GENERATIONS.prefix, |key, value| decodes(&table::GENERATIONS, key, value)),
    (table::SHARES.prefix, |key, value| decodes(&table::SHARES, key, value)),
    (table::ANSWERS.prefix, |key, value| decodes(&table::ANSWERS, key, value)),
    (table::ABANDONED_BATCHES.prefix, |key, value| decodes(&table::ABANDONED_BATCHES, key, value)),
    (table::TOKENS.0.prefix, |key, value| check_encrypted(&table::TOKENS, key, value)),
    (table::VERIFY_KEYS.0.prefix, |key, value| check_encrypted(&table::VERIFY_KEYS, key, value)),
    (table::PROVISIONS.prefix, |key, value| decodes(&table::PROVISIONS, key, value)),
    (table::API_TOKENS.prefix, |key, value| decodes(&table::API_TOKENS, key, value)),
    (table::IN_BAND.prefix, |key, value| decodes(&table::IN_BAND, key, value)),
    (table::PEERS.0.prefix, |key, value| check_encrypted(&table::PEERS, key, value)),
    (table::RESULTS.prefix, |key, value| decodes(&table::RESULTS, key, value)),
    (table::TASK_NAMES.prefix, |key, value| decodes(&table::TASK_NAMES, key, value)),
    (table::PRIVACY.prefix, |key, value| decodes(&table::PRIVACY, key, value)),
    (table::COLLECTORS.0.prefix, |key, value| check_encrypted(&table::COLLECTORS, key, value)),
    (table::WINDOWS.prefix, |key, value| decodes(&table::WINDOWS, key, value)),
    (table::WINDOW_RESULTS.prefix, |key, value| decodes(&table::WINDOW_RESULTS, key, value)),
    (table::SEALED_RESULTS.prefix, |key, value| decodes(&table::SEALED_RESULTS, key, value)),
    (table::RESULT_LINKS.prefix, |key, value| decodes(&table::RESULT_LINKS, key, value)),
    (table::WEBHOOK_EVENTS.prefix, |key, value| decodes(&table::WEBHOOK_EVENTS, key, value)),
];

fn decodes<K: Key, V: Serialize + DeserializeOwned>(
    table: &Table<K, V>,
    key: &[u8],
    value: &[u8],
) -> Result<(), RowError> {
    table.read_key(key)?;
    table.read(value).map(drop)
}

/// Checks an encrypted row without decrypting it.
fn check_encrypted<K: Key, V: Serialize + DeserializeOwned>(
    table: &EncryptedTable<K, V>,
    key: &[u8],
    value: &[u8],
) -> Result<(), RowError> {
    table.0.read_key(key)?;
    table.check(value)
}

/// The tables of which the rows are counted.
const COUNTED_AS_ROWS: [u8; 7] = [
    table::COLLECTED.prefix,
    table::KEYS.0.prefix,
    table::REMOVED.prefix,
    table::COLLECTORS.0.prefix,
    table::WINDOWS.prefix,
    table::WINDOW_RESULTS.prefix,
    table::SEALED_RESULTS.prefix,
];

/// The counts of the rows read so far. They are kept per row, because a row may still change.
#[derive(Default)]
struct Tally {
    /// Decrypts secrets, if the key is known.
    vault: Option<Vault>,
    tasks: BTreeMap<TaskId, Option<(Revision, Role)>>,
    counts: BTreeMap<Vec<u8>, u64>,
}

impl Tally {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), RowError> {
        let prefix = key.first().copied().unwrap_or_default();
        let count = if prefix == table::TASKS.0.prefix {
            let task = self.vault.as_ref().map(|vault| table::TASKS.read(vault, key, value)).transpose()?;
            let described = task.map(|task| (task.public.revision, task.role()));
            self.tasks.insert(table::TASKS.0.read_key(key)?, described);
            return Ok(());
        } else if prefix == table::REPLAY.prefix {
            table::REPLAY.read(value)?.len() as u64 / ID_BYTES
        } else if prefix == table::PACKS.prefix {
            table::PACKS.read(value)?.len() as u64
        } else if prefix == table::DEAD.prefix {
            table::DEAD.read(value)?.iter().map(|byte| u64::from(byte.count_ones())).sum()
        } else if prefix == table::BUCKETS.prefix {
            table::BUCKETS.read(value)?.count
        } else if COUNTED_AS_ROWS.contains(&prefix) {
            1
        } else {
            return Ok(());
        };
        self.counts.insert(key.to_vec(), count);
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) {
        self.counts.remove(key);
        if let Some(id) = table::TASKS.0.read_key(key).ok().filter(|_| key.first() == Some(&table::TASKS.0.prefix)) {
            self.tasks.remove(&id);
        }
    }

    fn rows_of(&self, prefix: u8) -> u64 {
        self.of(&[prefix]).count() as u64
    }

    fn of(&self, prefix: &[u8]) -> impl Iterator<Item = u64> {
        let rows = self.counts.range(prefix.to_vec()..);
        rows.take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, count)| *count)
    }

    /// The sum of the counts of a task's rows in a table.
    fn sum(&self, prefix: u8, id: &TaskId) -> u64 {
        self.of(&[&[prefix], &id.as_bytes()[..]].concat()).sum()
    }

    fn tasks(&self) -> Vec<TaskContents> {
        let task = |(id, described): (&TaskId, &Option<(Revision, Role)>)| {
            let sum = |prefix: u8| self.sum(prefix, id);
            TaskContents {
                id: *id,
                revision: described.map(|(revision, _)| revision),
                role: described.map(|(_, role)| role),
                waiting: sum(table::PACKS.prefix).saturating_sub(sum(table::DEAD.prefix)),
                aggregated: sum(table::BUCKETS.prefix),
                remembered: sum(table::REPLAY.prefix),
                batches_collected: sum(table::COLLECTED.prefix),
            }
        };
        self.tasks.iter().map(task).collect()
    }

    fn collector_tasks(&self) -> Vec<CollectorContents> {
        let table = &table::COLLECTORS.0;
        let rows = self.counts.range(vec![table.prefix]..).take_while(|(key, _)| key.first() == Some(&table.prefix));
        let ids = rows.filter_map(|(key, _)| table.read_key(key).ok());
        let contents = |id: TaskId| CollectorContents {
            id,
            windows: self.sum(table::WINDOWS.prefix, &id),
            results: self.sum(table::WINDOW_RESULTS.prefix, &id) + self.sum(table::SEALED_RESULTS.prefix, &id),
        };
        ids.map(contents).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_rows_of_every_table() {
        let has = |prefix| TABLES.iter().any(|(of, _)| *of == prefix);
        assert!(table::TASK_TABLE_PREFIXES.into_iter().all(has));
        assert!(table::COLLECTOR_TABLE_PREFIXES.into_iter().all(has));
        assert!(has(table::RESULT_LINKS.prefix));
    }
}
