//! What the collector of tasks needs.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::Semaphore;

use crate::{
    results::{leader_clock::LeaderClocks, status::ResultsStatus},
    shared::{
        clock::Clock, config_handle::ConfigHandle, peer_transport::PeerTransport, stop::StopSignal, wakeups::Wakeups,
    },
};
use dapbox_store::Store;
use dapbox_support::Failpoints;

/// What the drivers of windows and webhooks, and the pages of results need.
pub struct ResultsContext {
    /// Schedules windows and retries.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// Provides the HTTP client.
    pub peers: Arc<dyn PeerTransport>,
    /// The clocks of leaders.
    pub leader_clocks: LeaderClocks,
    /// The last failures of tasks and webhooks.
    pub status: ResultsStatus,
    /// Limits the pages and files that are rendered at the same time.
    pub renders: Arc<Semaphore>,
    /// The address of the private listener of results, if there is one.
    pub address: Option<SocketAddr>,
    /// Wakes the drivers.
    pub wakeups: Arc<Wakeups>,
    /// Ends the drivers.
    pub stop: StopSignal,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
}
