//! Notifications that wake drivers and waiting requests.

use tokio::sync::Notify;

/// One notification for each driver, and one for polls.
#[derive(Default)]
pub struct Wakeups {
    /// Wakes the driver of aggregation jobs.
    pub jobs: Notify,
    /// Wakes the driver of collection jobs.
    pub collections: Notify,
    /// Wakes the driver of deferred aggregation jobs.
    pub deferred: Notify,
    /// Wakes the driver that deletes expired data.
    pub sweeps: Notify,
    /// Wakes the driver of windows (collector).
    pub windows: Notify,
    /// Wakes the driver of webhooks (collector).
    pub webhooks: Notify,
    /// Wakes polls of collection jobs when a job has ended.
    pub results: Notify,
}
