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
pub(crate) struct Notes(Mutex<Option<Noted>>);

#[derive(Debug)]
struct Noted {
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

impl Notes {
    /// For the writer: these rows are being committed. It holds the lock of the disk, as does whoever copies, so that
    /// a row is either copied as it is from now on or noted.
    pub(crate) fn take_down(&self, rows: &Rows) {
        let Some(noted) = &mut *self.lock() else { return };
        let Some(copied) = &noted.copied else { return };
        let is_copied = |key: &&Vec<u8>| !noted.is_over && *key <= copied;
        for key in rows.keys().filter(is_copied) {
            if noted.keys.insert(key.clone()) {
                noted.bytes += key.len() + PER_KEY;
            }
        }
        if noted.bytes > noted.limit {
            noted.is_over = true;
            noted.keys.clear();
        }
    }

    /// Begins to note, until the guard is dropped. `None` if another backup is being made.
    pub(super) fn begin(&self, limit: usize) -> Option<Noting<'_>> {
        let mut place = self.lock();
        if place.is_some() {
            return None;
        }
        *place = Some(Noted { copied: None, keys: BTreeSet::new(), bytes: 0, limit, is_over: false });
        Some(Noting(self))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The notes of one backup, for whoever makes it. All is done while the lock of the disk is held.
pub(super) struct Noting<'a>(&'a Notes);

/// More was written than could be noted.
#[derive(Debug)]
pub(super) struct Overrun;

impl Noting<'_> {
    /// All rows up to this key are copied.
    pub(super) fn copied(&self, key: &[u8]) {
        if let Some(noted) = &mut *self.0.lock() {
            noted.copied = Some(key.to_vec());
        }
    }

    /// Whether so much is noted that some of it should be written before more is copied.
    pub(super) fn is_pressing(&self) -> Result<bool, Overrun> {
        match &*self.0.lock() {
            Some(noted) if !noted.is_over => Ok(noted.bytes > noted.limit / 2),
            _ => Err(Overrun),
        }
    }

    /// Takes one key out, if there is any.
    pub(super) fn take(&self) -> Result<Option<Vec<u8>>, Overrun> {
        match &mut *self.0.lock() {
            Some(noted) if !noted.is_over => {
                let key = noted.keys.pop_first();
                noted.bytes -= key.as_ref().map_or(0, |key| key.len() + PER_KEY);
                Ok(key)
            }
            _ => Err(Overrun),
        }
    }
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
