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

use std::{fmt, hash::Hasher};

use siphasher::sip::SipHasher24;

use crate::model::{ReportId, Secret};

/// How many fingerprints a bucket has on average before another bucket is added.
const FULL: usize = 64;
/// By how many places a bucket grows. What is reserved and not used is half of it on average.
const STEP: usize = 8;

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

/// A set of fingerprints: linear hashing.
///
/// A hash table that doubles holds twice as much as it needs just afterwards, and whoever is about to commit waits until
/// all of it has moved. This one has small buckets, and adds one at a time by splitting the next in turn.
#[derive(Debug)]
pub(super) struct Fingerprints {
    /// Never empty. Which bucket a fingerprint belongs to depends on their number: see [`place`].
    buckets: Vec<Vec<u64>>,
    len: usize,
}

impl Default for Fingerprints {
    fn default() -> Self {
        Self { buckets: vec![Vec::new()], len: 0 }
    }
}

impl Fingerprints {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, fingerprint: u64) -> bool {
        self.buckets[place(fingerprint, self.buckets.len())].contains(&fingerprint)
    }

    /// Adds one that is not in the set yet.
    pub(super) fn insert_new(&mut self, fingerprint: u64) {
        let place = place(fingerprint, self.buckets.len());
        push(&mut self.buckets[place], fingerprint);
        self.len += 1;
        if self.len > FULL * self.buckets.len() {
            self.split();
        }
    }

    /// Adds a bucket, and moves to it what belongs there: all of that is in one other bucket.
    fn split(&mut self) {
        let fresh = self.buckets.len();
        let donor = fresh - (1 << fresh.ilog2());
        let (stay, go) = std::mem::take(&mut self.buckets[donor]).into_iter().fold(
            (Vec::new(), Vec::new()),
            |(mut stay, mut go), fingerprint| {
                push(if place(fingerprint, fresh + 1) == fresh { &mut go } else { &mut stay }, fingerprint);
                (stay, go)
            },
        );
        self.buckets[donor] = stay;
        self.buckets.push(go);
    }
}

fn push(bucket: &mut Vec<u64>, fingerprint: u64) {
    if bucket.len() == bucket.capacity() {
        bucket.reserve_exact(STEP);
    }
    bucket.push(fingerprint);
}

/// Where a fingerprint belongs if there are so many buckets: its lowest bits, one fewer of them if that bucket is not
/// there yet.
fn place(fingerprint: u64, buckets: usize) -> usize {
    let mask = buckets.next_power_of_two() - 1;
    // Truncation is harmless: only the lowest bits count.
    let place = fingerprint as usize & mask;
    if place < buckets { place } else { place & (mask >> 1) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_into_it_and_nothing_else(
            inside in proptest::collection::hash_set(any::<u64>(), 0..3000),
            outside in proptest::collection::hash_set(any::<u64>(), 100),
            shift in 0..60u32,
        ) {
            // Shifted ones have few different lowest bits: buckets as uneven as can be.
            let inside: HashSet<u64> = inside.iter().map(|n| n << shift).collect();
            let mut set = Fingerprints::default();
            inside.iter().for_each(|n| set.insert_new(*n));
            prop_assert_eq!(set.len(), inside.len());
            prop_assert!(inside.iter().all(|n| set.contains(*n)));
            prop_assert!(outside.iter().all(|n| set.contains(*n) == inside.contains(n)));
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

    #[test]
    fn places_are_few_bytes_each() {
        let mut set = Fingerprints::default();
        let key = FingerprintKey::new(&Secret::new(vec![7; 16])).unwrap();
        let count = 200_000u64;
        for n in 0..count {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            set.insert_new(key.fingerprint(&ReportId::new(id)));
        }
        let reserved: usize = set.buckets.iter().map(|bucket| 8 * bucket.capacity() + size_of::<Vec<u64>>()).sum();
        let each = reserved as f64 / count as f64;
        assert!(each < 10.0, "{each} bytes each");
    }
}
