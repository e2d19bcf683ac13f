//! The driver of collection jobs: closes each batch when it can be closed, and gets the helper's share of it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    app::App,
    flow::draw,
    pursue::{Errand, Pursued, pursue},
    supervise::see_through,
};
use crate::{
    aggregator::{TaskContext, batches::Refusal, collect},
    model::{CollectionJobId, Fault, HpkeCiphertext, Part, Point, TaskId},
    store::{CollectionJobRecord, CollectionState},
    wire::{Interaction, Problem, ProblemType},
};

/// How often waiting collection jobs are looked at while nothing is heard of their reports.
const TICK: Duration = Duration::from_secs(1);

type Key = (TaskId, CollectionJobId);

/// Drives all collection jobs until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    let mut running = JoinSet::new();
    let mut busy: HashSet<Key> = HashSet::new();
    loop {
        app.failpoints.turn(Part::CollectionJobs);
        let idle = step(&app, &mut busy, &mut running).await?;
        tokio::select! {
            () = app.stopped() => break,
            () = app.collections.notified() => {}
            Some(ended) = running.join_next() => { busy.remove(&settle(ended)?); }
            () = tokio::time::sleep(TICK), if !idle => {}
        }
    }
    while let Some(ended) = running.join_next().await {
        settle(ended)?;
    }
    Ok(())
}

fn settle(ended: Result<Result<Key, Fault>, tokio::task::JoinError>) -> Result<Key, Fault> {
    ended.unwrap_or_else(|error| Err(Fault::while_doing("driving a collection job", error)))
}

/// Moves every collection job as far as it goes. True if there is none.
async fn step(
    app: &Arc<App>,
    busy: &mut HashSet<Key>,
    running: &mut JoinSet<Result<Key, Fault>>,
) -> Result<bool, Fault> {
    let (due, idle) = app.store.read(|view| {
        let (mut due, mut idle) = (Vec::new(), true);
        for (task, state) in view.tasks() {
            idle &= state.collections.is_empty();
            let ripe = state.collections.iter().filter(|(_, job)| collect::is_due(state, job));
            due.extend(ripe.map(|(id, job)| (job.created, job.accepted_before, (*task, *id))));
        }
        // First come, first served: jobs for the current batch compete.
        due.sort_unstable();
        Ok((due, idle))
    })?;
    for (_, _, (task, id)) in due {
        if busy.contains(&(task, id)) {
            continue;
        }
        let Some(context) = app.context(&task)? else { continue };
        let shared = context.clone();
        let noise = draw(app, &context).await?;
        app.store.write(Point::CollectionAdvance, move |tx| collect::advance(tx, &shared, id, noise)).await?;
        let closed = app.store.read(|view| {
            let job = view.task(&task).and_then(|state| state.collections.get(&id));
            Ok(job.is_some_and(|job| matches!(job.state, CollectionState::Closed { .. })))
        })?;
        if closed {
            busy.insert((task, id));
            let (app, shared) = (app.clone(), app.clone());
            running.spawn(async move {
                let run = || run(shared.clone(), context.clone(), id);
                see_through(app, Part::CollectionJob, task, run).await.map(|()| (task, id))
            });
        }
        // What was resting may go on, and a job that followed another may have its result.
        app.jobs.notify_one();
        app.results.notify_waiters();
    }
    Ok(idle)
}

/// Sees a closed batch through to its result.
async fn run(app: Arc<App>, context: Arc<TaskContext>, id: CollectionJobId) -> Result<(), Fault> {
    let task = context.task.public.id;
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
        interaction: Interaction::AggregateShare,
        what: "a request for its aggregate share",
        points: [Point::SendShare, Point::PollShare],
        id: id.as_bytes(),
        max_answer: app.config.limits.max_answer_bytes,
        may_have_arrived: false,
        is_final: |problem, _| is_final(problem),
    };
    match pursue(app, context, errand, request, |body| context.wire.decode_aggregate_share(body)).await {
        Pursued::Answered { message, .. } => Some(Ok(message)),
        Pursued::Refused { problem, .. } => {
            // What the helper counts is for the operator; the collector learns what kind of problem it is.
            tracing::error!(task = %context.task.public.id, %problem, "the helper refused its aggregate share for good");
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
