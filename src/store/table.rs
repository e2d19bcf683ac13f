//! Typed tables over the rows of the engine: a prefix byte, an ordered key, and a version byte before a CBOR value.
//!
//! All tables share one key space, so that a batch is atomic across them. Keys start with the task, where there is one,
//! so that each table holds a task's rows in one range.

use std::marker::PhantomData;

use bytes::Bytes;
use ciborium::Value;
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{
    collector::{CollectorRecord, ResultLink, WebhookEvent, WindowResultRow},
    legacy,
    records::{
        BucketRecord, CollectedBatch, CollectionJobRecord, Counters, Generation, HelperJobRow, KeyRecord,
        LeaderJobRecord, PackRecord, PrivacyRecord, ResultRecord, Tombstone,
    },
    vault::Vault,
};
use crate::{
    api_token::{ApiToken, Provision},
    name::TaskName,
};
use dapbox_protocol::model::{
    AggregateShareId, AggregationJobId, BatchId, BatchSelector, Bucket, CollectionJobId, Duration, Interval, Secret,
    Task, TaskId, Time, Tokens, VerifyKeys,
    ids::Id,
    taskprov::{InBandOrigin, PeerAggregator},
};
use dapbox_results::Window;
use dapbox_support::Fault;

/// Numbers that only increase, by [`NEXT_PACK`], [`HISTORY_LOST_BEFORE`] and [`CLOCK_SKEW`].
pub(super) const SEQUENCES: Table<u8, u64> = Table::new(1, "sequences", 1);
/// Tasks.
pub(super) const TASKS: EncryptedTable<TaskId, Task> = EncryptedTable(
    Table::new(2, "tasks", 2).with_legacy_versions(legacy::task).with_marked_version(3, needs_version_3),
);
/// Tombstones of removed tasks.
pub(super) const REMOVED: Table<TaskId, Tombstone> = Table::new(3, "removed tasks", 1);
/// HPKE keys, by configuration id.
pub(super) const KEYS: EncryptedTable<u8, KeyRecord> =
    EncryptedTable(Table::new(4, "keys", 2).with_legacy_versions(legacy::key));
/// Counters of tasks.
pub(super) const COUNTERS: Table<TaskId, Counters> = Table::new(5, "counters", 1);
/// Fingerprints of the ids of aggregated reports, packed, by day and sequence number. Version 1 holds the ids.
pub(super) const REPLAY: Table<(TaskId, u64, u64), serde_bytes::ByteBuf> =
    Table::new(6, "replay", 2).with_legacy_versions(|_, row| Some(row));
/// Horizons of tasks.
pub(super) const HORIZONS: Table<TaskId, Time> = Table::new(7, "horizons", 1);
/// Uploaded reports, by pack.
pub(super) const PACKS: Table<(TaskId, u64), PackRecord> = Table::new(8, "packs", 1);
/// Bit maps of the deleted slots of packs.
pub(super) const DEAD: Table<(TaskId, u64), serde_bytes::ByteBuf> = Table::new(9, "dead reports", 1);
/// Batch buckets with their sums.
pub(super) const BUCKETS: Table<(TaskId, Bucket), BucketRecord> = Table::new(10, "buckets", 1);
/// Collected batches.
pub(super) const COLLECTED: Table<(TaskId, BatchSelector), CollectedBatch> = Table::new(11, "collected batches", 1);
/// Running aggregation jobs of the leader.
pub(super) const LEADER_JOBS: Table<(TaskId, AggregationJobId), LeaderJobRecord> =
    Table::new(12, "leader jobs", 1).with_marked_version(2, |job| job.verify_key_id.is_some());
/// Aggregation jobs of the helper.
pub(super) const HELPER_JOBS: Table<(TaskId, AggregationJobId), HelperJobRow> =
    Table::new(13, "helper jobs", 2).with_legacy_versions(legacy::helper_job);
/// Collection jobs.
pub(super) const COLLECTIONS: Table<(TaskId, CollectionJobId), CollectionJobRecord> =
    Table::new(14, "collections", 3).with_legacy_versions(legacy::collection);
/// Batch ids that collections returned.
pub(super) const NAMES: Table<(TaskId, BatchId), ()> = Table::new(15, "named batches", 1);
/// Bodies of deferred requests for aggregation jobs of the helper.
pub(super) const HELPER_REQUESTS: Table<(TaskId, AggregationJobId), Bytes> = Table::new(16, "helper requests", 1);
/// How often a resource was deleted, by kind and by the hash of its request.
pub(super) const GENERATIONS: Table<(TaskId, u8, [u8; 32]), Generation> =
    Table::new(17, "generations", 2).with_legacy_versions(legacy::generation);
/// Batches of the helper's aggregate shares, by share id.
pub(super) const SHARES: Table<(TaskId, AggregateShareId), BatchSelector> = Table::new(18, "aggregate shares", 1);

/// Secrets of the directory, by [`FINGERPRINT_KEY`] and [`TOKEN_SEED`].
pub(super) const SECRETS: EncryptedTable<u8, Secret> = EncryptedTable(Table::new(19, "secrets", 1));
/// The helper's answers to aggregation jobs, by the day on which the job was created, so that a day expires as a range.
pub(super) const ANSWERS: Table<(TaskId, u64, AggregationJobId), Bytes> = Table::new(20, "helper answers", 1);
/// Abandoned batch ids, and when the sweeper first found nothing else of the batch.
pub(super) const ABANDONED_BATCHES: Table<(TaskId, BatchId), Option<Time>> =
    Table::new(21, "abandoned batches", 2).with_legacy_versions(legacy::abandoned);

/// Tokens of tasks with rotated tokens.
pub(super) const TOKENS: EncryptedTable<TaskId, Tokens> = EncryptedTable(Table::new(22, "tokens", 1));

/// Verification keys of tasks whose keys were changed.
pub(super) const VERIFY_KEYS: EncryptedTable<TaskId, VerifyKeys> =
    EncryptedTable(Table::new(23, "verification keys", 1));

/// Mutable data of provisioned tasks.
pub(super) const PROVISIONS: Table<TaskId, Provision> = Table::new(30, "provisions", 1);
/// API tokens, by hash.
pub(super) const API_TOKENS: Table<[u8; 32], ApiToken> = Table::new(31, "API tokens", 1);

/// Origins of in-band tasks.
pub(super) const IN_BAND: Table<TaskId, InBandOrigin> = Table::new(32, "in-band tasks", 1);
/// Registered peers, by number, in the order of their registration.
pub(super) const PEERS: EncryptedTable<u64, PeerAggregator> = EncryptedTable(Table::new(33, "peers", 1));

/// States of the results of collected batches (leader).
pub(super) const RESULTS: Table<(TaskId, BatchSelector), ResultRecord> = Table::new(40, "results", 1);
/// Names of tasks.
pub(super) const TASK_NAMES: Table<TaskId, TaskName> = Table::new(41, "task names", 1);
/// Privacy budgets of tasks with noise.
pub(super) const PRIVACY: Table<TaskId, PrivacyRecord> = Table::new(42, "privacy budgets", 1);

/// Tasks that this server collects.
pub(super) const COLLECTORS: EncryptedTable<TaskId, CollectorRecord> =
    EncryptedTable(Table::new(50, "collector tasks", 1));
/// Windows of collector tasks, by number.
pub(super) const WINDOWS: Table<(TaskId, u64), Window> = Table::new(51, "windows", 1);
/// Results of collected windows.
pub(super) const WINDOW_RESULTS: Table<(TaskId, u64), WindowResultRow> = Table::new(52, "window results", 1);
/// Sealed results of windows that could not be opened, as received.
pub(super) const SEALED_RESULTS: Table<(TaskId, u64), Bytes> = Table::new(53, "sealed window results", 1);
/// Links to the results of a task, by the hash of their token.
pub(super) const RESULT_LINKS: Table<[u8; 32], ResultLink> = Table::new(54, "result links", 1);
/// Webhook events to deliver, by sequence number.
pub(super) const WEBHOOK_EVENTS: Table<(TaskId, u64), WebhookEvent> = Table::new(55, "webhook events", 1);

/// The prefixes of the tables whose keys start with a collector task.
pub(super) const COLLECTOR_TABLE_PREFIXES: [u8; 5] =
    [COLLECTORS.0.prefix, WINDOWS.prefix, WINDOW_RESULTS.prefix, SEALED_RESULTS.prefix, WEBHOOK_EVENTS.prefix];

/// Key in [`SEQUENCES`]: the number of the next pack.
pub(super) const NEXT_PACK: u8 = 0;
/// Key in [`SEQUENCES`]: the time before which a restored copy may have lost tasks.
pub(super) const HISTORY_LOST_BEFORE: u8 = 1;
/// Key in [`SEQUENCES`]: the largest `limits.clock_skew` of any server on this directory, in seconds.
pub(super) const CLOCK_SKEW: u8 = 2;
/// Key in [`SECRETS`]: the key of the fingerprints in [`REPLAY`].
pub(super) const FINGERPRINT_KEY: u8 = 0;
/// Key in [`SECRETS`]: the seed of the tokens of provisioned tasks.
pub(super) const TOKEN_SEED: u8 = 10;

/// The prefixes of all tables whose keys start with a task.
pub(super) const TASK_TABLE_PREFIXES: [u8; 24] = [
    TASKS.0.prefix,
    COUNTERS.prefix,
    REPLAY.prefix,
    HORIZONS.prefix,
    PACKS.prefix,
    DEAD.prefix,
    BUCKETS.prefix,
    COLLECTED.prefix,
    LEADER_JOBS.prefix,
    HELPER_JOBS.prefix,
    COLLECTIONS.prefix,
    NAMES.prefix,
    HELPER_REQUESTS.prefix,
    GENERATIONS.prefix,
    SHARES.prefix,
    ABANDONED_BATCHES.prefix,
    ANSWERS.prefix,
    TOKENS.0.prefix,
    VERIFY_KEYS.0.prefix,
    PROVISIONS.prefix,
    IN_BAND.prefix,
    RESULTS.prefix,
    TASK_NAMES.prefix,
    PRIVACY.prefix,
];

/// Whether an older program must reject the task: it would return aggregates without noise or ignore time windows.
fn needs_version_3(task: &Task) -> bool {
    task.public.noise.is_some() || task.public.batch_window_size().is_some()
}

/// A table.
pub(super) struct Table<K, V> {
    /// First byte of the table's keys. Unique and permanent.
    pub(super) prefix: u8,
    /// The name of the rows, for messages.
    pub(super) name: &'static str,
    /// The version of new values.
    pub(super) version: u8,
    /// The newest version that can be read.
    newest: u8,
    /// Selects values that are written with the newest version. Their layout is the same, but older programs must
    /// reject them.
    is_marked: fn(&V) -> bool,
    /// Upgrades a value of an older version.
    upgrade: fn(u8, Value) -> Option<Value>,
    row: PhantomData<fn(K) -> V>,
}

/// A row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RowError {
    /// A later release wrote the row.
    #[error("a row of {table} has version {found}, which is newer than this program")]
    Newer { table: &'static str, found: u8 },
    /// The row is damaged.
    #[error("a row of {table} is damaged: {why}")]
    Damaged { table: &'static str, why: String },
}

impl From<RowError> for Fault {
    fn from(error: RowError) -> Self {
        Fault::while_doing("reading the database", error)
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> Table<K, V> {
    const fn new(prefix: u8, name: &'static str, version: u8) -> Self {
        Self { prefix, name, version, newest: version, is_marked: |_| false, upgrade: |_, _| None, row: PhantomData }
    }

    /// Adds the upgrade of older versions.
    const fn with_legacy_versions(self, upgrade: fn(u8, Value) -> Option<Value>) -> Self {
        Self { upgrade, ..self }
    }

    /// Adds a newer version for the selected values.
    const fn with_marked_version(self, newest: u8, is_marked: fn(&V) -> bool) -> Self {
        Self { newest, is_marked, ..self }
    }

    /// Encodes a key.
    pub(super) fn key(&self, key: &K) -> Vec<u8> {
        let mut bytes = vec![self.prefix];
        key.write(&mut bytes);
        bytes
    }

    /// Decodes a key.
    pub(super) fn read_key(&self, bytes: &[u8]) -> Result<K, RowError> {
        let mut rest = bytes.get(1..).unwrap_or_default();
        let key = K::read(&mut rest).filter(|_| rest.is_empty());
        key.ok_or_else(|| self.damaged("its key does not decode"))
    }

    /// Encodes a value.
    pub(super) fn value(&self, value: &V) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![if (self.is_marked)(value) { self.newest } else { self.version }];
        ciborium::into_writer(value, &mut bytes).map_err(|e| Fault::while_doing("encoding a row", e))?;
        Ok(bytes)
    }

    /// Decodes a value.
    pub(super) fn read(&self, bytes: &[u8]) -> Result<V, RowError> {
        let (&version, mut body) = bytes.split_first().ok_or_else(|| self.damaged("it is empty"))?;
        if version > self.newest {
            return Err(RowError::Newer { table: self.name, found: version });
        }
        let value = if version >= self.version {
            ciborium::from_reader(&mut body).map_err(|e| self.damaged(e))?
        } else {
            let value = ciborium::from_reader(&mut body).map_err(|e| self.damaged(e))?;
            let value = (self.upgrade)(version, value).ok_or_else(|| self.damaged("its version is unknown"))?;
            value.deserialized().map_err(|e| self.damaged(e))?
        };
        if body.is_empty() { Ok(value) } else { Err(self.damaged("trailing bytes after its value")) }
    }

    fn damaged(&self, why: impl ToString) -> RowError {
        RowError::Damaged { table: self.name, why: why.to_string() }
    }
}

/// A table with encrypted values: keys or tokens.
pub(super) struct EncryptedTable<K, V>(pub(super) Table<K, V>);

/// First byte of an encrypted value, above all versions of plain values. The encrypted part starts with the version of
/// the record.
const SEALED: u8 = 128;

impl<K: Key, V: Serialize + DeserializeOwned> EncryptedTable<K, V> {
    /// Encodes a key.
    pub(super) fn key(&self, key: &K) -> Vec<u8> {
        self.0.key(key)
    }

    /// Encodes and encrypts a value.
    pub(super) fn value(&self, vault: &Vault, key: &K, value: &V) -> Result<Vec<u8>, Fault> {
        let (key, plain) = (self.key(key), Zeroizing::new(self.0.value(value)?));
        Ok([&[SEALED], &vault.seal(&key, &plain)?[..]].concat())
    }

    /// Whether a value is encrypted.
    pub(super) fn is_encrypted(&self, bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|first| *first >= SEALED)
    }

    /// Checks a value without decrypting it.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), RowError> {
        match bytes.split_first() {
            Some((&SEALED, sealed)) if Vault::has_valid_length(sealed) => Ok(()),
            Some((&found, _)) if found > SEALED => Err(RowError::Newer { table: self.0.name, found }),
            _ => Err(self.0.damaged("it is not encrypted")),
        }
    }

    /// Decrypts and decodes a value, given its encoded key.
    pub(super) fn read(&self, vault: &Vault, key: &[u8], bytes: &[u8]) -> Result<V, RowError> {
        self.check(bytes)?;
        let plain = vault.open(key, bytes.get(1..).unwrap_or_default());
        self.0.read(&plain.map_err(|why| self.0.damaged(why))?)
    }
}

/// A part of a key. The order of the bytes is the order of the values.
pub(super) trait Key: Sized {
    /// Appends the bytes of the value.
    fn write(&self, out: &mut Vec<u8>);
    /// Decodes a value from the front.
    fn read(bytes: &mut &[u8]) -> Option<Self>;
}

impl Key for u8 {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes).map(u8::from_be_bytes)
    }
}

impl Key for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes).map(u64::from_be_bytes)
    }
}

impl<T, const N: usize> Key for Id<T, N> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes).map(Self::new)
    }
}

impl<const N: usize> Key for [u8; N] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes)
    }
}

impl Key for Bucket {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Time(start) => (0u8, start.0).write(out),
            Self::Batch(id) => (1u8, *id).write(out),
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match u8::read(bytes)? {
            0 => u64::read(bytes).map(|start| Self::Time(Time(start))),
            1 => BatchId::read(bytes).map(Self::Batch),
            _ => None,
        }
    }
}

impl Key for BatchSelector {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::TimeInterval(interval) => (0u8, interval.start().0, interval.duration().0).write(out),
            Self::FixedSize(id) => (1u8, *id).write(out),
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match u8::read(bytes)? {
            0 => {
                let (start, duration) = Key::read(bytes)?;
                Interval::new(Time(start), Duration(duration)).map(Self::TimeInterval)
            }
            1 => BatchId::read(bytes).map(Self::FixedSize),
            _ => None,
        }
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::read(bytes)?, B::read(bytes)?))
    }
}

impl<A: Key, B: Key, C: Key> Key for (A, B, C) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
        self.2.write(out);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::read(bytes)?, B::read(bytes)?, C::read(bytes)?))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*front)
}
