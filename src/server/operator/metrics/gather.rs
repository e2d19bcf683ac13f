//! The metrics and the sources of their values.

use std::sync::atomic::Ordering;

use super::{Family, Kind, Metric, gauge, process, results, set::MetricSet};
use crate::operator::{context::MonitorContext, overview};
use dapbox_aggregator::{
    counters,
    views::overview::{Overview, TaskView},
};
use dapbox_protocol::{model::Role, wire};
use dapbox_support::Part;

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, help }
}

const BUILD: Metric = gauge("dapbox_build_info", "Always 1, with the version as a label");
const STARTED: Metric = gauge("dapbox_start_time_seconds", "Start time of the server, in seconds since 1970");
const READY: Metric = gauge("dapbox_ready", "Whether the server is ready, like /readyz: 1 or 0");

const TASK: Metric = gauge("dapbox_task_info", "Always 1, with the properties of the task as labels");
const UPLOADS: Metric = counter("dapbox_uploads_total", "Stored uploaded reports; survives restarts");
const REPEATED: Metric =
    counter("dapbox_uploads_repeated_total", "Uploaded reports that were already known and ignored; survives restarts");
const REFUSED: Metric =
    counter("dapbox_reports_refused_total", "Rejected reports, at upload or aggregation, by reason; survives restarts");
const REJECTED_AFTER_CONTINUE: Metric = counter(
    "dapbox_reports_rejected_after_continue_total",
    "Reports that the leader rejected after the helper had accepted them; their batches cannot be collected; survives restarts",
);
const AGGREGATED: Metric = counter("dapbox_reports_aggregated_total", "Aggregated reports; survives restarts");
const DISCARDED: Metric = counter(
    "dapbox_reports_discarded_total",
    "Aggregated reports whose sum expired before it was collected; survives restarts",
);
const WAITING: Metric = gauge("dapbox_reports_waiting", "Reports waiting for aggregation (leader)");
const OLDEST: Metric = gauge(
    "dapbox_oldest_waiting_timestamp_seconds",
    "Arrival of the oldest waiting report, in seconds since 1970, not before the start of the server; absent if there is none (leader)",
);
const JOBS: Metric =
    gauge("dapbox_aggregation_jobs", "Unfinished aggregation jobs: picked or sent (leader), or deferred (helper)");
const COLLECTIONS: Metric = gauge(
    "dapbox_collection_jobs",
    "Unfinished collection jobs: waiting for their batch, or closed and waiting for the helper's share (leader)",
);
const COLLECTED: Metric = counter("dapbox_batches_collected_total", "Collected batches; survives restarts");
const EPSILON_SPENT: Metric =
    gauge("dapbox_privacy_epsilon_spent", "Sum of the epsilons of all collected batches of a task with noise");
const EPSILON_BUDGET: Metric =
    gauge("dapbox_privacy_epsilon_budget", "Privacy budget of a task with noise; absent without one");
const BATCHES: Metric =
    gauge("dapbox_batches", "Open batches: ready, not_aggregated_yet (enough with waiting reports) or too_few");
const HELPER_SUCCESS: Metric = gauge(
    "dapbox_helper_last_success_timestamp_seconds",
    "Last successful response of the task's helper, in seconds since 1970; absent if there was none since the start (leader)",
);
const HELPER_FAILURE: Metric = gauge(
    "dapbox_helper_last_failure_timestamp_seconds",
    "Last failed request to the task's helper, in seconds since 1970; absent if there was none since the start (leader)",
);
const HELPER_STUCK: Metric =
    gauge("dapbox_helper_stuck", "Whether a request to the task's helper is being retried: 1 or 0 (leader)");

const NEVER_CONTACTED_REMOVED: Metric = counter(
    "dapbox_never_contacted_tasks_removed_total",
    "Tasks removed because they were never contacted, since the start",
);

const CONNECTIONS: Metric = gauge("dapbox_connections", "Open connections of peers, clients and collectors");
const REQUESTS: Metric = gauge("dapbox_requests_in_progress", "DAP and management requests in progress");
const PENDING_BODIES: Metric =
    gauge("dapbox_request_bodies_pending", "Incomplete bodies of DAP and management requests");
const REQUEST_TIME: Metric = histogram(
    "dapbox_request_duration_seconds",
    "Duration of requests from head to response, by resource and status class",
);
const HELPER_REQUEST_TIME: Metric = histogram(
    "dapbox_helper_request_duration_seconds",
    "Duration of requests to helpers, by outcome: answered, refused or failed (leader)",
);
const FAILURES: Metric = counter(
    "dapbox_background_failures_total",
    "Restarts of background components and their jobs after a panic or failure, by part, since the start",
);
const LOG_DROPPED: Metric =
    counter("dapbox_log_lines_dropped_total", "Log lines dropped because standard error was blocked, since the start");
const POOL: Metric = gauge("dapbox_pool_jobs", "Jobs admitted to the worker pool, or waiting for admission");
const QUEUE: Metric = gauge("dapbox_store_queue", "Writes waiting for the store");
const COMMITS: Metric = counter("dapbox_store_commits_total", "Durable commits since the start");
const COMMIT_TIME: Metric = histogram("dapbox_store_commit_duration_seconds", "Duration of durable commits");
const WRITTEN: Metric = counter("dapbox_store_written_bytes_total", "Bytes of committed rows since the start");

const DISK_FREE: Metric = gauge("dapbox_disk_free_bytes", "Free space on the disk of the data directory");
const DISK_RESERVE: Metric = gauge(
    "dapbox_disk_reserve_bytes",
    "Free space below which uploads and new aggregation jobs are rejected: disk.reserve_bytes",
);
const DISK_SHORT: Metric =
    gauge("dapbox_disk_short", "Whether uploads and new aggregation jobs are rejected because the disk is low: 1 or 0");
const KEY_CREATED: Metric =
    gauge("dapbox_hpke_key_created_timestamp_seconds", "Creation of an HPKE key, in seconds since 1970");
const KEY_UNTIL: Metric = gauge(
    "dapbox_hpke_key_next_change_timestamp_seconds",
    "Next scheduled state change of an HPKE key, in seconds since 1970; absent if there is none",
);
const CERTIFICATE: Metric = gauge(
    "dapbox_certificate_not_after_timestamp_seconds",
    "Expiry of the TLS certificate, in seconds since 1970; absent if there is none",
);
const CERTIFICATE_ERROR: Metric = gauge(
    "dapbox_certificate_error",
    "Whether the last attempt to obtain or reload a certificate failed: 1 or 0; absent without HTTPS",
);

const CPU: Metric = counter("process_cpu_seconds_total", "CPU time of this process");
const MEMORY: Metric = gauge("process_resident_memory_bytes", "Resident memory of this process");
const FILES: Metric = gauge("process_open_fds", "Open files of this process");
const MAX_FILES: Metric = gauge("process_max_fds", "Maximum number of open files of this process");

/// All metrics, in order of output.
pub const METRICS: &[Metric] = &[
    BUILD,
    STARTED,
    READY,
    TASK,
    UPLOADS,
    REPEATED,
    REFUSED,
    REJECTED_AFTER_CONTINUE,
    AGGREGATED,
    DISCARDED,
    WAITING,
    OLDEST,
    JOBS,
    COLLECTIONS,
    COLLECTED,
    EPSILON_SPENT,
    EPSILON_BUDGET,
    BATCHES,
    HELPER_SUCCESS,
    HELPER_FAILURE,
    HELPER_STUCK,
    NEVER_CONTACTED_REMOVED,
    CONNECTIONS,
    REQUESTS,
    PENDING_BODIES,
    REQUEST_TIME,
    HELPER_REQUEST_TIME,
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
    CERTIFICATE_ERROR,
    results::WINDOWS,
    results::LAST_COLLECTED,
    results::LATEST,
    results::REPORT_COUNT,
    results::NEXT_DEADLINE,
    results::WEBHOOK_QUEUE,
    CPU,
    MEMORY,
    FILES,
    MAX_FILES,
];

/// All metrics with their values.
pub fn all(ctx: &MonitorContext) -> Vec<Family> {
    let mut gathered = MetricSet::new(METRICS);
    let overview = overview::overview(ctx);
    server(&mut gathered, ctx, &overview);
    for view in &overview.tasks {
        task(&mut gathered, view);
    }
    outside(&mut gathered, &overview);
    for ([route, status], latencies) in ctx.recorder.requests() {
        gathered.spread(REQUEST_TIME, &[("route", route), ("status", status)], latencies);
    }
    for ([request, outcome], latencies) in ctx.recorder.helper_requests() {
        gathered.spread(HELPER_REQUEST_TIME, &[("request", request), ("outcome", outcome)], latencies);
    }
    // If the store has stopped, readiness and health say so.
    let _ = results::gather(&mut gathered, &ctx.results);
    system(&mut gathered);
    gathered.into_families()
}

fn server(gathered: &mut MetricSet, ctx: &MonitorContext, overview: &Overview) {
    gathered.whole(BUILD, &[("version", &overview.version)], 1_u64);
    gathered.whole(STARTED, &[], overview.started.0);
    gathered.whole(READY, &[], u64::from(overview.not_ready.is_empty()));
    gathered.whole(NEVER_CONTACTED_REMOVED, &[], ctx.upkeep.never_contacted_removed.load(Ordering::Relaxed));
    gathered.whole(CONNECTIONS, &[], overview.load.connections);
    gathered.whole(REQUESTS, &[], overview.load.requests);
    gathered.whole(PENDING_BODIES, &[], ctx.slots.pending_bodies());
    for part in Part::ALL {
        gathered.whole(FAILURES, &[("part", part.name())], ctx.parts.failures(part));
    }
    gathered.whole(LOG_DROPPED, &[], overview.log_lines_dropped);
    gathered.whole(POOL, &[("state", "admitted")], overview.load.computing);
    gathered.whole(POOL, &[("state", "waiting")], ctx.pool.waiting());
    gathered.whole(QUEUE, &[], ctx.store.queued());
    gathered.whole(COMMITS, &[], overview.load.commits);
    gathered.spread(COMMIT_TIME, &[], ctx.store.commit_latencies());
    gathered.whole(WRITTEN, &[], ctx.store.written());
}

fn task(gathered: &mut MetricSet, view: &TaskView) {
    let TaskView { status, oldest_waiting, refused, peer, counts, .. } = view;
    let id = status.id.to_string();
    let own: &[(&'static str, &str)] = &[("task", &id)];
    let counted = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    let (role, protocol) = (status.role.to_string(), wire::for_revision(status.revision).path_prefix());
    let name = status.name.as_ref().map_or("", |name| name.as_str());
    gathered.whole(TASK, &[("task", &id), ("name", name), ("role", &role), ("protocol", protocol)], 1_u64);
    gathered.whole(AGGREGATED, own, counted(counters::AGGREGATE_SUCCESS));
    gathered.whole(DISCARDED, own, counted(counters::SUM_GIVEN_UP));
    gathered.whole(COLLECTED, own, status.batches_collected);
    if let Some(account) = &status.privacy {
        gathered.real(EPSILON_SPENT, own, account.spent.map_or(0.0, |spent| spent.as_f64()));
        account.budget.iter().for_each(|budget| gathered.real(EPSILON_BUDGET, own, budget.as_f64()));
    }
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
    gathered.whole(REJECTED_AFTER_CONTINUE, own, counted(counters::REJECTED_AFTER_CONTINUE));
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

/// Resources outside of the process that may run out.
fn outside(gathered: &mut MetricSet, overview: &Overview) {
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
        gathered.whole(CERTIFICATE_ERROR, &[], u64::from(tls.last_error.is_some()));
    }
}

fn system(gathered: &mut MetricSet) {
    gathered.real(CPU, &[], process::cpu().as_secs_f64());
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
    fn metric_names_follow_prometheus_conventions() {
        for metric in METRICS {
            let Metric { name, kind, help } = metric;
            assert!(name.starts_with("dapbox_") || name.starts_with("process_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: the encoder adds the full stop");
            assert_eq!(METRICS.iter().filter(|other| other.name == *name).count(), 1, "{name}");
        }
    }
}
