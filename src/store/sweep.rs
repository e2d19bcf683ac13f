//! Closes and deletes expired data.
//!
//! The *horizon* of a task is a time that only increases; everything before it is closed
//! ([`ReplayIndex::horizon`](super::ReplayIndex::horizon)). It is stored before anything is deleted because of it, so
//! that deleted data is rejected.
//!
//! A sweep deletes the rows of a task in bounded steps, one per write. Its caller holds the cursor, which is not
//! stored. After a restart a sweep starts again; swept rows cost nothing.

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

/// The most rows, or pieces of long rows, that one write deletes.
const MAX_ROWS_PER_WRITE: usize = 1_000;

/// How far ahead of the clock a stored timestamp must be to prove that the clock was wrong, in seconds.
const AHEAD: Duration = Duration(86_400);
/// A clock before this time is wrong and corrects nothing: it precedes the first release.
const EARLIEST: Time = Time(1_700_000_000);

/// Whether a fast clock stored the timestamp.
fn is_misdated(time: Time, now: Time) -> bool {
    now >= EARLIEST && time > now.saturating_add(AHEAD)
}

/// Closing.
impl Tx<'_> {
    /// Closes everything before the given time. The horizon never decreases.
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

    /// Abandons a batch permanently. Returns false if it is closed already.
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

    /// Closes everything before the given time, and all batch ids independent of the times of their reports.
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

/// Listing.
impl Tx<'_> {
    /// The ids of all collection jobs of a task, as of before this group. The cost is proportional to their number;
    /// only for a directory that is not in use.
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

/// The ages of data to delete, chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepCutoffs {
    /// The current time.
    pub now: Time,
    /// Delete the helper's answers to jobs from days before this time.
    pub answers: Time,
    /// Delete results and collected batches of reports before this time, if the task has a retention period. Never
    /// after the horizon, so that deleted data is closed.
    pub results: Option<Time>,
    /// Delete the helper's jobs from before this time.
    pub jobs: Option<Time>,
    /// Delete generations that did not change since this time.
    pub generations: Option<Time>,
}

/// The position of a sweep within a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepCursor {
    stage: SweepStage,
    /// The next key, in a stage that visits all rows of a table.
    from: Vec<u8>,
}

/// The stages of a sweep in order: sums before the record of their collection, and generations after the resources that
/// use them.
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

/// The result of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepResult {
    /// Where to continue; `None` at the end.
    pub next: Option<SweepCursor>,
    /// Deleted waiting reports.
    pub reports: u64,
    /// Reports in deleted sums that were not collected.
    pub sums: u64,
    /// Deleted collected batches.
    pub batches: u64,
}

/// Deleting.
impl Tx<'_> {
    /// Runs one step of a sweep. Call it again in another write with the returned cursor.
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

    /// Deletes some rows of removed tasks. Returns false if none is left.
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

    /// The keys of all rows of a task on disk; `None` if there are more than one write may delete.
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

    /// Deletes waiting reports before the horizon. Reports in running jobs are not waiting.
    fn sweep_waiting(&mut self, task: &TaskId, swept: &mut SweepResult) -> Result<Option<Vec<u8>>, Fault> {
        let state = self.task_state_mut(task)?;
        let Some(horizon) = state.replay.horizon() else { return Ok(None) };
        let past: Vec<(ReportId, _)> =
            state.waiting.before(horizon, MAX_ROWS_PER_WRITE).into_iter().map(|entry| (entry.id, entry.at)).collect();
        self.delete_reports(task, &past)?;
        swept.reports += past.len() as u64;
        Ok(more(past.len()))
    }

    /// Deletes sums before the horizon and of abandoned batches. Sums of collected fixed-size batches are deleted with
    /// their batch. A fixed-size batch is deleted when all its reports are before the horizon.
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
        // A collected sum is empty.
        let over: Vec<_> = over
            .take(MAX_ROWS_PER_WRITE)
            .map(|(bucket, record)| (*bucket, if record.share_bytes == 0 { 0 } else { record.count }))
            .collect();
        for (bucket, lost) in &over {
            if let Bucket::Batch(id) = bucket
                && *lost > 0
            {
                // The other aggregator may still have the batch open; its reports are rejected.
                self.abandon_batch(task, *id)?;
            }
            swept.sums += lost;
            self.drop_bucket(task, bucket)?;
        }
        Ok(more(over.len()))
    }

    /// Deletes collected batches with old reports only, unless their collection is running.
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
                // The bucket must be dropped while its batch counts as collected, so that it is never open.
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

    /// Deletes abandoned batch ids once all reports that may name them are rejected by their time. The time counts from
    /// when the sweep first finds only the id.
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

    /// Deletes the ids of reports before the stored horizon.
    fn sweep_replay(&mut self, task: &TaskId) -> Result<Option<Vec<u8>>, Fault> {
        match self.task_state_mut(task)?.replay.horizon() {
            Some(horizon) => self.sweep_days(task, table::REPLAY.prefix, horizon),
            None => Ok(None),
        }
    }

    /// Deletes the rows of days before a time, from a table whose keys have the day after the task.
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

    /// Deletes jobs whose reports are all rejected by now, and inline answers of version 1.
    fn sweep_helper_jobs(&mut self, task: &TaskId, old: &SweepCutoffs, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let (keys, next) = self.page_of_keys(task, &table::HELPER_JOBS, from)?;
        for key in keys {
            let Some(job) = rows::load(self, &table::HELPER_JOBS, &key)? else { continue };
            if is_misdated(job.created, old.now) {
                self.redate_helper_job(&key.0, key.1, old.now)?;
            } else if job.state != HelperJobRowState::Pending && Some(job.created) < old.jobs {
                self.group.set(table::HELPER_JOBS.key(&key), None);
                self.group.set(table::ANSWERS.key(&(*task, replay::day(job.created), key.1)), None);
            } else if matches!(job.state, HelperJobRowState::AnsweredInline(_)) && job.created < old.answers {
                let job = HelperJobRow { state: HelperJobRowState::Answered, ..job };
                self.group.set(table::HELPER_JOBS.key(&key), Some(table::HELPER_JOBS.value(&job)?));
            }
        }
        Ok(next)
    }

    /// Sets the creation time of a job with a future timestamp to now, so that it expires.
    fn redate_helper_job(&mut self, task: &TaskId, id: AggregationJobId, now: Time) -> Result<(), Fault> {
        let Some(record) = rows::helper_job(self, task, &id)? else { return Ok(()) };
        self.group.set(table::ANSWERS.key(&(*task, replay::day(record.created), id)), None);
        self.put_helper_job(task, id, &HelperJobRecord { created: now, ..record })
    }

    /// Deletes collection jobs that ended long ago. The time counts from when the sweep first finds them ended.
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

    /// Deletes the ids of aggregate shares whose batch is deleted.
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

    /// Deletes generations that no existing resource depends on.
    fn sweep_generations(&mut self, task: &TaskId, old: &SweepCutoffs, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let Some(before) = old.generations else { return Ok(None) };
        // A waiting collection depends on its generation.
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

    /// Returns the keys of some rows of a task, and where to continue.
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

/// Whether more rows may follow a full page: the stage then starts again.
fn more(found: usize) -> Option<Vec<u8>> {
    (found == MAX_ROWS_PER_WRITE).then(Vec::new)
}
