//! Which reports were aggregated, so that none is aggregated twice.
//!
//! Ids are checked per task, whatever the times of the reports (DAP-18 section 4.5.4.3). A report's time is bound into
//! its sealed shares, so only its client can make another report with the same id and another time; but then two
//! reports of one measurement would count, and a client that colludes with an aggregator would see two proofs verified
//! with the same randomness, which is derived from the id.
//!
//! Times decide only how long an id is remembered. The ids of a day are forgotten together when the horizon has passed
//! the day: every report of that day is refused from then on. An id that was forgotten can come again with a later time,
//! which no task that forgets anything can prevent.
//!
//! A keyed 64-bit fingerprint is kept of an id, see `fingerprints.rs`. On disk there is one row per task, day and group
//! commit that holds them packed; `compact.rs` joins those of a day.

use std::collections::BTreeSet;

use super::fingerprints::{FingerprintKey, Fingerprints};
use dapbox_protocol::model::{ReportId, Time};

/// Ids are forgotten by the day of their reports' time: a fixed length, because the time precision of a task may be
/// anything from a second to a year.
const DAY: u64 = 86_400;

/// The day that a time is in, counted from the epoch.
pub(super) fn day(time: Time) -> u64 {
    time.0 / DAY
}

/// The ids of a task's aggregated reports.
#[derive(Debug)]
pub struct ReplayIndex {
    key: FingerprintKey,
    ids: Fingerprints,
    /// The days of reports in `ids`.
    days: BTreeSet<u64>,
    horizon: Option<Time>,
    next_row: u64,
}

impl ReplayIndex {
    pub(super) fn new(key: FingerprintKey) -> Self {
        Self { key, ids: Fingerprints::default(), days: BTreeSet::new(), horizon: None, next_row: 0 }
    }

    /// Whether a report with this id was aggregated, as far as is remembered: see [`Self::horizon`].
    pub fn contains(&self, id: &ReportId) -> bool {
        self.ids.contains(self.key.fingerprint(id))
    }

    /// Everything before this time is closed, if there is such a time: its reports must be refused, whatever the clock
    /// says, and are not remembered; its batch buckets take no more reports and are not collected any more.
    pub fn horizon(&self) -> Option<Time> {
        self.horizon
    }

    /// How many reports are remembered.
    pub fn len(&self) -> usize {
        self.ids.len()
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
        if is_forgotten || self.ids.contains(fingerprint) {
            return None;
        }
        self.days.insert(day);
        self.ids.insert_new(fingerprint, day);
        Some(fingerprint)
    }

    /// Remembers what was stored. [`Self::sort`] follows before anything else.
    pub(super) fn restore(&mut self, day: u64, fingerprints: impl Iterator<Item = u64>) {
        self.days.insert(day);
        self.ids.restore(fingerprints, day);
    }

    /// Makes what was restored usable.
    pub(super) fn sort(&mut self) {
        self.ids.sort();
    }

    /// Forgets all days that end before `horizon` and returns them. The horizon only rises.
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
