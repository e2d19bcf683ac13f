//! The encoded sums of batch buckets that are held in memory.
//!
//! A sum is stored in the row of its bucket. The writer changes the same few buckets again and again, so it keeps the sums
//! that it used last, up to a number of bytes for all tasks together. All others are read from their rows.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use super::records::BucketHeader;
use dapbox_protocol::model::{Bucket, TaskId};

/// A bucket of a task.
pub(super) type BucketKey = (TaskId, Bucket);

/// A cached sum's cost beside its bytes: two map entries with keys.
const ENTRY_BYTES: usize = 256;

/// A cache of encoded sums with a limit in bytes; the least recently used go first. What is in it is also in a row.
pub(super) struct SumCache {
    limit: usize,
    bytes: usize,
    /// By when it was used last.
    order: BTreeMap<u64, BucketKey>,
    sums: HashMap<BucketKey, (u64, Vec<u8>)>,
    clock: u64,
}

impl SumCache {
    /// An empty cache that holds up to `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, order: BTreeMap::new(), sums: HashMap::new(), clock: 0 }
    }

    /// Adds or replaces a sum, and removes others as long as there are too many bytes. One that is longer than the limit
    /// is not kept.
    pub(super) fn insert(&mut self, key: BucketKey, sum: Vec<u8>) {
        self.take(&key);
        if sum.is_empty() || cost(&sum) > self.limit {
            return;
        }
        self.bytes += cost(&sum);
        self.clock += 1;
        self.order.insert(self.clock, key);
        self.sums.insert(key, (self.clock, sum));
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            let oldest = *oldest;
            self.take(&oldest);
        }
    }

    /// Removes a sum and returns it, if it is there.
    pub(super) fn take(&mut self, key: &BucketKey) -> Option<Vec<u8>> {
        let (used, sum) = self.sums.remove(key)?;
        self.order.remove(&used);
        self.bytes -= cost(&sum);
        Some(sum)
    }

    /// Removes all sums of a task.
    pub(super) fn forget_task(&mut self, task: &TaskId) {
        let keys: Vec<_> = self.sums.keys().filter(|(id, _)| id == task).copied().collect();
        keys.iter().for_each(|key| drop(self.take(key)));
    }

    /// How many bytes are held.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(sum: &[u8]) -> usize {
    sum.len() + ENTRY_BYTES
}

impl fmt::Debug for SumCache {
    /// Shows everything but the sums.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, bytes, .. } = self;
        f.debug_struct("SumCache").field("limit", limit).field("bytes", bytes).finish_non_exhaustive()
    }
}

/// A batch bucket that is being changed.
pub struct BucketMut<'a> {
    /// What is counted of it.
    pub header: &'a mut BucketHeader,
    pub(super) share: &'a mut Vec<u8>,
    /// About how many bytes the group of writes has come to.
    pub(super) group_bytes: &'a mut usize,
}

impl BucketMut<'_> {
    /// The VDAF's encoding of the sum; empty while there is none.
    pub fn share(&self) -> &[u8] {
        self.share
    }

    /// Replaces the encoded sum and returns the previous one.
    pub fn replace_share(&mut self, share: Vec<u8>) -> Vec<u8> {
        self.header.share_bytes = share.len();
        *self.group_bytes = (*self.group_bytes + share.len()).saturating_sub(self.share.len());
        std::mem::replace(self.share, share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::model::Time;

    fn key(n: u64) -> BucketKey {
        (TaskId::new([(n % 2) as u8; 32]), Bucket::Time(Time(n)))
    }

    #[test]
    fn evicts_least_recently_used_sums_beyond_the_limit() {
        let mut cache = SumCache::new(3 * (1000 + ENTRY_BYTES));
        for n in 0..3 {
            cache.insert(key(n), vec![n as u8; 1000]);
        }
        let oldest = cache.take(&key(0)).unwrap();
        cache.insert(key(0), oldest);
        cache.insert(key(3), vec![3; 1000]);
        assert_eq!(cache.take(&key(1)), None);
        assert_eq!(cache.take(&key(0)), Some(vec![0; 1000]));
        cache.insert(key(4), vec![4; 100_000]);
        assert_eq!(cache.take(&key(4)), None, "longer than the limit");
        assert!(cache.bytes() <= 2 * (1000 + ENTRY_BYTES));
        cache.forget_task(&key(3).0);
        assert_eq!((cache.take(&key(3)), cache.take(&key(2))), (None, Some(vec![2; 1000])));
        assert_eq!(cache.bytes(), 0);
    }
}
