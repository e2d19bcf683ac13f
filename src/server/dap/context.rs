//! What the DAP resources need, by kind of request.

use std::sync::Arc;

use crate::{
    dap::sampler::Sampler,
    pool::Pool,
    shared::{
        clock::Clock, config_handle::ConfigHandle, keyed_locks::KeyedLocks, stop::StopSignal, task_cache::TaskCache,
        taskprov_peers::TaskprovPeers, wakeups::Wakeups,
    },
    transport::{memory::Budget, slots::Slots},
    upkeep::{disk::Disk, keys::Keys, supervise::Supervisor},
};
use dapbox_protocol::model::{AggregationJobId, TaskId};
use dapbox_store::Store;
use dapbox_support::Failpoints;

/// The contexts of all DAP resources.
pub struct DapContext {
    /// For all requests.
    pub requests: RequestContext,
    /// For uploads (leader).
    pub uploads: UploadContext,
    /// For aggregation jobs and aggregate shares (helper).
    pub helper: Arc<HelperContext>,
    /// For collection jobs (leader).
    pub collections: CollectionContext,
}

/// What every request needs: its task, authorization, body, and tasks that are set up in-band.
pub struct RequestContext {
    /// Checks tokens and times of tasks.
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
    /// The disk of the data directory.
    pub disk: Arc<Disk>,
    /// Limits of requests in progress.
    pub slots: Arc<Slots>,
    /// Memory for the bodies of requests with a token.
    pub memory: Budget,
    /// Wakes the drivers.
    pub wakeups: Arc<Wakeups>,
}

/// What uploads need.
pub struct UploadContext {
    /// Checks the times of reports.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// Opens samples.
    pub pool: Pool,
    /// The disk of the data directory.
    pub disk: Arc<Disk>,
    /// The HPKE keys.
    pub keys: Arc<Keys>,
    /// Chooses the reports that are opened before they are stored.
    pub sampler: Arc<Sampler>,
    /// Limits of requests in progress.
    pub slots: Arc<Slots>,
    /// Memory for the bodies of uploads.
    pub memory: Budget,
    /// Wakes the drivers.
    pub wakeups: Arc<Wakeups>,
}

/// What a helper needs for aggregation jobs and aggregate shares.
pub struct HelperContext {
    /// Checks the times of reports.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// Prepares reports and samples noise.
    pub pool: Pool,
    /// The disk of the data directory.
    pub disk: Arc<Disk>,
    /// The HPKE keys.
    pub keys: Arc<Keys>,
    /// The tasks in memory.
    pub tasks: Arc<TaskCache>,
    /// Memory of aggregation jobs, in addition to their requests.
    pub memory: Budget,
    /// Serializes repeated requests for one aggregation job.
    pub job_locks: KeyedLocks<(TaskId, AggregationJobId)>,
    /// Serializes the aggregate shares of a task.
    pub share_locks: KeyedLocks<TaskId>,
    /// Wakes the drivers.
    pub wakeups: Arc<Wakeups>,
    /// Restarts deferred jobs that fail.
    pub supervisor: Supervisor,
    /// Ends the driver of deferred jobs.
    pub stop: StopSignal,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
}

/// What a leader needs for the collection jobs that collectors create.
pub struct CollectionContext {
    /// Checks the times of batches.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// The data directory.
    pub store: Store,
    /// The disk of the data directory.
    pub disk: Arc<Disk>,
    /// Wakes the drivers and polls.
    pub wakeups: Arc<Wakeups>,
    /// Ends polls.
    pub stop: StopSignal,
}
