//! The index of uploaded reports that are not aggregated yet (leader).
//!
//! The reports are on disk, in packs. A report is *ready*, in upload order within its time bucket; *deferred* until a
//! time, because the helper called it too early; or *assigned* to an aggregation job. A write that takes reports with
//! [`WaitingReports::pick`] must store a job with them, delete them or defer them, because picking is not stored.

use std::collections::{BTreeMap, HashMap, VecDeque, btree_map};

use super::records::ReportRef;
use dapbox_protocol::model::{Duration, Interval, ReportId, Time};

/// The data of an uploaded report in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportEntry {
    /// The report's id.
    pub id: ReportId,
    /// The time of the report, as stated by its client.
    pub time: Time,
    /// The position of the report.
    pub at: ReportRef,
}

/// The decision about a report offered by [`WaitingReports::pick`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Assign the report.
    Take,
    /// Skip the report.
    Skip,
    /// Skip the report and all later ones of its time bucket.
    SkipBucket,
    /// Take the report for deletion: it cannot be aggregated any more. Does not count against the limit.
    Drop,
    /// Skip all remaining reports.
    Stop,
}

/// The reports taken by [`WaitingReports::pick`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picked {
    /// The reports for the job, in order.
    pub taken: Vec<ReportEntry>,
    /// The reports to delete.
    pub dropped: Vec<ReportEntry>,
}

/// The uploaded reports of a task.
#[derive(Debug)]
pub struct WaitingReports {
    precision: Duration,
    /// The unit of `by_unit`: the time window of batches, or else the time bucket.
    unit: Duration,
    /// All ready, deferred and assigned reports.
    known: HashMap<ReportId, Time>,
    /// Their number by start of their unit of time; none is zero.
    by_unit: BTreeMap<Time, u64>,
    /// Ready reports by start of their time bucket. No queue is empty; each is sorted by position.
    ready: BTreeMap<Time, VecDeque<ReportEntry>>,
    /// Deferred reports by the time when they become ready.
    deferred: BTreeMap<Time, Vec<ReportEntry>>,
    assigned: BTreeMap<ReportRef, ReportEntry>,
    packs: BTreeMap<u64, Slots>,
}

impl WaitingReports {
    pub(super) fn new(precision: Duration, unit: Duration) -> Self {
        Self {
            precision,
            unit,
            known: HashMap::new(),
            by_unit: BTreeMap::new(),
            ready: BTreeMap::new(),
            deferred: BTreeMap::new(),
            assigned: BTreeMap::new(),
            packs: BTreeMap::new(),
        }
    }

    /// Whether a report with this id waits or is assigned.
    pub fn contains(&self, id: &ReportId) -> bool {
        self.known.contains_key(id)
    }

    /// The number of waiting reports, including deferred but not assigned ones.
    pub fn len(&self) -> usize {
        self.known.len() - self.assigned.len()
    }

    /// Whether no report waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a waiting or assigned report has the unit of time that starts at `start`.
    pub fn has_unit(&self, start: Time) -> bool {
        self.by_unit.contains_key(&start)
    }

    /// The number of units of time of waiting or assigned reports.
    pub fn unit_count(&self) -> usize {
        self.by_unit.len()
    }

    /// The starts of these units.
    pub(super) fn units(&self) -> impl Iterator<Item = &Time> {
        self.by_unit.keys()
    }

    /// The time of a waiting or assigned report.
    pub(super) fn time_of(&self, id: &ReportId) -> Option<Time> {
        self.known.get(id).copied()
    }

    fn insert_known(&mut self, id: ReportId, time: Time) {
        if self.known.insert(id, time).is_none() {
            *self.by_unit.entry(time.truncate(self.unit)).or_default() += 1;
        }
    }

    fn remove_known(&mut self, id: &ReportId) -> Option<Time> {
        let time = self.known.remove(id)?;
        if let btree_map::Entry::Occupied(mut unit) = self.by_unit.entry(time.truncate(self.unit)) {
            *unit.get_mut() -= 1;
            if *unit.get() == 0 {
                unit.remove();
            }
        }
        Some(time)
    }

    /// When the oldest waiting or assigned report arrived; `opened` if it is from before the store opened.
    pub fn oldest_arrival(&self, opened: Time) -> Option<Time> {
        // Packs are numbered in the order of creation.
        let (_, slots) = self.packs.iter().find(|(_, slots)| slots.live_count() > 0)?;
        Some(slots.arrived.unwrap_or(opened))
    }

    /// Records when an appended report arrived. Not stored.
    pub fn note_arrival(&mut self, at: ReportRef, now: Time) {
        if let Some(slots) = self.packs.get_mut(&at.pack) {
            slots.arrived.get_or_insert(now);
        }
    }

    /// The number of waiting or assigned reports by start of their time bucket.
    ///
    /// The cost is proportional to the buckets and the assigned reports.
    pub fn by_bucket(&self) -> BTreeMap<Time, u64> {
        let mut counts: BTreeMap<Time, u64> =
            self.ready.iter().map(|(start, queue)| (*start, queue.len() as u64)).collect();
        for entry in self.deferred.values().flatten().chain(self.assigned.values()) {
            *counts.entry(entry.time.truncate(self.precision)).or_default() += 1;
        }
        counts
    }

    /// Whether a waiting report was uploaded before `position` and lies in the interval.
    pub fn has_before(&self, interval: Interval, position: ReportRef) -> bool {
        let is_wanted = |entry: &ReportEntry| entry.at < position && interval.contains(entry.time);
        self.deferred.values().flatten().any(is_wanted)
            || self.ready.range(interval.start().truncate(self.precision)..interval.end()).any(|(_, queue)| {
                // Sorted by position, and mostly the whole bucket is in the interval: the first report answers.
                queue.iter().take_while(|entry| entry.at < position).any(is_wanted)
            })
    }

    /// Whether an assigned report lies in the interval.
    pub fn has_assigned(&self, interval: Interval) -> bool {
        self.assigned.values().any(|entry| interval.contains(entry.time))
    }

    /// Takes up to `limit` ready reports, by time bucket and then in upload order, and assigns them: see the module
    /// documentation.
    ///
    /// The cost is proportional to the offered reports.
    pub fn pick(&mut self, now: Time, limit: usize, mut filter: impl FnMut(&ReportEntry) -> Pick) -> Picked {
        self.wake(now);
        let mut picked = Picked::default();
        let starts: Vec<Time> = self.ready.keys().copied().collect();
        for start in starts {
            let btree_map::Entry::Occupied(mut bucket) = self.ready.entry(start) else { continue };
            let queue = bucket.get_mut();
            let (mut skipped, mut is_enough) = (Vec::new(), false);
            while picked.taken.len() < limit {
                let Some(entry) = queue.pop_front() else { break };
                let pick = filter(&entry);
                match pick {
                    Pick::Take => picked.taken.push(entry),
                    Pick::Drop => picked.dropped.push(entry),
                    Pick::Skip => skipped.push(entry),
                    Pick::SkipBucket | Pick::Stop => {
                        is_enough = pick == Pick::Stop;
                        skipped.push(entry);
                        break;
                    }
                }
            }
            skipped.into_iter().rev().for_each(|entry| queue.push_front(entry));
            if queue.is_empty() {
                bucket.remove();
            }
            if is_enough || picked.taken.len() >= limit {
                break;
            }
        }
        self.assigned.extend(picked.taken.iter().chain(&picked.dropped).map(|entry| (entry.at, *entry)));
        picked
    }

    /// The assigned reports at these positions.
    pub fn assigned(&self, positions: &[ReportRef]) -> Vec<ReportEntry> {
        positions.iter().filter_map(|at| self.assigned.get(at).copied()).collect()
    }

    /// Returns assigned reports to the queue, ready from the given time on. Not stored: after a restart they are ready.
    pub fn defer(&mut self, entries: &[ReportEntry], until: Time) {
        // Reports that are not assigned were deferred or deleted before.
        let assigned = &mut self.assigned;
        let found: Vec<ReportEntry> = entries.iter().filter_map(|entry| assigned.remove(&entry.at)).collect();
        if !found.is_empty() {
            self.deferred.entry(until).or_default().extend(found);
        }
    }

    /// Makes deferred reports ready whose time has come.
    fn wake(&mut self, now: Time) {
        while let Some(first) = self.deferred.first_entry()
            && *first.key() <= now
        {
            first.remove().into_iter().for_each(|entry| self.make_ready(entry));
        }
    }

    fn make_ready(&mut self, entry: ReportEntry) {
        let queue = self.ready.entry(entry.time.truncate(self.precision)).or_default();
        // New reports go to the back, returning ones near the front.
        let place = match queue.back() {
            Some(last) if last.at > entry.at => queue.partition_point(|other| other.at < entry.at),
            _ => queue.len(),
        };
        queue.insert(place, entry);
    }
}

/// Operations that the store pairs with changes on disk.
impl WaitingReports {
    /// Appends a report to a pack.
    pub(super) fn append(&mut self, pack: u64, id: ReportId, time: Time) -> ReportRef {
        let slots = self.packs.entry(pack).or_default();
        let entry = ReportEntry { id, time, at: ReportRef { pack, slot: slots.count } };
        slots.count += 1;
        self.insert_known(id, time);
        self.make_ready(entry);
        entry.at
    }

    /// Adds a pack from disk; `is_assigned` selects the reports of jobs.
    pub(super) fn restore(
        &mut self,
        pack: u64,
        reports: impl Iterator<Item = (ReportId, Time)>,
        dead: Vec<u8>,
        is_assigned: impl Fn(&ReportRef) -> bool,
    ) {
        let mut slots = Slots { count: 0, arrived: None, dead };
        for (id, time) in reports {
            let entry = ReportEntry { id, time, at: ReportRef { pack, slot: slots.count } };
            slots.count += 1;
            if slots.is_dead(entry.at.slot) {
                continue;
            }
            self.insert_known(id, time);
            if is_assigned(&entry.at) {
                self.assigned.insert(entry.at, entry);
            } else {
                self.make_ready(entry);
            }
        }
        self.packs.insert(pack, slots);
    }

    /// Assigns a ready or deferred report, if it is not assigned.
    pub(super) fn assign(&mut self, at: ReportRef) {
        if self.assigned.contains_key(&at) {
            return;
        }
        // Rare: jobs consist of picked reports. The position does not determine the bucket, so all are searched.
        let starts: Vec<Time> = self.ready.keys().copied().collect();
        let entry = starts.into_iter().find_map(|start| self.take_ready(start, at)).or_else(|| self.take_deferred(at));
        if let Some(entry) = entry {
            self.assigned.insert(at, entry);
        }
    }

    /// Returns up to `limit` waiting reports from before a time.
    pub(super) fn before(&self, time: Time, limit: usize) -> Vec<ReportEntry> {
        let ready = self.ready.range(..time).flat_map(|(_, queue)| queue);
        let waiting = ready.chain(self.deferred.values().flatten());
        waiting.filter(|entry| entry.time < time).take(limit).copied().collect()
    }

    /// Deletes a report. Returns false if it does not exist.
    pub(super) fn remove(&mut self, id: &ReportId, at: ReportRef) -> bool {
        let Some(slots) = self.packs.get_mut(&at.pack) else { return false };
        if at.slot >= slots.count || slots.is_dead(at.slot) {
            return false;
        }
        slots.mark_dead(at.slot);
        let time = self.remove_known(id);
        if self.assigned.remove(&at).is_none() && time.and_then(|time| self.take_ready(time, at)).is_none() {
            self.take_deferred(at);
        }
        true
    }

    /// Whether the slot exists and is not deleted.
    pub(super) fn is_alive(&self, at: &ReportRef) -> bool {
        self.packs.get(&at.pack).is_some_and(|slots| at.slot < slots.count && !slots.is_dead(at.slot))
    }

    /// Returns the state of a pack, and drops the pack if all its slots are deleted.
    pub(super) fn finish_pack(&mut self, pack: u64) -> PackState {
        match self.packs.get(&pack) {
            Some(slots) if slots.live_count() > 0 => match slots.dead.is_empty() {
                true => PackState::Intact,
                false => PackState::Partial(slots.dead.clone()),
            },
            _ => {
                self.packs.remove(&pack);
                PackState::Empty
            }
        }
    }

    /// Takes a report out of the bucket of the given time.
    fn take_ready(&mut self, time: Time, at: ReportRef) -> Option<ReportEntry> {
        let start = time.truncate(self.precision);
        let queue = self.ready.get_mut(&start)?;
        let place = queue.binary_search_by_key(&at, |entry| entry.at).ok()?;
        let entry = queue.remove(place);
        if queue.is_empty() {
            self.ready.remove(&start);
        }
        entry
    }

    /// Takes a report out of the deferred ones.
    fn take_deferred(&mut self, at: ReportRef) -> Option<ReportEntry> {
        let find =
            |(until, set): (&Time, &Vec<ReportEntry>)| Some((*until, set.iter().position(|entry| entry.at == at)?));
        let (until, place) = self.deferred.iter().find_map(find)?;
        let set = self.deferred.get_mut(&until)?;
        let entry = set.swap_remove(place);
        if set.is_empty() {
            self.deferred.remove(&until);
        }
        Some(entry)
    }
}

/// The state of a pack.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PackState {
    /// All reports are needed.
    Intact,
    /// The slots in this bit map are deleted.
    Partial(Vec<u8>),
    /// No report is needed.
    Empty,
}

/// The slots of a pack.
#[derive(Debug, Default)]
struct Slots {
    count: u32,
    /// When the first report arrived; unknown for a pack from disk.
    arrived: Option<Time>,
    /// A bit map of deleted slots, starting with the lowest bit of the first byte; as short as possible.
    dead: Vec<u8>,
}

impl Slots {
    fn is_dead(&self, slot: u32) -> bool {
        self.dead.get(slot as usize / 8).is_some_and(|byte| byte & (1 << (slot % 8)) != 0)
    }

    fn mark_dead(&mut self, slot: u32) {
        let place = slot as usize / 8;
        if self.dead.len() <= place {
            self.dead.resize(place + 1, 0);
        }
        self.dead[place] |= 1 << (slot % 8);
    }

    fn live_count(&self) -> u32 {
        self.count - self.dead.iter().map(|byte| byte.count_ones()).sum::<u32>()
    }
}
