//! The driver of collection jobs: closes batches that are ready and obtains the helper's aggregate shares.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use crate::{
    dap::noise,
    leader::{
        context::LeaderContext,
        request_loop::{HelperRequest, Outcome, send_until_final},
    },
    upkeep::supervise::run_job,
};
use dapbox_aggregator::{TaskContext, batches::Refusal, collect, phase};
use dapbox_protocol::{
    model::{CollectionJobId, HpkeCiphertext, TaskId},
    wire::{Problem, ProblemType, ResourceKind},
};
use dapbox_store::{CollectionJobRecord, CollectionState, Tx};
use dapbox_support::{Fault, Part, Point};

/// Interval of checking waiting collection jobs without a wakeup.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

type Key = (TaskId, CollectionJobId);

/// Drives all collection jobs until the server stops.
///
/// Each task has one worker that closes its batches one after another. Sampling noise takes long, and other tasks do
/// not wait for it. Requests for the shares of all closed batches run concurrently.
pub async fn drive(ctx: Arc<LeaderContext>) -> Result<(), Fault> {
    let (report, mut closed) = mpsc::channel(1);
    let mut driver = Driver::new(ctx.clone(), report);
    loop {
        ctx.failpoints.turn(Part::CollectionJobs);
        let idle = driver.step()?;
        let mut tick = ctx.clock.sleep(POLL_INTERVAL);
        // Loops until there is an event other than a closed batch, whose job is known.
        loop {
            tokio::select! {
                () = ctx.stop.stopped() => return driver.stop().await,
                Some(key) = closed.recv() => {
                    driver.ask_helper(key);
                    continue;
                }
                () = ctx.wakeups.collections.notified() => driver.resting.clear(),
                Some(ended) = driver.batch_workers.join_next() => driver.batch_worker_ended(ended)?,
                Some(ended) = driver.asking.join_next() => driver.asking_ended(ended)?,
                () = &mut tick, if !idle => driver.resting.clear(),
            }
            break;
        }
    }
}

/// The state of the driver.
struct Driver {
    ctx: Arc<LeaderContext>,
    /// Receives each closed batch from the workers.
    report: mpsc::Sender<Key>,
    batch_workers: JoinSet<Result<BatchWorkerEnd, Fault>>,
    /// Tasks with a running worker.
    moving: HashSet<TaskId>,
    /// Tasks whose last worker could not advance any job: they wait for a wakeup.
    resting: HashSet<TaskId>,
    /// Requests for the helper's share.
    asking: JoinSet<Result<Key, Fault>>,
    asked: HashSet<Key>,
}

/// The result of a worker.
struct BatchWorkerEnd {
    task: TaskId,
    has_moved: bool,
}

impl Driver {
    fn new(ctx: Arc<LeaderContext>, report: mpsc::Sender<Key>) -> Self {
        let (batch_workers, asking) = (JoinSet::new(), JoinSet::new());
        let (moving, resting, asked) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { ctx, report, batch_workers, moving, resting, asking, asked }
    }

    /// Starts workers and requests that are possible and not running. Returns whether there is no collection job.
    fn step(&mut self) -> Result<bool, Fault> {
        let (due, idle) = self.ctx.store.read(|view| {
            let with_jobs = view.tasks().filter(|(_, state)| !state.collections.is_empty());
            let due: Vec<_> = with_jobs.map(|(task, state)| (*task, phase::due(state))).collect();
            let idle = due.is_empty();
            Ok((due, idle))
        })?;
        for (task, phase::DueCollections { waiting, closed }) in due {
            closed.into_iter().for_each(|id| self.ask_helper((task, id)));
            if !waiting.is_empty() && !self.resting.contains(&task) && self.moving.insert(task) {
                self.batch_workers.spawn(close_batches(self.ctx.clone(), task, waiting, self.report.clone()));
            }
        }
        Ok(idle)
    }

    fn ask_helper(&mut self, key: Key) {
        if self.asked.insert(key) {
            let ctx = self.ctx.clone();
            self.asking.spawn(async move {
                let run = || run(ctx.clone(), key);
                run_job(ctx.supervisor.clone(), Part::CollectionJob, key.0, run).await.map(|()| key)
            });
        }
    }

    fn batch_worker_ended(&mut self, ended: Result<Result<BatchWorkerEnd, Fault>, JoinError>) -> Result<(), Fault> {
        let BatchWorkerEnd { task, has_moved } = settle(ended)?;
        self.moving.remove(&task);
        if !has_moved {
            self.resting.insert(task);
        }
        Ok(())
    }

    fn asking_ended(&mut self, ended: Result<Result<Key, Fault>, JoinError>) -> Result<(), Fault> {
        let key = settle(ended)?;
        self.asked.remove(&key);
        // Jobs that follow this one may become possible.
        self.resting.remove(&key.0);
        Ok(())
    }

    /// Workers restart after the next start: nothing is stored before a batch is closed. Requests end soon.
    async fn stop(mut self) -> Result<(), Fault> {
        self.batch_workers.shutdown().await;
        while let Some(ended) = self.asking.join_next().await {
            settle(ended)?;
        }
        Ok(())
    }
}

fn settle<T>(ended: Result<Result<T, Fault>, JoinError>) -> Result<T, Fault> {
    ended.unwrap_or_else(|error| Err(Fault::while_doing("processing a collection job", error)))
}

/// Closes the batches of a task one after another. Retried separately after a failure.
async fn close_batches(
    ctx: Arc<LeaderContext>,
    task: TaskId,
    ids: Vec<CollectionJobId>,
    report: mpsc::Sender<Key>,
) -> Result<BatchWorkerEnd, Fault> {
    let has_moved = AtomicBool::new(false);
    let run = || advance_all(&ctx, task, &ids, &report, &has_moved);
    run_job(ctx.supervisor.clone(), Part::CollectionJob, task, run).await?;
    Ok(BatchWorkerEnd { task, has_moved: has_moved.into_inner() })
}

async fn advance_all(
    ctx: &Arc<LeaderContext>,
    task: TaskId,
    ids: &[CollectionJobId],
    report: &mpsc::Sender<Key>,
    has_moved: &AtomicBool,
) -> Result<(), Fault> {
    let Some(context) = ctx.tasks.get(&task)? else { return Ok(()) };
    for id in ids {
        let is_closed = advance(ctx, &context, *id).await?;
        has_moved.fetch_or(is_closed.is_some(), Ordering::Relaxed);
        if is_closed == Some(true) && report.send((task, *id)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Advances a waiting job. Returns `None` if that is not possible yet, or whether its batch needs the helper's share.
async fn advance(
    ctx: &Arc<LeaderContext>,
    context: &Arc<TaskContext>,
    id: CollectionJobId,
) -> Result<Option<bool>, Fault> {
    let (task, shared, clock) = (context.task.public.id, context.clone(), ctx.clock.clone());
    // Checked again for each job: an earlier one may have taken its batch.
    let closes_batch = ctx.store.read(|view| Ok(view.task(&task).and_then(|state| phase::closes_batch(state, &id))))?;
    let noise = match closes_batch {
        None => return Ok(None),
        Some(false) => None,
        Some(true) => Some(noise::sample(&ctx.pool, &ctx.failpoints, context).await?),
    };
    let advance = move |tx: &mut Tx<'_>| collect::advance(tx, clock.now(), &shared, id, noise);
    if !ctx.store.write(Point::CollectionAdvance, advance).await? {
        return Ok(None);
    }
    // Reports of the batch may be aggregated again, and a later job may have its result.
    ctx.wakeups.jobs.notify_one();
    ctx.wakeups.results.notify_waiters();
    let is_closed = ctx.store.read(|view| {
        let job = view.task(&task).and_then(|state| state.collections.get(&id));
        Ok(job.is_some_and(|job| matches!(job.state, CollectionState::Closed { .. })))
    })?;
    Ok(Some(is_closed))
}

/// Processes a closed batch until its result is stored.
async fn run(ctx: Arc<LeaderContext>, (task, id): Key) -> Result<(), Fault> {
    let Some(context) = ctx.tasks.get(&task)? else { return Ok(()) };
    let found = ctx.store.read(|view| match view.collection(&task, &id)? {
        Some(CollectionJobRecord { state: CollectionState::Closed { batch }, query, request, .. }) => {
            Ok(view.collected(&task, &batch)?.map(|collected| (collected, query, request)))
        }
        _ => Ok(None),
    })?;
    let Some((collected, query, request)) = found else { return Ok(()) };
    let body = match collect::exchange(collected, query, request) {
        Ok(exchange) => {
            let request = Bytes::from(context.wire.encode_aggregate_share_req(&context.task.public, &exchange.request));
            match ask_helper(&ctx, &context, id, request).await {
                None => return Ok(()),
                Some(Err(refusal)) => {
                    ctx.store.write(Point::CollectionFail, move |tx| collect::fail(tx, &task, id, refusal)).await?;
                    ctx.wakeups.results.notify_waiters();
                    return Ok(());
                }
                Some(Ok(helper_share)) => {
                    let permit = ctx.pool.admit(&task).await;
                    let shared = context.clone();
                    ctx.pool.run(&permit, move || collect::complete(&shared, exchange, helper_share)).await??
                }
            }
        }
        Err(Some(body)) => body,
        Err(None) => return Err(Fault::new("a leader's batch has a helper's record")),
    };
    ctx.store.write(Point::CollectionFinish, move |tx| collect::finish(tx, &task, id, body)).await?;
    ctx.wakeups.collections.notify_one();
    ctx.wakeups.results.notify_waiters();
    Ok(())
}

/// Requests the helper's share until the response is final: the batch is closed, so nothing else is possible. Returns
/// `None` if the server stops.
async fn ask_helper(
    ctx: &LeaderContext,
    context: &TaskContext,
    id: CollectionJobId,
    request: Bytes,
) -> Option<Result<HpkeCiphertext, Refusal>> {
    let helper_request = HelperRequest {
        kind: ResourceKind::AggregateShare,
        what: "a request for its aggregate share",
        points: [Point::SendShare, Point::PollShare],
        id: id.as_bytes(),
        max_answer: ctx.config.get().limits.max_answer_bytes,
        may_be_taken: false,
        proves_untaken: |_| false,
        is_final: |problem, _| is_final(problem),
    };
    match send_until_final(ctx, context, helper_request, request, |body| context.wire.decode_aggregate_share(body))
        .await
    {
        Outcome::Answered { message, .. } => Some(Ok(message)),
        Outcome::Refused { problem, .. } => {
            // The helper's counts are for the operator. The collector receives the problem type only.
            tracing::error!(task_id = %context.task.public.id, error = %problem, "helper refused aggregate share");
            let detail = "the helper refused its aggregate share; the leader's log says why".to_owned();
            Some(Err(Refusal { kind: problem.kind, detail }))
        }
        Outcome::Stopped => None,
    }
}

/// Whether the helper will never release its share, as opposed to not yet or not for this token.
fn is_final(problem: &Problem) -> bool {
    matches!(
        problem.kind,
        ProblemType::BatchInvalid
            | ProblemType::InvalidBatchSize
            | ProblemType::BatchQueriedTooManyTimes
            | ProblemType::BatchMismatch
            | ProblemType::BatchOverlap
            | ProblemType::InvalidMessage
            | ProblemType::InvalidAggregationParameter
            | ProblemType::UnsupportedExtension
            | ProblemType::InvalidExtension
    )
}
