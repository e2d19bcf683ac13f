//! Which reports were aggregated, so that none is aggregated twice.
//!
//! What is kept of an id is a keyed 64-bit fingerprint: see `fingerprints.rs` for what that means. On disk there is one
//! row per task, day and group commit that holds them packed; `compact.rs` joins those of a day.

use std::collections::BTreeMap;

use super::fingerprints::{FingerprintKey, Fingerprints};
use crate::model::{ReportId, Time};

/// Reports are grouped by the day of their time: a fixed length, because the time precision of a task may be
/// anything from a second to a year.
const DAY: u64 = 86_400;

/// The day that a time is in, counted from the epoch.
pub(super) fn day(time: Time) -> u64 {
    time.0 / DAY
}

/// The ids of a task's aggregated reports.
#[derive(Debug)]
pub struct Replay {
    key: FingerprintKey,
    days: BTreeMap<u64, Fingerprints>,
    horizon: Option<Time>,
    next_row: u64,
}

impl Replay {
    pub(super) fn new(key: FingerprintKey) -> Self {
        Self { key, days: BTreeMap::new(), horizon: None, next_row: 0 }
    }

    /// Whether the report was aggregated, as far as is remembered: see [`Self::horizon`].
    pub fn contains(&self, id: &ReportId, time: Time) -> bool {
        self.days.get(&day(time)).is_some_and(|ids| ids.contains(self.key.fingerprint(id)))
    }

    /// Everything before this time is closed, if there is such a time: its reports must be refused, whatever the clock
    /// says, and are not remembered; its batch buckets take no more reports and are not collected any more.
    pub fn horizon(&self) -> Option<Time> {
        self.horizon
    }

    /// How many reports are remembered.
    pub fn len(&self) -> usize {
        self.days.values().map(Fingerprints::len).sum()
    }

    /// Whether no report is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Remembers a report and returns its fingerprint, to be stored. `None` if it is known, or if its day is forgotten: all
    /// such are refused anyway.
    pub(super) fn insert(&mut self, id: &ReportId, time: Time) -> Option<u64> {
        let (day, fingerprint) = (day(time), self.key.fingerprint(id));
        let is_forgotten = self.horizon.is_some_and(|horizon| day < self::day(horizon));
        let ids = if is_forgotten { None } else { Some(self.days.entry(day).or_default()) };
        let ids = ids.filter(|ids| !ids.contains(fingerprint))?;
        ids.insert_new(fingerprint);
        Some(fingerprint)
    }

    /// Remembers what was stored. [`Self::settle`] follows before anything else.
    pub(super) fn restore(&mut self, day: u64, fingerprints: impl Iterator<Item = u64>) {
        self.days.entry(day).or_default().restore(fingerprints);
    }

    /// Makes what was restored usable.
    pub(super) fn settle(&mut self) {
        self.days.values_mut().for_each(Fingerprints::settle);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;

    fn replay() -> Replay {
        Replay::new(FingerprintKey::new(&Secret::new(vec![1; 16])).unwrap())
    }

    fn id(n: u8) -> ReportId {
        ReportId::new([n; 16])
    }

    #[test]
    fn an_id_is_known_for_the_whole_day_of_its_time() {
        let mut replay = replay();
        replay.insert(&id(1), Time(DAY));
        assert!(replay.contains(&id(1), Time(2 * DAY - 1)));
        assert!(!replay.contains(&id(1), Time(2 * DAY)));
        assert!(!replay.contains(&id(1), Time(DAY - 1)));
        assert!(!replay.contains(&id(2), Time(DAY)));
        assert_eq!(replay.len(), 1);
    }

    #[test]
    fn the_horizon_only_rises_and_takes_whole_days_with_it() {
        let mut replay = replay();
        for n in 0..4 {
            replay.insert(&id(n), Time(u64::from(n) * DAY));
        }
        assert_eq!(replay.forget_before(Time(2 * DAY + 5)), [0, 1]);
        assert!(replay.contains(&id(2), Time(2 * DAY)));
        assert_eq!(replay.forget_before(Time(DAY)), [0u64; 0]);
        assert_eq!(replay.horizon(), Some(Time(2 * DAY + 5)));
        assert_eq!(replay.len(), 2);
        assert!(replay.insert(&id(9), Time(2 * DAY - 1)).is_none() && replay.insert(&id(9), Time(2 * DAY)).is_some());
        assert!(replay.insert(&id(9), Time(2 * DAY)).is_none());
        assert_eq!(replay.len(), 3);
    }
}
