//! The driver of deferred aggregation jobs (helper, DAP-18 section 3.1).
//!
//! # Decision: answers may be deferred on either side
//!
//! A helper that defers a job stores the request before it responds. A leader that receives an empty response polls the
//! location of the job, and sends the same request again if the helper no longer knows that location.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{
    dap::{context::HelperContext, helper_jobs},
    upkeep::supervise::run_job,
};
use dapbox_aggregator::Error;
use dapbox_protocol::model::{AggregationJobId, TaskId};
use dapbox_support::{Fault, Part};

/// Maximum number of concurrent jobs. One job keeps all workers busy while another one is stored; more jobs would only
/// use memory.
const MAX_CONCURRENT_JOBS: usize = 3;

/// Delay of a job after the pool or the memory was exhausted.
const BUSY_DELAY: Duration = Duration::from_secs(10);

type Key = (TaskId, AggregationJobId);

/// Processes deferred jobs until the server stops.
pub async fn drive(ctx: Arc<HelperContext>) -> Result<(), Fault> {
    let mut running = JoinSet::new();
    let mut busy: HashSet<Key> = HashSet::new();
    loop {
        ctx.failpoints.turn(Part::DeferredJobs);
        for key in next(&ctx, &busy)? {
            busy.insert(key);
            let (ctx, supervisor) = (ctx.clone(), ctx.supervisor.clone());
            running.spawn(async move {
                let run = || run(ctx.clone(), key);
                run_job(supervisor, Part::DeferredJob, key.0, run).await.map(|()| key)
            });
        }
        tokio::select! {
            () = ctx.stop.stopped() => break,
            () = ctx.wakeups.deferred.notified() => {}
            Some(ended) = running.join_next() => {
                let ended = ended.map_err(|error| Fault::while_doing("processing a deferred aggregation job", error))?;
                busy.remove(&ended?);
            }
        }
    }
    // Jobs restart from the beginning after the next start: nothing is stored before a job is complete.
    running.shutdown().await;
    Ok(())
}

/// Selects the jobs to start: round robin over the tasks, in order of arrival within a task.
fn next(ctx: &HelperContext, busy: &HashSet<Key>) -> Result<Vec<Key>, Fault> {
    let mut waiting = ctx.store.read(|view| {
        let of_task = |(task, state): (&TaskId, &dapbox_store::TaskState)| {
            let task = *task;
            let first = state.deferred.iter().take(MAX_CONCURRENT_JOBS).enumerate();
            first.map(move |(place, job)| (place, (task, *job))).collect::<Vec<_>>()
        };
        Ok(view.tasks().flat_map(of_task).collect::<Vec<_>>())
    })?;
    waiting.sort_unstable_by_key(|(place, _)| *place);
    let rested = waiting.into_iter().map(|(_, key)| key).filter(|key| !busy.contains(key));
    Ok(rested.take(MAX_CONCURRENT_JOBS.saturating_sub(busy.len())).collect())
}

async fn run(ctx: Arc<HelperContext>, (task, job): Key) -> Result<(), Fault> {
    match helper_jobs::resume(&ctx, task, job).await {
        Ok(()) => {}
        // The task was removed, or the job deleted. Everything else was checked when the request arrived.
        Err(Error::Problem(problem)) => {
            tracing::debug!(task_id = %task, job_id = %job, error = %problem, "deferred aggregation job rejected");
        }
        // Retried under less load.
        Err(Error::Busy) => ctx.clock.sleep(BUSY_DELAY).await,
        Err(Error::Fault(fault)) => return Err(fault),
    }
    Ok(())
}
