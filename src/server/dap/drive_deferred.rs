//! The driver of a helper's aggregation jobs that are answered later (DAP-18 section 3.1): those that wait when the
//! server starts, and those that come.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{app::App, dap::jobs, upkeep::supervise::see_through};
use dapbox_aggregator::Error;
use dapbox_protocol::model::{AggregationJobId, TaskId};
use dapbox_support::{Fault, Part};

/// Jobs that are worked on at once. One keeps all workers busy, and another while it is being stored: each more only
/// takes memory.
const AT_ONCE: usize = 3;

/// How long a job rests for which there was no room.
const REST: Duration = Duration::from_secs(10);

type Key = (TaskId, AggregationJobId);

/// Answers all jobs that wait until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    let mut running = JoinSet::new();
    let mut busy: HashSet<Key> = HashSet::new();
    loop {
        app.failpoints.turn(Part::DeferredJobs);
        for key in next(&app, &busy)? {
            busy.insert(key);
            let (shared, app) = (app.clone(), app.clone());
            running.spawn(async move {
                let run = || run(shared.clone(), key);
                see_through(app, Part::DeferredJob, key.0, run).await.map(|()| key)
            });
        }
        tokio::select! {
            () = app.stopped() => break,
            () = app.deferred.notified() => {}
            Some(ended) = running.join_next() => {
                let ended = ended.map_err(|error| Fault::while_doing("answering an aggregation job", error))?;
                busy.remove(&ended?);
            }
        }
    }
    // What is under way begins again after the next start: nothing of it is stored before all of it is.
    running.shutdown().await;
    Ok(())
}

/// The jobs to begin with now. Tasks take turns, and each has its jobs answered in the order in which they came.
fn next(app: &App, busy: &HashSet<Key>) -> Result<Vec<Key>, Fault> {
    let mut waiting = app.store.read(|view| {
        let of_task = |(task, state): (&TaskId, &dapbox_store::TaskState)| {
            let task = *task;
            let first = state.deferred.iter().take(AT_ONCE).enumerate();
            first.map(move |(place, job)| (place, (task, *job))).collect::<Vec<_>>()
        };
        Ok(view.tasks().flat_map(of_task).collect::<Vec<_>>())
    })?;
    waiting.sort_unstable_by_key(|(place, _)| *place);
    let rested = waiting.into_iter().map(|(_, key)| key).filter(|key| !busy.contains(key));
    Ok(rested.take(AT_ONCE.saturating_sub(busy.len())).collect())
}

async fn run(app: Arc<App>, (task, job): Key) -> Result<(), Fault> {
    match jobs::resume(&app, task, job).await {
        Ok(()) => {}
        // Its task was removed, or it was deleted: what could be refused of it was refused when it came.
        Err(Error::Problem(problem)) => {
            tracing::debug!(task_id = %task, job_id = %job, error = %problem, "deferred aggregation job rejected");
        }
        // It is tried again when there is less to do.
        Err(Error::Busy) => tokio::time::sleep(REST).await,
        Err(Error::Fault(fault)) => return Err(fault),
    }
    Ok(())
}
