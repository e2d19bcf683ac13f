//! What the upkeep drivers need.

use std::sync::{Arc, atomic::AtomicU64};

use crate::{
    shared::{clock::Clock, config_handle::ConfigHandle, stop::StopSignal, task_cache::TaskCache, wakeups::Wakeups},
    upkeep::{disk::Disk, keys::Keys},
};
use dapbox_protocol::model::Time;
use dapbox_store::Store;
use dapbox_support::Failpoints;

/// What the drivers of key rotation, retention and disk space need.
pub struct UpkeepContext {
    /// Schedules the drivers.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// Ends the drivers.
    pub stop: StopSignal,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
    /// Wakes the drivers.
    pub wakeups: Arc<Wakeups>,
    /// The tasks in memory.
    pub tasks: Arc<TaskCache>,
    /// The HPKE keys.
    pub keys: Arc<Keys>,
    /// The disk of the data directory.
    pub disk: Arc<Disk>,
    /// Start time of the server.
    pub started: Time,
    /// Number of tasks removed because they were never contacted.
    pub never_contacted_removed: AtomicU64,
}
