//! Tracks the rows that are committed during a backup.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::engine::Rows;

/// The memory of a tracked key besides its bytes.
const PER_KEY: usize = 64;

/// The tracker of the running backup, if there is one.
#[derive(Debug, Default)]
pub(crate) struct ChangeTracker(Mutex<Option<TrackedChanges>>);

#[derive(Debug)]
struct TrackedChanges {
    /// The last copied key. Rows after it need no tracking, because they are copied later.
    copied: Option<Vec<u8>>,
    /// The keys of rows that changed since they were copied.
    keys: BTreeSet<Vec<u8>>,
    /// Their memory.
    bytes: usize,
    /// The limit of the memory.
    limit: usize,
    /// Whether the limit was exceeded: the backup fails.
    is_over: bool,
}

impl ChangeTracker {
    /// Tracks rows that are being committed. Both the writer and the backup hold the lock of the disk, so each row is
    /// either copied in its new state or tracked.
    pub(crate) fn record(&self, rows: &Rows) {
        let Some(tracked) = &mut *self.lock() else { return };
        let Some(copied) = &tracked.copied else { return };
        let is_copied = |key: &&Vec<u8>| !tracked.is_over && *key <= copied;
        for key in rows.keys().filter(is_copied) {
            if tracked.keys.insert(key.clone()) {
                tracked.bytes += key.len() + PER_KEY;
            }
        }
        if tracked.bytes > tracked.limit {
            tracked.is_over = true;
            tracked.keys.clear();
        }
    }

    /// Starts tracking until the guard is dropped. Returns `None` if another backup is running.
    pub(super) fn begin(&self, limit: usize) -> Option<TrackingGuard<'_>> {
        let mut place = self.lock();
        if place.is_some() {
            return None;
        }
        *place = Some(TrackedChanges { copied: None, keys: BTreeSet::new(), bytes: 0, limit, is_over: false });
        Some(TrackingGuard(self))
    }

    fn lock(&self) -> MutexGuard<'_, Option<TrackedChanges>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tracker of one backup. All methods are called under the lock of the disk.
pub(super) struct TrackingGuard<'a>(&'a ChangeTracker);

/// Too many rows changed.
#[derive(Debug)]
pub(super) struct TooManyChanges;

impl TrackingGuard<'_> {
    /// Records that all rows up to this key are copied.
    pub(super) fn copied(&self, key: &[u8]) {
        if let Some(tracked) = &mut *self.0.lock() {
            tracked.copied = Some(key.to_vec());
        }
    }

    /// Whether half of the memory is used, so that changes should be written before more rows are copied.
    pub(super) fn is_half_full(&self) -> Result<bool, TooManyChanges> {
        match &*self.0.lock() {
            Some(tracked) if !tracked.is_over => Ok(tracked.bytes > tracked.limit / 2),
            _ => Err(TooManyChanges),
        }
    }

    /// Removes and returns a tracked key.
    pub(super) fn take(&self) -> Result<Option<Vec<u8>>, TooManyChanges> {
        match &mut *self.0.lock() {
            Some(tracked) if !tracked.is_over => {
                let key = tracked.keys.pop_first();
                tracked.bytes -= key.as_ref().map_or(0, |key| key.len() + PER_KEY);
                Ok(key)
            }
            _ => Err(TooManyChanges),
        }
    }
}

impl Drop for TrackingGuard<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
