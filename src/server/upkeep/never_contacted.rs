//! Tasks that others set up here and that nobody ever contacted, in a running server.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration as Span, Instant},
};

use crate::app::App;
use dapbox_aggregator::{
    TaskContext,
    config::Config,
    idle, never_contacted,
    views::status::{NeverContactedRequest, TaskStatus},
};
use dapbox_protocol::model::{Duration, TaskId, Time};
use dapbox_store::{TaskState, Tx};
use dapbox_support::{Fault, Point, clock};

/// The longest that a server has to have run before it removes tasks that nobody contacted: whoever could not reach it
/// comes back within that time.
const GRACE: Span = Span::from_secs(86_400);
/// As many tasks are removed in one write.
const AT_ONCE: usize = 100;

/// Notes that somebody has contacted a task. It is stored beside the request, which does not wait for it.
pub fn contact(app: &App, context: &TaskContext) {
    // Seen first: this is asked with every request.
    if !context.is_never_contacted.load(Ordering::Relaxed) || !context.is_never_contacted.swap(false, Ordering::Relaxed)
    {
        return;
    }
    let (store, id) = (app.store.clone(), context.task.public.id);
    tokio::spawn(async move {
        // A store that fails has stopped, which others notice.
        let _ = store.write(Point::TaskContact, move |tx| never_contacted::contact(tx, &id)).await;
    });
}

/// What the status of a task lacks that only a running server knows.
pub fn complete(app: &App, mut status: TaskStatus) -> TaskStatus {
    status.last_error = app.trouble(&status.id);
    if let Some(provisioned) = status.provisioned.as_mut().filter(|provisioned| provisioned.is_never_contacted) {
        let begun = app.recorder.started.saturating_add(seconds(grace(&app.config)));
        let age = seconds(*app.config.provisioning.never_contacted_age);
        provisioned.removed_from = (age.0 > 0).then(|| provisioned.at.saturating_add(age).max(begun));
    }
    status
}

/// Removes in-band tasks that are over, and what was never contacted if the configuration says so; `begun` is when the
/// server started.
pub async fn sweep(app: &Arc<App>, now: Time, begun: Instant) -> Result<(), Fault> {
    let age = *app.config.provisioning.never_contacted_age;
    let is_time = !age.is_zero() && begun.elapsed() >= grace(&app.config);
    let until = is_time.then(|| now.saturating_sub(seconds(age)));
    if app.store.read(|view| Ok(view.tasks().any(|(_, state)| state.in_band.is_some())))? {
        for id in in_steps(app, move |tx| idle::sweep(tx, until, AT_ONCE, now)).await? {
            tracing::info!(task_id = %id, "in-band task removed");
        }
    }
    let Some(until) = until else { return Ok(()) };
    for id in remove(app, until, now).await? {
        tracing::warn!(task_id = %id, "never contacted task removed");
    }
    Ok(())
}

/// Answers an operator who asks for tasks that nobody has contacted: those that are there, or that were removed.
pub async fn answer(app: &Arc<App>, request: NeverContactedRequest) -> Result<Vec<TaskId>, Fault> {
    let (NeverContactedRequest { until, .. }, now) = (request, clock::now());
    if request.remove {
        let mut removed = remove(app, until, now).await?;
        removed.extend(in_steps(app, move |tx| idle::remove_forgotten(tx, until, AT_ONCE, now)).await?);
        for id in &removed {
            tracing::info!(task_id = %id, "never contacted task removed by operator");
        }
        return Ok(removed);
    }
    app.store.read(|view| {
        let is_forgotten =
            |state: &TaskState| never_contacted::is_forgotten(state, until) || idle::is_forgotten(state, until, now);
        let forgotten = view.tasks().filter(|(_, state)| is_forgotten(state));
        Ok(forgotten.map(|(id, _)| *id).collect())
    })
}

/// Removes all tasks that were set up at a time or before it and that nobody contacted.
async fn remove(app: &Arc<App>, until: Time, now: Time) -> Result<Vec<TaskId>, Fault> {
    let removed = in_steps(app, move |tx| never_contacted::remove(tx, until, AT_ONCE, now)).await?;
    app.swept_tasks.fetch_add(removed.len() as u64, Ordering::Relaxed);
    Ok(removed)
}

/// Removes tasks in steps that leave room for other writes between them, until a step removes none.
async fn in_steps(
    app: &Arc<App>,
    step: impl Fn(&mut Tx<'_>) -> Result<Vec<TaskId>, Fault> + Clone + Send + 'static,
) -> Result<Vec<TaskId>, Fault> {
    let mut removed: Vec<TaskId> = Vec::new();
    while !*app.stopping.borrow() {
        let some = app.store.write(Point::TaskSweep, step.clone()).await?;
        if some.is_empty() {
            break;
        }
        some.iter().for_each(|id| app.forget(id));
        app.sweeps.notify_one();
        removed.extend(some);
    }
    Ok(removed)
}

fn grace(config: &Config) -> Span {
    GRACE.min(*config.provisioning.never_contacted_age)
}

fn seconds(span: Span) -> Duration {
    Duration(span.as_secs().max(u64::from(!span.is_zero())))
}
