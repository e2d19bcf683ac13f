//! The driver of aggregation jobs: creates jobs from waiting reports and processes each until it is finished.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tokio::task::JoinSet;

use crate::{
    leader::{
        aggregation_job::{job_bytes, max_buckets, run},
        context::LeaderContext,
    },
    upkeep::supervise::run_job,
};
use dapbox_aggregator::leader::{self, JobBounds};
use dapbox_protocol::model::{AggregationJobId, Role, TaskId, Time};
use dapbox_support::{Fault, Part, Point};

/// Interval of checking waiting reports without a wakeup: the resolution of `leader.max_job_delay`.
const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

/// Drives all aggregation jobs until the server stops.
pub async fn drive(ctx: Arc<LeaderContext>) -> Result<(), Fault> {
    let mut running = JoinSet::new();
    for (task, job) in unfinished(&ctx)? {
        start(&ctx, &mut running, task, job);
    }
    let mut waiting_since: HashMap<TaskId, Instant> = HashMap::new();
    loop {
        ctx.failpoints.turn(Part::AggregationJobs);
        let idle = form(&ctx, &mut waiting_since, &mut running).await?;
        tokio::select! {
            () = ctx.stop.stopped() => break,
            () = ctx.wakeups.jobs.notified() => {}
            Some(ended) = running.join_next() => settle(ended)?,
            () = ctx.clock.sleep(POLL_INTERVAL), if !idle => {}
        }
    }
    // Running jobs continue to the next point where they can be resumed.
    while let Some(ended) = running.join_next().await {
        settle(ended)?;
    }
    Ok(())
}

/// Spawns the processing of a job.
fn start(ctx: &Arc<LeaderContext>, running: &mut JoinSet<Result<(), Fault>>, task: TaskId, job: AggregationJobId) {
    let shared = ctx.clone();
    running.spawn(run_job(ctx.supervisor.clone(), Part::AggregationJob, task, move || run(shared.clone(), task, job)));
}

fn settle(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Result<(), Fault> {
    ended.unwrap_or_else(|error| Err(Fault::while_doing("processing an aggregation job", error)))
}

fn unfinished(ctx: &LeaderContext) -> Result<Vec<(TaskId, AggregationJobId)>, Fault> {
    ctx.store.read(|view| {
        let of_task = |(task, state): (&TaskId, &dapbox_store::TaskState)| {
            let task = *task;
            state.leader_jobs.keys().map(move |job| (task, *job)).collect::<Vec<_>>()
        };
        Ok(view.tasks().flat_map(of_task).collect())
    })
}

/// Creates as many jobs as possible. Returns whether no report is waiting.
async fn form(
    ctx: &Arc<LeaderContext>,
    waiting_since: &mut HashMap<TaskId, Instant>,
    running: &mut JoinSet<Result<(), Fault>>,
) -> Result<bool, Fault> {
    let now = ctx.clock.now();
    let waiting = ctx.store.read(|view| {
        let waits = |(_, state): &(&TaskId, &dapbox_store::TaskState)| {
            state.task.role() == Role::Leader && !state.waiting.is_empty()
        };
        Ok(view.tasks().filter(waits).map(|(id, _)| *id).collect::<Vec<_>>())
    })?;
    waiting_since.retain(|task, _| waiting.contains(task));
    for task in &waiting {
        let since = *waiting_since.entry(*task).or_insert_with(|| ctx.clock.instant());
        let aged = ctx.clock.instant().saturating_duration_since(since) >= *ctx.config.get().leader.max_job_delay;
        while let Some(job) = pick(ctx, *task, now, aged).await? {
            waiting_since.insert(*task, ctx.clock.instant());
            start(ctx, running, *task, job);
        }
    }
    Ok(waiting.is_empty())
}

async fn pick(
    ctx: &Arc<LeaderContext>,
    task: TaskId,
    now: Time,
    aged: bool,
) -> Result<Option<AggregationJobId>, Fault> {
    let Some(context) = ctx.tasks.get(&task)? else { return Ok(None) };
    let mut limits = ctx.config.get().leader.clone();
    let fitting = job_bytes(ctx) / leader::report_bytes(&context);
    limits.max_job_size = limits.max_job_size.min(ctx.tasks.job_cap(&task)).min(fitting).max(1);
    let bounds = JobBounds {
        max_buckets: max_buckets(ctx, &context),
        max_open_batches: ctx.config.get().limits.max_open_buckets,
    };
    let may_pick =
        ctx.store.read(|view| Ok(view.task(&task).is_some_and(|state| leader::may_pick(state, &limits, aged))))?;
    if !may_pick {
        return Ok(None);
    }
    ctx.store.write(Point::LeaderPick, move |tx| leader::pick(tx, now, &limits, bounds, &task, aged)).await
}
