//! The driver of collection jobs: closes each batch when it can be closed, and gets the helper's share of it.

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
    app::App,
    dap::flow::draw,
    leader::pursue::{Errand, Pursued, pursue},
    upkeep::supervise::see_through,
};
use dapbox_aggregator::{TaskContext, batches::Refusal, collect, phase};
use dapbox_protocol::{
    model::{CollectionJobId, HpkeCiphertext, TaskId},
    wire::{Problem, ProblemType, ResourceKind},
};
use dapbox_store::{CollectionJobRecord, CollectionState, Tx};
use dapbox_support::{Fault, Part, Point, clock};

/// How often waiting collection jobs are looked at while nothing is heard of their reports.
const TICK: Duration = Duration::from_secs(1);

type Key = (TaskId, CollectionJobId);

/// Drives all collection jobs until the server stops.
///
/// Each task has a lane of its own, in which its batches are closed one after the other: sampling noise takes long, and
/// other tasks do not wait for it. The helpers are asked for all closed batches at the same time.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    let (report, mut closed) = mpsc::channel(1);
    let mut driver = Driver::new(app.clone(), report);
    loop {
        app.failpoints.turn(Part::CollectionJobs);
        let idle = driver.step()?;
        let tick = tokio::time::sleep(TICK);
        tokio::pin!(tick);
        // Until there is news of anything but batches that were closed, whose jobs are known.
        loop {
            tokio::select! {
                () = app.stopped() => return driver.stop().await,
                Some(key) = closed.recv() => {
                    driver.ask_helper(key);
                    continue;
                }
                () = app.collections.notified() => driver.resting.clear(),
                Some(ended) = driver.lanes.join_next() => driver.lane_ended(ended)?,
                Some(ended) = driver.asking.join_next() => driver.asking_ended(ended)?,
                () = &mut tick, if !idle => driver.resting.clear(),
            }
            break;
        }
    }
}

/// What is under way.
struct Driver {
    app: Arc<App>,
    /// Lanes tell here of each batch that they closed.
    report: mpsc::Sender<Key>,
    lanes: JoinSet<Result<Lane, Fault>>,
    /// Tasks that have a lane.
    moving: HashSet<TaskId>,
    /// Tasks whose last lane moved nothing: they wait for news.
    resting: HashSet<TaskId>,
    /// Requests for a helper's share.
    asking: JoinSet<Result<Key, Fault>>,
    asked: HashSet<Key>,
}

/// How a lane ended.
struct Lane {
    task: TaskId,
    has_moved: bool,
}

impl Driver {
    fn new(app: Arc<App>, report: mpsc::Sender<Key>) -> Self {
        let (lanes, asking) = (JoinSet::new(), JoinSet::new());
        let (moving, resting, asked) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { app, report, lanes, moving, resting, asking, asked }
    }

    /// Starts whatever can be moved on and is not under way. True if there is no collection job.
    fn step(&mut self) -> Result<bool, Fault> {
        let (due, idle) = self.app.store.read(|view| {
            let with_jobs = view.tasks().filter(|(_, state)| !state.collections.is_empty());
            let due: Vec<_> = with_jobs.map(|(task, state)| (*task, phase::due(state))).collect();
            let idle = due.is_empty();
            Ok((due, idle))
        })?;
        for (task, phase::DueCollections { waiting, closed }) in due {
            closed.into_iter().for_each(|id| self.ask_helper((task, id)));
            if !waiting.is_empty() && !self.resting.contains(&task) && self.moving.insert(task) {
                self.lanes.spawn(lane(self.app.clone(), task, waiting, self.report.clone()));
            }
        }
        Ok(idle)
    }

    fn ask_helper(&mut self, key: Key) {
        if self.asked.insert(key) {
            let (app, shared) = (self.app.clone(), self.app.clone());
            self.asking.spawn(async move {
                let run = || run(shared.clone(), key);
                see_through(app, Part::CollectionJob, key.0, run).await.map(|()| key)
            });
        }
    }

    fn lane_ended(&mut self, ended: Result<Result<Lane, Fault>, JoinError>) -> Result<(), Fault> {
        let Lane { task, has_moved } = settle(ended)?;
        self.moving.remove(&task);
        if !has_moved {
            self.resting.insert(task);
        }
        Ok(())
    }

    fn asking_ended(&mut self, ended: Result<Result<Key, Fault>, JoinError>) -> Result<(), Fault> {
        let key = settle(ended)?;
        self.asked.remove(&key);
        // Jobs that follow this one may go on.
        self.resting.remove(&key.0);
        Ok(())
    }

    /// Lanes begin again after the next start: nothing of a batch is stored before it is closed. Requests end soon.
    async fn stop(mut self) -> Result<(), Fault> {
        self.lanes.shutdown().await;
        while let Some(ended) = self.asking.join_next().await {
            settle(ended)?;
        }
        Ok(())
    }
}

fn settle<T>(ended: Result<Result<T, Fault>, JoinError>) -> Result<T, Fault> {
    ended.unwrap_or_else(|error| Err(Fault::while_doing("driving a collection job", error)))
}

/// Moves jobs of a task on, one after the other, as far as they go without the helper. If that fails, it is tried again
/// alone.
async fn lane(
    app: Arc<App>,
    task: TaskId,
    ids: Vec<CollectionJobId>,
    report: mpsc::Sender<Key>,
) -> Result<Lane, Fault> {
    let has_moved = AtomicBool::new(false);
    let run = || move_all_on(&app, task, &ids, &report, &has_moved);
    see_through(app.clone(), Part::CollectionJob, task, run).await?;
    Ok(Lane { task, has_moved: has_moved.into_inner() })
}

async fn move_all_on(
    app: &Arc<App>,
    task: TaskId,
    ids: &[CollectionJobId],
    report: &mpsc::Sender<Key>,
    has_moved: &AtomicBool,
) -> Result<(), Fault> {
    let Some(context) = app.context(&task)? else { return Ok(()) };
    for id in ids {
        let is_closed = move_on(app, &context, *id).await?;
        has_moved.fetch_or(is_closed.is_some(), Ordering::Relaxed);
        if is_closed == Some(true) && report.send((task, *id)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Moves a waiting job on. None if that is not possible now, else whether the helper is to be asked about its batch.
async fn move_on(app: &Arc<App>, context: &Arc<TaskContext>, id: CollectionJobId) -> Result<Option<bool>, Fault> {
    let (task, shared) = (context.task.public.id, context.clone());
    // Looked at again for each job: those before it may have taken its batch.
    let closes_batch = app.store.read(|view| Ok(view.task(&task).and_then(|state| phase::closes_batch(state, &id))))?;
    let noise = match closes_batch {
        None => return Ok(None),
        Some(false) => None,
        Some(true) => Some(draw(app, context).await?),
    };
    let advance = move |tx: &mut Tx<'_>| collect::advance(tx, clock::now(), &shared, id, noise);
    if !app.store.write(Point::CollectionAdvance, advance).await? {
        return Ok(None);
    }
    // What was resting may go on, and a job that followed another may have its result.
    app.jobs.notify_one();
    app.results.notify_waiters();
    let is_closed = app.store.read(|view| {
        let job = view.task(&task).and_then(|state| state.collections.get(&id));
        Ok(job.is_some_and(|job| matches!(job.state, CollectionState::Closed { .. })))
    })?;
    Ok(Some(is_closed))
}

/// Sees a closed batch through to its result.
async fn run(app: Arc<App>, (task, id): Key) -> Result<(), Fault> {
    let Some(context) = app.context(&task)? else { return Ok(()) };
    let found = app.store.read(|view| match view.collection(&task, &id)? {
        Some(CollectionJobRecord { state: CollectionState::Closed { batch }, query, request, .. }) => {
            Ok(view.collected(&task, &batch)?.map(|collected| (collected, query, request)))
        }
        _ => Ok(None),
    })?;
    let Some((collected, query, request)) = found else { return Ok(()) };
    let body = match collect::exchange(collected, query, request) {
        Ok(exchange) => {
            let request = Bytes::from(context.wire.encode_aggregate_share_req(&context.task.public, &exchange.request));
            match ask_helper(&app, &context, id, request).await {
                None => return Ok(()),
                Some(Err(refusal)) => {
                    app.store.write(Point::CollectionFail, move |tx| collect::fail(tx, &task, id, refusal)).await?;
                    app.results.notify_waiters();
                    return Ok(());
                }
                Some(Ok(helper_share)) => {
                    let permit = app.pool.admit(&task).await;
                    let shared = context.clone();
                    app.pool.run(&permit, move || collect::complete(&shared, exchange, helper_share)).await??
                }
            }
        }
        Err(Some(body)) => body,
        Err(None) => return Err(Fault::new("a leader's batch has a helper's record")),
    };
    app.store.write(Point::CollectionFinish, move |tx| collect::finish(tx, &task, id, body)).await?;
    app.collections.notify_one();
    app.results.notify_waiters();
    Ok(())
}

/// Asks for the helper's share until there is an answer that is final. The batch is closed: nothing else helps.
/// None if the server stops first.
async fn ask_helper(
    app: &App,
    context: &TaskContext,
    id: CollectionJobId,
    request: Bytes,
) -> Option<Result<HpkeCiphertext, Refusal>> {
    let errand = Errand {
        interaction: ResourceKind::AggregateShare,
        what: "a request for its aggregate share",
        points: [Point::SendShare, Point::PollShare],
        id: id.as_bytes(),
        max_answer: app.config.limits.max_answer_bytes,
        may_be_taken: false,
        proves_untaken: |_| false,
        is_final: |problem, _| is_final(problem),
    };
    match pursue(app, context, errand, request, |body| context.wire.decode_aggregate_share(body)).await {
        Pursued::Answered { message, .. } => Some(Ok(message)),
        Pursued::Refused { problem, .. } => {
            // What the helper counts is for the operator; the collector learns what kind of problem it is.
            tracing::error!(task_id = %context.task.public.id, error = %problem, "helper refused aggregate share");
            let detail = "the helper refused its aggregate share; the leader's log says why".to_owned();
            Some(Err(Refusal { kind: problem.kind, detail }))
        }
        Pursued::Stopped => None,
    }
}

/// Whether the helper will never give its share, as opposed to not yet or not to this token.
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
