//! Times, durations and intervals, in seconds.
//!
//! All arithmetic is checked or saturates, because a peer may send any 64-bit number.

use serde::{Deserialize, Serialize};

/// Seconds since the UNIX epoch (DAP-09 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

/// A number of seconds (DAP-09 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub u64);

impl Time {
    /// Rounds down to a multiple of `precision`. A precision of zero changes nothing.
    pub fn truncate(self, precision: Duration) -> Self {
        Self(self.0 - self.0.checked_rem(precision.0).unwrap_or(0))
    }

    /// Rounds up to a multiple of `precision`, saturating at the last representable multiple. A precision of zero
    /// changes nothing.
    pub fn round_up(self, precision: Duration) -> Self {
        match self.truncate(precision) {
            aligned if aligned == self => aligned,
            aligned => aligned.saturating_add(precision).truncate(precision),
        }
    }

    /// Adds a duration, saturating at the last representable time.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.0))
    }

    /// Subtracts a duration, saturating at the epoch.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.0))
    }
}

/// A half-open time interval that includes `start` and excludes `start + duration` (DAP-09 section 4).
///
/// The end of an `Interval` is always a representable [`Time`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interval {
    start: Time,
    duration: Duration,
}

impl Interval {
    /// Creates an interval; `None` if its end is not representable.
    pub fn new(start: Time, duration: Duration) -> Option<Self> {
        start.0.checked_add(duration.0)?;
        Some(Self { start, duration })
    }

    /// The first instant of the interval.
    pub fn start(&self) -> Time {
        self.start
    }

    /// The length of the interval.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// The first instant after the interval.
    pub fn end(&self) -> Time {
        Time(self.start.0 + self.duration.0)
    }

    /// Whether `time` lies in the interval.
    pub fn contains(&self, time: Time) -> bool {
        self.start <= time && time < self.end()
    }

    /// Whether the two intervals intersect.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start.max(other.start) < self.end().min(other.end())
    }

    /// Whether the interval is not empty and both bounds are multiples of `precision` (DAP-09 section 4.6.5.1.1).
    pub fn is_aligned(&self, precision: Duration) -> bool {
        let multiple = |n: u64| n.checked_rem(precision.0) == Some(0);
        self.duration.0 > 0 && multiple(self.start.0) && multiple(self.duration.0)
    }

    /// The smallest interval with bounds at multiples of `precision` that contains both times (DAP-09 section 4.6.1);
    /// `None` if its end is not representable.
    pub fn aligned_hull(first: Time, last: Time, precision: Duration) -> Option<Self> {
        let start = first.truncate(precision);
        let end = last.truncate(precision).0.checked_add(precision.0)?;
        Self::new(start, Duration(end.checked_sub(start.0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(start: u64, duration: u64) -> Interval {
        Interval::new(Time(start), Duration(duration)).unwrap()
    }

    #[test]
    fn rejects_interval_past_the_end_of_time() {
        assert_eq!(Interval::new(Time(u64::MAX), Duration(1)), None);
        assert_eq!(interval(u64::MAX - 1, 1).end(), Time(u64::MAX));
    }

    #[test]
    fn round_up_yields_multiples() {
        let hour = Duration(3600);
        for (time, rounded) in [(0, 0), (1, 3600), (3600, 3600), (7199, 7200)] {
            assert_eq!(Time(time).round_up(hour), Time(rounded));
        }
        assert!(Time(u64::MAX).round_up(hour).0 >= u64::MAX - 3600);
        assert_eq!(Time(7).round_up(Duration(0)), Time(7));
    }

    #[test]
    fn adjacent_intervals_do_not_overlap() {
        assert!(interval(0, 1 << 63).overlaps(&interval(1 << 40, 1)));
        assert!(!interval(0, 10).overlaps(&interval(10, 10)));
        assert!(!interval(5, 0).overlaps(&interval(0, 10)));
    }

    #[test]
    fn alignment_requires_both_bounds_and_a_duration() {
        assert!(interval(20, 10).is_aligned(Duration(10)));
        assert!(!interval(21, 10).is_aligned(Duration(10)));
        assert!(!interval(20, 11).is_aligned(Duration(10)));
        assert!(!interval(20, 0).is_aligned(Duration(10)));
        assert!(!interval(20, 10).is_aligned(Duration(0)));
    }

    #[test]
    fn aligned_hull_is_minimal() {
        let hull = Interval::aligned_hull(Time(19), Time(20), Duration(10));
        assert_eq!(hull, Some(interval(10, 20)));
        assert_eq!(Interval::aligned_hull(Time(0), Time(u64::MAX), Duration(10)), None);
    }
}
