//! Replay protection: the ids of aggregated reports.
//!
//! Ids are checked per task, independent of time (DAP-18 section 4.5.4.3). The time of a report is bound into its
//! sealed shares, so only its client can make another report with the same id and another time. Then two reports of one
//! measurement would count. A client that colludes with an aggregator would also see two proofs verified with the same
//! randomness, which is derived from the id.
//!
//! Times only determine how long an id is kept. The ids of a day are deleted together once the horizon has passed the
//! day, because all its reports are rejected from then on. A deleted id can return with a later time; no task that
//! deletes ids can prevent that.
//!
//! The index holds a keyed 64-bit fingerprint of each id, see `fingerprints.rs`. On disk, one row per task, day and
//! group commit holds them packed; `compact.rs` merges the rows of a day.

use std::collections::BTreeSet;

use super::fingerprints::{FingerprintKey, Fingerprints};
use dapbox_protocol::model::{ReportId, Time};

/// Ids expire by day. The time precision of a task is no suitable unit: it ranges from a second to a year.
const DAY: u64 = 86_400;

/// The day of a time, counted from the epoch.
pub(super) fn day(time: Time) -> u64 {
    time.0 / DAY
}

/// The ids of a task's aggregated reports.
#[derive(Debug)]
pub struct ReplayIndex {
    key: FingerprintKey,
    ids: Fingerprints,
    /// The days of the reports in `ids`.
    days: BTreeSet<u64>,
    horizon: Option<Time>,
    next_row: u64,
}

impl ReplayIndex {
    pub(super) fn new(key: FingerprintKey) -> Self {
        Self { key, ids: Fingerprints::default(), days: BTreeSet::new(), horizon: None, next_row: 0 }
    }

    /// Whether a report with this id was aggregated, as far as is known: see [`Self::horizon`].
    pub fn contains(&self, id: &ReportId) -> bool {
        self.ids.contains(self.key.fingerprint(id))
    }

    /// The time before which everything is closed, if there is one. Earlier reports are rejected and not recorded, and
    /// earlier batch buckets take no reports and are not collected.
    pub fn horizon(&self) -> Option<Time> {
        self.horizon
    }

    /// The number of recorded reports.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether no report is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records a report and returns its fingerprint for storage. Returns `None` if it is known or its day is closed.
    pub(super) fn insert(&mut self, id: &ReportId, time: Time) -> Option<u64> {
        let (day, fingerprint) = (day(time), self.key.fingerprint(id));
        let is_forgotten = self.horizon.is_some_and(|horizon| day < self::day(horizon));
        if is_forgotten || self.ids.contains(fingerprint) {
            return None;
        }
        self.days.insert(day);
        self.ids.insert_new(fingerprint, day);
        Some(fingerprint)
    }

    /// Adds stored fingerprints. [`Self::sort`] must follow.
    pub(super) fn restore(&mut self, day: u64, fingerprints: impl Iterator<Item = u64>) {
        self.days.insert(day);
        self.ids.restore(fingerprints, day);
    }

    /// Makes the set usable after [`Self::restore`].
    pub(super) fn sort(&mut self) {
        self.ids.sort();
    }

    /// Raises the horizon and deletes all days before it. Returns these days.
    pub(super) fn forget_before(&mut self, horizon: Time) -> Vec<u64> {
        self.horizon = self.horizon.max(Some(horizon));
        let first = day(horizon);
        let kept = self.days.split_off(&first);
        let over = std::mem::replace(&mut self.days, kept);
        if !over.is_empty() {
            self.ids.forget_before(first);
        }
        over.into_iter().collect()
    }

    /// The number of the next row on disk. [`Self::row_exists`] skips existing rows.
    pub(super) fn next_row(&mut self) -> u64 {
        self.next_row += 1;
        self.next_row - 1
    }

    pub(super) fn row_exists(&mut self, row: u64) {
        self.next_row = self.next_row.max(row + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::model::Secret;

    fn replay() -> ReplayIndex {
        ReplayIndex::new(FingerprintKey::new(&Secret::new(vec![1; 16])).unwrap())
    }

    fn id(n: u8) -> ReportId {
        ReportId::new([n; 16])
    }

    #[test]
    fn recognizes_id_at_any_time() {
        let mut replay = replay();
        assert!(replay.insert(&id(1), Time(DAY)).is_some());
        for time in [DAY, DAY - 1, 2 * DAY, 400 * DAY] {
            assert!(replay.contains(&id(1)) && replay.insert(&id(1), Time(time)).is_none(), "{time}");
        }
        assert!(!replay.contains(&id(2)));
        assert_eq!(replay.len(), 1);
    }

    #[test]
    fn horizon_rises_and_forgets_whole_days() {
        let mut replay = replay();
        for n in 0..4 {
            replay.insert(&id(n), Time(u64::from(n) * DAY));
        }
        assert_eq!(replay.forget_before(Time(2 * DAY + 5)), [0, 1]);
        assert!(replay.contains(&id(2)) && !replay.contains(&id(1)));
        assert_eq!(replay.forget_before(Time(DAY)), [0u64; 0]);
        assert_eq!(replay.horizon(), Some(Time(2 * DAY + 5)));
        assert_eq!(replay.len(), 2);
        assert!(replay.insert(&id(9), Time(2 * DAY - 1)).is_none() && replay.insert(&id(9), Time(2 * DAY)).is_some());
        assert!(replay.insert(&id(9), Time(2 * DAY)).is_none());
        assert_eq!(replay.len(), 3);
    }
}
