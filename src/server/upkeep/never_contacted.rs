//! Removes tasks that were set up by a control plane or in-band and were never contacted.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration as Span, Instant},
};

use crate::upkeep::context::UpkeepContext;
use dapbox_aggregator::{
    TaskContext,
    config::Config,
    idle, never_contacted,
    views::status::{NeverContactedRequest, TaskStatus},
};
use dapbox_protocol::model::{Duration, TaskId, Time};
use dapbox_store::{Store, TaskState, Tx};
use dapbox_support::{Fault, Point};

/// Minimum uptime before such tasks are removed: a peer that could not reach the server retries within this time.
const MIN_UPTIME: Span = Span::from_secs(86_400);
/// Maximum number of tasks removed in one write.
const AT_ONCE: usize = 100;

/// Records that a task was contacted. It is stored asynchronously, without delaying the request.
pub fn contact(store: &Store, context: &TaskContext) {
    // The load comes first, because this runs for every request.
    if !context.is_never_contacted.load(Ordering::Relaxed) || !context.is_never_contacted.swap(false, Ordering::Relaxed)
    {
        return;
    }
    let (store, id) = (store.clone(), context.task.public.id);
    tokio::spawn(async move {
        // A store that fails stops the server elsewhere.
        let _ = store.write(Point::TaskContact, move |tx| never_contacted::contact(tx, &id)).await;
    });
}

/// Completes the status of a task with what only a running server knows.
pub fn complete(ctx: &UpkeepContext, mut status: TaskStatus) -> TaskStatus {
    status.last_error = ctx.tasks.error(&status.id);
    if let Some(provisioned) = status.provisioned.as_mut().filter(|provisioned| provisioned.is_never_contacted) {
        let begun = ctx.started.saturating_add(seconds(grace(&ctx.config.get())));
        let age = seconds(*ctx.config.get().provisioning.never_contacted_age);
        provisioned.removed_from = (age.0 > 0).then(|| provisioned.at.saturating_add(age).max(begun));
    }
    status
}

/// Removes in-band tasks that have ended, and tasks that were never contacted, if configured. `begun` is the start of
/// the server.
pub async fn sweep(ctx: &Arc<UpkeepContext>, now: Time, begun: Instant) -> Result<(), Fault> {
    let age = *ctx.config.get().provisioning.never_contacted_age;
    let is_time = !age.is_zero() && ctx.clock.instant().saturating_duration_since(begun) >= grace(&ctx.config.get());
    let until = is_time.then(|| now.saturating_sub(seconds(age)));
    if ctx.store.read(|view| Ok(view.tasks().any(|(_, state)| state.in_band.is_some())))? {
        for id in in_steps(ctx, move |tx| idle::sweep(tx, until, AT_ONCE, now)).await? {
            tracing::info!(task_id = %id, "in-band task removed");
        }
    }
    let Some(until) = until else { return Ok(()) };
    for id in remove(ctx, until, now).await? {
        tracing::warn!(task_id = %id, "never contacted task removed");
    }
    Ok(())
}

/// Lists or removes tasks that were never contacted, for the operator.
pub async fn answer(ctx: &Arc<UpkeepContext>, request: NeverContactedRequest) -> Result<Vec<TaskId>, Fault> {
    let (NeverContactedRequest { until, .. }, now) = (request, ctx.clock.now());
    if request.remove {
        let mut removed = remove(ctx, until, now).await?;
        removed.extend(in_steps(ctx, move |tx| idle::remove_forgotten(tx, until, AT_ONCE, now)).await?);
        for id in &removed {
            tracing::info!(task_id = %id, "never contacted task removed by operator");
        }
        return Ok(removed);
    }
    ctx.store.read(|view| {
        let is_forgotten =
            |state: &TaskState| never_contacted::is_forgotten(state, until) || idle::is_forgotten(state, until, now);
        let forgotten = view.tasks().filter(|(_, state)| is_forgotten(state));
        Ok(forgotten.map(|(id, _)| *id).collect())
    })
}

/// Removes all tasks that were set up until a time and never contacted.
async fn remove(ctx: &Arc<UpkeepContext>, until: Time, now: Time) -> Result<Vec<TaskId>, Fault> {
    let removed = in_steps(ctx, move |tx| never_contacted::remove(tx, until, AT_ONCE, now)).await?;
    ctx.never_contacted_removed.fetch_add(removed.len() as u64, Ordering::Relaxed);
    Ok(removed)
}

/// Removes tasks in steps, until a step removes none. Other writes run between the steps.
async fn in_steps(
    ctx: &Arc<UpkeepContext>,
    step: impl Fn(&mut Tx<'_>) -> Result<Vec<TaskId>, Fault> + Clone + Send + 'static,
) -> Result<Vec<TaskId>, Fault> {
    let mut removed: Vec<TaskId> = Vec::new();
    while !ctx.stop.is_sent() {
        let some = ctx.store.write(Point::TaskSweep, step.clone()).await?;
        if some.is_empty() {
            break;
        }
        some.iter().for_each(|id| ctx.tasks.forget(id));
        ctx.wakeups.sweeps.notify_one();
        removed.extend(some);
    }
    Ok(removed)
}

fn grace(config: &Config) -> Span {
    MIN_UPTIME.min(*config.provisioning.never_contacted_age)
}

fn seconds(span: Span) -> Duration {
    Duration(span.as_secs().max(u64::from(!span.is_zero())))
}
