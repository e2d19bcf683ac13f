//! Sets of 64-bit fingerprints of report ids: about twelve bytes each.
//!
//! # Decision: a keyed 64-bit fingerprint per aggregated report
//!
//! A fingerprint is SipHash-2-4 of the id under a random key of the directory, which is stored encrypted and never
//! leaves it. Memory and disk hold the fingerprint instead of the id. A new report is rejected as a replay if a
//! recorded report of its task has the same fingerprint. After `n` reports the probability is `n / 2^64`. A task that
//! keeps a million reports a day for 30 days rejects one honest report in 1,700 years; with 40 million a day, one a
//! year. If one aggregator rejects a report, the other drops it too, so both agree. Clients do not know the key and
//! cannot provoke collisions. A known id is always recognized.
//!
//! # Layout
//!
//! A set is split into shards by fingerprint. No operation copies more than one shard, so memory never doubles while
//! the set grows. Each fingerprint is stored with the day of its report, so that it can expire.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
};

use siphasher::sip::SipHasher24;

use dapbox_protocol::model::{ReportId, Secret};

/// The most fingerprints of a shard before it is split.
const MAX_SHARD: usize = 1 << 16;
/// A shard is split into `2^FAN_BITS` shards.
const FAN_BITS: u32 = 2;
/// The least number of fingerprints in a shard's hash map before they are merged into its vectors.
const MIN_RECENT: usize = 256;
/// The least fraction of the vectors for a merge, which spreads its cost.
const RECENT_FRACTION: usize = 16;

/// The key of a directory's fingerprints.
#[derive(Clone)]
pub(super) struct FingerprintKey(SipHasher24);

impl FingerprintKey {
    /// The length of a key, in bytes.
    pub(super) const BYTES: usize = 16;

    /// Creates a key; `None` if the length is wrong.
    pub(super) fn new(key: &Secret) -> Option<Self> {
        Some(Self(SipHasher24::new_with_key(key.expose().try_into().ok()?)))
    }

    pub(super) fn fingerprint(&self, id: &ReportId) -> u64 {
        let mut hasher = self.0;
        hasher.write(id.as_bytes());
        hasher.finish()
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey(..)")
    }
}

/// A set of fingerprints, each with the day of its report.
#[derive(Debug, Default)]
pub(super) struct Fingerprints {
    /// The lowest possible fingerprint of each shard, in order.
    firsts: Vec<u64>,
    shards: Vec<Shard>,
}

/// The fingerprints of a range: sorted vectors, and a small hash map that is merged into them.
///
/// A single hash map would take up to twice the memory.
#[derive(Debug)]
struct Shard {
    /// The range has `2^bits` values.
    bits: u32,
    sorted: Vec<u64>,
    /// The days of the fingerprints in `sorted`, in the same order.
    days: Vec<Day>,
    recent: HashMap<u64, Day, BuildHasherDefault<AlreadyHashed>>,
}

/// A day, counted from the epoch. The maximum stands for itself and all later days, which never expire.
type Day = u16;

fn day_of(day: u64) -> Day {
    Day::try_from(day).unwrap_or(Day::MAX)
}

impl Fingerprints {
    /// The number of fingerprints.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    pub(super) fn contains(&self, fingerprint: u64) -> bool {
        let at = self.firsts.partition_point(|first| *first <= fingerprint);
        at.checked_sub(1).is_some_and(|at| self.shards[at].contains(self.firsts[at], fingerprint))
    }

    /// Adds a new fingerprint of a report of the given day.
    pub(super) fn insert_new(&mut self, fingerprint: u64, day: u64) {
        let at = self.find_shard(fingerprint);
        let shard = &mut self.shards[at];
        shard.recent.insert(fingerprint, day_of(day));
        if shard.recent.len() >= MIN_RECENT.max(shard.sorted.len() / RECENT_FRACTION) {
            shard.merge();
            self.split_if_large(at);
        }
    }

    /// Adds stored fingerprints of a day, in any order. [`Self::sort`] must follow.
    pub(super) fn restore(&mut self, fingerprints: impl Iterator<Item = u64>, day: u64) {
        for fingerprint in fingerprints {
            let at = self.find_shard(fingerprint);
            self.shards[at].sorted.push(fingerprint);
            self.shards[at].days.push(day_of(day));
            self.split_if_large(at);
        }
    }

    /// Makes the set usable after [`Self::restore`].
    pub(super) fn sort(&mut self) {
        for shard in &mut self.shards {
            let mut pairs: Vec<_> = shard.sorted.iter().copied().zip(shard.days.iter().copied()).collect();
            pairs.sort_unstable_by_key(|(fingerprint, _)| *fingerprint);
            shard.sorted = pairs.iter().map(|(fingerprint, _)| *fingerprint).collect();
            shard.days = pairs.iter().map(|(_, day)| *day).collect();
        }
    }

    /// Removes the fingerprints of earlier days.
    pub(super) fn forget_before(&mut self, day: u64) {
        let first = day_of(day);
        self.shards.iter_mut().for_each(|shard| shard.retain(|day| day >= first));
        if self.len() == 0 {
            *self = Self::default();
        }
    }

    fn find_shard(&mut self, fingerprint: u64) -> usize {
        if self.shards.is_empty() {
            (self.firsts, self.shards) = (vec![0], vec![Shard::new(u64::BITS)]);
        }
        self.firsts.partition_point(|first| *first <= fingerprint) - 1
    }

    /// Splits a shard if it is too large.
    fn split_if_large(&mut self, at: usize) {
        let (first, bits) = (self.firsts[at], self.shards[at].bits);
        if self.shards[at].sorted.len() <= MAX_SHARD || bits <= FAN_BITS {
            return;
        }
        let bits = bits - FAN_BITS;
        let parts = std::mem::replace(&mut self.shards[at], Shard::new(bits)).split(first, bits);
        self.firsts.splice(at..=at, (0..1 << FAN_BITS).map(|part| first + (part << bits)));
        self.shards.splice(at..=at, parts);
    }
}

impl Shard {
    fn new(bits: u32) -> Self {
        Self { bits, sorted: Vec::new(), days: Vec::new(), recent: HashMap::default() }
    }

    fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    fn contains(&self, first: u64, fingerprint: u64) -> bool {
        self.recent.contains_key(&fingerprint) || find(&self.sorted, fingerprint, first, self.bits)
    }

    fn merge(&mut self) {
        let mut recent: Vec<(u64, Day)> = std::mem::take(&mut self.recent).into_iter().collect();
        recent.sort_unstable();
        let (old, old_days) = (std::mem::take(&mut self.sorted), std::mem::take(&mut self.days));
        self.sorted.reserve_exact(old.len() + recent.len());
        self.days.reserve_exact(old.len() + recent.len());
        let mut from = 0;
        for (fingerprint, day) in recent {
            let to = from + old[from..].partition_point(|other| *other < fingerprint);
            self.sorted.extend_from_slice(&old[from..to]);
            self.days.extend_from_slice(&old_days[from..to]);
            self.sorted.push(fingerprint);
            self.days.push(day);
            from = to;
        }
        self.sorted.extend_from_slice(&old[from..]);
        self.days.extend_from_slice(&old_days[from..]);
    }

    fn retain(&mut self, is_kept: impl Fn(Day) -> bool) {
        self.recent.retain(|_, day| is_kept(*day));
        let mut kept = 0;
        for at in 0..self.sorted.len() {
            if is_kept(self.days[at]) {
                (self.sorted[kept], self.days[kept]) = (self.sorted[at], self.days[at]);
                kept += 1;
            }
        }
        if kept < self.sorted.len() {
            self.sorted.truncate(kept);
            self.days.truncate(kept);
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        self.sorted.shrink_to_fit();
        self.days.shrink_to_fit();
    }

    /// Splits the shard that starts at `first` into shards of `2^bits` values.
    fn split(self, first: u64, bits: u32) -> Vec<Self> {
        let mut parts: Vec<Self> = (0..1 << FAN_BITS).map(|_| Self::new(bits)).collect();
        let part = |fingerprint: u64| ((fingerprint - first) >> bits) as usize;
        for (fingerprint, day) in self.sorted.into_iter().zip(self.days) {
            let part = &mut parts[part(fingerprint)];
            part.sorted.push(fingerprint);
            part.days.push(day);
        }
        for (fingerprint, day) in self.recent {
            parts[part(fingerprint)].recent.insert(fingerprint, day);
        }
        parts.iter_mut().for_each(Self::shrink);
        parts
    }
}

/// Searches a sorted slice of evenly distributed numbers among the `2^bits` values from `first`. The expected position
/// follows from the value, with an error of about the square root of the length; the search starts there.
fn find(sorted: &[u64], wanted: u64, first: u64, bits: u32) -> bool {
    let guess = ((u128::from(wanted - first) * sorted.len() as u128) >> bits) as usize;
    let (mut low, mut high, mut step) = (guess, guess, 16);
    while low > 0 && sorted[low] > wanted {
        low = low.saturating_sub(step);
        step *= 2;
    }
    while high < sorted.len() && sorted[high] < wanted {
        high += step;
        step *= 2;
    }
    let high = sorted.len().min(high + 1);
    sorted.get(low..high).is_some_and(|part| part.binary_search(&wanted).is_ok())
}

/// A hasher for fingerprints, which are hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // A set of `u64` only calls `write_u64`; this keeps the hasher a function of its input.
        bytes.iter().for_each(|&b| self.0 = self.0.rotate_left(8) ^ u64::from(b));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Builds a set of stored and added fingerprints. The day of each is its value modulo seven.
    fn set_of(stored: &HashSet<u64>, added: &HashSet<u64>) -> Fingerprints {
        let mut set = Fingerprints::default();
        for day in 0..7 {
            set.restore(stored.iter().copied().filter(|n| n % 7 == day), day);
        }
        set.sort();
        added.iter().for_each(|n| set.insert_new(*n, n % 7));
        set
    }

    proptest! {
        #[test]
        fn set_contains_exactly_its_fingerprints(
            stored in proptest::collection::hash_set(any::<u64>(), 0..3000),
            added in proptest::collection::hash_set(any::<u64>(), 0..12_000),
            outside in proptest::collection::hash_set(any::<u64>(), 100),
            shift in 0..60u32,
            oldest in 0..8u64,
        ) {
            // Shifted values are unevenly distributed.
            let stored: HashSet<u64> = stored.iter().map(|n| n >> shift).collect();
            let added: HashSet<u64> = added.into_iter().map(|n| n >> shift).filter(|n| !stored.contains(n)).collect();
            let mut set = set_of(&stored, &added);
            prop_assert_eq!(set.len(), stored.len() + added.len());
            let is_inside = |n: &u64| stored.contains(n) || added.contains(n);
            prop_assert!(stored.iter().chain(&added).all(|n| set.contains(*n)));
            prop_assert!(outside.iter().all(|n| set.contains(*n) == is_inside(n)));
            prop_assert!([0, 1, u64::MAX].iter().all(|n| set.contains(*n) == is_inside(n)));

            set.forget_before(oldest);
            prop_assert!(stored.iter().chain(&added).all(|n| set.contains(*n) == (n % 7 >= oldest)));
        }
    }

    #[test]
    fn splits_large_sets_without_loss() {
        let numbers = |from: u64| (from..from + 300_000).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (stored, added): (HashSet<u64>, HashSet<u64>) = (numbers(0).collect(), numbers(1 << 40).collect());
        let mut set = set_of(&stored, &added);
        assert!(set.shards.len() > 4 && set.shards.iter().all(|shard| shard.sorted.len() <= MAX_SHARD));
        assert_eq!(set.len(), 600_000);
        assert!(stored.iter().chain(&added).all(|n| set.contains(*n)));
        assert!(numbers(1 << 50).all(|n| !set.contains(n)));
        set.forget_before(7);
        assert_eq!((set.len(), set.shards.len()), (0, 0));
    }

    #[test]
    fn keeps_fingerprints_of_days_out_of_range() {
        let mut set = Fingerprints::default();
        for (fingerprint, day) in [(1, 65_534), (2, 65_535), (3, 1 << 40)] {
            set.insert_new(fingerprint, day);
        }
        set.forget_before(u64::MAX);
        assert_eq!([1, 2, 3].map(|n| set.contains(n)), [false, true, true]);
    }

    #[test]
    fn fingerprint_depends_on_id_and_key() {
        let key = |n: u8| FingerprintKey::new(&Secret::new(vec![n; 16])).unwrap();
        let id = |n: u8| ReportId::new([n; 16]);
        assert_eq!(key(1).fingerprint(&id(1)), key(1).fingerprint(&id(1)));
        assert_ne!(key(1).fingerprint(&id(1)), key(1).fingerprint(&id(2)));
        assert_ne!(key(1).fingerprint(&id(1)), key(2).fingerprint(&id(1)));
        assert!(FingerprintKey::new(&Secret::new(vec![0; 15])).is_none());
        // Fingerprints are stored, so the function must not change. From the test vectors of the reference
        // implementation.
        let reference = FingerprintKey::new(&Secret::new((0..16).collect())).unwrap();
        let message = ReportId::new(std::array::from_fn(|n| n as u8));
        assert_eq!(reference.fingerprint(&message), 0x3f2a_cc7f_57c2_9bdb);
    }
}
