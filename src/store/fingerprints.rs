//! Sets of 64-bit fingerprints of report ids: eight bytes and a little for each, however many there are.
//!
//! # What a fingerprint may cost
//!
//! A fingerprint is SipHash-2-4 of the id under a key that is drawn when the directory is made, kept encrypted, and
//! never leaves it. A report whose id was never seen is taken for a known one if its fingerprint is that of another
//! report of the same task and day. For a report after `n` others of its day the probability is `n / 2^64`; for one
//! or more among all `n` reports of a day it is `n * (n - 1) / 2^65`. With a million reports a day that is 3 in 10^8, a
//! honest report lost every hundred thousand years; with 40 million on one day, 5 in 10^5. Such a report is refused as a
//! replay, by one aggregator; the other drops it as well, so both still agree. Whoever does not know the key cannot aim
//! for a collision, and learns of one only by chance. The other way round there is no error: an id that was seen is
//! always known.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasherDefault, Hasher},
};

use siphasher::sip::SipHasher24;

use crate::model::{ReportId, Secret};

/// How many fingerprints are in the hash set, at least, before they are merged into the vector.
const MIN_RECENT: usize = 4096;
/// And which part of the vector they are, at least: what merging costs is spread over as many.
const SHARE: usize = 8;

/// The key of a directory's fingerprints.
#[derive(Clone)]
pub(super) struct FingerprintKey(SipHasher24);

impl FingerprintKey {
    /// How many bytes a key has.
    pub(super) const BYTES: usize = 16;

    /// Takes a key; `None` if it has another length.
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

/// A set of fingerprints: a sorted vector, and beside it a small hash set that is merged into the vector now and then.
///
/// A hash set of all of them would hold up to twice as much as it needs, and move all of it at once when it grows.
#[derive(Debug, Default)]
pub(super) struct Fingerprints {
    sorted: Vec<u64>,
    recent: HashSet<u64, BuildHasherDefault<AlreadyHashed>>,
}

impl Fingerprints {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    pub(super) fn contains(&self, fingerprint: u64) -> bool {
        self.recent.contains(&fingerprint) || find(&self.sorted, fingerprint)
    }

    /// Adds one that is not in the set yet.
    pub(super) fn insert_new(&mut self, fingerprint: u64) {
        self.recent.insert(fingerprint);
        if self.recent.len() >= MIN_RECENT.max(self.sorted.len() / SHARE) {
            self.merge();
        }
    }

    /// Adds those that were stored, in any order. [`Self::settle`] follows before anything else.
    pub(super) fn restore(&mut self, fingerprints: impl Iterator<Item = u64>) {
        self.sorted.extend(fingerprints);
    }

    /// Makes the set usable after [`Self::restore`].
    pub(super) fn settle(&mut self) {
        self.sorted.sort_unstable();
        self.sorted.shrink_to_fit();
    }

    fn merge(&mut self) {
        let mut recent: Vec<u64> = std::mem::take(&mut self.recent).into_iter().collect();
        recent.sort_unstable();
        let old = std::mem::take(&mut self.sorted);
        self.sorted.reserve_exact(old.len() + recent.len());
        let mut rest = &old[..];
        for fingerprint in recent {
            let (before, after) = rest.split_at(rest.partition_point(|other| *other < fingerprint));
            self.sorted.extend_from_slice(before);
            self.sorted.push(fingerprint);
            rest = after;
        }
        self.sorted.extend_from_slice(rest);
    }
}

/// Whether a sorted slice of evenly spread numbers has one. Where it would be follows from its size, give or take the
/// root of their number: the search begins there.
fn find(sorted: &[u64], wanted: u64) -> bool {
    let guess = ((u128::from(wanted) * sorted.len() as u128) >> 64) as usize;
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
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_into_it_and_nothing_else(
            stored in proptest::collection::hash_set(any::<u64>(), 0..3000),
            added in proptest::collection::hash_set(any::<u64>(), 0..12_000),
            outside in proptest::collection::hash_set(any::<u64>(), 100),
            shift in 0..60u32,
        ) {
            // Shifted ones are not evenly spread, and crowd at one end.
            let stored: HashSet<u64> = stored.iter().map(|n| n >> shift).collect();
            let mut set = Fingerprints::default();
            set.restore(stored.iter().copied());
            set.settle();
            let added: HashSet<u64> = added.into_iter().map(|n| n >> shift).filter(|n| !stored.contains(n)).collect();
            added.iter().for_each(|n| set.insert_new(*n));
            prop_assert_eq!(set.len(), stored.len() + added.len());
            let is_inside = |n: &u64| stored.contains(n) || added.contains(n);
            prop_assert!(stored.iter().chain(&added).all(|n| set.contains(*n)));
            prop_assert!(outside.iter().all(|n| set.contains(*n) == is_inside(n)));
            prop_assert!([0, 1, u64::MAX].iter().all(|n| set.contains(*n) == is_inside(n)));
        }
    }

    #[test]
    fn a_fingerprint_depends_on_id_and_key() {
        let key = |n: u8| FingerprintKey::new(&Secret::new(vec![n; 16])).unwrap();
        let id = |n: u8| ReportId::new([n; 16]);
        assert_eq!(key(1).fingerprint(&id(1)), key(1).fingerprint(&id(1)));
        assert_ne!(key(1).fingerprint(&id(1)), key(1).fingerprint(&id(2)));
        assert_ne!(key(1).fingerprint(&id(1)), key(2).fingerprint(&id(1)));
        assert!(FingerprintKey::new(&Secret::new(vec![0; 15])).is_none());
        // They are on disk: the function must not change. From the reference implementation's first vectors.
        let reference = FingerprintKey::new(&Secret::new((0..16).collect())).unwrap();
        let message = ReportId::new(std::array::from_fn(|n| n as u8));
        assert_eq!(reference.fingerprint(&message), 0x3f2a_cc7f_57c2_9bdb);
    }
}
