//! The state of the store in memory, rebuilt from the rows when the store opens.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    collected::CollectedBatches,
    engine::{Engine, EngineError, Row, Rows},
    fingerprints::FingerprintKey,
    records::{
        BucketHeader, CollectionJobRecord, Counters, KeyRecord, LeaderJobRecord, PrivacyRecord, ReportRef,
        ResultRecord, Tombstone,
    },
    replay::ReplayIndex,
    sums::SumCache,
    table::{self, EncryptedTable, Key, RowError, Table},
    vault::Vault,
    waiting::WaitingReports,
};
use crate::collector::{CollectorState, ResultLink};
use crate::{
    api_token::{ApiToken, Provision},
    name::TaskName,
};
use dapbox_protocol::model::{
    AggregationJobId, BatchId, BatchMode, BatchSelector, Bucket, CollectionJobId, Duration, ReportId, Secret, Task,
    TaskId, Time, TokenHash, Tokens, VerifyKeys,
    taskprov::{InBandOrigin, PeerAggregator},
};
use dapbox_support::Fault;

/// The state in memory.
#[derive(Debug)]
pub(super) struct State {
    /// Encrypts secrets.
    pub(super) vault: Vault,
    /// The key of the fingerprints of aggregated reports.
    pub(super) fingerprints: FingerprintKey,
    /// All tasks.
    pub(super) tasks: BTreeMap<TaskId, TaskState>,
    /// All HPKE keys, by configuration id.
    pub(super) keys: BTreeMap<u8, KeyRecord>,
    /// All API tokens, including expired ones.
    pub(super) api_tokens: BTreeMap<TokenHash, ApiToken>,
    /// Registered peers.
    pub(super) peers: BTreeMap<u64, PeerAggregator>,
    /// The seed of the tokens of provisioned tasks, once one was needed.
    pub(super) token_seed: Option<Secret>,
    /// In a restored copy, the time before which it may have lost tasks.
    pub(super) history_lost_before: Option<Time>,
    /// The largest `limits.clock_skew` of any server on this directory; zero if unknown.
    pub(super) clock_skew: Duration,
    /// Removed tasks, whose ids are rejected.
    pub(super) removed: BTreeMap<TaskId, Tombstone>,
    /// Removed tasks that may still have rows.
    pub(super) unswept: BTreeSet<TaskId>,
    /// The number of the next pack, across all tasks.
    pub(super) next_pack: u64,
    /// Recently used sums of batch buckets.
    pub(super) sums: SumCache,
    /// Tasks that this server collects, with their windows.
    pub(super) collectors: BTreeMap<TaskId, CollectorState>,
    /// Links to results, by the hash of their token.
    pub(super) result_links: BTreeMap<TokenHash, ResultLink>,
}

/// The state of a task in memory.
///
/// [`Tx`](super::Tx) has a method for each change that must be stored. Only `reserved` and the memory-only methods of
/// `waiting` may be changed directly.
#[derive(Debug)]
pub struct TaskState {
    /// The task's parameters.
    pub task: Arc<Task>,
    /// The valid tokens; empty for an in-band task, which uses those of its peer.
    pub tokens: Tokens,
    /// The verification keys.
    pub verify_keys: VerifyKeys,
    /// The data of a provisioned task.
    pub provision: Option<Provision>,
    /// The origin of an in-band task.
    pub in_band: Option<InBandOrigin>,
    /// The name of the task.
    pub name: Option<TaskName>,
    /// The privacy budget, and what is known of earlier releases.
    pub privacy: PrivacyRecord,
    /// The counters of the task.
    pub counters: Counters,
    /// The ids of aggregated reports.
    pub replay: ReplayIndex,
    /// Uploaded reports (leader).
    pub waiting: WaitingReports,
    /// Existing batch buckets. Their sums are on disk.
    pub buckets: BTreeMap<Bucket, BucketHeader>,
    /// The number of open buckets, see [`is_open`](Self::is_open).
    open_buckets: usize,
    /// Collected and abandoned batches.
    pub collected: CollectedBatches,
    /// Running aggregation jobs (leader).
    pub leader_jobs: BTreeMap<AggregationJobId, LeaderJobRecord>,
    /// Waiting and closed collection jobs (leader). Others are on disk only.
    pub collections: BTreeMap<CollectionJobId, CollectionJobRecord>,
    /// Reports in preparation, by job (helper). Never stored.
    pub reserved: HashMap<ReportId, AggregationJobId>,
    /// Deferred aggregation jobs in the order of their arrival, or in any order after the store opened (helper).
    pub deferred: Vec<AggregationJobId>,
    /// Batch ids that collections returned (leader).
    pub names: BTreeSet<BatchId>,
    /// The states of results of collected batches (leader). Batches of earlier releases have none.
    pub results: BTreeMap<BatchSelector, ResultRecord>,
}

impl TaskState {
    /// The current end of the task: reports after this time are rejected.
    pub fn end(&self) -> Option<Time> {
        match &self.provision {
            Some(provision) => provision.end,
            None => self.task.public.task_expiration,
        }
    }

    /// Whether the bucket is closed to reports: it is before the horizon, or its batch is collected or abandoned.
    pub fn is_closed(&self, bucket: &Bucket) -> bool {
        self.is_before_horizon(bucket) || self.collected.covers(bucket)
    }

    /// Whether the bucket is before the horizon.
    pub fn is_before_horizon(&self, bucket: &Bucket) -> bool {
        matches!(bucket, Bucket::Time(start) if Some(*start) < self.replay.horizon())
    }

    /// Whether the bucket is open: it has aggregated or waiting reports and is not closed. A waiting report of a
    /// fixed-size task has no bucket.
    pub fn is_open(&self, bucket: &Bucket) -> bool {
        (self.buckets.contains_key(bucket) || self.has_waiting(bucket)) && !self.is_closed(bucket)
    }

    /// The number of open batch buckets.
    pub fn open_buckets(&self) -> usize {
        self.open_buckets
    }

    fn has_waiting(&self, bucket: &Bucket) -> bool {
        match bucket {
            Bucket::Time(start) => self.has_time_buckets() && self.waiting.has_unit(*start),
            Bucket::Batch(_) => false,
        }
    }

    fn has_time_buckets(&self) -> bool {
        self.task.public.batch_mode == BatchMode::TimeInterval
    }

    /// Changes a bucket and updates the number of open buckets.
    pub(super) fn update_bucket<T>(&mut self, bucket: &Bucket, change: impl FnOnce(&mut Self) -> T) -> T {
        let was_open = self.is_open(bucket);
        let result = change(self);
        match (was_open, self.is_open(bucket)) {
            (false, true) => self.open_buckets += 1,
            (true, false) => self.open_buckets -= 1,
            _ => {}
        }
        result
    }

    /// Recounts the open buckets after a change of many.
    pub(super) fn recount_open_buckets(&mut self) {
        let of_sums = self.buckets.keys().filter(|bucket| !self.is_closed(bucket)).count();
        let only_waiting = |start: &&Time| {
            let bucket = Bucket::Time(**start);
            !self.buckets.contains_key(&bucket) && !self.is_closed(&bucket)
        };
        let of_waiting = if self.has_time_buckets() { self.waiting.units().filter(only_waiting).count() } else { 0 };
        self.open_buckets = of_sums + of_waiting;
    }

    /// Marks the task as set up in-band.
    pub(super) fn set_in_band(&mut self, in_band: InBandOrigin) {
        (self.in_band, self.tokens) = (Some(in_band), Tokens::default());
    }

    pub(super) fn new(task: Task, fingerprints: FingerprintKey) -> Self {
        Self {
            counters: Counters::new(),
            replay: ReplayIndex::new(fingerprints),
            waiting: WaitingReports::new(
                task.public.time_precision,
                task.public.batch_window_size().unwrap_or(task.public.time_precision),
            ),
            buckets: BTreeMap::new(),
            open_buckets: 0,
            collected: CollectedBatches::default(),
            leader_jobs: BTreeMap::new(),
            collections: BTreeMap::new(),
            reserved: HashMap::new(),
            deferred: Vec::new(),
            names: BTreeSet::new(),
            results: BTreeMap::new(),
            tokens: Tokens::of(&task.party),
            verify_keys: VerifyKeys::of(&task),
            provision: None,
            in_band: None,
            name: None,
            privacy: PrivacyRecord::default(),
            task: Arc::new(task),
        }
    }
}

/// Why the rows cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Row(#[from] RowError),
    #[error("{0} of an unknown task exist")]
    Orphan(&'static str),
    #[error("a row of fingerprints is truncated")]
    Ids,
    #[error("the database has lost all rows")]
    Empty,
    #[error("its secrets are encrypted with another key")]
    OtherKey,
}

impl State {
    /// The rows of a new database.
    pub(super) fn initial_rows(vault: &Vault) -> Result<Rows, Fault> {
        let next_pack = (table::SEQUENCES.key(&table::NEXT_PACK), Some(table::SEQUENCES.value(&0)?));
        let (key, value) = Self::fingerprint_key_row(vault, &Self::new_fingerprint_key())?;
        Ok(Rows::from([next_pack, (key, Some(value))]))
    }

    /// Generates a key for fingerprints.
    pub(super) fn new_fingerprint_key() -> Secret {
        Secret::random(FingerprintKey::BYTES)
    }

    /// Encodes the row of a key for fingerprints.
    pub(super) fn fingerprint_key_row(vault: &Vault, key: &Secret) -> Result<Row, Fault> {
        let value = table::SECRETS.value(vault, &table::FINGERPRINT_KEY, key)?;
        Ok((table::SECRETS.key(&table::FINGERPRINT_KEY), value))
    }

    /// Loads the key of the fingerprints. It is loaded first, because it shows whether the vault's key is right.
    pub(super) fn load_fingerprint_key(engine: &Engine, vault: &Vault) -> Result<FingerprintKey, LoadError> {
        let row = table::SECRETS.key(&table::FINGERPRINT_KEY);
        let sealed = engine.get(&row)?.ok_or(LoadError::Empty)?;
        let key = match table::SECRETS.read(vault, &row, &sealed) {
            Err(RowError::Damaged { .. }) => return Err(LoadError::OtherKey),
            read => read?,
        };
        FingerprintKey::new(&key).ok_or(LoadError::OtherKey)
    }

    fn load_token_seed(engine: &Engine, vault: &Vault) -> Result<Option<Secret>, LoadError> {
        let row = table::SECRETS.key(&table::TOKEN_SEED);
        let sealed = engine.get(&row)?;
        Ok(sealed.map(|sealed| table::SECRETS.read(vault, &row, &sealed)).transpose()?)
    }

    fn load_sequence(engine: &Engine, of: u8) -> Result<Option<u64>, LoadError> {
        let row = engine.get(&table::SEQUENCES.key(&of))?;
        Ok(row.map(|row| table::SEQUENCES.read(&row)).transpose()?)
    }

    /// Loads everything but the sums; later, up to `sum_cache_bytes` of them are cached.
    pub(super) fn load(engine: &Engine, vault: Vault, sum_cache_bytes: usize) -> Result<Self, LoadError> {
        let next_pack = engine.get(&table::SEQUENCES.key(&table::NEXT_PACK))?.ok_or(LoadError::Empty)?;
        let fingerprints = Self::load_fingerprint_key(engine, &vault)?;
        let mut state = Self {
            fingerprints,
            tasks: BTreeMap::new(),
            keys: BTreeMap::new(),
            api_tokens: BTreeMap::new(),
            peers: BTreeMap::new(),
            token_seed: Self::load_token_seed(engine, &vault)?,
            history_lost_before: Self::load_sequence(engine, table::HISTORY_LOST_BEFORE)?.map(Time),
            clock_skew: Duration(Self::load_sequence(engine, table::CLOCK_SKEW)?.unwrap_or(0)),
            removed: BTreeMap::new(),
            unswept: BTreeSet::new(),
            next_pack: table::SEQUENCES.read(&next_pack)?,
            sums: SumCache::new(sum_cache_bytes),
            collectors: BTreeMap::new(),
            result_links: BTreeMap::new(),
            vault,
        };
        let (vault, fingerprints) = (state.vault.clone(), state.fingerprints.clone());
        secret_rows(engine, &vault, &table::TASKS, |id, task| {
            state.tasks.insert(id, TaskState::new(task, fingerprints.clone()));
            Ok(())
        })?;
        rows(engine, &table::REMOVED, |id, removed| {
            state.removed.insert(id, removed);
            state.unswept.insert(id);
            Ok(())
        })?;
        secret_rows(engine, &vault, &table::KEYS, |id, key| {
            state.keys.insert(id, key);
            Ok(())
        })?;
        secret_rows(engine, &vault, &table::TOKENS, |id, tokens| {
            let Some(task) = state.task_of_row(&id, &table::TOKENS.0)? else { return Ok(()) };
            task.tokens = tokens;
            Ok(())
        })?;
        rows(engine, &table::PROVISIONS, |id, provision| {
            let Some(task) = state.task_of_row(&id, &table::PROVISIONS)? else { return Ok(()) };
            task.provision = Some(provision);
            Ok(())
        })?;
        rows(engine, &table::IN_BAND, |id, in_band| {
            let Some(task) = state.task_of_row(&id, &table::IN_BAND)? else { return Ok(()) };
            task.set_in_band(in_band);
            Ok(())
        })?;
        state.load_local_settings(engine, &vault)?;
        secret_rows(engine, &vault, &table::PEERS, |number, peer| {
            state.peers.insert(number, peer);
            Ok(())
        })?;
        rows(engine, &table::API_TOKENS, |_, token| {
            state.api_tokens.insert(token.hash, token);
            Ok(())
        })?;
        state.load_collectors(engine, &vault)?;
        state.load_replay(engine)?;
        state.load_batches(engine)?;
        state.load_jobs(engine)?;
        state.load_waiting(engine)?;
        state.tasks.values_mut().for_each(TaskState::recount_open_buckets);
        Ok(state)
    }

    fn load_collectors(&mut self, engine: &Engine, vault: &Vault) -> Result<(), LoadError> {
        secret_rows(engine, vault, &table::COLLECTORS, |id, record| {
            self.collectors.insert(id, CollectorState::new(record));
            Ok(())
        })?;
        rows(engine, &table::WINDOWS, |(id, number), window| {
            let task = self.collectors.get_mut(&id).ok_or(LoadError::Orphan(table::WINDOWS.name))?;
            task.windows.insert(number, window);
            Ok(())
        })?;
        rows(engine, &table::WEBHOOK_EVENTS, |(id, number), event| {
            let task = self.collectors.get_mut(&id).ok_or(LoadError::Orphan(table::WEBHOOK_EVENTS.name))?;
            task.events.insert(number, event);
            Ok(())
        })?;
        rows(engine, &table::RESULT_LINKS, |_, link| {
            self.result_links.insert(link.hash, link);
            Ok(())
        })
    }

    /// Loads what the operator has set for a task after it was added.
    fn load_local_settings(&mut self, engine: &Engine, vault: &Vault) -> Result<(), LoadError> {
        secret_rows(engine, vault, &table::VERIFY_KEYS, |id, keys| {
            let Some(task) = self.task_of_row(&id, &table::VERIFY_KEYS.0)? else { return Ok(()) };
            task.verify_keys = keys;
            Ok(())
        })?;
        rows(engine, &table::TASK_NAMES, |id, name| {
            let Some(task) = self.task_of_row(&id, &table::TASK_NAMES)? else { return Ok(()) };
            task.name = Some(name);
            Ok(())
        })?;
        rows(engine, &table::PRIVACY, |id, privacy| {
            let Some(task) = self.task_of_row(&id, &table::PRIVACY)? else { return Ok(()) };
            task.privacy = privacy;
            Ok(())
        })
    }

    fn load_replay(&mut self, engine: &Engine) -> Result<(), LoadError> {
        rows(engine, &table::REPLAY, |(id, day, row), ids| {
            let Some(TaskState { replay, .. }) = self.task_of_row(&id, &table::REPLAY)? else { return Ok(()) };
            replay.row_exists(row);
            let (fingerprints, []) = ids.as_chunks() else { return Err(LoadError::Ids) };
            replay.restore(day, fingerprints.iter().map(|bytes| u64::from_be_bytes(*bytes)));
            Ok(())
        })?;
        self.tasks.values_mut().for_each(|task| task.replay.sort());
        rows(engine, &table::HORIZONS, |id, horizon| {
            let Some(task) = self.task_of_row(&id, &table::HORIZONS)? else { return Ok(()) };
            task.replay.forget_before(horizon);
            Ok(())
        })
    }

    fn load_batches(&mut self, engine: &Engine) -> Result<(), LoadError> {
        rows(engine, &table::COUNTERS, |id, counters| {
            let Some(task) = self.task_of_row(&id, &table::COUNTERS)? else { return Ok(()) };
            task.counters = counters;
            Ok(())
        })?;
        rows(engine, &table::BUCKETS, |(id, bucket), record| {
            let Some(task) = self.task_of_row(&id, &table::BUCKETS)? else { return Ok(()) };
            task.buckets.insert(bucket, BucketHeader::from(&record));
            Ok(())
        })?;
        // The rows hold aggregate shares and answers; the index needs only their keys.
        engine.keys(&[table::COLLECTED.prefix], |key| {
            let (id, batch) = table::COLLECTED.read_key(key)?;
            let Some(task) = self.task_of_row(&id, &table::COLLECTED)? else { return Ok(()) };
            task.collected.insert(&batch);
            Ok::<_, LoadError>(())
        })?;
        rows(engine, &table::NAMES, |(id, batch), ()| {
            let Some(task) = self.task_of_row(&id, &table::NAMES)? else { return Ok(()) };
            task.names.insert(batch);
            Ok(())
        })?;
        rows(engine, &table::ABANDONED_BATCHES, |(id, batch), _| {
            let Some(task) = self.task_of_row(&id, &table::ABANDONED_BATCHES)? else { return Ok(()) };
            task.collected.abandon(batch);
            Ok(())
        })?;
        rows(engine, &table::RESULTS, |(id, batch), result| {
            let Some(task) = self.task_of_row(&id, &table::RESULTS)? else { return Ok(()) };
            // An earlier release may have deleted the batch.
            if task.collected.contains_exactly(&batch) {
                task.results.insert(batch, result);
            }
            Ok(())
        })
    }

    fn load_jobs(&mut self, engine: &Engine) -> Result<(), LoadError> {
        rows(engine, &table::LEADER_JOBS, |(id, job), record| {
            let Some(task) = self.task_of_row(&id, &table::LEADER_JOBS)? else { return Ok(()) };
            task.leader_jobs.insert(job, record);
            Ok(())
        })?;
        // The rows hold whole requests; only their keys are needed.
        engine.keys(&[table::HELPER_REQUESTS.prefix], |key| {
            let (id, job) = table::HELPER_REQUESTS.read_key(key)?;
            let Some(task) = self.task_of_row(&id, &table::HELPER_REQUESTS)? else { return Ok(()) };
            task.deferred.push(job);
            Ok::<_, LoadError>(())
        })?;
        rows(engine, &table::COLLECTIONS, |(id, job), record| {
            let Some(task) = self.task_of_row(&id, &table::COLLECTIONS)? else { return Ok(()) };
            if record.state.is_active() {
                task.collections.insert(job, record);
            }
            Ok(())
        })
    }

    /// Loads the waiting reports: those in packs that are neither deleted nor in a job.
    fn load_waiting(&mut self, engine: &Engine) -> Result<(), LoadError> {
        let mut dead = HashMap::new();
        rows(engine, &table::DEAD, |key, bits| {
            dead.insert(key, bits.into_vec());
            Ok(())
        })?;
        let of_jobs = |task: &TaskState| task.leader_jobs.values().flat_map(|job| job.reports.clone()).collect();
        let assigned: HashMap<TaskId, HashSet<ReportRef>> =
            self.tasks.iter().map(|(id, task)| (*id, of_jobs(task))).collect();
        rows(engine, &table::PACKS, |(id, pack), reports| {
            let Some(TaskState { waiting, .. }) = self.task_of_row(&id, &table::PACKS)? else { return Ok(()) };
            let dead = dead.remove(&(id, pack)).unwrap_or_default();
            let is_assigned = |at: &ReportRef| assigned.get(&id).is_some_and(|set| set.contains(at));
            waiting.restore(pack, reports.iter().map(|report| (report.0, report.1)), dead, is_assigned);
            Ok(())
        })
    }

    /// Returns the task of a row; `None` if the task was removed and the row is not swept yet.
    fn task_of_row<K, V>(&mut self, id: &TaskId, table: &Table<K, V>) -> Result<Option<&mut TaskState>, LoadError> {
        match self.tasks.get_mut(id) {
            None if !self.removed.contains_key(id) => Err(LoadError::Orphan(table.name)),
            task => Ok(task),
        }
    }
}

/// Visits all rows of a table.
fn rows<K: Key, V: serde::Serialize + serde::de::DeserializeOwned>(
    engine: &Engine,
    table: &Table<K, V>,
    mut visit: impl FnMut(K, V) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    engine.scan(&[table.prefix], |key, value| visit(table.read_key(key)?, table.read(&value)?))
}

/// Visits all rows of a table whose values are encrypted.
fn secret_rows<K: Key, V: serde::Serialize + serde::de::DeserializeOwned>(
    engine: &Engine,
    vault: &Vault,
    table: &EncryptedTable<K, V>,
    mut visit: impl FnMut(K, V) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    engine.scan(&[table.0.prefix], |key, value| visit(table.0.read_key(key)?, table.read(vault, key, &value)?))
}
