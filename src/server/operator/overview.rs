//! Puts together all that is to be seen of a running server at one moment.
//!
//! Writes wait while somebody reads, so that the tasks are read one by one, each as briefly as can be: their reports are
//! never looked at, only counts and batch buckets.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    app::App,
    operator::recorder::{Moment, PACE, Totals},
    upkeep::never_contacted,
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
use dapbox_support::{Fault, Part, clock, version};

/// What is read of a task in one go.
struct Read {
    status: TaskStatus,
    totals: Totals,
    oldest_waiting: Option<Time>,
    batches: (Vec<BatchView>, StateCounts),
}

impl Read {
    fn of(state: &TaskState, started: Time) -> Self {
        Self {
            status: tasks::status_with_collected(state, TaskView::MAX_BATCHES),
            totals: Totals::of(&state.counters),
            oldest_waiting: state.waiting.oldest_arrival(started),
            batches: progress::batches(state),
        }
    }
}

/// All that is to be seen at this moment. If the store has stopped it has no tasks, and says why.
pub fn overview(app: &App) -> Overview {
    let keys = app.key_statuses(clock::now());
    Overview {
        version: version::VERSION.to_owned(),
        server: server_name(&app.config.public_url),
        now: clock::now(),
        started: app.recorder.started,
        not_ready: not_ready(app),
        load: load(app),
        disk: app.disk.status(),
        keys: keys.unwrap_or_default(),
        tls: has_tls(app).then(|| app.certificates.status()),
        log_lines_dropped: app.controls.get().map_or(0, |controls| (controls.dropped_log_lines)()),
        tasks: task_views(app).unwrap_or_default(),
    }
}

/// What the server is called: the host of its public URL, or else the machine's name.
fn server_name(public_url: &str) -> String {
    let host = url::Url::parse(public_url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.unwrap_or_else(|| machine().trim().to_owned())
}

/// The same, away from the threads that answer requests: reading may have to wait for a write.
pub async fn take(app: &Arc<App>) -> Result<Overview, Fault> {
    let shared = app.clone();
    let taken = tokio::task::spawn_blocking(move || overview(&shared)).await;
    taken.map_err(|error| Fault::while_doing("putting the overview together", error))
}

/// What keeps the server from its work.
pub fn not_ready(app: &App) -> Vec<String> {
    let stopping = app.stopping.borrow().then(|| "the server is stopping".to_owned());
    let found = [fault(app), stopping, app.disk.status().advice(), no_certificate(app)].into_iter().flatten();
    found.chain(app.parts.broken()).collect()
}

/// What only a restart of the server mends.
pub fn fault(app: &App) -> Option<String> {
    let stopped = app.store.read(|_| Ok(())).err().map(|fault| format!("the store has stopped: {fault}"));
    stopped.or_else(|| app.parts.fatal().map(|fault| fault.to_string()))
}

fn has_tls(app: &App) -> bool {
    app.config.tls.mode != TlsMode::Off
}

/// Without a first certificate nobody can connect, and nothing else tells why there is none.
fn no_certificate(app: &App) -> Option<String> {
    let is_missing = has_tls(app) && app.certificates.current().is_none();
    is_missing.then(|| match app.certificates.status().last_error {
        Some(trouble) => format!("there is no TLS certificate yet: {trouble}"),
        None => "there is no TLS certificate yet: the authority is being asked for one".to_owned(),
    })
}

/// Work in progress and waiting.
pub fn load(app: &App) -> Load {
    let limits = &app.config.limits;
    let in_use = |places: &Semaphore, all: usize| all.saturating_sub(places.available_permits()) as u64;
    Load {
        connections: in_use(&app.connections, limits.max_connections),
        requests: app.slots.in_use(),
        computing: app.pool.admitted() as u64,
        commits: app.store.commits(),
    }
}

fn task_views(app: &App) -> Result<Vec<TaskView>, Fault> {
    let ids: Vec<TaskId> = app.store.read(|view| Ok(view.tasks().map(|(id, _)| *id).collect()))?;
    let mut views = Vec::with_capacity(ids.len());
    for id in ids {
        // It may have been removed meanwhile.
        let read = app.store.read(|view| Ok(view.task(&id).map(|state| Read::of(state, app.recorder.started))))?;
        views.extend(read.map(|read| task_view(app, read)));
    }
    Ok(views)
}

fn task_view(app: &App, read: Read) -> TaskView {
    let Read { status, totals, oldest_waiting, batches: (batches, counts) } = read;
    let (id, lately) = (status.id, app.recorder.lately(&status.id, Moment::now(), totals));
    let status = never_contacted::complete(app, status);
    let peer = (status.role == Role::Leader).then(|| {
        let contact = app.recorder.contact_of(&id);
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

/// Notes how far all tasks are.
pub fn look(app: &App) -> Result<(), Fault> {
    let totals: Vec<_> =
        app.store.read(|view| Ok(view.tasks().map(|(id, state)| (*id, Totals::of(&state.counters))).collect()))?;
    app.recorder.look(Moment::now(), totals);
    Ok(())
}

/// Notes now and then how far all tasks are, until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    loop {
        app.failpoints.turn(Part::History);
        tokio::select! {
            () = app.stopped() => return Ok(()),
            () = tokio::time::sleep(PACE) => look(&app)?,
        }
    }
}
