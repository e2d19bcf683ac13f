//! Which reports were aggregated, so that none is aggregated twice.
//!
//! On disk there is one row per task, day and group commit that holds the ids packed. In memory there is a keyed
//! 64-bit fingerprint of each id: an id that was never seen is taken for a known one with a probability of one in
//! 2^64 per id of its day, and its report is then dropped. The key is drawn when the store is opened, so nobody can
//! aim for that.

use std::{
    collections::{BTreeMap, HashSet, hash_map::RandomState},
    hash::{BuildHasher, BuildHasherDefault, Hasher},
};

use crate::model::{ReportId, Time};

/// Reports are grouped by the day of their time: a fixed length, because the time precision of a task may be
/// anything from a second to a year.
const DAY: u64 = 86_400;

/// The day that a time is in, counted from the epoch.
pub(super) fn day(time: Time) -> u64 {
    time.0 / DAY
}

/// The ids of a task's aggregated reports.
#[derive(Debug, Default)]
pub struct Replay {
    key: RandomState,
    days: BTreeMap<u64, Fingerprints>,
    horizon: Option<Time>,
    next_row: u64,
}

impl Replay {
    /// Whether the report was aggregated, as far as is remembered: see [`Self::horizon`].
    pub fn contains(&self, id: &ReportId, time: Time) -> bool {
        self.days.get(&day(time)).is_some_and(|ids| ids.contains(&self.key.hash_one(id.as_bytes())))
    }

    /// Everything before this time is closed, if there is such a time: its reports must be refused, whatever the clock
    /// says, and are not remembered; its batch buckets take no more reports and are not collected any more.
    pub fn horizon(&self) -> Option<Time> {
        self.horizon
    }

    /// How many reports are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.days.values().map(HashSet::len).sum()
    }

    /// Remembers a report, unless its day is forgotten: all such are refused anyway. Says which it was.
    pub(super) fn insert(&mut self, id: &ReportId, time: Time) -> bool {
        let is_wanted = self.horizon.is_none_or(|horizon| day(time) >= day(horizon));
        if is_wanted {
            self.insert_in_day(day(time), id);
        }
        is_wanted
    }

    pub(super) fn insert_in_day(&mut self, day: u64, id: &ReportId) {
        let fingerprint = self.key.hash_one(id.as_bytes());
        self.days.entry(day).or_default().insert(fingerprint);
    }

    /// Forgets all days that end before `horizon` and returns them. The horizon only rises.
    pub(super) fn forget_before(&mut self, horizon: Time) -> Vec<u64> {
        self.horizon = self.horizon.max(Some(horizon));
        let kept = self.days.split_off(&day(horizon));
        std::mem::replace(&mut self.days, kept).into_keys().collect()
    }

    /// The number of the next row on disk; `seen` tells of rows that are there.
    pub(super) fn next_row(&mut self) -> u64 {
        self.next_row += 1;
        self.next_row - 1
    }

    pub(super) fn row_exists(&mut self, row: u64) {
        self.next_row = self.next_row.max(row + 1);
    }
}

type Fingerprints = HashSet<u64, BuildHasherDefault<AlreadyHashed>>;

/// Fingerprints are hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `write_u64` is ever called by a set of `u64`; this keeps the hasher a function of its input.
        bytes.iter().for_each(|&b| self.0 = self.0.rotate_left(8) ^ u64::from(b));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ReportId {
        ReportId::new([n; 16])
    }

    #[test]
    fn an_id_is_known_for_the_whole_day_of_its_time() {
        let mut replay = Replay::default();
        replay.insert(&id(1), Time(DAY));
        assert!(replay.contains(&id(1), Time(2 * DAY - 1)));
        assert!(!replay.contains(&id(1), Time(2 * DAY)));
        assert!(!replay.contains(&id(1), Time(DAY - 1)));
        assert!(!replay.contains(&id(2), Time(DAY)));
        assert_eq!(replay.len(), 1);
    }

    #[test]
    fn the_horizon_only_rises_and_takes_whole_days_with_it() {
        let mut replay = Replay::default();
        for n in 0..4 {
            replay.insert(&id(n), Time(u64::from(n) * DAY));
        }
        assert_eq!(replay.forget_before(Time(2 * DAY + 5)), [0, 1]);
        assert!(replay.contains(&id(2), Time(2 * DAY)));
        assert_eq!(replay.forget_before(Time(DAY)), [0u64; 0]);
        assert_eq!(replay.horizon(), Some(Time(2 * DAY + 5)));
        assert_eq!(replay.len(), 2);
        assert!(!replay.insert(&id(9), Time(2 * DAY - 1)) && replay.insert(&id(9), Time(2 * DAY)));
        assert_eq!(replay.len(), 3);
    }
}
