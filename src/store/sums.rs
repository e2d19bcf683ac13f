//! The cache of encoded sums of batch buckets.
//!
//! # Decision: sums are on disk, their counts in memory
//!
//! The sum of a bucket is stored in its row. The writer changes a few buckets repeatedly, so recently used sums are
//! cached, up to a limit in bytes for all tasks. Memory holds the counts of all buckets. Clients choose the times of
//! reports and could open any number of buckets. So a task has a limit of open buckets, which uploads check: everything
//! accepted can be aggregated.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use super::records::BucketHeader;
use dapbox_protocol::model::{Bucket, TaskId};

/// The key of a batch bucket.
pub(super) type BucketKey = (TaskId, Bucket);

/// The cost of a cached sum besides its bytes: two map entries.
const ENTRY_BYTES: usize = 256;

/// A cache of encoded sums that evicts the least recently used. Each cached sum is also in a row.
pub(super) struct SumCache {
    limit: usize,
    bytes: usize,
    /// The sums by time of their last use.
    order: BTreeMap<u64, BucketKey>,
    sums: HashMap<BucketKey, (u64, Vec<u8>)>,
    clock: u64,
}

impl SumCache {
    /// Creates a cache of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, order: BTreeMap::new(), sums: HashMap::new(), clock: 0 }
    }

    /// Adds or replaces a sum, and evicts others beyond the limit. A sum above the limit is not cached.
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

    /// Removes a sum from the cache and returns it.
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

    /// The size of the cache, in bytes.
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

/// A batch bucket under change.
pub struct BucketMut<'a> {
    /// The header of the bucket.
    pub header: &'a mut BucketHeader,
    pub(super) share: &'a mut Vec<u8>,
    /// The approximate size of the group of writes, in bytes.
    pub(super) group_bytes: &'a mut usize,
}

impl BucketMut<'_> {
    /// The encoded sum; empty while there is none.
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
