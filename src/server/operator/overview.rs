//! Assembles the overview of a running server.
//!
//! Reads block writes. Tasks are therefore read one at a time, and only their counts and batch buckets, not their
//! reports.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    operator::context::MonitorContext,
    upkeep::{
        never_contacted,
        recorder::{Instants, ReportTotals, SAMPLE_INTERVAL},
    },
};
use dapbox_aggregator::{
    config::TlsMode,
    counters, progress, tasks,
    views::{
        overview::{BatchView, Load, Overview, PeerStatus, StateCounts, TaskView},
        status::TaskStatus,
    },
};
use dapbox_protocol::model::{Role, TaskId, Time};
use dapbox_store::TaskState;
use dapbox_support::{Fault, Part, version};

/// What one read of a task returns.
struct Read {
    status: TaskStatus,
    totals: ReportTotals,
    oldest_waiting: Option<Time>,
    batches: (Vec<BatchView>, StateCounts),
}

impl Read {
    fn of(state: &TaskState, started: Time) -> Self {
        Self {
            status: tasks::status_with_collected(state, TaskView::MAX_BATCHES),
            totals: ReportTotals::of(&state.counters),
            oldest_waiting: state.waiting.oldest_arrival(started),
            batches: progress::batches(state),
        }
    }
}

/// Assembles the overview. If the store has stopped, it contains the reason but no tasks.
pub fn overview(ctx: &MonitorContext) -> Overview {
    let keys = ctx.upkeep.keys.statuses(ctx.clock.now());
    Overview {
        version: version::VERSION.to_owned(),
        server: server_name(&ctx.config.get().public_url),
        now: ctx.clock.now(),
        started: ctx.recorder.started,
        not_ready: not_ready(ctx),
        load: load(ctx),
        disk: ctx.upkeep.disk.status(),
        keys: keys.unwrap_or_default(),
        tls: has_tls(ctx).then(|| ctx.certificates.status()),
        log_lines_dropped: ctx.controls.get().map_or(0, |controls| (controls.dropped_log_lines)()),
        tasks: task_views(ctx).unwrap_or_default(),
    }
}

/// The name of the server: the host of its public URL, or the host name of the machine.
fn server_name(public_url: &str) -> String {
    let host = url::Url::parse(public_url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.unwrap_or_else(|| machine().trim().to_owned())
}

/// Assembles the overview on a blocking thread, because reads may wait for a write.
pub async fn take(ctx: &Arc<MonitorContext>) -> Result<Overview, Fault> {
    let shared = ctx.clone();
    let taken = tokio::task::spawn_blocking(move || overview(&shared)).await;
    taken.map_err(|error| Fault::while_doing("assembling the overview", error))
}

/// The reasons why the server is not ready.
pub fn not_ready(ctx: &MonitorContext) -> Vec<String> {
    let stopping = ctx.stop.is_sent().then(|| "the server is stopping".to_owned());
    let found = [fault(ctx), stopping, ctx.upkeep.disk.status().advice(), no_certificate(ctx)].into_iter().flatten();
    found.chain(ctx.parts.broken()).collect()
}

/// A fault that only a restart repairs.
pub fn fault(ctx: &MonitorContext) -> Option<String> {
    let stopped = ctx.store.read(|_| Ok(())).err().map(|fault| format!("the store has stopped: {fault}"));
    stopped.or_else(|| ctx.parts.fatal().map(|fault| fault.to_string()))
}

fn has_tls(ctx: &MonitorContext) -> bool {
    ctx.config.get().tls.mode != TlsMode::Off
}

/// A missing first certificate: clients cannot connect, and nothing else shows the reason.
fn no_certificate(ctx: &MonitorContext) -> Option<String> {
    let is_missing = has_tls(ctx) && ctx.certificates.current().is_none();
    is_missing.then(|| match ctx.certificates.status().last_error {
        Some(error) => format!("no TLS certificate yet: {error}"),
        None => "no TLS certificate yet: requesting one from the CA".to_owned(),
    })
}

/// Work in progress and waiting.
pub fn load(ctx: &MonitorContext) -> Load {
    let max_connections = ctx.config.get().limits.max_connections;
    let in_use = |places: &Semaphore, all: usize| all.saturating_sub(places.available_permits()) as u64;
    Load {
        connections: in_use(&ctx.connections, max_connections),
        requests: ctx.slots.in_use(),
        computing: ctx.pool.admitted() as u64,
        commits: ctx.store.commits(),
    }
}

fn task_views(ctx: &MonitorContext) -> Result<Vec<TaskView>, Fault> {
    let ids: Vec<TaskId> = ctx.store.read(|view| Ok(view.tasks().map(|(id, _)| *id).collect()))?;
    let mut views = Vec::with_capacity(ids.len());
    for id in ids {
        // The task may have been removed.
        let read = ctx.store.read(|view| Ok(view.task(&id).map(|state| Read::of(state, ctx.recorder.started))))?;
        views.extend(read.map(|read| task_view(ctx, read)));
    }
    Ok(views)
}

fn task_view(ctx: &MonitorContext, read: Read) -> TaskView {
    let Read { status, totals, oldest_waiting, batches: (batches, counts) } = read;
    let (id, lately) = (status.id, ctx.recorder.lately(&status.id, Instants::now(&*ctx.clock), totals));
    let status = never_contacted::complete(&ctx.upkeep, status);
    let peer = (status.role == Role::Leader).then(|| {
        let contact = ctx.recorder.helper_contact(&id);
        PeerStatus { last_success: contact.success, last_failure: contact.failure }
    });
    let refused = status.counters.iter().filter(|(name, count)| counters::is_refusal(name) && **count > 0);
    TaskView {
        upload_rate: lately.upload_rate,
        aggregation_rate: lately.aggregation_rate,
        oldest_waiting,
        refused: refused.map(|(name, count)| (name.clone(), *count)).collect(),
        batches,
        counts,
        peer,
        history: lately.history,
        status,
    }
}

/// Samples the totals of all tasks.
pub fn look(ctx: &MonitorContext) -> Result<(), Fault> {
    let totals: Vec<_> = ctx
        .store
        .read(|view| Ok(view.tasks().map(|(id, state)| (*id, ReportTotals::of(&state.counters))).collect()))?;
    ctx.recorder.look(Instants::now(&*ctx.clock), totals);
    Ok(())
}

/// Samples the totals of all tasks periodically until the server stops.
pub async fn drive(ctx: Arc<MonitorContext>) -> Result<(), Fault> {
    loop {
        ctx.failpoints.turn(Part::History);
        tokio::select! {
            () = ctx.stop.stopped() => return Ok(()),
            () = ctx.clock.sleep(SAMPLE_INTERVAL) => look(&ctx)?,
        }
    }
}
