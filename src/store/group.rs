//! The changes of a group of writes, committed as one.

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

/// A pack of this many bytes takes no further reports.
const PACK_BYTES: usize = 48 << 10;
/// A group of this many bytes is committed without further writes: a commit holds its bytes several times.
const MAX_GROUP_BYTES: usize = 4 << 20;
/// The number of fingerprints per row: 64,000 bytes.
pub(super) const FINGERPRINTS_PER_ROW: usize = 8_000;

/// The changes of a group. Most rows are encoded by the write that changes them. Counters and buckets, which other
/// writes of the group may change again, and packs and replay ids, which several writes fill, are encoded at the end.
#[derive(Default)]
pub(super) struct Group {
    rows: Rows,
    /// The approximate size of the group, in bytes.
    bytes: usize,
    counters: BTreeSet<TaskId>,
    /// The encoded sums of changed buckets.
    sums: BTreeMap<BucketKey, Vec<u8>>,
    replay: BTreeMap<(TaskId, u64), Vec<u8>>,
    packs: BTreeMap<(TaskId, u64), OpenPack>,
    /// The open pack of each task.
    open: HashMap<TaskId, u64>,
    /// Packs that lost reports.
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

    /// Whether the group is large enough that queued writes go into the next one.
    pub(super) fn is_large(&self) -> bool {
        self.bytes >= MAX_GROUP_BYTES
    }

    /// Reads a row as this group sees it.
    pub(super) fn get(&self, engine: &Engine, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.rows.get(key) {
            Some(value) => Ok(value.clone()),
            None => engine.get(key),
        }
    }

    /// The keys of changed rows below a prefix.
    pub(super) fn keys_below(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let keys = self.rows.range(prefix.to_vec()..).map(|(key, _)| key);
        keys.take_while(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// Marks the counters of a task as changed.
    pub(super) fn touch_counters(&mut self, task: &TaskId) {
        self.counters.insert(*task);
    }

    /// Whether the group holds the sum of the bucket.
    pub(super) fn has_sum(&self, key: &BucketKey) -> bool {
        self.sums.contains_key(key)
    }

    /// Returns the encoded sum of a changed bucket and the size of the group. `sum` is the sum before this group.
    pub(super) fn sum_mut(&mut self, key: BucketKey, sum: Option<Vec<u8>>) -> (&mut Vec<u8>, &mut usize) {
        self.bytes += sum.as_ref().map_or(0, Vec::len);
        let held = self.sums.entry(key).or_default();
        if let Some(sum) = sum {
            *held = sum;
        }
        (held, &mut self.bytes)
    }

    /// Drops the sum of a deleted bucket.
    pub(super) fn drop_sum(&mut self, key: &BucketKey) {
        self.sums.remove(key);
    }

    /// Marks a pack whose reports were deleted.
    pub(super) fn touch_pack(&mut self, task: &TaskId, pack: u64) {
        self.partial.insert((*task, pack));
    }

    /// Adds the fingerprint of an aggregated report.
    pub(super) fn record_aggregated(&mut self, task: &TaskId, fingerprint: u64, time: Time) {
        self.replay.entry((*task, replay::day(time))).or_default().extend(fingerprint.to_be_bytes());
    }

    /// Drops the fingerprints of a day that expired.
    pub(super) fn forget_day(&mut self, task: &TaskId, day: u64) {
        self.replay.remove(&(*task, day));
    }

    /// Adds a report to the open pack of its task, or to a new one. Returns the number of the pack.
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

    /// Starts new packs for all later reports.
    pub(super) fn close_packs(&mut self) {
        self.open.clear();
    }

    /// Drops all changes of a task.
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

    /// Encodes the remaining changes and returns all rows of the group.
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

    /// Each sum moves to the cache once it is encoded, so that it is never held three times.
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

/// The key prefix of a task's rows in the table with the given prefix.
pub(super) fn task_prefix(prefix: u8, task: &TaskId) -> Vec<u8> {
    let mut bytes = vec![prefix];
    task.write(&mut bytes);
    bytes
}
