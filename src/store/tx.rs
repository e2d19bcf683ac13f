//! The view of one write: memory and disk are changed together.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    engine::Engine,
    group::Group,
    records::{
        BucketHeader, CollectedBatch, CollectionJobRecord, Generation, HelperJobRecord, HelperJobRow,
        HelperJobRowState, HelperJobState, KeyRecord, LeaderJobRecord, ReportRef, ResultRecord, Tombstone,
    },
    replay,
    rows::{self, Rows},
    state::{State, TaskState},
    sums::{BucketKey, BucketMut},
    table,
};
use crate::{
    api_token::{ApiToken, Provision},
    name::TaskName,
};
use dapbox_protocol::model::{
    AggregateShareId, AggregationJobId, BatchId, BatchSelector, Bucket, CollectionJobId, Duration, Report, ReportId,
    Secret, Task, TaskId, Time, TokenHash, Tokens,
    taskprov::{InBandOrigin, PeerAggregator},
};
use dapbox_support::Fault;

/// What a write sees and does. Everything is seen as the writes before it have left it, those of the same group
/// included.
///
/// **Decide first, then mutate.** There is no way back: a refusal is an `Ok` value that is returned before anything
/// was changed, and an `Err` stops the store. Methods that change a task fault if there is no such task, so a write
/// looks the task up first: it may have been removed since the caller saw it.
pub struct Tx<'a> {
    pub(super) state: &'a mut State,
    pub(super) group: &'a mut Group,
    pub(super) engine: &'a Engine,
}

/// Looking.
impl Tx<'_> {
    /// A task, or `None` if there is none with this id (any more).
    pub fn task(&self, id: &TaskId) -> Option<&TaskState> {
        self.state.tasks.get(id)
    }

    /// All tasks, by id.
    pub fn tasks(&self) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.state.tasks.iter()
    }

    /// A task, to change what is not stored: `reserved`, and `waiting` by `pick` and `defer`.
    /// Anything else that is changed through this is lost when the store is opened again.
    pub fn task_mut(&mut self, id: &TaskId) -> Option<&mut TaskState> {
        self.state.tasks.get_mut(id)
    }

    /// All HPKE keys, by configuration id.
    pub fn keys(&self) -> &BTreeMap<u8, KeyRecord> {
        &self.state.keys
    }

    /// All tokens of the management API, by their hashes.
    pub fn api_tokens(&self) -> &BTreeMap<TokenHash, ApiToken> {
        &self.state.api_tokens
    }

    /// Peers that a control plane has named, by their numbers.
    pub fn peers(&self) -> &BTreeMap<u64, PeerAggregator> {
        &self.state.peers
    }

    /// What the tokens of tasks are derived from that a control plane sets up, if there is such a secret.
    pub fn token_seed(&self) -> Option<&Secret> {
        self.state.token_seed.as_ref()
    }

    /// Whether a task with this id was removed.
    pub fn is_removed(&self, id: &TaskId) -> bool {
        self.state.removed.contains_key(id)
    }

    /// What is kept of a collected batch.
    pub fn collected(&self, task: &TaskId, batch: &BatchSelector) -> Result<Option<CollectedBatch>, Fault> {
        rows::load_of(self, task, &table::COLLECTED, &(*task, *batch))
    }

    /// A collection job in whatever state.
    pub fn collection(&self, task: &TaskId, job: &CollectionJobId) -> Result<Option<CollectionJobRecord>, Fault> {
        rows::load_of(self, task, &table::COLLECTIONS, &(*task, *job))
    }

    /// An aggregation job of ours as the helper.
    pub fn helper_job(&self, task: &TaskId, job: &AggregationJobId) -> Result<Option<HelperJobRecord>, Fault> {
        rows::helper_job(self, task, job)
    }

    /// The batch of an aggregate share of ours as the helper.
    pub fn share(&self, task: &TaskId, id: &AggregateShareId) -> Result<Option<BatchSelector>, Fault> {
        rows::load_of(self, task, &table::SHARES, &(*task, *id))
    }

    /// How often [`raise_generation`](Self::raise_generation) was called for a kind of resource and the hash of the
    /// request that makes it.
    pub fn generation(&self, task: &TaskId, kind: u8, request_hash: &[u8; 32]) -> Result<u64, Fault> {
        Ok(rows::load_of(self, task, &table::GENERATIONS, &(*task, kind, *request_hash))?.unwrap_or_default().count)
    }

    /// A position after all reports that were appended so far and before (or at) those still to come.
    pub fn next_position(&mut self) -> ReportRef {
        self.group.close_packs();
        ReportRef { pack: self.state.next_pack, slot: 0 }
    }
}

/// Tasks and keys.
impl Tx<'_> {
    /// Adds a task. A fault if its id is taken or was removed: ask first.
    ///
    /// A restored copy may have lost the task, or its tombstone, with the reports that it aggregated. Every way to add a
    /// task comes through here, so the past of a task that is added to a restored copy is closed here.
    pub fn add_task(&mut self, task: Task) -> Result<(), Fault> {
        let id = task.public.id;
        if self.task(&id).is_some() || self.is_removed(&id) {
            return Err(Fault::new(format!("the id of task {id} is taken")));
        }
        self.group.set(table::TASKS.key(&id), Some(table::TASKS.value(&self.state.vault, &id, &task)?));
        let precision = task.public.time_precision;
        self.state.tasks.insert(id, TaskState::new(task, self.state.fingerprints.clone()));
        let Some(before) = self.history_lost_before() else { return Ok(()) };
        let horizon = before.round_up(precision);
        tracing::warn!(task_id = %id, closed_before = horizon.0, "past of a task closed, data directory was restored");
        self.raise_horizon(&id, horizon)
    }

    /// Deletes a task with all that is known of it, and leaves a tombstone. Does nothing if there is no such task.
    ///
    /// There may be millions of rows. The task is gone at once, and its rows are by
    /// [`sweep_removed`](Self::sweep_removed), here or after the store was opened again.
    pub fn remove_task(&mut self, id: &TaskId, now: Time) -> Result<(), Fault> {
        if self.state.tasks.remove(id).is_none() {
            return Ok(());
        }
        self.group.forget_task(id);
        self.state.sums.forget_task(id);
        self.group.set(table::TASKS.key(id), None);
        self.state.unswept.insert(*id);
        let tombstone = Tombstone { at: now };
        self.group.set(table::REMOVED.key(id), Some(table::REMOVED.value(&tombstone)?));
        self.state.removed.insert(*id, tombstone);
        Ok(())
    }

    /// Deletes a task with all its rows, and leaves no tombstone: its id may be used again. The caller knows that no
    /// report of it was ever aggregated. Does nothing and returns false if it has more rows than one write deletes.
    pub fn forget_task(&mut self, id: &TaskId) -> Result<bool, Fault> {
        let Some(keys) = self.keys_within_limit(id)? else { return Ok(false) };
        if self.state.tasks.remove(id).is_some() {
            self.group.forget_task(id);
            self.state.sums.forget_task(id);
            keys.into_iter().for_each(|key| self.group.set(key, None));
        }
        Ok(true)
    }

    /// Gives a task another name, or none.
    pub fn put_task_name(&mut self, task: &TaskId, name: Option<TaskName>) -> Result<(), Fault> {
        let value = name.as_ref().map(|name| table::TASK_NAMES.value(name)).transpose()?;
        self.task_state_mut(task)?.name = name;
        self.group.set(table::TASK_NAMES.key(task), value);
        Ok(())
    }

    /// Replaces the tokens of a task.
    pub fn put_tokens(&mut self, task: &TaskId, tokens: Tokens) -> Result<(), Fault> {
        let value = table::TOKENS.value(&self.state.vault, task, &tokens)?;
        self.task_state_mut(task)?.tokens = tokens;
        self.group.set(table::TOKENS.key(task), Some(value));
        Ok(())
    }

    /// Says of a task that a control plane has set it up, and what stands beside it.
    pub fn put_provision(&mut self, task: &TaskId, provision: Provision) -> Result<(), Fault> {
        let value = table::PROVISIONS.value(&provision)?;
        self.task_state_mut(task)?.provision = Some(provision);
        self.group.set(table::PROVISIONS.key(task), Some(value));
        Ok(())
    }

    /// Says of a task that it was set up in-band, and what stands beside it. Its own tokens are good for nothing then.
    pub fn put_in_band(&mut self, task: &TaskId, in_band: InBandOrigin) -> Result<(), Fault> {
        let value = table::IN_BAND.value(&in_band)?;
        self.task_state_mut(task)?.set_in_band(in_band);
        self.group.set(table::IN_BAND.key(task), Some(value));
        Ok(())
    }

    /// Adds a peer that a control plane names, after all others.
    pub fn add_peer(&mut self, peer: PeerAggregator) -> Result<(), Fault> {
        let number = self.state.peers.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        self.group.set(table::PEERS.key(&number), Some(table::PEERS.value(&self.state.vault, &number, &peer)?));
        self.state.peers.insert(number, peer);
        Ok(())
    }

    /// Forgets a peer that a control plane has named.
    pub fn remove_peer(&mut self, number: u64) {
        self.group.set(table::PEERS.key(&number), None);
        self.state.peers.remove(&number);
    }

    /// Before which time there may have been tasks that are not known here any more, if this is a restored copy.
    pub fn history_lost_before(&self) -> Option<Time> {
        self.state.history_lost_before
    }

    /// Says that there may have been tasks before this time that are not known here any more. It only rises.
    pub fn raise_history_lost_before(&mut self, time: Time) -> Result<(), Fault> {
        let time = self.history_lost_before().map_or(time, |known| known.max(time));
        let value = table::SEQUENCES.value(&time.0)?;
        self.group.set(table::SEQUENCES.key(&table::HISTORY_LOST_BEFORE), Some(value));
        self.state.history_lost_before = Some(time);
        Ok(())
    }

    /// The largest `limits.clock_skew` that a server ran with on these data; zero if none is known.
    pub fn clock_skew(&self) -> Duration {
        self.state.clock_skew
    }

    /// Notes that a server takes reports this far ahead of its clock.
    pub fn raise_clock_skew(&mut self, skew: Duration) -> Result<(), Fault> {
        self.state.clock_skew = self.state.clock_skew.max(skew);
        let value = table::SEQUENCES.value(&self.state.clock_skew.0)?;
        self.group.set(table::SEQUENCES.key(&table::CLOCK_SKEW), Some(value));
        Ok(())
    }

    /// Keeps the secret that tokens of tasks are derived from. There must be none.
    pub fn put_token_seed(&mut self, seed: Secret) -> Result<(), Fault> {
        if self.token_seed().is_some() {
            return Err(Fault::new("the secret that tokens are derived from is there already"));
        }
        let value = table::SECRETS.value(&self.state.vault, &table::TOKEN_SEED, &seed)?;
        self.group.set(table::SECRETS.key(&table::TOKEN_SEED), Some(value));
        self.state.token_seed = Some(seed);
        Ok(())
    }

    /// Adds a token of the management API.
    pub fn put_api_token(&mut self, token: ApiToken) -> Result<(), Fault> {
        self.group.set(table::API_TOKENS.key(token.hash.as_bytes()), Some(table::API_TOKENS.value(&token)?));
        self.state.api_tokens.insert(token.hash, token);
        Ok(())
    }

    /// Forgets a token of the management API.
    pub fn remove_api_token(&mut self, hash: &TokenHash) {
        self.group.set(table::API_TOKENS.key(hash.as_bytes()), None);
        self.state.api_tokens.remove(hash);
    }

    /// Adds or replaces an HPKE key.
    pub fn put_key(&mut self, key: KeyRecord) -> Result<(), Fault> {
        let value = table::KEYS.value(&self.state.vault, &key.config.id, &key)?;
        self.group.set(table::KEYS.key(&key.config.id), Some(value));
        self.state.keys.insert(key.config.id, key);
        Ok(())
    }

    /// Forgets an HPKE key, whose id may be used again.
    pub fn remove_key(&mut self, id: u8) {
        self.group.set(table::KEYS.key(&id), None);
        self.state.keys.remove(&id);
    }

    /// Counts that something happened to `n` reports.
    pub fn count(&mut self, task: &TaskId, name: &str, n: u64) -> Result<(), Fault> {
        let counters = &mut self.task_state_mut(task)?.counters;
        match counters.get_mut(name) {
            Some(counter) => *counter = counter.saturating_add(n),
            None => drop(counters.insert(name.to_owned(), n)),
        }
        self.group.touch_counters(task);
        Ok(())
    }
}

/// Reports.
impl Tx<'_> {
    /// The reports are aggregated, and never will be again. Those before the horizon, if there is one, are refused
    /// without being remembered.
    pub fn record_aggregated(&mut self, task: &TaskId, reports: &[(ReportId, Time)]) -> Result<(), Fault> {
        let replay = &mut task_state_mut(self.state, task)?.replay;
        for (id, time) in reports {
            if let Some(fingerprint) = replay.insert(id, *time) {
                self.group.record_aggregated(task, fingerprint, *time);
            }
        }
        Ok(())
    }

    /// Stores an uploaded report, which then waits. The caller has made sure that its id is not known yet.
    pub fn append_report(&mut self, task: &TaskId, report: &Report) -> Result<ReportRef, Fault> {
        task_state_mut(self.state, task)?;
        let pack = self.group.append(task, report, &mut self.state.next_pack);
        let (state, metadata) = (task_state_mut(self.state, task)?, report.metadata);
        let bucket = Bucket::Time(metadata.time.truncate(state.task.public.time_precision));
        Ok(state.update_bucket(&bucket, |state| state.waiting.append(pack, metadata.id, metadata.time)))
    }

    /// Deletes uploaded reports: they were aggregated, or never can be. Those that are gone already do not matter.
    pub fn delete_reports(&mut self, task: &TaskId, reports: &[(ReportId, ReportRef)]) -> Result<(), Fault> {
        let state = task_state_mut(self.state, task)?;
        for (id, at) in reports {
            let time = state.waiting.time_of(id).unwrap_or(Time(0));
            let bucket = Bucket::Time(time.truncate(state.task.public.time_precision));
            if state.update_bucket(&bucket, |state| state.waiting.remove(id, *at)) {
                self.group.touch_pack(task, at.pack);
            }
        }
        Ok(())
    }
}

/// Batches.
impl Tx<'_> {
    /// A bucket and its sum, to be changed; empty if there was none. Reads the sum from the disk if it is not cached.
    pub fn bucket_mut(&mut self, task: &TaskId, bucket: Bucket) -> Result<BucketMut<'_>, Fault> {
        let key = (*task, bucket);
        let share = if self.group.has_sum(&key) { None } else { Some(self.stored_sum(&key)?) };
        let state = task_state_mut(self.state, task)?;
        state.update_bucket(&bucket, |state| {
            state.buckets.entry(bucket).or_insert(BucketHeader::EMPTY);
        });
        let header = state.buckets.get_mut(&bucket).ok_or_else(|| Fault::new("a batch bucket is missing"))?;
        let (share, group_bytes) = self.group.sum_mut(key, share);
        Ok(BucketMut { header, share, group_bytes })
    }

    /// The sum of a bucket that this group has not changed, out of the cache or from the disk.
    fn stored_sum(&mut self, key: &BucketKey) -> Result<Vec<u8>, Fault> {
        let header = self.task(&key.0).and_then(|state| state.buckets.get(&key.1));
        if header.is_none_or(|header| header.share_bytes == 0) {
            return Ok(Vec::new());
        }
        if let Some(sum) = self.state.sums.take(key) {
            return Ok(sum);
        }
        let record = rows::load(self, &table::BUCKETS, key)?;
        Ok(record.ok_or_else(|| Fault::new("the row of a batch bucket is missing"))?.share)
    }

    /// The batch is collected from now on. Replaces what was kept of exactly the same batch.
    pub fn put_collected(&mut self, task: &TaskId, batch: &CollectedBatch) -> Result<(), Fault> {
        let task_state_mut = self.task_state_mut(task)?;
        task_state_mut.collected.insert(&batch.batch);
        task_state_mut.recount_open_buckets();
        let key = table::COLLECTED.key(&(*task, batch.batch));
        self.group.set(key, Some(table::COLLECTED.value(batch)?));
        Ok(())
    }

    /// Says what became of the result of a collected batch.
    pub fn put_result(&mut self, task: &TaskId, batch: BatchSelector, result: ResultRecord) -> Result<(), Fault> {
        self.task_state_mut(task)?.results.insert(batch, result);
        self.group.set(table::RESULTS.key(&(*task, batch)), Some(table::RESULTS.value(&result)?));
        Ok(())
    }

    /// A collection has named the batch, so that collectors may ask for it by its id.
    pub fn name_batch(&mut self, task: &TaskId, batch: BatchId) -> Result<(), Fault> {
        self.task_state_mut(task)?.names.insert(batch);
        self.group.set(table::NAMES.key(&(*task, batch)), Some(table::NAMES.value(&())?));
        Ok(())
    }
}

/// Jobs.
impl Tx<'_> {
    /// Adds or replaces an aggregation job of ours as the leader. Its reports are assigned.
    pub fn put_leader_job(&mut self, task: &TaskId, id: AggregationJobId, job: LeaderJobRecord) -> Result<(), Fault> {
        let task_state_mut = task_state_mut(self.state, task)?;
        job.reports.iter().for_each(|at| task_state_mut.waiting.assign(*at));
        self.group.set(table::LEADER_JOBS.key(&(*task, id)), Some(table::LEADER_JOBS.value(&job)?));
        task_state_mut.leader_jobs.insert(id, job);
        Ok(())
    }

    /// Deletes an aggregation job of ours as the leader. The same write buries or defers each of its reports: one that is forgotten stays assigned until the store is opened again, and then waits.
    pub fn end_leader_job(&mut self, task: &TaskId, id: &AggregationJobId) -> Result<(), Fault> {
        self.task_state_mut(task)?.leader_jobs.remove(id);
        self.group.set(table::LEADER_JOBS.key(&(*task, *id)), None);
        Ok(())
    }

    /// Adds or replaces a collection job.
    pub fn put_collection(
        &mut self,
        task: &TaskId,
        id: CollectionJobId,
        job: CollectionJobRecord,
    ) -> Result<(), Fault> {
        let active = &mut task_state_mut(self.state, task)?.collections;
        self.group.set(table::COLLECTIONS.key(&(*task, id)), Some(table::COLLECTIONS.value(&job)?));
        if job.state.is_active() {
            active.insert(id, job);
        } else {
            active.remove(&id);
        }
        Ok(())
    }

    /// Adds or replaces an aggregation job of ours as the helper.
    pub fn put_helper_job(&mut self, task: &TaskId, id: AggregationJobId, job: &HelperJobRecord) -> Result<(), Fault> {
        self.task_state_mut(task)?;
        let HelperJobRecord { request_hash, created, ref state } = *job;
        let (state, answer) = match state {
            HelperJobState::Pending => (HelperJobRowState::Pending, None),
            HelperJobState::Answered(answer) => (HelperJobRowState::Answered, Some(table::ANSWERS.value(answer)?)),
            HelperJobState::Expired => (HelperJobRowState::Answered, None),
            HelperJobState::Deleted => (HelperJobRowState::Deleted, None),
        };
        self.group.set(table::ANSWERS.key(&(*task, replay::day(created), id)), answer);
        let row = HelperJobRow { request_hash, created, state };
        self.group.set(table::HELPER_JOBS.key(&(*task, id)), Some(table::HELPER_JOBS.value(&row)?));
        Ok(())
    }

    /// Adds the body of a request that we accept as the helper and answer later.
    pub fn put_helper_request(&mut self, task: &TaskId, id: AggregationJobId, body: &Bytes) -> Result<(), Fault> {
        let deferred = &mut self.task_state_mut(task)?.deferred;
        if !deferred.contains(&id) {
            deferred.push(id);
        }
        let key = table::HELPER_REQUESTS.key(&(*task, id));
        self.group.set(key, Some(table::HELPER_REQUESTS.value(body)?));
        Ok(())
    }

    /// Deletes a request that was accepted: it is answered now, or never. False if there is no such request.
    pub fn end_helper_request(&mut self, task: &TaskId, id: &AggregationJobId) -> Result<bool, Fault> {
        let deferred = &mut self.task_state_mut(task)?.deferred;
        let Some(place) = deferred.iter().position(|other| other == id) else { return Ok(false) };
        deferred.remove(place);
        self.group.set(table::HELPER_REQUESTS.key(&(*task, *id)), None);
        Ok(true)
    }

    /// Gives the batch of an aggregate share of ours as the helper an id.
    pub fn put_share(&mut self, task: &TaskId, id: AggregateShareId, batch: &BatchSelector) -> Result<(), Fault> {
        self.task_state_mut(task)?;
        self.group.set(table::SHARES.key(&(*task, id)), Some(table::SHARES.value(batch)?));
        Ok(())
    }

    /// A resource of this kind was deleted that a request with this hash had made: what the same request makes from now
    /// on is another.
    pub fn raise_generation(&mut self, task: &TaskId, kind: u8, request_hash: &[u8; 32]) -> Result<(), Fault> {
        self.task_state_mut(task)?;
        let count = self.generation(task, kind, request_hash)?.saturating_add(1);
        let key = table::GENERATIONS.key(&(*task, kind, *request_hash));
        self.group.set(key, Some(table::GENERATIONS.value(&Generation { count, since: None })?));
        Ok(())
    }

    pub(super) fn task_state_mut(&mut self, id: &TaskId) -> Result<&mut TaskState, Fault> {
        task_state_mut(self.state, id)
    }
}

fn task_state_mut<'a>(state: &'a mut State, id: &TaskId) -> Result<&'a mut TaskState, Fault> {
    state.tasks.get_mut(id).ok_or_else(|| Fault::new(format!("task {id} is changed and does not exist")))
}

impl Rows for Tx<'_> {
    fn has_task(&self, task: &TaskId) -> bool {
        self.task(task).is_some()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.group.get(self.engine, key)?)
    }
}
