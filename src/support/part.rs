//! The background components of a running server.

use std::fmt;

/// A background component of a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Creates aggregation jobs from waiting reports (leader).
    AggregationJobs,
    /// Processes one aggregation job (leader).
    AggregationJob,
    /// Closes batches for collection jobs (leader).
    CollectionJobs,
    /// Processes one collection job (leader).
    CollectionJob,
    /// Schedules deferred aggregation jobs (helper).
    DeferredJobs,
    /// Processes one deferred aggregation job (helper).
    DeferredJob,
    /// Collects the windows of tasks (collector).
    Results,
    /// Delivers notifications to webhooks (collector).
    Webhooks,
    /// Deletes expired data.
    Sweep,
    /// Rotates HPKE keys.
    HpkeKeys,
    /// Monitors the free disk space.
    Disk,
    /// Monitors the TLS certificate files.
    CertificateFiles,
    /// Obtains and renews TLS certificates.
    Acme,
    /// Records rates and history.
    History,
    /// Accepts connections at the public address.
    PublicListener,
    /// Accepts connections at the address of the management API.
    ManagementListener,
    /// Accepts connections at the control socket.
    ControlSocket,
    /// Accepts connections at the monitoring address.
    MonitorListener,
    /// Accepts connections at the address of the pages of results.
    ResultsListener,
}

impl Part {
    /// All components.
    pub const ALL: [Self; 19] = [
        Self::AggregationJobs,
        Self::AggregationJob,
        Self::CollectionJobs,
        Self::CollectionJob,
        Self::DeferredJobs,
        Self::DeferredJob,
        Self::Results,
        Self::Webhooks,
        Self::Sweep,
        Self::HpkeKeys,
        Self::Disk,
        Self::CertificateFiles,
        Self::Acme,
        Self::History,
        Self::PublicListener,
        Self::ManagementListener,
        Self::ControlSocket,
        Self::MonitorListener,
        Self::ResultsListener,
    ];

    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::AggregationJobs => "aggregation_jobs",
            Self::AggregationJob => "aggregation_job",
            Self::CollectionJobs => "collection_jobs",
            Self::CollectionJob => "collection_job",
            Self::DeferredJobs => "deferred_jobs",
            Self::DeferredJob => "deferred_job",
            Self::Results => "results",
            Self::Webhooks => "webhooks",
            Self::Sweep => "sweep",
            Self::HpkeKeys => "hpke_keys",
            Self::Disk => "disk",
            Self::CertificateFiles => "certificate_files",
            Self::Acme => "acme",
            Self::History => "history",
            Self::PublicListener => "public_listener",
            Self::ManagementListener => "management_listener",
            Self::ControlSocket => "control_socket",
            Self::MonitorListener => "monitor_listener",
            Self::ResultsListener => "results_listener",
        }
    }

    /// The component whose instances this one starts, if any.
    pub fn instances(self) -> Option<Self> {
        match self {
            Self::AggregationJobs => Some(Self::AggregationJob),
            Self::CollectionJobs => Some(Self::CollectionJob),
            Self::DeferredJobs => Some(Self::DeferredJob),
            _ => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_part_in_order() {
        for (index, part) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part as usize, index, "{part}");
        }
    }
}
