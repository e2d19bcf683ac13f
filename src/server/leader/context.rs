//! What a leader needs to drive its jobs.

use std::{sync::Arc, time::Duration};

use crate::{
    pool::Pool,
    shared::{
        clock::Clock, config_handle::ConfigHandle, peer_transport::PeerTransport, stop::StopSignal,
        task_cache::TaskCache, wakeups::Wakeups,
    },
    transport::memory::JobMemory,
    upkeep::{keys::Keys, recorder::Recorder, supervise::Supervisor},
};
use dapbox_store::Store;
use dapbox_support::Failpoints;

/// What the drivers of aggregation jobs and collection jobs need.
pub struct LeaderContext {
    /// Schedules jobs and retries.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// Prepares reports and samples noise.
    pub pool: Pool,
    /// The HPKE keys.
    pub keys: Arc<Keys>,
    /// The tasks in memory.
    pub tasks: Arc<TaskCache>,
    /// Memory of aggregation jobs.
    pub memory: JobMemory,
    /// Memory that a helper with the same configuration has for aggregation jobs, in bytes.
    pub helper_memory_bytes: usize,
    /// Sends requests to helpers.
    pub peers: Arc<dyn PeerTransport>,
    /// Records the responses of helpers.
    pub recorder: Arc<Recorder>,
    /// Wakes the drivers and polls.
    pub wakeups: Arc<Wakeups>,
    /// Restarts jobs that fail.
    pub supervisor: Supervisor,
    /// Ends the drivers.
    pub stop: StopSignal,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
}

/// Limits of a request to a helper.
pub struct PeerLimits {
    /// Timeout of the whole exchange.
    pub timeout: Duration,
    /// Maximum length of the response, in bytes.
    pub max_answer_bytes: usize,
}

impl LeaderContext {
    /// The configured limits of requests to helpers.
    pub fn peer_limits(&self) -> PeerLimits {
        let config = self.config.get();
        PeerLimits { timeout: *config.leader.peer_timeout, max_answer_bytes: config.limits.max_answer_bytes }
    }
}
