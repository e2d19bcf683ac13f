//! The driver of aggregation jobs: makes jobs of waiting reports and sees each through, whatever the helper does.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tokio::task::JoinSet;

use crate::{
    app::App,
    leader::leader_job::{bucket_room, room, run},
    upkeep::supervise::see_through,
};
use dapbox_aggregator::leader::{self, JobBounds};
use dapbox_protocol::model::{AggregationJobId, Role, TaskId, Time};
use dapbox_support::{Fault, Part, Point, clock};

/// How often waiting reports are looked at while nothing happens: no more often than delays are set in.
const TICK: std::time::Duration = std::time::Duration::from_millis(250);

/// Drives all aggregation jobs until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    let mut running = JoinSet::new();
    for (task, job) in unfinished(&app)? {
        start(&app, &mut running, task, job);
    }
    let mut ages: HashMap<TaskId, Instant> = HashMap::new();
    loop {
        app.failpoints.turn(Part::AggregationJobs);
        let idle = form(&app, &mut ages, &mut running).await?;
        tokio::select! {
            () = app.stopped() => break,
            () = app.jobs.notified() => {}
            Some(ended) = running.join_next() => settle(ended)?,
            () = tokio::time::sleep(TICK), if !idle => {}
        }
    }
    // What is under way goes on to the next point where it can be resumed.
    while let Some(ended) = running.join_next().await {
        settle(ended)?;
    }
    Ok(())
}

/// Starts to see a job through.
fn start(app: &Arc<App>, running: &mut JoinSet<Result<(), Fault>>, task: TaskId, job: AggregationJobId) {
    let shared = app.clone();
    running.spawn(see_through(app.clone(), Part::AggregationJob, task, move || run(shared.clone(), task, job)));
}

fn settle(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Result<(), Fault> {
    ended.unwrap_or_else(|error| Err(Fault::while_doing("driving an aggregation job", error)))
}

fn unfinished(app: &App) -> Result<Vec<(TaskId, AggregationJobId)>, Fault> {
    app.store.read(|view| {
        let of_task = |(task, state): (&TaskId, &dapbox_store::TaskState)| {
            let task = *task;
            state.leader_jobs.keys().map(move |job| (task, *job)).collect::<Vec<_>>()
        };
        Ok(view.tasks().flat_map(of_task).collect())
    })
}

/// Makes as many jobs as there can be. True if no report waits.
async fn form(
    app: &Arc<App>,
    ages: &mut HashMap<TaskId, Instant>,
    running: &mut JoinSet<Result<(), Fault>>,
) -> Result<bool, Fault> {
    let now = clock::now();
    let waiting = app.store.read(|view| {
        let waits = |(_, state): &(&TaskId, &dapbox_store::TaskState)| {
            state.task.role() == Role::Leader && !state.waiting.is_empty()
        };
        Ok(view.tasks().filter(waits).map(|(id, _)| *id).collect::<Vec<_>>())
    })?;
    ages.retain(|task, _| waiting.contains(task));
    for task in &waiting {
        let since = *ages.entry(*task).or_insert_with(Instant::now);
        let aged = since.elapsed() >= *app.config.leader.max_job_delay;
        while let Some(job) = pick(app, *task, now, aged).await? {
            ages.insert(*task, Instant::now());
            start(app, running, *task, job);
        }
    }
    Ok(waiting.is_empty())
}

async fn pick(app: &Arc<App>, task: TaskId, now: Time, aged: bool) -> Result<Option<AggregationJobId>, Fault> {
    let Some(context) = app.context(&task)? else { return Ok(None) };
    let mut limits = app.config.leader.clone();
    let fitting = room(app) / leader::report_bytes(&context);
    limits.max_job_size = limits.max_job_size.min(app.job_cap(&task)).min(fitting).max(1);
    let bounds =
        JobBounds { max_buckets: bucket_room(app, &context), max_open_batches: app.config.limits.max_open_buckets };
    let worth_it =
        app.store.read(|view| Ok(view.task(&task).is_some_and(|state| leader::may_pick(state, &limits, aged))))?;
    if !worth_it {
        return Ok(None);
    }
    app.store.write(Point::LeaderPick, move |tx| leader::pick(tx, now, &limits, bounds, &task, aged)).await
}
