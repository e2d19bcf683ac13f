//! Which metrics there are, and where their values come from.

use std::sync::atomic::Ordering;

use super::{Family, Kind, Labels, Metric, Value, process};
use crate::{app::App, operator::overview};
use dapbox_aggregator::{
    counters,
    views::overview::{Overview, TaskView},
};
use dapbox_protocol::{
    model::{Role, Time},
    wire,
};
use dapbox_store::latency::LatencyHistogram;
use dapbox_support::Part;

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, help }
}

const BUILD: Metric = gauge("dapbox_build_info", "Always 1, with the release as a label");
const STARTED: Metric = gauge("dapbox_start_time_seconds", "When the server started, in seconds since 1970");
const READY: Metric = gauge("dapbox_ready", "Whether the server does its work, as /readyz says it: 1 or 0");

const TASK: Metric = gauge("dapbox_task_info", "Always 1, with what a task is as labels");
const UPLOADS: Metric =
    counter("dapbox_uploads_total", "Uploaded reports that were stored; stored itself, so that it survives restarts");
const REPEATED: Metric =
    counter("dapbox_uploads_repeated_total", "Uploaded reports that were known already and ignored; survives restarts");
const REFUSED: Metric = counter(
    "dapbox_reports_refused_total",
    "Reports that were refused, at upload or at aggregation, by reason; survives restarts",
);
const CONTRADICTED: Metric = counter(
    "dapbox_reports_rejected_after_continue_total",
    "Reports that the leader rejected after the helper had accepted them, whose batches cannot be collected; survives \
     restarts",
);
const AGGREGATED: Metric =
    counter("dapbox_reports_aggregated_total", "Reports that were aggregated; survives restarts");
const GIVEN_UP: Metric = counter(
    "dapbox_reports_given_up_total",
    "Aggregated reports whose sum was dropped without having been collected; survives restarts",
);
const WAITING: Metric = gauge("dapbox_reports_waiting", "Reports that wait for aggregation (leader)");
const OLDEST: Metric = gauge(
    "dapbox_oldest_waiting_timestamp_seconds",
    "When the oldest report arrived that is not aggregated, in seconds since 1970, not before the start of the server; \
     absent if there is none (leader)",
);
const JOBS: Metric = gauge(
    "dapbox_aggregation_jobs",
    "Aggregation jobs under way: picked or sent (leader), or deferred, to be answered later (helper)",
);
const COLLECTIONS: Metric = gauge(
    "dapbox_collection_jobs",
    "Collection jobs without a result: waiting for their batch, or closed and asking the helper for its share (leader)",
);
const COLLECTED: Metric = counter("dapbox_batches_collected_total", "Batches that were collected; survives restarts");
const BATCHES: Metric = gauge(
    "dapbox_batches",
    "Batches that hold reports and were not collected: ready, not_aggregated_yet (enough with those that wait) or too_few",
);
const HELPER_SUCCESS: Metric = gauge(
    "dapbox_helper_last_success_timestamp_seconds",
    "When the task's helper last answered as it should, in seconds since 1970; absent if it has not since the start (leader)",
);
const HELPER_FAILURE: Metric = gauge(
    "dapbox_helper_last_failure_timestamp_seconds",
    "When a request to the task's helper last failed, in seconds since 1970; absent if none has since the start (leader)",
);
const HELPER_STUCK: Metric = gauge(
    "dapbox_helper_stuck",
    "Whether a request to the task's helper is being repeated without success: 1 or 0 (leader)",
);

const SWEPT: Metric = counter(
    "dapbox_untouched_tasks_removed_total",
    "Tasks that others set up and that were removed because nobody had ever contacted them, since the start",
);

const CONNECTIONS: Metric = gauge("dapbox_connections", "Connections of peers, clients and collectors that are open");
const REQUESTS: Metric = gauge("dapbox_requests_in_progress", "Requests about tasks that are being answered");
const PENDING_BODIES: Metric =
    gauge("dapbox_request_bodies_pending", "Request bodies about tasks and of the management API that are awaited");
const REQUEST_TIME: Metric = histogram(
    "dapbox_request_duration_seconds",
    "How long requests took, from their head to their answer, by the kind of their resource and their status class",
);
const ERRAND_TIME: Metric = histogram(
    "dapbox_helper_request_duration_seconds",
    "How long requests to helpers took, and whether they were answered, refused, or failed on the way (leader)",
);
const FAILURES: Metric = counter(
    "dapbox_background_failures_total",
    "How often a background part or one of its jobs panicked or failed and was started again, by part, since the start",
);
const LOG_DROPPED: Metric = counter(
    "dapbox_log_lines_dropped_total",
    "Lines of the log that standard error did not take and that were dropped, since the start",
);
const POOL: Metric =
    gauge("dapbox_pool_jobs", "Jobs that are admitted to the threads that compute, or wait to be admitted");
const QUEUE: Metric = gauge("dapbox_store_queue", "Writes that wait for the store");
const COMMITS: Metric = counter("dapbox_store_commits_total", "Durable commits since the start");
const COMMIT_TIME: Metric = histogram("dapbox_store_commit_duration_seconds", "How long durable commits took");
const WRITTEN: Metric =
    counter("dapbox_store_written_bytes_total", "Bytes of rows that were committed since the start");

const DISK_FREE: Metric = gauge("dapbox_disk_free_bytes", "Free space on the disk of the data directory");
const DISK_RESERVE: Metric = gauge(
    "dapbox_disk_reserve_bytes",
    "With less free space than this, uploads and new aggregation jobs are refused: disk.reserve_bytes",
);
const DISK_SHORT: Metric =
    gauge("dapbox_disk_short", "Whether uploads and new aggregation jobs are refused for want of space: 1 or 0");
const KEY_CREATED: Metric =
    gauge("dapbox_hpke_key_created_timestamp_seconds", "When an HPKE key was made, in seconds since 1970");
const KEY_UNTIL: Metric = gauge(
    "dapbox_hpke_key_until_timestamp_seconds",
    "When the state of an HPKE key changes next by itself, in seconds since 1970; absent if it does not",
);
const CERTIFICATE: Metric = gauge(
    "dapbox_certificate_not_after_timestamp_seconds",
    "Until when the TLS certificate is valid, in seconds since 1970; absent if there is none",
);
const CERTIFICATE_TROUBLE: Metric = gauge(
    "dapbox_certificate_trouble",
    "Whether the last attempt to get, renew or reload a certificate failed: 1 or 0; absent without HTTPS",
);

const CPU: Metric = counter("process_cpu_seconds_total", "Time of the processors that this process used");
const MEMORY: Metric = gauge("process_resident_memory_bytes", "Memory that this process has");
const FILES: Metric = gauge("process_open_fds", "Files that this process has open");
const MAX_FILES: Metric = gauge("process_max_fds", "Files that this process may have open");

/// All metrics that there are, in the order in which they are told.
pub const METRICS: &[Metric] = &[
    BUILD,
    STARTED,
    READY,
    TASK,
    UPLOADS,
    REPEATED,
    REFUSED,
    CONTRADICTED,
    AGGREGATED,
    GIVEN_UP,
    WAITING,
    OLDEST,
    JOBS,
    COLLECTIONS,
    COLLECTED,
    BATCHES,
    HELPER_SUCCESS,
    HELPER_FAILURE,
    HELPER_STUCK,
    SWEPT,
    CONNECTIONS,
    REQUESTS,
    PENDING_BODIES,
    REQUEST_TIME,
    ERRAND_TIME,
    FAILURES,
    LOG_DROPPED,
    POOL,
    QUEUE,
    COMMITS,
    COMMIT_TIME,
    WRITTEN,
    DISK_FREE,
    DISK_RESERVE,
    DISK_SHORT,
    KEY_CREATED,
    KEY_UNTIL,
    CERTIFICATE,
    CERTIFICATE_TROUBLE,
    CPU,
    MEMORY,
    FILES,
    MAX_FILES,
];

/// Values that are being gathered.
struct Gathered(Vec<Family>);

impl Gathered {
    fn put(&mut self, metric: Metric, labels: Labels, value: Value) {
        let family = self.0.iter_mut().find(|family| family.metric == metric);
        family.expect("every metric is listed").values.push((labels, value));
    }

    fn whole(&mut self, metric: Metric, labels: &[(&'static str, &str)], value: impl TryInto<u64>) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.put(metric, labels, Value::Whole(value.try_into().unwrap_or(u64::MAX)));
    }

    fn time(&mut self, metric: Metric, labels: &[(&'static str, &str)], time: Option<Time>) {
        if let Some(time) = time {
            self.whole(metric, labels, time.0);
        }
    }

    fn spread(&mut self, metric: Metric, labels: &[(&'static str, &str)], latencies: &LatencyHistogram) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.put(metric, labels, Value::Spread(latencies.buckets(), latencies.total_seconds()));
    }
}

/// All metrics with their values.
pub fn all(app: &App) -> Vec<Family> {
    let mut gathered = Gathered(METRICS.iter().map(|metric| Family { metric: *metric, values: Vec::new() }).collect());
    let overview = overview::overview(app);
    server(&mut gathered, app, &overview);
    for view in &overview.tasks {
        task(&mut gathered, view);
    }
    outside(&mut gathered, &overview);
    for ([route, status], latencies) in app.recorder.requests() {
        gathered.spread(REQUEST_TIME, &[("route", route), ("status", status)], latencies);
    }
    for ([request, outcome], latencies) in app.recorder.errands() {
        gathered.spread(ERRAND_TIME, &[("request", request), ("outcome", outcome)], latencies);
    }
    system(&mut gathered);
    gathered.0
}

fn server(gathered: &mut Gathered, app: &App, overview: &Overview) {
    gathered.whole(BUILD, &[("version", &overview.version)], 1_u64);
    gathered.whole(STARTED, &[], overview.started.0);
    gathered.whole(READY, &[], u64::from(overview.not_ready.is_empty()));
    gathered.whole(SWEPT, &[], app.swept_tasks.load(Ordering::Relaxed));
    gathered.whole(CONNECTIONS, &[], overview.load.connections);
    gathered.whole(REQUESTS, &[], overview.load.requests);
    gathered.whole(PENDING_BODIES, &[], app.slots.pending_bodies());
    for part in Part::ALL {
        gathered.whole(FAILURES, &[("part", part.name())], app.parts.failures(part));
    }
    gathered.whole(LOG_DROPPED, &[], overview.log_lines_dropped);
    gathered.whole(POOL, &[("state", "admitted")], overview.load.computing);
    gathered.whole(POOL, &[("state", "waiting")], app.pool.waiting());
    gathered.whole(QUEUE, &[], app.store.queued());
    gathered.whole(COMMITS, &[], overview.load.commits);
    gathered.spread(COMMIT_TIME, &[], app.store.commit_latencies());
    gathered.whole(WRITTEN, &[], app.store.written());
}

fn task(gathered: &mut Gathered, view: &TaskView) {
    let TaskView { status, oldest_waiting, refused, peer, counts, .. } = view;
    let id = status.id.to_string();
    let own: &[(&'static str, &str)] = &[("task", &id)];
    let counted = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    let (role, protocol) = (status.role.to_string(), wire::for_revision(status.revision).path_prefix());
    let name = status.name.as_ref().map_or("", |name| name.as_str());
    gathered.whole(TASK, &[("task", &id), ("name", name), ("role", &role), ("protocol", protocol)], 1_u64);
    gathered.whole(AGGREGATED, own, counted(counters::AGGREGATE_SUCCESS));
    gathered.whole(GIVEN_UP, own, counted(counters::SUM_GIVEN_UP));
    gathered.whole(COLLECTED, own, status.batches_collected);
    for (reason, count) in refused {
        gathered.whole(REFUSED, &[("task", &id), ("reason", reason)], *count);
    }
    let batches = [
        ("ready", counts.batches_ready),
        ("not_aggregated_yet", counts.batches_not_aggregated_yet),
        ("too_few", counts.batches_too_few),
    ];
    for (state, count) in batches {
        gathered.whole(BATCHES, &[("task", &id), ("state", state)], count);
    }
    if status.role != Role::Leader {
        gathered.whole(JOBS, &[("task", &id), ("state", "deferred")], counts.jobs_deferred);
        return;
    }
    gathered.whole(CONTRADICTED, own, counted(counters::REJECTED_AFTER_CONTINUE));
    gathered.whole(UPLOADS, own, counted(counters::REPORT_SUCCESS));
    gathered.whole(REPEATED, own, counted(counters::REPORT_REPEATED));
    gathered.whole(WAITING, own, status.waiting);
    gathered.time(OLDEST, own, *oldest_waiting);
    for (state, count) in [("picked", counts.jobs_picked), ("sent", counts.jobs_sent)] {
        gathered.whole(JOBS, &[("task", &id), ("state", state)], count);
    }
    for (state, count) in [("waiting", counts.collections_waiting), ("closed", counts.collections_closed)] {
        gathered.whole(COLLECTIONS, &[("task", &id), ("state", state)], count);
    }
    if let Some(peer) = peer {
        gathered.time(HELPER_SUCCESS, own, peer.last_success);
        gathered.time(HELPER_FAILURE, own, peer.last_failure);
        gathered.whole(HELPER_STUCK, own, u64::from(status.last_error.is_some()));
    }
}

/// What is outside of the program and may come to an end.
fn outside(gathered: &mut Gathered, overview: &Overview) {
    gathered.whole(DISK_FREE, &[], overview.disk.free_bytes);
    gathered.whole(DISK_RESERVE, &[], overview.disk.reserve_bytes);
    gathered.whole(DISK_SHORT, &[], u64::from(overview.disk.is_short));
    for key in &overview.keys {
        let id = key.id.to_string();
        let labels: &[(&'static str, &str)] = &[("id", &id), ("suite", &key.suite), ("state", key.state.name())];
        gathered.whole(KEY_CREATED, labels, key.created.0);
        gathered.time(KEY_UNTIL, labels, key.until);
    }
    if let Some(tls) = &overview.tls {
        gathered.time(CERTIFICATE, &[], tls.certificate.as_ref().map(|certificate| certificate.not_after));
        gathered.whole(CERTIFICATE_TROUBLE, &[], u64::from(tls.last_error.is_some()));
    }
}

fn system(gathered: &mut Gathered) {
    gathered.put(CPU, Vec::new(), Value::Real(process::cpu().as_secs_f64()));
    let known = [(MEMORY, process::memory()), (FILES, process::open_files()), (MAX_FILES, process::max_files())];
    for (metric, value) in known {
        if let Some(value) = value {
            gathered.whole(metric, &[], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_as_is_usual() {
        for metric in METRICS {
            let Metric { name, kind, help } = metric;
            assert!(name.starts_with("dapbox_") || name.starts_with("process_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: the encoder adds the full stop");
            assert_eq!(METRICS.iter().filter(|other| other.name == *name).count(), 1, "{name}");
        }
    }
}
