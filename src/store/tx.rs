//! The interface of a write: it changes memory and disk together.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    engine::Engine,
    group::Group,
    records::{
        BucketHeader, CollectedBatch, CollectionJobRecord, Generation, HelperJobRecord, HelperJobRow,
        HelperJobRowState, HelperJobState, KeyRecord, LeaderJobRecord, PrivacyRecord, ReportRef, ResultRecord,
        Tombstone,
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
    Secret, Task, TaskId, Time, TokenHash, Tokens, VerifyKeys,
    taskprov::{InBandOrigin, PeerAggregator},
};
use dapbox_support::Fault;

/// A running write. It sees the effects of all earlier writes, including those of its group.
///
/// **Decide first, then mutate.** Nothing is rolled back: a refusal must be returned before anything changes, and a
/// fault stops the store. Methods that change a task fault if it does not exist. A write therefore looks the task up
/// first, because it may have been removed since the caller saw it.
pub struct Tx<'a> {
    pub(super) state: &'a mut State,
    pub(super) group: &'a mut Group,
    pub(super) engine: &'a Engine,
}

/// Reading.
impl Tx<'_> {
    /// Returns a task, or `None` if no task has this id.
    pub fn task(&self, id: &TaskId) -> Option<&TaskState> {
        self.state.tasks.get(id)
    }

    /// All tasks, by id.
    pub fn tasks(&self) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.state.tasks.iter()
    }

    /// Returns a task to change its state in memory: `reserved`, and `waiting` through `pick` and `defer`. Other
    /// changes are lost when the store reopens.
    pub fn task_mut(&mut self, id: &TaskId) -> Option<&mut TaskState> {
        self.state.tasks.get_mut(id)
    }

    /// All HPKE keys, by configuration id.
    pub fn keys(&self) -> &BTreeMap<u8, KeyRecord> {
        &self.state.keys
    }

    /// All tokens of the management API, by hash.
    pub fn api_tokens(&self) -> &BTreeMap<TokenHash, ApiToken> {
        &self.state.api_tokens
    }

    /// Peers registered by a control plane, by number.
    pub fn peers(&self) -> &BTreeMap<u64, PeerAggregator> {
        &self.state.peers
    }

    /// The seed of the tokens of provisioned tasks, if there is one.
    pub fn token_seed(&self) -> Option<&Secret> {
        self.state.token_seed.as_ref()
    }

    /// Whether a task with this id was removed.
    pub fn is_removed(&self, id: &TaskId) -> bool {
        self.state.removed.contains_key(id)
    }

    /// Loads a collected batch.
    pub fn collected(&self, task: &TaskId, batch: &BatchSelector) -> Result<Option<CollectedBatch>, Fault> {
        rows::load_of(self, task, &table::COLLECTED, &(*task, *batch))
    }

    /// Loads a collection job in any state.
    pub fn collection(&self, task: &TaskId, job: &CollectionJobId) -> Result<Option<CollectionJobRecord>, Fault> {
        rows::load_of(self, task, &table::COLLECTIONS, &(*task, *job))
    }

    /// Loads an aggregation job of the helper.
    pub fn helper_job(&self, task: &TaskId, job: &AggregationJobId) -> Result<Option<HelperJobRecord>, Fault> {
        rows::helper_job(self, task, job)
    }

    /// Loads the batch of an aggregate share of the helper.
    pub fn share(&self, task: &TaskId, id: &AggregateShareId) -> Result<Option<BatchSelector>, Fault> {
        rows::load_of(self, task, &table::SHARES, &(*task, *id))
    }

    /// How often [`raise_generation`](Self::raise_generation) was called for this kind of resource and request hash.
    pub fn generation(&self, task: &TaskId, kind: u8, request_hash: &[u8; 32]) -> Result<u64, Fault> {
        Ok(rows::load_of(self, task, &table::GENERATIONS, &(*task, kind, *request_hash))?.unwrap_or_default().count)
    }

    /// Returns a position after all reports appended so far and at or before all later ones.
    pub fn next_position(&mut self) -> ReportRef {
        self.group.close_packs();
        ReportRef { pack: self.state.next_pack, slot: 0 }
    }
}

/// Tasks and keys.
impl Tx<'_> {
    /// Adds a task. Faults if its id is in use or was removed.
    ///
    /// # Decision: a restored copy closes the past of every added task
    ///
    /// A restored copy may have lost a task, or its tombstone, together with the reports that it aggregated. All ways
    /// to add a task (operator, control plane, in-band) end here. So this function closes the past of the task up to
    /// the time of the restore. The copy never aggregates a report of a lost task a second time.
    pub fn add_task(&mut self, task: Task) -> Result<(), Fault> {
        let id = task.public.id;
        if self.task(&id).is_some() || self.is_removed(&id) {
            return Err(Fault::new(format!("the id of task {id} is in use")));
        }
        self.group.set(table::TASKS.key(&id), Some(table::TASKS.value(&self.state.vault, &id, &task)?));
        let (precision, has_noise) = (task.public.time_precision, task.public.noise.is_some());
        self.state.tasks.insert(id, TaskState::new(task, self.state.fingerprints.clone()));
        let Some(before) = self.history_lost_before() else { return Ok(()) };
        let horizon = before.round_up(precision);
        tracing::warn!(task_id = %id, closed_before = horizon.0, "task closed after restore");
        self.raise_horizon(&id, horizon)?;
        if has_noise {
            // Batches of the lost task have spent an unknown part of its privacy budget.
            self.put_privacy(&id, PrivacyRecord { is_uncertain: true, ..PrivacyRecord::default() })?;
        }
        Ok(())
    }

    /// Removes a task and leaves a tombstone. Does nothing if the task does not exist.
    ///
    /// The task disappears immediately. [`sweep_removed`](Self::sweep_removed) deletes its rows later, possibly
    /// millions of them and after a restart.
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

    /// Deletes a task with all its rows and leaves no tombstone, so that its id can be used again. The caller ensures
    /// that none of its reports was ever aggregated. Does nothing and returns false if the task has more rows than one
    /// write may delete.
    pub fn forget_task(&mut self, id: &TaskId) -> Result<bool, Fault> {
        let Some(keys) = self.keys_within_limit(id)? else { return Ok(false) };
        if self.state.tasks.remove(id).is_some() {
            self.group.forget_task(id);
            self.state.sums.forget_task(id);
            keys.into_iter().for_each(|key| self.group.set(key, None));
        }
        Ok(true)
    }

    /// Sets or clears the name of a task.
    pub fn put_task_name(&mut self, task: &TaskId, name: Option<TaskName>) -> Result<(), Fault> {
        let value = name.as_ref().map(|name| table::TASK_NAMES.value(name)).transpose()?;
        self.task_state_mut(task)?.name = name;
        self.group.set(table::TASK_NAMES.key(task), value);
        Ok(())
    }

    /// Sets the privacy budget of a task.
    pub fn put_privacy(&mut self, task: &TaskId, privacy: PrivacyRecord) -> Result<(), Fault> {
        self.task_state_mut(task)?.privacy = privacy;
        self.group.set(table::PRIVACY.key(task), Some(table::PRIVACY.value(&privacy)?));
        Ok(())
    }

    /// Replaces the tokens of a task.
    pub fn put_tokens(&mut self, task: &TaskId, tokens: Tokens) -> Result<(), Fault> {
        let value = table::TOKENS.value(&self.state.vault, task, &tokens)?;
        self.task_state_mut(task)?.tokens = tokens;
        self.group.set(table::TOKENS.key(task), Some(value));
        Ok(())
    }

    /// Replaces the verification keys of a task.
    pub fn put_verify_keys(&mut self, task: &TaskId, keys: VerifyKeys) -> Result<(), Fault> {
        let value = table::VERIFY_KEYS.value(&self.state.vault, task, &keys)?;
        self.task_state_mut(task)?.verify_keys = keys;
        self.group.set(table::VERIFY_KEYS.key(task), Some(value));
        Ok(())
    }

    /// Marks a task as provisioned by a control plane and stores the mutable parts of its provisioning.
    pub fn put_provision(&mut self, task: &TaskId, provision: Provision) -> Result<(), Fault> {
        let value = table::PROVISIONS.value(&provision)?;
        self.task_state_mut(task)?.provision = Some(provision);
        self.group.set(table::PROVISIONS.key(task), Some(value));
        Ok(())
    }

    /// Marks a task as set up in-band. Its own tokens become invalid.
    pub fn put_in_band(&mut self, task: &TaskId, in_band: InBandOrigin) -> Result<(), Fault> {
        let value = table::IN_BAND.value(&in_band)?;
        self.task_state_mut(task)?.set_in_band(in_band);
        self.group.set(table::IN_BAND.key(task), Some(value));
        Ok(())
    }

    /// Registers a peer, after all others.
    pub fn add_peer(&mut self, peer: PeerAggregator) -> Result<(), Fault> {
        let number = self.state.peers.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        self.group.set(table::PEERS.key(&number), Some(table::PEERS.value(&self.state.vault, &number, &peer)?));
        self.state.peers.insert(number, peer);
        Ok(())
    }

    /// Deletes a registered peer.
    pub fn remove_peer(&mut self, number: u64) {
        self.group.set(table::PEERS.key(&number), None);
        self.state.peers.remove(&number);
    }

    /// In a restored copy, the time before which tasks may have existed that the copy does not know.
    pub fn history_lost_before(&self) -> Option<Time> {
        self.state.history_lost_before
    }

    /// Raises the time before which unknown tasks may have existed. The time never decreases.
    pub fn raise_history_lost_before(&mut self, time: Time) -> Result<(), Fault> {
        let time = self.history_lost_before().map_or(time, |known| known.max(time));
        let value = table::SEQUENCES.value(&time.0)?;
        self.group.set(table::SEQUENCES.key(&table::HISTORY_LOST_BEFORE), Some(value));
        self.state.history_lost_before = Some(time);
        Ok(())
    }

    /// The largest `limits.clock_skew` of any server that ran on this directory; zero if none is recorded.
    pub fn clock_skew(&self) -> Duration {
        self.state.clock_skew
    }

    /// Records the `limits.clock_skew` of the running server, if it is larger.
    pub fn raise_clock_skew(&mut self, skew: Duration) -> Result<(), Fault> {
        self.state.clock_skew = self.state.clock_skew.max(skew);
        let value = table::SEQUENCES.value(&self.state.clock_skew.0)?;
        self.group.set(table::SEQUENCES.key(&table::CLOCK_SKEW), Some(value));
        Ok(())
    }

    /// Stores the seed that tokens of provisioned tasks are derived from. Faults if there is one.
    pub fn put_token_seed(&mut self, seed: Secret) -> Result<(), Fault> {
        if self.token_seed().is_some() {
            return Err(Fault::new("the seed of tokens exists already"));
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

    /// Deletes a token of the management API.
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

    /// Deletes an HPKE key. Its id can be used again.
    pub fn remove_key(&mut self, id: u8) {
        self.group.set(table::KEYS.key(&id), None);
        self.state.keys.remove(&id);
    }

    /// Adds `n` to a counter of the task.
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
    /// Records reports as aggregated, for replay protection. Reports before the horizon are not recorded, because they
    /// are rejected by their time.
    pub fn record_aggregated(&mut self, task: &TaskId, reports: &[(ReportId, Time)]) -> Result<(), Fault> {
        let replay = &mut task_state_mut(self.state, task)?.replay;
        for (id, time) in reports {
            if let Some(fingerprint) = replay.insert(id, *time) {
                self.group.record_aggregated(task, fingerprint, *time);
            }
        }
        Ok(())
    }

    /// Stores an uploaded report. The caller ensures that its id is new.
    pub fn append_report(&mut self, task: &TaskId, report: &Report) -> Result<ReportRef, Fault> {
        task_state_mut(self.state, task)?;
        let pack = self.group.append(task, report, &mut self.state.next_pack);
        let (state, metadata) = (task_state_mut(self.state, task)?, report.metadata);
        let bucket = Bucket::Time(metadata.time.truncate(state.task.public.time_precision));
        Ok(state.update_bucket(&bucket, |state| state.waiting.append(pack, metadata.id, metadata.time)))
    }

    /// Deletes uploaded reports that were aggregated or never can be. Ignores reports that are already deleted.
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
    /// Returns a bucket and its sum for changing, and creates it if it does not exist. Reads the sum from disk if it is
    /// not cached.
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

    /// The sum of a bucket that this group has not changed, from the cache or from disk.
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

    /// Records a batch as collected. Replaces an earlier record of exactly this batch.
    pub fn put_collected(&mut self, task: &TaskId, batch: &CollectedBatch) -> Result<(), Fault> {
        let task_state_mut = self.task_state_mut(task)?;
        task_state_mut.collected.insert(&batch.batch);
        task_state_mut.recount_open_buckets();
        let key = table::COLLECTED.key(&(*task, batch.batch));
        self.group.set(key, Some(table::COLLECTED.value(batch)?));
        Ok(())
    }

    /// Stores the state of the result of a collected batch.
    pub fn put_result(&mut self, task: &TaskId, batch: BatchSelector, result: ResultRecord) -> Result<(), Fault> {
        self.task_state_mut(task)?.results.insert(batch, result);
        self.group.set(table::RESULTS.key(&(*task, batch)), Some(table::RESULTS.value(&result)?));
        Ok(())
    }

    /// Records that a collection returned this batch id, so that collectors may query it by id.
    pub fn name_batch(&mut self, task: &TaskId, batch: BatchId) -> Result<(), Fault> {
        self.task_state_mut(task)?.names.insert(batch);
        self.group.set(table::NAMES.key(&(*task, batch)), Some(table::NAMES.value(&())?));
        Ok(())
    }
}

/// Jobs.
impl Tx<'_> {
    /// Adds or replaces an aggregation job of the leader and assigns its reports to it.
    pub fn put_leader_job(&mut self, task: &TaskId, id: AggregationJobId, job: LeaderJobRecord) -> Result<(), Fault> {
        let task_state_mut = task_state_mut(self.state, task)?;
        job.reports.iter().for_each(|at| task_state_mut.waiting.assign(*at));
        self.group.set(table::LEADER_JOBS.key(&(*task, id)), Some(table::LEADER_JOBS.value(&job)?));
        task_state_mut.leader_jobs.insert(id, job);
        Ok(())
    }

    /// Deletes an aggregation job of the leader. The same write deletes or defers each of its reports. A forgotten
    /// report stays assigned until the store reopens, and then waits again.
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

    /// Adds or replaces an aggregation job of the helper.
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

    /// Stores the body of a request that the helper answers later.
    pub fn put_helper_request(&mut self, task: &TaskId, id: AggregationJobId, body: &Bytes) -> Result<(), Fault> {
        let deferred = &mut self.task_state_mut(task)?.deferred;
        if !deferred.contains(&id) {
            deferred.push(id);
        }
        let key = table::HELPER_REQUESTS.key(&(*task, id));
        self.group.set(key, Some(table::HELPER_REQUESTS.value(body)?));
        Ok(())
    }

    /// Deletes a stored request. Returns false if it does not exist.
    pub fn end_helper_request(&mut self, task: &TaskId, id: &AggregationJobId) -> Result<bool, Fault> {
        let deferred = &mut self.task_state_mut(task)?.deferred;
        let Some(place) = deferred.iter().position(|other| other == id) else { return Ok(false) };
        deferred.remove(place);
        self.group.set(table::HELPER_REQUESTS.key(&(*task, *id)), None);
        Ok(true)
    }

    /// Stores the id of an aggregate share of the helper and its batch.
    pub fn put_share(&mut self, task: &TaskId, id: AggregateShareId, batch: &BatchSelector) -> Result<(), Fault> {
        self.task_state_mut(task)?;
        self.group.set(table::SHARES.key(&(*task, id)), Some(table::SHARES.value(batch)?));
        Ok(())
    }

    /// Records that a resource of this kind and request hash was deleted: the same request makes a new resource from
    /// now on.
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
    state.tasks.get_mut(id).ok_or_else(|| Fault::new(format!("cannot change task {id}: it does not exist")))
}

impl Rows for Tx<'_> {
    fn has_task(&self, task: &TaskId) -> bool {
        self.task(task).is_some()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.group.get(self.engine, key)?)
    }
}
