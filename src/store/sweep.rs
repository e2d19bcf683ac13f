//! Closing and forgetting what is over.
//!
//! A task has a *horizon*, a time that only rises: everything before it is closed
//! ([`ReplayIndex::horizon`](super::ReplayIndex::horizon)). It is stored before anything is forgotten on its account, so that what
//! is not known any more is refused.
//!
//! Sweeping goes through the rows of a task in bounded steps, one for each write; where it is, is held by whoever drives
//! it and not stored. It begins again after a restart, and what is swept already costs it nothing.

use super::{
    engine::EngineError,
    group,
    records::{CollectionState, HelperJobRecord, HelperJobRow, HelperJobRowState},
    replay, rows,
    table::{self, Key, Table},
    tx::Tx,
};
use dapbox_protocol::model::{
    AggregationJobId, BatchId, BatchSelector, Bucket, CollectionJobId, Duration, PartialBatchSelector, ReportId,
    TaskId, Time,
};
use dapbox_support::Fault;

/// How much one write deletes, so that others need not wait long: rows, or pieces of rows that are long.
const MAX_ROWS_PER_WRITE: usize = 1_000;

/// How far ahead of the clock a stored time is before the clock must have been wrong when it was stored. In seconds.
const AHEAD: Duration = Duration(86_400);
/// A clock that shows less is wrong itself, and corrects nothing: this is before the first release.
const EARLIEST: Time = Time(1_700_000_000);

/// Whether a stored time is of a clock that was ahead.
fn is_misdated(time: Time, now: Time) -> bool {
    now >= EARLIEST && time > now.saturating_add(AHEAD)
}

/// Closing.
impl Tx<'_> {
    /// Everything before the given time is closed from now on. The horizon only rises.
    pub fn raise_horizon(&mut self, task: &TaskId, horizon: Time) -> Result<(), Fault> {
        let task_state_mut = self.task_state_mut(task)?;
        let days = task_state_mut.replay.forget_before(horizon);
        let horizon = task_state_mut.replay.horizon();
        task_state_mut.recount_open_buckets();
        for day in days {
            self.group.forget_day(task, day);
        }
        let value = horizon.map(|time| table::HORIZONS.value(&time)).transpose()?;
        self.group.set(table::HORIZONS.key(task), value);
        Ok(())
    }

    /// Closes a batch that was not collected, for good. False if it is closed already.
    pub fn abandon_batch(&mut self, task: &TaskId, batch: BatchId) -> Result<bool, Fault> {
        let task_state_mut = self.task_state_mut(task)?;
        if !task_state_mut
            .update_bucket(&Bucket::Batch(batch), |task_state_mut| task_state_mut.collected.abandon(batch))
        {
            return Ok(false);
        }
        self.group.set(table::ABANDONED_BATCHES.key(&(*task, batch)), Some(table::ABANDONED_BATCHES.value(&None)?));
        Ok(true)
    }

    /// Closes everything before the given time, and every batch id that there is, whatever the times of its reports.
    pub fn close_before(&mut self, task: &TaskId, horizon: Time) -> Result<(), Fault> {
        self.raise_horizon(task, horizon)?;
        let state = self.task_state_mut(task)?;
        let of_bucket = |bucket: &Bucket| match bucket {
            Bucket::Batch(id) => Some(*id),
            Bucket::Time(_) => None,
        };
        let mut batches: Vec<BatchId> = state.buckets.keys().filter_map(of_bucket).collect();
        batches.extend(state.leader_jobs.values().filter_map(|job| match job.batch {
            PartialBatchSelector::FixedSize(id) => Some(id),
            PartialBatchSelector::TimeInterval => None,
        }));
        for batch in batches {
            self.abandon_batch(task, batch)?;
        }
        Ok(())
    }
}

/// Looking at what is over.
impl Tx<'_> {
    /// The ids of all collection jobs of a task, in whatever state, that were there before this group of writes. Costs as
    /// much as there are: for a directory that nobody uses yet.
    pub fn collection_ids(&self, task: &TaskId) -> Result<Vec<CollectionJobId>, Fault> {
        let prefix = group::task_prefix(table::COLLECTIONS.prefix, task);
        let mut ids = Vec::new();
        self.engine.keys(&prefix, |key| {
            ids.push(key.to_vec());
            Ok::<_, EngineError>(())
        })?;
        let ids: Result<Vec<_>, _> = ids.iter().map(|key| table::COLLECTIONS.read_key(key)).collect();
        Ok(ids?.into_iter().map(|(_, id)| id).collect())
    }
}

/// What is old enough to be forgotten. Everything here is the sweeper's to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepCutoffs {
    /// What time it is.
    pub now: Time,
    /// The helper's answers to jobs that came on a day before this one's are forgotten.
    pub answers: Time,
    /// Results, and collected batches of reports of before this time, are forgotten, unless their task keeps them for
    /// ever. Never after the horizon: what is forgotten is closed.
    pub results: Option<Time>,
    /// The helper's jobs that came before this time are forgotten, if anything is.
    pub jobs: Option<Time>,
    /// It is forgotten how often a resource was deleted that never was again since this time, if anything is.
    pub generations: Option<Time>,
}

/// How far the sweeping of a task is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepCursor {
    stage: SweepStage,
    /// In a stage that looks at all rows of a table: the key to go on from.
    from: Vec<u8>,
}

/// What is swept, in this order: sums before it is forgotten that they were collected, and generations of names after
/// what has these names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SweepStage {
    #[default]
    Waiting,
    Buckets,
    Collected,
    AbandonedBatches,
    Replay,
    Answers,
    HelperJobs,
    Collections,
    Shares,
    Generations,
}

/// What one step has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepResult {
    /// Where to go on; `None` if all is done.
    pub next: Option<SweepCursor>,
    /// Waiting reports that were dropped.
    pub reports: u64,
    /// Reports in sums that were dropped without having been collected.
    pub sums: u64,
    /// Collected batches that were forgotten.
    pub batches: u64,
}

/// Forgetting.
impl Tx<'_> {
    /// Forgets some of what is over of a task. To be called again in another write, with the place that it returns.
    pub fn sweep(&mut self, task: &TaskId, old: &SweepCutoffs, place: SweepCursor) -> Result<SweepResult, Fault> {
        let mut swept = SweepResult::default();
        let SweepCursor { stage, from } = place;
        let (following, next) = match stage {
            SweepStage::Waiting => (Some(SweepStage::Buckets), self.sweep_waiting(task, &mut swept)?),
            SweepStage::Buckets => (Some(SweepStage::Collected), self.sweep_buckets(task, &mut swept)?),
            SweepStage::Collected => (Some(SweepStage::AbandonedBatches), self.sweep_collected(task, old, &mut swept)?),
            SweepStage::AbandonedBatches => (Some(SweepStage::Replay), self.sweep_abandoned(task, old, &from)?),
            SweepStage::Replay => (Some(SweepStage::Answers), self.sweep_replay(task)?),
            SweepStage::Answers => {
                (Some(SweepStage::HelperJobs), self.sweep_days(task, table::ANSWERS.prefix, old.answers)?)
            }
            SweepStage::HelperJobs => (Some(SweepStage::Collections), self.sweep_helper_jobs(task, old, &from)?),
            SweepStage::Collections => (Some(SweepStage::Shares), self.sweep_collections(task, old, &from)?),
            SweepStage::Shares => (Some(SweepStage::Generations), self.sweep_shares(task, &from)?),
            SweepStage::Generations => (None, self.sweep_generations(task, old, &from)?),
        };
        swept.next = match next {
            Some(from) => Some(SweepCursor { stage, from }),
            None => following.map(|stage| SweepCursor { stage, from: Vec::new() }),
        };
        Ok(swept)
    }

    /// Deletes some rows of tasks that were removed. False if there are none left.
    pub fn sweep_removed(&mut self) -> Result<bool, Fault> {
        let Some(task) = self.state.unswept.first().copied() else { return Ok(false) };
        let mut budget = MAX_ROWS_PER_WRITE;
        for prefix in table::TASK_TABLE_PREFIXES {
            let prefix = group::task_prefix(prefix, &task);
            let (keys, more) = self.engine.page(&prefix, &prefix, budget)?;
            budget = budget.saturating_sub(keys.len());
            keys.into_iter().for_each(|key| self.group.set(key, None));
            if more || budget == 0 {
                return Ok(true);
            }
        }
        self.state.unswept.remove(&task);
        if budget < MAX_ROWS_PER_WRITE {
            tracing::info!(task_id = %task, "removed task purged");
        }
        Ok(true)
    }

    /// The keys of all rows of a task that are on disk; `None` if there are more than one write deletes.
    pub(super) fn keys_within_limit(&self, task: &TaskId) -> Result<Option<Vec<Vec<u8>>>, Fault> {
        let mut found = Vec::new();
        for prefix in table::TASK_TABLE_PREFIXES {
            let prefix = group::task_prefix(prefix, task);
            let (keys, more) = self.engine.page(&prefix, &prefix, MAX_ROWS_PER_WRITE.saturating_sub(found.len()))?;
            found.extend(keys);
            if more || found.len() >= MAX_ROWS_PER_WRITE {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// Reports that wait and never can be aggregated. Those of jobs in flight are not waiting.
    fn sweep_waiting(&mut self, task: &TaskId, swept: &mut SweepResult) -> Result<Option<Vec<u8>>, Fault> {
        let state = self.task_state_mut(task)?;
        let Some(horizon) = state.replay.horizon() else { return Ok(None) };
        let past: Vec<(ReportId, _)> =
            state.waiting.before(horizon, MAX_ROWS_PER_WRITE).into_iter().map(|entry| (entry.id, entry.at)).collect();
        self.delete_reports(task, &past)?;
        swept.reports += past.len() as u64;
        Ok(more(past.len()))
    }

    /// Sums of before the horizon and of batches that were given up. Those of collected batches of fixed size go with
    /// the batch; a batch of fixed size goes when all its reports are from before the horizon.
    fn sweep_buckets(&mut self, task: &TaskId, swept: &mut SweepResult) -> Result<Option<Vec<u8>>, Fault> {
        let state = self.task_state_mut(task)?;
        let horizon = state.replay.horizon();
        let is_busy =
            |id: &BatchId| state.leader_jobs.values().any(|job| job.batch == PartialBatchSelector::FixedSize(*id));
        let is_over = |bucket: &Bucket, last: Time| match bucket {
            Bucket::Time(_) => state.is_before_horizon(bucket),
            Bucket::Batch(id) if state.collected.is_abandoned(id) => true,
            Bucket::Batch(id) => Some(last) < horizon && !state.collected.covers(bucket) && !is_busy(id),
        };
        let over = state.buckets.iter().filter(|(bucket, record)| is_over(bucket, record.last));
        // A sum that was collected is empty.
        let over: Vec<_> = over
            .take(MAX_ROWS_PER_WRITE)
            .map(|(bucket, record)| (*bucket, if record.share_bytes == 0 { 0 } else { record.count }))
            .collect();
        for (bucket, lost) in &over {
            if let Bucket::Batch(id) = bucket
                && *lost > 0
            {
                // The other aggregator may still have it open: what comes for it is refused.
                self.abandon_batch(task, *id)?;
            }
            swept.sums += lost;
            self.drop_bucket(task, bucket)?;
        }
        Ok(more(over.len()))
    }

    /// Collected batches all of whose reports are old, but those whose collection is still under way.
    fn sweep_collected(
        &mut self,
        task: &TaskId,
        old: &SweepCutoffs,
        swept: &mut SweepResult,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(before) = old.results else { return Ok(None) };
        let state = self.task_state_mut(task)?;
        let is_active = |batch: &BatchSelector| {
            state
                .collections
                .values()
                .any(|job| matches!(job.state, CollectionState::Closed { batch: of } if of == *batch))
        };
        let is_old = |batch: &BatchSelector| match batch {
            BatchSelector::TimeInterval(interval) => interval.end() <= before,
            BatchSelector::FixedSize(id) => {
                state.buckets.get(&Bucket::Batch(*id)).is_none_or(|record| record.last < before)
            }
        };
        // Each may hold a result of many pieces.
        let few = MAX_ROWS_PER_WRITE / 10;
        let over: Vec<BatchSelector> =
            state.collected.iter().filter(|batch| is_old(batch) && !is_active(batch)).take(few).collect();
        for batch in &over {
            if let BatchSelector::FixedSize(id) = batch {
                // While its batch counts as collected: it is not open at any time.
                self.drop_bucket(task, &Bucket::Batch(*id))?;
                self.task_state_mut(task)?.names.remove(id);
                self.group.set(table::NAMES.key(&(*task, *id)), None);
            }
            self.task_state_mut(task)?.collected.remove(batch);
            self.group.set(table::COLLECTED.key(&(*task, *batch)), None);
            if self.task_state_mut(task)?.results.remove(batch).is_some() {
                self.group.set(table::RESULTS.key(&(*task, *batch)), None);
            }
        }
        if !over.is_empty() {
            self.task_state_mut(task)?.recount_open_buckets();
        }
        swept.batches += over.len() as u64;
        Ok((over.len() == few).then(Vec::new))
    }

    /// Ids of batches that were given up, once every report that may name them is refused for its time. When nothing but
    /// the id was left of a batch is noted when that is first seen.
    fn sweep_abandoned(&mut self, task: &TaskId, old: &SweepCutoffs, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let Some(before) = old.results else { return Ok(None) };
        let (keys, next) = self.page_of_keys(task, &table::ABANDONED_BATCHES, from)?;
        for key in keys {
            let (state, id) = (self.task_state_mut(task)?, key.1);
            let is_busy = state.leader_jobs.values().any(|job| job.batch == PartialBatchSelector::FixedSize(id));
            if is_busy || state.buckets.contains_key(&Bucket::Batch(id)) {
                continue;
            }
            match rows::load(self, &table::ABANDONED_BATCHES, &key)? {
                Some(None) => self
                    .group
                    .set(table::ABANDONED_BATCHES.key(&key), Some(table::ABANDONED_BATCHES.value(&Some(old.now))?)),
                Some(Some(since)) if since < before => {
                    self.task_state_mut(task)?.collected.remove_abandoned(&id);
                    self.group.set(table::ABANDONED_BATCHES.key(&key), None);
                }
                _ => {}
            }
        }
        Ok(next)
    }

    fn drop_bucket(&mut self, task: &TaskId, bucket: &Bucket) -> Result<(), Fault> {
        let key = (*task, *bucket);
        if self
            .task_state_mut(task)?
            .update_bucket(bucket, |task_state_mut| task_state_mut.buckets.remove(bucket))
            .is_some()
        {
            self.group.drop_sum(&key);
            self.state.sums.take(&key);
            self.group.set(table::BUCKETS.key(&key), None);
        }
        Ok(())
    }

    /// Ids of reports of before the horizon, which is stored.
    fn sweep_replay(&mut self, task: &TaskId) -> Result<Option<Vec<u8>>, Fault> {
        match self.task_state_mut(task)?.replay.horizon() {
            Some(horizon) => self.sweep_days(task, table::REPLAY.prefix, horizon),
            None => Ok(None),
        }
    }

    /// Rows of the days that end before a time, in a table whose keys have the day after the task.
    fn sweep_days(&mut self, task: &TaskId, prefix: u8, before: Time) -> Result<Option<Vec<u8>>, Fault> {
        let prefix = group::task_prefix(prefix, task);
        let (keys, is_more) = self.engine.page(&prefix, &prefix, MAX_ROWS_PER_WRITE)?;
        let found = keys.len();
        let is_over = |key: &Vec<u8>| {
            let mut rest = key.get(prefix.len()..).unwrap_or_default();
            u64::read(&mut rest).is_some_and(|day| day < replay::day(before))
        };
        let over: Vec<_> = keys.into_iter().take_while(is_over).collect();
        let is_more = is_more && over.len() == found;
        over.into_iter().for_each(|key| self.group.set(key, None));
        Ok(is_more.then(Vec::new))
    }

    /// Jobs whose reports are all refused by now, and answers that stand beside their jobs, as they once did.
    fn sweep_helper_jobs(&mut self, task: &TaskId, old: &SweepCutoffs, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let (keys, next) = self.page_of_keys(task, &table::HELPER_JOBS, from)?;
        for key in keys {
            let Some(job) = rows::load(self, &table::HELPER_JOBS, &key)? else { continue };
            if is_misdated(job.created, old.now) {
                self.redate_helper_job(&key.0, key.1, old.now)?;
            } else if job.state != HelperJobRowState::Pending && Some(job.created) < old.jobs {
                self.group.set(table::HELPER_JOBS.key(&key), None);
                self.group.set(table::ANSWERS.key(&(*task, replay::day(job.created), key.1)), None);
            } else if matches!(job.state, HelperJobRowState::AnsweredHere(_)) && job.created < old.answers {
                let job = HelperJobRow { state: HelperJobRowState::Answered, ..job };
                self.group.set(table::HELPER_JOBS.key(&key), Some(table::HELPER_JOBS.value(&job)?));
            }
        }
        Ok(next)
    }

    /// Has a job whose time is ahead begin now, so that it and its answer are forgotten in time.
    fn redate_helper_job(&mut self, task: &TaskId, id: AggregationJobId, now: Time) -> Result<(), Fault> {
        let Some(record) = rows::helper_job(self, task, &id)? else { return Ok(()) };
        self.group.set(table::ANSWERS.key(&(*task, replay::day(record.created), id)), None);
        self.put_helper_job(task, id, &HelperJobRecord { created: now, ..record })
    }

    /// Collection jobs that ended long ago. When they did is noted when that is first seen.
    fn sweep_collections(&mut self, task: &TaskId, old: &SweepCutoffs, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let Some(before) = old.results else { return Ok(None) };
        let (keys, next) = self.page_of_keys(task, &table::COLLECTIONS, from)?;
        for key in keys {
            let Some(mut job) = rows::load(self, &table::COLLECTIONS, &key)? else { continue };
            match job.ended {
                _ if job.state.is_active() => {}
                ended if ended.is_none_or(|ended| is_misdated(ended, old.now)) => {
                    job.ended = Some(old.now);
                    self.group.set(table::COLLECTIONS.key(&key), Some(table::COLLECTIONS.value(&job)?));
                }
                Some(ended) if ended < before => self.group.set(table::COLLECTIONS.key(&key), None),
                _ => {}
            }
        }
        Ok(next)
    }

    /// Ids of aggregate shares of batches that were forgotten.
    fn sweep_shares(&mut self, task: &TaskId, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let (keys, next) = self.page_of_keys(task, &table::SHARES, from)?;
        for key in keys {
            let Some(batch) = rows::load(self, &table::SHARES, &key)? else { continue };
            if !self.task_state_mut(task)?.collected.contains_exactly(&batch) {
                self.group.set(table::SHARES.key(&key), None);
            }
        }
        Ok(next)
    }

    /// How often resources were deleted, if nothing is known any more that has one of their names.
    fn sweep_generations(&mut self, task: &TaskId, old: &SweepCutoffs, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let Some(before) = old.generations else { return Ok(None) };
        // A collection that waits for long has the name of its generation as long as it waits.
        if !self.task_state_mut(task)?.collections.is_empty() {
            return Ok(None);
        }
        let (keys, next) = self.page_of_keys(task, &table::GENERATIONS, from)?;
        for key in keys {
            let Some(mut generation) = rows::load(self, &table::GENERATIONS, &key)? else { continue };
            match generation.since {
                since if since.is_none_or(|since| is_misdated(since, old.now)) => {
                    generation.since = Some(old.now);
                    self.group.set(table::GENERATIONS.key(&key), Some(table::GENERATIONS.value(&generation)?));
                }
                Some(since) if since < before => self.group.set(table::GENERATIONS.key(&key), None),
                _ => {}
            }
        }
        Ok(next)
    }

    /// The keys of some rows of a task, and where to go on.
    fn page_of_keys<K: Key, V>(
        &self,
        task: &TaskId,
        table: &Table<K, V>,
        from: &[u8],
    ) -> Result<(Vec<K>, Option<Vec<u8>>), Fault>
    where
        V: serde::Serialize + serde::de::DeserializeOwned,
    {
        let (keys, is_more) = self.engine.page(&group::task_prefix(table.prefix, task), from, MAX_ROWS_PER_WRITE)?;
        let next = keys.last().filter(|_| is_more).map(|last| [last, &[0][..]].concat());
        let keys: Result<Vec<K>, _> = keys.iter().map(|key| table.read_key(key)).collect();
        Ok((keys?, next))
    }
}

/// Whether there may be more where so many were found: then the stage begins again.
fn more(found: usize) -> Option<Vec<u8>> {
    (found == MAX_ROWS_PER_WRITE).then(Vec::new)
}
