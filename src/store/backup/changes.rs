//! Which rows were committed while a backup is made.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::engine::Rows;

/// What a noted key takes beside its bytes.
const PER_KEY: usize = 64;

/// Where the writer notes what it commits, while a backup is made; there is one at a time.
#[derive(Debug, Default)]
pub(crate) struct ChangeTracker(Mutex<Option<TrackedChanges>>);

#[derive(Debug)]
struct TrackedChanges {
    /// How far the rows are copied. Those after it need no note: they are copied as they are then.
    copied: Option<Vec<u8>>,
    /// Keys of rows that changed since they were copied.
    keys: BTreeSet<Vec<u8>>,
    /// What they take.
    bytes: usize,
    /// What they may take.
    limit: usize,
    /// Whether they took more: the backup cannot be finished.
    is_over: bool,
}

impl ChangeTracker {
    /// For the writer: these rows are being committed. It holds the lock of the disk, as does whoever copies, so that
    /// a row is either copied as it is from now on or noted.
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

    /// Begins to note, until the guard is dropped. `None` if another backup is being made.
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

/// The notes of one backup, for whoever makes it. All is done while the lock of the disk is held.
pub(super) struct TrackingGuard<'a>(&'a ChangeTracker);

/// More was written than could be noted.
#[derive(Debug)]
pub(super) struct TooManyChanges;

impl TrackingGuard<'_> {
    /// All rows up to this key are copied.
    pub(super) fn copied(&self, key: &[u8]) {
        if let Some(tracked) = &mut *self.0.lock() {
            tracked.copied = Some(key.to_vec());
        }
    }

    /// Whether so much is noted that some of it should be written before more is copied.
    pub(super) fn is_half_full(&self) -> Result<bool, TooManyChanges> {
        match &*self.0.lock() {
            Some(tracked) if !tracked.is_over => Ok(tracked.bytes > tracked.limit / 2),
            _ => Err(TooManyChanges),
        }
    }

    /// Takes one key out, if there is any.
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
