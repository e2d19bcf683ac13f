//! The index of a task's collected batches.
//!
//! Intervals are kept as ranges, because a collected interval also covers empty buckets and may be too long to
//! enumerate.
//!
//! The index also holds abandoned batches: closed without a collection.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use dapbox_protocol::model::{BatchId, BatchSelector, Bucket, Duration, Interval, Time};

/// The collected batches of a task.
///
/// Collected intervals never overlap: check [`Self::overlaps`] before adding one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectedBatches {
    intervals: BTreeMap<Time, Duration>,
    batches: BTreeSet<BatchId>,
    abandoned: BTreeSet<BatchId>,
}

impl CollectedBatches {
    /// Whether the time lies in a collected interval.
    fn covers_time(&self, time: Time) -> bool {
        self.intervals.range(..=time).next_back().and_then(interval).is_some_and(|i| i.contains(time))
    }

    /// Whether the bucket belongs to a collected or abandoned batch and takes no more reports.
    pub fn covers(&self, bucket: &Bucket) -> bool {
        match bucket {
            Bucket::Time(start) => self.covers_time(*start),
            Bucket::Batch(id) => self.batches.contains(id) || self.abandoned.contains(id),
        }
    }

    /// Whether the batch was abandoned: it takes no more reports and never has a result.
    pub fn is_abandoned(&self, id: &BatchId) -> bool {
        self.abandoned.contains(id)
    }

    /// Whether the batch overlaps a collected one.
    pub fn overlaps(&self, batch: &BatchSelector) -> bool {
        match batch {
            BatchSelector::TimeInterval(wanted) => {
                // Intervals do not overlap, so the last one that starts before the end also ends last.
                self.intervals.range(..wanted.end()).next_back().and_then(interval).is_some_and(|i| i.overlaps(wanted))
            }
            BatchSelector::FixedSize(id) => self.batches.contains(id),
        }
    }

    /// Whether exactly this batch was collected.
    pub fn contains_exactly(&self, batch: &BatchSelector) -> bool {
        match batch {
            BatchSelector::TimeInterval(i) => self.intervals.get(&i.start()) == Some(&i.duration()),
            BatchSelector::FixedSize(id) => self.batches.contains(id),
        }
    }

    /// The number of collected batches.
    pub fn len(&self) -> usize {
        self.intervals.len() + self.batches.len()
    }

    /// Whether no batch was collected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Abandons a batch. Returns false if it is closed already.
    pub(super) fn abandon(&mut self, id: BatchId) -> bool {
        !self.batches.contains(&id) && self.abandoned.insert(id)
    }

    /// Deletes an abandoned batch.
    pub(super) fn remove_abandoned(&mut self, id: &BatchId) {
        self.abandoned.remove(id);
    }

    /// The collected intervals that overlap the given one, earliest first.
    pub fn overlapping(&self, wanted: &Interval) -> impl Iterator<Item = Interval> + '_ {
        let (wanted, first) = (*wanted, self.intervals.range(..=wanted.start()).next_back());
        let later = self.intervals.range((Bound::Excluded(wanted.start()), Bound::Unbounded));
        let all = first.into_iter().chain(later).filter_map(interval);
        all.take_while(move |found| found.start() < wanted.end()).filter(move |found| found.overlaps(&wanted))
    }

    /// All collected batches.
    pub fn iter(&self) -> impl Iterator<Item = BatchSelector> + '_ {
        let intervals = self.intervals.iter().filter_map(interval).map(BatchSelector::TimeInterval);
        intervals.chain(self.batches.iter().copied().map(BatchSelector::FixedSize))
    }

    pub(super) fn remove(&mut self, batch: &BatchSelector) {
        match batch {
            BatchSelector::TimeInterval(i) => drop(self.intervals.remove(&i.start())),
            BatchSelector::FixedSize(id) => drop(self.batches.remove(id)),
        }
    }

    pub(super) fn insert(&mut self, batch: &BatchSelector) {
        match batch {
            BatchSelector::TimeInterval(i) => {
                self.intervals.insert(i.start(), i.duration());
            }
            BatchSelector::FixedSize(id) => {
                self.batches.insert(*id);
            }
        }
    }
}

fn interval((start, duration): (&Time, &Duration)) -> Option<Interval> {
    Interval::new(*start, *duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(start: u64, duration: u64) -> BatchSelector {
        BatchSelector::TimeInterval(Interval::new(Time(start), Duration(duration)).unwrap())
    }

    #[test]
    fn tests_intervals_of_any_length_as_ranges() {
        let mut collected = CollectedBatches::default();
        collected.insert(&selector(10, 10));
        collected.insert(&selector(100, 1 << 63));
        assert!(collected.covers_time(Time(10)) && collected.covers_time(Time(19)));
        assert!(!collected.covers_time(Time(9)) && !collected.covers_time(Time(20)));
        assert!(collected.covers(&Bucket::Time(Time(1 << 62))));
        assert!(collected.overlaps(&selector(0, 11)));
        assert!(collected.overlaps(&selector(15, 1)));
        assert!(collected.overlaps(&selector(0, 1 << 60)));
        assert!(!collected.overlaps(&selector(20, 80)));
        assert!(!collected.overlaps(&selector(0, 10)));
        let overlapping = |start, duration| {
            let wanted = Interval::new(Time(start), Duration(duration)).unwrap();
            collected.overlapping(&wanted).map(|found| found.start().0).collect::<Vec<_>>()
        };
        assert_eq!(overlapping(19, 82), [10, 100]);
        assert_eq!(overlapping(10, 1), [10]);
        assert_eq!(overlapping(1 << 60, 1), [100]);
        assert_eq!(overlapping(20, 80), [0; 0]);
        assert!(collected.contains_exactly(&selector(10, 10)));
        assert!(!collected.contains_exactly(&selector(10, 9)));
    }

    #[test]
    fn keeps_batch_ids_apart_from_intervals() {
        let mut collected = CollectedBatches::default();
        let id = BatchId::new([1; 32]);
        collected.insert(&BatchSelector::FixedSize(id));
        collected.insert(&selector(0, 5));
        assert!(collected.covers(&Bucket::Batch(id)));
        assert!(!collected.covers(&Bucket::Batch(BatchId::new([2; 32]))));
        assert_eq!(collected.len(), 2);
    }
}
