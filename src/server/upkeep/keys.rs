//! The HPKE keys of a running server. A request in progress keeps the keys that it began with.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::shared::{clock::Clock, config_handle::ConfigHandle};
use dapbox_aggregator::{
    KeyRing,
    keys::{self, KeyError, Policy, Request},
    views::{
        keys::{KeyChange, ListedKey},
        overview::KeyStatus,
    },
};
use dapbox_protocol::model::{KeyState, Time};
use dapbox_store::{Store, WriteError};
use dapbox_support::{Fault, Point};

/// The HPKE keys of a running server.
pub struct Keys {
    clock: Arc<dyn Clock>,
    config: ConfigHandle,
    store: Store,
    rings: RwLock<Rings>,
    /// Held by a change until it is visible everywhere.
    changing: tokio::sync::Mutex<()>,
    /// Wakes the driver, because the next change may be due earlier than expected.
    pub changed: Notify,
}

/// The durable keys.
struct Rings {
    ring: Arc<KeyRing>,
    for_repeats: Arc<KeyRing>,
}

impl Keys {
    /// Creates the first keys, or the ones that the configuration requires.
    pub async fn begin(clock: Arc<dyn Clock>, config: ConfigHandle, store: Store) -> Result<Self, Fault> {
        let (policy, now) = (Policy::of(&config.get()), clock.now());
        let changes = store.write(Point::KeysFirst, move |tx| keys::begin(tx, now, &policy)).await?;
        changes.iter().for_each(log);
        let rings = RwLock::new(Rings::load(&store)?);
        Ok(Self { clock, config, store, rings, changing: tokio::sync::Mutex::default(), changed: Notify::new() })
    }

    /// The keys that open reports, and the published ones.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.rings.read().unwrap_or_else(PoisonError::into_inner).ring.clone()
    }

    /// The same, with deleted keys that may be needed to rebuild a sent request. For that purpose only.
    pub fn ring_for_repeats(&self) -> Arc<KeyRing> {
        self.rings.read().unwrap_or_else(PoisonError::into_inner).for_repeats.clone()
    }

    fn replace(&self, rings: Rings) {
        *self.rings.write().unwrap_or_else(PoisonError::into_inner) = rings;
    }
}

impl Rings {
    /// Loads the durable keys. The caller prevents concurrent changes.
    fn load(store: &Store) -> Result<Self, Fault> {
        store.read(|view| {
            let ring = Arc::new(KeyRing::load(view.keys().values())?);
            Ok(Self { ring, for_repeats: Arc::new(KeyRing::load_for_repeats(view.keys().values())?) })
        })
    }
}

impl Keys {
    /// The keys that are not deleted, for monitoring.
    pub fn statuses(&self, now: Time) -> Result<Vec<KeyStatus>, Fault> {
        Ok(self.listed(now)?.into_iter().map(|key| key.status).collect())
    }

    fn listed(&self, now: Time) -> Result<Vec<ListedKey>, Fault> {
        let policy = Policy::of(&self.config.get());
        self.store.read(|view| Ok(keys::listed(view, now, &policy)))
    }

    /// Lists the keys that are not deleted, for operators. Waits for a change in progress.
    pub async fn list(&self) -> Result<Vec<ListedKey>, Fault> {
        let _alone = self.changing.lock().await;
        self.listed(self.clock.now())
    }

    /// Makes the requested or scheduled change. A new key is published only when it is durable. The future must run to
    /// completion.
    pub async fn change(&self, request: Request) -> Result<Vec<KeyChange>, WriteError<KeyError>> {
        let _alone = self.changing.lock().await;
        let (policy, clock) = (Policy::of(&self.config.get()), self.clock.clone());
        let write = self.store.try_write(request.point(), move |tx| keys::change(tx, clock.now(), &policy, request));
        let changes = write.await?;
        // Also without a reported change: a private key may have been erased.
        self.replace(Rings::load(&self.store)?);
        self.changed.notify_one();
        changes.iter().for_each(log);
        Ok(changes)
    }
}

/// Logs the change of a key.
fn log(change: &KeyChange) {
    let KeyChange { id, suite, before, after, until } = change;
    match (before, after) {
        (_, Some(KeyState::Pending)) => {
            tracing::info!(key_id = id, %suite, active_from = until.map(|time| time.0), "HPKE key created");
        }
        (None, Some(_)) => {
            tracing::info!(key_id = id, %suite, "HPKE key created");
            tracing::info!(key_id = id, %suite, "HPKE key activated");
        }
        (_, Some(KeyState::Active)) => tracing::info!(key_id = id, %suite, "HPKE key activated"),
        (_, Some(KeyState::Expired)) => {
            tracing::info!(key_id = id, %suite, "HPKE key expired");
        }
        (_, None) => {
            tracing::info!(key_id = id, %suite, "HPKE key deleted")
        }
    }
}
