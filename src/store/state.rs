//! What the store holds in memory, all of it rebuilt from the rows when the store is opened.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    collected::CollectedBatches,
    engine::{Engine, EngineError, Row, Rows},
    fingerprints::FingerprintKey,
    records::{
        BucketHeader, CollectionJobRecord, Counters, KeyRecord, LeaderJobRecord, ReportRef, ResultRecord, Tombstone,
    },
    replay::ReplayIndex,
    sums::SumCache,
    table::{self, EncryptedTable, Key, RowError, Table},
    vault::Vault,
    waiting::WaitingReports,
};
use crate::{
    api_token::{ApiToken, Provision},
    name::TaskName,
};
use dapbox_protocol::model::{
    AggregationJobId, BatchId, BatchMode, BatchSelector, Bucket, CollectionJobId, Duration, ReportId, Secret, Task,
    TaskId, Time, TokenHash, Tokens,
    taskprov::{InBandOrigin, PeerAggregator},
};
use dapbox_support::Fault;

/// Everything that decisions are made from.
#[derive(Debug)]
pub(super) struct State {
    /// Encrypts what is secret.
    pub(super) vault: Vault,
    /// The key of the fingerprints of aggregated reports.
    pub(super) fingerprints: FingerprintKey,
    /// All tasks.
    pub(super) tasks: BTreeMap<TaskId, TaskState>,
    /// All HPKE keys, by configuration id.
    pub(super) keys: BTreeMap<u8, KeyRecord>,
    /// All tokens of the management API, those included that have expired.
    pub(super) api_tokens: BTreeMap<TokenHash, ApiToken>,
    /// Peers that a control plane has named.
    pub(super) peers: BTreeMap<u64, PeerAggregator>,
    /// What the tokens of tasks are derived from that a control plane sets up, once that was wanted.
    pub(super) token_seed: Option<Secret>,
    /// Before which time there may have been tasks that are not known here any more, if this is a restored copy.
    pub(super) history_lost_before: Option<Time>,
    /// The largest `limits.clock_skew` that a server ran with; zero if none is known.
    pub(super) clock_skew: Duration,
    /// Tasks that were removed, whose ids are refused.
    pub(super) removed: BTreeMap<TaskId, Tombstone>,
    /// Removed tasks of which there may be rows.
    pub(super) unswept: BTreeSet<TaskId>,
    /// The number of the pack that is begun next, in whatever task.
    pub(super) next_pack: u64,
    /// Sums of batch buckets that were used last.
    pub(super) sums: SumCache,
}

/// What is held in memory of a task.
///
/// [`Tx`](super::Tx) has a method for each change that must be stored. Only `reserved` and the memory-only methods
/// of `waiting` are to be changed directly.
#[derive(Debug)]
pub struct TaskState {
    /// The task's parameters.
    pub task: Arc<Task>,
    /// The tokens that are in force; none if the task was set up in-band, which has those that its peer has.
    pub tokens: Tokens,
    /// If a control plane has set the task up, what stands beside it.
    pub provision: Option<Provision>,
    /// If the task was set up in-band, what stands beside it.
    pub in_band: Option<InBandOrigin>,
    /// What the operator calls it.
    pub name: Option<TaskName>,
    /// What happened how often.
    pub counters: Counters,
    /// Which reports were aggregated.
    pub replay: ReplayIndex,
    /// Uploaded reports (leader).
    pub waiting: WaitingReports,
    /// Batch buckets that were not dropped yet. Their sums are on disk.
    pub buckets: BTreeMap<Bucket, BucketHeader>,
    /// How many buckets [`is_open`](Self::is_open) holds for.
    open_buckets: usize,
    /// Which batches were collected or given up.
    pub collected: CollectedBatches,
    /// Aggregation jobs in flight (leader).
    pub leader_jobs: BTreeMap<AggregationJobId, LeaderJobRecord>,
    /// Collection jobs that are waiting or closed (leader). The others are only on disk.
    pub collections: BTreeMap<CollectionJobId, CollectionJobRecord>,
    /// Reports that are being prepared, by job (helper). Never stored.
    pub reserved: HashMap<ReportId, AggregationJobId>,
    /// Requests for aggregation jobs that are accepted and not answered yet, in the order in which they came; when the
    /// store is opened, in any (helper).
    pub deferred: Vec<AggregationJobId>,
    /// Batch ids that collections named (leader).
    pub names: BTreeSet<BatchId>,
    /// What became of the results of collected batches (leader). Those of earlier releases have none.
    pub results: BTreeMap<BatchSelector, ResultRecord>,
}

impl TaskState {
    /// The end in force: reports after this time are refused.
    pub fn end(&self) -> Option<Time> {
        match &self.provision {
            Some(provision) => provision.end,
            None => self.task.public.task_expiration,
        }
    }

    /// Whether the bucket takes no more reports: it is before the horizon, or its batch was collected or given up.
    pub fn is_closed(&self, bucket: &Bucket) -> bool {
        self.is_before_horizon(bucket) || self.collected.covers(bucket)
    }

    /// Whether the bucket is of a time before the horizon.
    pub fn is_before_horizon(&self, bucket: &Bucket) -> bool {
        matches!(bucket, Bucket::Time(start) if Some(*start) < self.replay.horizon())
    }

    /// Whether the bucket is open: it has reports, aggregated or waiting, and takes more. In tasks of fixed-size batches a
    /// report that waits has no bucket.
    pub fn is_open(&self, bucket: &Bucket) -> bool {
        (self.buckets.contains_key(bucket) || self.has_waiting(bucket)) && !self.is_closed(bucket)
    }

    /// How many batch buckets are open.
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

    /// Changes what one bucket has, and counts whether it is open afterwards.
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

    /// Counts the open buckets anew, after a change that concerns many.
    pub(super) fn recount_open_buckets(&mut self) {
        let of_sums = self.buckets.keys().filter(|bucket| !self.is_closed(bucket)).count();
        let only_waiting = |start: &&Time| {
            let bucket = Bucket::Time(**start);
            !self.buckets.contains_key(&bucket) && !self.is_closed(&bucket)
        };
        let of_waiting = if self.has_time_buckets() { self.waiting.units().filter(only_waiting).count() } else { 0 };
        self.open_buckets = of_sums + of_waiting;
    }

    /// The task was set up in-band.
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
            provision: None,
            in_band: None,
            name: None,
            task: Arc::new(task),
        }
    }
}

/// Why the rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Row(#[from] RowError),
    #[error("there are {0} of a task that does not exist")]
    Orphan(&'static str),
    #[error("fingerprints of aggregated reports are cut off")]
    Ids,
    #[error("the database is empty, which it never was since it was made")]
    Empty,
    #[error("its secrets are encrypted under another key")]
    OtherKey,
}

impl State {
    /// The rows that are there from the first day.
    pub(super) fn initial_rows(vault: &Vault) -> Result<Rows, Fault> {
        let next_pack = (table::SEQUENCES.key(&table::NEXT_PACK), Some(table::SEQUENCES.value(&0)?));
        let (key, value) = Self::fingerprint_key_row(vault, &Self::new_fingerprint_key())?;
        Ok(Rows::from([next_pack, (key, Some(value))]))
    }

    /// A new key for fingerprints.
    pub(super) fn new_fingerprint_key() -> Secret {
        Secret::random(FingerprintKey::BYTES)
    }

    /// The row of a key for fingerprints.
    pub(super) fn fingerprint_key_row(vault: &Vault, key: &Secret) -> Result<Row, Fault> {
        let value = table::SECRETS.value(vault, &table::FINGERPRINT_KEY, key)?;
        Ok((table::SECRETS.key(&table::FINGERPRINT_KEY), value))
    }

    /// The key of the fingerprints. It is read first: whether it decrypts tells whether the directory's secrets do.
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

    /// Reads everything but sums, of which up to `sum_cache_bytes` are held later.
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
        rows(engine, &table::TASK_NAMES, |id, name| {
            let Some(task) = state.task_of_row(&id, &table::TASK_NAMES)? else { return Ok(()) };
            task.name = Some(name);
            Ok(())
        })?;
        secret_rows(engine, &vault, &table::PEERS, |number, peer| {
            state.peers.insert(number, peer);
            Ok(())
        })?;
        rows(engine, &table::API_TOKENS, |_, token| {
            state.api_tokens.insert(token.hash, token);
            Ok(())
        })?;
        state.load_replay(engine)?;
        state.load_batches(engine)?;
        state.load_jobs(engine)?;
        state.load_waiting(engine)?;
        state.tasks.values_mut().for_each(TaskState::recount_open_buckets);
        Ok(state)
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
        // The rows have aggregate shares or answers in them; the keys say all that the index needs.
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
            // An earlier release may have forgotten the batch since.
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
        // The rows are as long as the requests.
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

    /// Waiting is what is in packs and neither dead nor named by a job.
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

    /// The task that a row is of; `None` if it was removed and the row was not swept yet.
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
