//! The HPKE keys of a running server. They change while it runs; who has begun with some goes on with those.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::app::App;
use dapbox_aggregator::{
    KeyRing,
    config::Config,
    keys::{self, KeyError, Policy, Request},
    views::{
        keys::{KeyChange, ListedKey},
        overview::KeyStatus,
    },
};
use dapbox_protocol::model::{KeyState, Time};
use dapbox_store::{Store, WriteError};
use dapbox_support::{Fault, Point, clock};

/// The HPKE keys of a running server.
pub struct Keys {
    rings: RwLock<Rings>,
    /// Held by who changes them, until everybody sees the change.
    changing: tokio::sync::Mutex<()>,
    /// Wakes the driver: what comes next may come sooner than it thinks.
    pub changed: Notify,
}

/// What is stored, and durable.
struct Rings {
    ring: Arc<KeyRing>,
    for_repeats: Arc<KeyRing>,
}

impl Keys {
    /// Makes the first keys, or those that the configuration asks for now.
    pub async fn begin(config: &Config, store: &Store) -> Result<Self, Fault> {
        let (policy, now) = (Policy::of(config), clock::now());
        let changes = store.write(Point::KeysFirst, move |tx| keys::begin(tx, now, &policy)).await?;
        changes.iter().for_each(log);
        let rings = RwLock::new(Rings::load(store)?);
        Ok(Self { rings, changing: tokio::sync::Mutex::default(), changed: Notify::new() })
    }

    /// The keys that open what comes, and those that clients are told of.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.rings.read().unwrap_or_else(PoisonError::into_inner).ring.clone()
    }

    /// Those, and the deleted ones that a request was made with which may have to be made again. For that only.
    pub fn ring_for_repeats(&self) -> Arc<KeyRing> {
        self.rings.read().unwrap_or_else(PoisonError::into_inner).for_repeats.clone()
    }

    fn replace(&self, rings: Rings) {
        *self.rings.write().unwrap_or_else(PoisonError::into_inner) = rings;
    }
}

impl Rings {
    /// Nobody changes keys meanwhile, so that what memory shows of them is durable.
    fn load(store: &Store) -> Result<Self, Fault> {
        store.read(|view| {
            let ring = Arc::new(KeyRing::load(view.keys().values())?);
            Ok(Self { ring, for_repeats: Arc::new(KeyRing::load_for_repeats(view.keys().values())?) })
        })
    }
}

impl App {
    /// All HPKE keys that were not deleted, for those who watch.
    pub fn key_statuses(&self, now: Time) -> Result<Vec<KeyStatus>, Fault> {
        Ok(self.listed_keys(now)?.into_iter().map(|key| key.status).collect())
    }

    fn listed_keys(&self, now: Time) -> Result<Vec<ListedKey>, Fault> {
        let policy = Policy::of(&self.config);
        self.store.read(|view| Ok(keys::listed(view, now, &policy)))
    }
}

/// All HPKE keys that were not deleted, for operators: as they are in force, not as they are about to be.
pub async fn list(app: &App) -> Result<Vec<ListedKey>, Fault> {
    let _alone = app.keys.changing.lock().await;
    app.listed_keys(clock::now())
}

/// Does with keys what is due or wanted. A new key is handed out only when it is durable. Must run to its end.
pub async fn change(app: &App, request: Request) -> Result<Vec<KeyChange>, WriteError<KeyError>> {
    let _alone = app.keys.changing.lock().await;
    let policy = Policy::of(&app.config);
    let write = app.store.try_write(request.point(), move |tx| keys::change(tx, clock::now(), &policy, request));
    let changes = write.await?;
    // Also if nothing changed that is worth telling: a private key may have been erased.
    app.keys.replace(Rings::load(&app.store)?);
    app.keys.changed.notify_one();
    changes.iter().for_each(log);
    Ok(changes)
}

/// Tells the log what became of a key.
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
