//! What a group of writes has changed so far and will be committed at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_bytes::ByteBuf;

use super::{
    engine::{Engine, EngineError, Rows},
    records::PackedReport,
    replay,
    state::State,
    sums::BucketKey,
    table::{self, Key},
    waiting::PackState,
};
use dapbox_protocol::model::{Report, TaskId, Time};
use dapbox_support::Fault;

/// A pack is not added to once it has this many bytes.
const PACK_BYTES: usize = 48 << 10;
/// A group of this many bytes is committed without waiting for more: a commit holds what it writes several times over.
const MAX_GROUP_BYTES: usize = 4 << 20;
/// How many fingerprints are put into one row: 64,000 bytes.
pub(super) const FINGERPRINTS_PER_ROW: usize = 8_000;

/// The changes of a group. Rows are written as they come; what several writes of a group are likely to change
/// again (counters, buckets) or to fill up together (packs, replay ids) is encoded once, at the end.
#[derive(Default)]
pub(super) struct Group {
    rows: Rows,
    /// About how many bytes it has come to.
    bytes: usize,
    counters: BTreeSet<TaskId>,
    /// The encoded sums of buckets that changed.
    sums: BTreeMap<BucketKey, Vec<u8>>,
    replay: BTreeMap<(TaskId, u64), Vec<u8>>,
    packs: BTreeMap<(TaskId, u64), OpenPack>,
    /// The pack of each task that takes more reports.
    open: HashMap<TaskId, u64>,
    /// Packs some of whose reports died.
    partial: BTreeSet<(TaskId, u64)>,
}

/// A pack that is not on disk yet.
#[derive(Default)]
struct OpenPack {
    reports: Vec<PackedReport>,
    bytes: usize,
}

impl Group {
    /// Sets or deletes a row.
    pub(super) fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.rows.insert(key, value);
    }

    /// Whether it has come to so much that what else waits should wait for the next one.
    pub(super) fn is_large(&self) -> bool {
        self.bytes >= MAX_GROUP_BYTES
    }

    /// A row as this group sees it.
    pub(super) fn get(&self, engine: &Engine, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.rows.get(key) {
            Some(value) => Ok(value.clone()),
            None => engine.get(key),
        }
    }

    /// The task's counters changed.
    pub(super) fn touch_counters(&mut self, task: &TaskId) {
        self.counters.insert(*task);
    }

    /// Whether the bucket has changed.
    pub(super) fn has_sum(&self, key: &BucketKey) -> bool {
        self.sums.contains_key(key)
    }

    /// The bucket changes or appears: its encoded sum as it is, and about how many bytes the group has come to. `sum` is
    /// what the bucket had before this group.
    pub(super) fn sum_mut(&mut self, key: BucketKey, sum: Option<Vec<u8>>) -> (&mut Vec<u8>, &mut usize) {
        self.bytes += sum.as_ref().map_or(0, Vec::len);
        let held = self.sums.entry(key).or_default();
        if let Some(sum) = sum {
            *held = sum;
        }
        (held, &mut self.bytes)
    }

    /// The bucket is dropped.
    pub(super) fn drop_sum(&mut self, key: &BucketKey) {
        self.sums.remove(key);
    }

    /// The pack has lost reports.
    pub(super) fn touch_pack(&mut self, task: &TaskId, pack: u64) {
        self.partial.insert((*task, pack));
    }

    /// The report with this fingerprint was aggregated.
    pub(super) fn record_aggregated(&mut self, task: &TaskId, fingerprint: u64, time: Time) {
        self.replay.entry((*task, replay::day(time))).or_default().extend(fingerprint.to_be_bytes());
    }

    /// The day's reports need not be remembered any more.
    pub(super) fn forget_day(&mut self, task: &TaskId, day: u64) {
        self.replay.remove(&(*task, day));
    }

    /// Puts a report into the task's open pack, or into a new one, whose number it returns.
    pub(super) fn append(&mut self, task: &TaskId, report: &Report, next_pack: &mut u64) -> u64 {
        let report = PackedReport::from(report);
        let open = self.open.get(task).copied().filter(|pack| {
            let filling = self.packs.get(&(*task, *pack));
            filling.is_some_and(|filling| filling.bytes + report.size() <= PACK_BYTES)
        });
        let pack = open.unwrap_or_else(|| {
            let fresh = *next_pack;
            *next_pack += 1;
            self.open.insert(*task, fresh);
            fresh
        });
        let filling = self.packs.entry((*task, pack)).or_default();
        filling.bytes += report.size();
        self.bytes += report.size();
        filling.reports.push(report);
        pack
    }

    /// Makes all reports that come from now on go into new packs.
    pub(super) fn close_packs(&mut self) {
        self.open.clear();
    }

    /// Forgets what this group has to say about a task.
    pub(super) fn forget_task(&mut self, task: &TaskId) {
        for prefix in table::TASK_TABLE_PREFIXES {
            let prefix = task_prefix(prefix, task);
            let ours = self.rows.range_mut(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
            ours.for_each(|(_, value)| *value = None);
        }
        self.counters.remove(task);
        self.sums.retain(|(id, _), _| id != task);
        self.replay.retain(|(id, _), _| id != task);
        self.packs.retain(|(id, _), _| id != task);
        self.partial.retain(|(id, _)| id != task);
        self.open.remove(task);
    }

    /// Encodes the rest and returns all rows to commit.
    pub(super) fn finish(mut self, state: &mut State) -> Result<Rows, Fault> {
        self.encode_counters(state)?;
        self.encode_buckets(state)?;
        self.encode_replay(state)?;
        self.encode_packs(state)?;
        Ok(self.rows)
    }

    fn encode_counters(&mut self, state: &State) -> Result<(), Fault> {
        for id in &self.counters {
            let Some(task) = state.tasks.get(id) else { continue };
            self.rows.insert(table::COUNTERS.key(id), Some(table::COUNTERS.value(&task.counters)?));
        }
        Ok(())
    }

    /// Each sum leaves for the cache as soon as it is encoded, so that none is held three times.
    fn encode_buckets(&mut self, state: &mut State) -> Result<(), Fault> {
        while let Some((key, share)) = self.sums.pop_first() {
            let Some(header) = state.tasks.get(&key.0).and_then(|task| task.buckets.get(&key.1)) else { continue };
            let record = header.with_share(share);
            self.rows.insert(table::BUCKETS.key(&key), Some(table::BUCKETS.value(&record)?));
            state.sums.insert(key, record.share);
        }
        Ok(())
    }

    fn encode_replay(&mut self, state: &mut State) -> Result<(), Fault> {
        for ((id, day), ids) in &self.replay {
            let Some(task) = state.tasks.get_mut(id) else { continue };
            for ids in ids.chunks(FINGERPRINTS_PER_ROW * 8) {
                let key = table::REPLAY.key(&(*id, *day, task.replay.next_row()));
                self.rows.insert(key, Some(table::REPLAY.value(&ByteBuf::from(ids))?));
            }
        }
        Ok(())
    }

    fn encode_packs(&mut self, state: &mut State) -> Result<(), Fault> {
        if !self.packs.is_empty() {
            let key = table::SEQUENCES.key(&table::NEXT_PACK);
            self.rows.insert(key, Some(table::SEQUENCES.value(&state.next_pack)?));
        }
        for (key, filling) in std::mem::take(&mut self.packs) {
            self.rows.insert(table::PACKS.key(&key), Some(table::PACKS.value(&filling.reports)?));
        }
        for key in &self.partial {
            let Some(task) = state.tasks.get_mut(&key.0) else { continue };
            match task.waiting.finish_pack(key.1) {
                PackState::Intact => {}
                PackState::Partial(bits) => {
                    self.rows.insert(table::DEAD.key(key), Some(table::DEAD.value(&ByteBuf::from(bits))?));
                }
                PackState::Empty => {
                    self.rows.insert(table::PACKS.key(key), None);
                    self.rows.insert(table::DEAD.key(key), None);
                }
            }
        }
        Ok(())
    }
}

/// The range of all rows of a task in the table with the given prefix.
pub(super) fn task_prefix(prefix: u8, task: &TaskId) -> Vec<u8> {
    let mut bytes = vec![prefix];
    task.write(&mut bytes);
    bytes
}
