//! Locks by key.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// One lock for each key that is held or awaited.
pub struct KeyedLocks<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> KeyedLocks<K> {
    /// Waits for the lock of `key`.
    pub async fn lock(&self, key: K) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let held = locks.get(&key).and_then(Weak::upgrade);
            held.unwrap_or_else(|| {
                let mutex = Arc::default();
                locks.insert(key, Arc::downgrade(&mutex));
                mutex
            })
        };
        mutex.lock_owned().await
    }
}
