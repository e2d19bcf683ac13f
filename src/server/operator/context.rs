//! What the interfaces for operators, control planes and monitoring need.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use tokio::sync::Semaphore;

use crate::{
    operator::{controls::Controls, management::state::Management},
    pool::Pool,
    results::context::ResultsContext,
    shared::{
        clock::Clock, config_handle::ConfigHandle, peer_transport::PeerTransport, stop::StopSignal,
        task_cache::TaskCache, taskprov_peers::TaskprovPeers, wakeups::Wakeups,
    },
    transport::{
        memory::Budget,
        slots::Slots,
        tls::{CertificateFiles, Certificates},
    },
    upkeep::{context::UpkeepContext, disk::Disk, keys::Keys, recorder::Recorder, supervise::Parts},
};
use dapbox_store::Store;
use dapbox_support::Failpoints;

/// What the control socket needs.
pub struct OperatorContext {
    /// Checks times in requests.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// The tasks in memory.
    pub tasks: Arc<TaskCache>,
    /// The peers whose tasks are set up in-band.
    pub peers: Arc<TaskprovPeers>,
    /// Limits of requests in progress.
    pub slots: Arc<Slots>,
    /// Memory for the bodies of requests.
    pub memory: Budget,
    /// Wakes the drivers.
    pub wakeups: Arc<Wakeups>,
    /// Ends backups.
    pub stop: StopSignal,
    /// The public address.
    pub address: SocketAddr,
    /// The monitoring address, if there is one.
    pub monitor_address: Option<SocketAddr>,
    /// Rotates keys and removes tasks.
    pub upkeep: Arc<UpkeepContext>,
    /// Assembles the overview.
    pub monitor: Arc<MonitorContext>,
    /// Reloads the configuration.
    pub reload: Arc<ReloadContext>,
    /// The management API.
    pub management: Arc<ManagementContext>,
    /// The collector of tasks.
    pub results: Arc<ResultsContext>,
}

/// What monitoring shows.
pub struct MonitorContext {
    /// Dates the overview.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// Prepares reports.
    pub pool: Pool,
    /// Rates, history and latencies.
    pub recorder: Arc<Recorder>,
    /// The state of the components.
    pub parts: Arc<Parts>,
    /// The TLS certificate.
    pub certificates: Arc<Certificates>,
    /// Limits of requests in progress.
    pub slots: Arc<Slots>,
    /// Limit of connections to the public address.
    pub connections: Arc<Semaphore>,
    /// Shows the dropped lines of the log.
    pub controls: Arc<OnceLock<Controls>>,
    /// HPKE keys, disk and tasks that were never contacted.
    pub upkeep: Arc<UpkeepContext>,
    /// The collector of tasks.
    pub results: Arc<ResultsContext>,
    /// Ends the recording of history.
    pub stop: StopSignal,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
}

/// What a reload changes.
pub struct ReloadContext {
    /// Checks the validity of certificates.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// Stores the clock skew.
    pub store: Store,
    /// The disk of the data directory.
    pub disk: Arc<Disk>,
    /// The HPKE keys.
    pub keys: Arc<Keys>,
    /// The TLS certificate.
    pub certificates: Arc<Certificates>,
    /// The files of the certificate, if it is from files.
    pub certificate_files: Option<Arc<CertificateFiles>>,
    /// Trusts the root certificates for helpers.
    pub peers: Arc<dyn PeerTransport>,
    /// The peers whose tasks are set up in-band.
    pub taskprov_peers: Arc<TaskprovPeers>,
    /// The tasks in memory.
    pub tasks: Arc<TaskCache>,
    /// What the process that runs the server does for it.
    pub controls: Arc<OnceLock<Controls>>,
    /// Serializes reloads.
    pub lock: tokio::sync::Mutex<()>,
    /// Wakes the drivers.
    pub wakeups: Arc<Wakeups>,
}

/// What the management API needs.
pub struct ManagementContext {
    /// Checks tokens and dates tasks.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// The tasks in memory.
    pub tasks: Arc<TaskCache>,
    /// The peers whose tasks are set up in-band.
    pub peers: Arc<TaskprovPeers>,
    /// The HPKE keys.
    pub keys: Arc<Keys>,
    /// Limits of requests in progress.
    pub slots: Arc<Slots>,
    /// Memory for the bodies of requests.
    pub memory: Budget,
    /// Wakes the drivers.
    pub wakeups: Arc<Wakeups>,
    /// The state of the API itself.
    pub api: Management,
}
