//! How each interaction runs: which decisions of the aggregator, in the store's writer or on the pool, in what order.
//! The helper's aggregation jobs are in `jobs.rs`.
//!
//! Nothing here knows the revision of a task. Work that must not be cut short when a peer hangs up is spawned.

use std::{future::Future, sync::Arc};

use bytes::Bytes;

use crate::pool::Permit;
use crate::{app::App, dap::sample};
use dapbox_aggregator::{
    Error, TaskContext,
    collect::{self, NewCollectionJob},
    resource_id::{IdSource, ResourceKey},
    results,
    upload::{self, Verdict},
};
use dapbox_protocol::{
    model::{AggregateShareId, CollectionJobId, Duration, Report},
    vdaf::AggregateShare,
    wire::{Malformed, Problem, ResourceKind},
};
use dapbox_store::{CollectionState, Tx, WriteError};
use dapbox_support::{Act, Fault, Phase, Point, clock};

/// How long a poll of a collection job that goes on is held.
const POLL_HOLD: std::time::Duration = std::time::Duration::from_millis(500);

/// Runs work to its end even if whoever waits for it goes away.
pub async fn unhurried<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Fault::while_doing("running a request", error).into()))
}

/// Stores reports and says what becomes of each (DAP-09 section 4.4.2, DAP-18 section 4.4.2).
pub async fn upload(app: &Arc<App>, context: &Arc<TaskContext>, reports: Vec<Report>) -> Result<Vec<Verdict>, Error> {
    let (now, task, shared) = (clock::now(), context.task.public.id, app.clone());
    let admission = app.disk.admit(reports.iter().map(size).sum())?;
    let sampled = sample::take(app, context, &reports).await;
    let write = move |tx: &mut Tx<'_>| {
        let verdicts = upload::accept(tx, now, &shared.config.limits, &shared.keys.ring(), &task, &reports, &sampled)?;
        // Here and not below: the report is stored even if the client hangs up, and nobody comes by there then.
        shared.jobs.notify_one();
        Ok::<_, WriteError<Error>>((verdicts, admission))
    };
    let (verdicts, _admission) = app.store.try_write(Point::Upload, write).await?;
    Ok(verdicts)
}

/// About how many bytes a report has.
pub fn size(report: &Report) -> usize {
    let sealed = [&report.leader_share, &report.helper_share].map(|share| share.enc.len() + share.payload.len());
    report.public_share.len() + sealed.iter().sum::<usize>()
}

/// Counts an upload that does not decode.
pub async fn malformed_upload(app: &App, context: &TaskContext, malformed: Malformed) -> Error {
    let task = context.task.public.id;
    match app.store.write(Point::UploadMalformed, move |tx| upload::count_malformed(tx, &task)).await {
        Ok(()) => malformed.into(),
        Err(fault) => fault.into(),
    }
}

/// Gives the helper's aggregate share of a batch (DAP-09 section 4.6.2, DAP-18 section 4.6.4). `id` is what the share is
/// asked for by later, if it can be.
pub async fn aggregate_share(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    body: Bytes,
    id: Option<AggregateShareId>,
) -> Result<Bytes, Error> {
    let request = context.wire.decode_aggregate_share_req(&context.task.public, &body)?;
    collect::check_forwarded_request(&context.task, &request)?;
    let (app, context) = (app.clone(), context.clone());
    // To its end: noise may take longer than the leader waits, and what it asks next time is answered from what is stored.
    unhurried(async move {
        let task = context.task.public.id;
        // One after the other: a request that comes again meanwhile gets the answer to the first.
        let _turn = app.share_turns.lock(task).await;
        let decided = app.store.read(|view| {
            let Some(state) = view.task(&task) else { return Ok(None) };
            Ok(collect::existing_answer(state, view.collected(&task, &request.batch)?, &context, &body, &request))
        })?;
        if let Some(decided) = decided {
            return Ok(decided?);
        }
        let noise = draw(&app, &context).await?;
        let give = move |tx: &mut Tx<'_>| collect::helper_share(tx, &context, &body, &request, id, noise);
        Ok(app.store.try_write(Point::ShareGive, give).await?)
    })
    .await
}

/// What an aggregate share begins with: noise that is drawn for it, or zero where a task has none. Drawn before the write
/// that closes the batch, because it takes its time for long vectors; what that write does not need is never seen.
pub async fn draw(app: &App, context: &Arc<TaskContext>) -> Result<AggregateShare, Fault> {
    let permit = match context.preparer.has_noise() {
        true => Some(app.pool.admit(&context.task.public.id).await),
        false => None,
    };
    pass(app, permit.as_ref(), Phase::Before).await?;
    let share = match &permit {
        Some(permit) => {
            let shared = context.clone();
            let drawn = app.pool.run(permit, move || shared.preparer.sample_noise()).await?;
            drawn.map_err(|error| Fault::while_doing("drawing noise", error))?
        }
        None => context.preparer.zero(),
    };
    pass(app, permit.as_ref(), Phase::After).await?;
    Ok(share)
}

/// Passes the failure point of noise: with a permit on a worker, which a plan may block.
async fn pass(app: &App, permit: Option<&Permit>, phase: Phase) -> Result<(), Fault> {
    let failpoints = app.failpoints.clone();
    let look = move || failpoints.at(Point::NoiseSample, phase);
    let act = match permit {
        Some(permit) => app.pool.run(permit, look).await?,
        None => look(),
    };
    match act {
        Act::Go => Ok(()),
        Act::Fail => Err(Fault::new("injected failure of noise sampling")),
        Act::Wait(pause) => {
            tokio::time::sleep(pause).await;
            Ok(())
        }
        Act::Panic => panic!("injected panic at {:?}", Point::NoiseSample),
    }
}

/// What is known of an aggregate share.
pub enum Share {
    /// It was given out, in this answer.
    GivenOut(Bytes),
    /// It was deleted.
    Deleted,
}

/// An aggregate share that was given out, if there is one with this id.
pub fn find_share(app: &App, context: &TaskContext, id: AggregateShareId) -> Result<Option<Share>, Error> {
    let task = context.task.public.id;
    Ok(app.store.read(|view| {
        let Some(batch) = view.share(&task, &id)? else { return Ok(None) };
        let answer = view.collected(&task, &batch)?.and_then(collect::stored_answer);
        Ok(Some(answer.map_or(Share::Deleted, Share::GivenOut)))
    })?)
}

/// Deletes an aggregate share (DAP-18 section 4.6.5). False if there is no such share.
pub async fn delete_share(app: &App, context: &TaskContext, id: AggregateShareId) -> Result<bool, Error> {
    let task = context.task.public.id;
    Ok(app.store.write(Point::ShareDelete, move |tx| collect::delete_share(tx, &task, &id)).await?)
}

/// Creates a collection job, or finds it (DAP-09 section 4.6.1, DAP-18 section 4.6.1).
pub async fn create_collection(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    id_source: IdSource,
    body: Bytes,
) -> Result<CollectionJobId, Error> {
    let request = context.wire.decode_collection_req(&context.task.public, &body)?;
    collect::check_request(&context.task, &request)?;
    let content = ResourceKey::new(context.task.public.id, ResourceKind::CollectionJob, &body);
    let (now, context, shared) = (clock::now(), context.clone(), app.clone());
    // Only a new job needs room: whoever repeats a request finds its job on a full disk too.
    let (room, admission) = match app.disk.admit(body.len()) {
        Ok(admission) => (Ok(()), Some(admission)),
        Err(problem) => (Err(problem), None),
    };
    let write = move |tx: &mut Tx<'_>| {
        let limits = &shared.config.leader;
        let (task, found) = (&context.task.public.id, CollectionJobId::new(content.current_id(tx, id_source)?));
        let pause = Duration(limits.next_batch_after.as_secs());
        let is_over = id_source == IdSource::Derived && results::is_superseded(tx, task, &found, now, pause)?;
        let id = if is_over { CollectionJobId::new(content.next_id(tx)?) } else { found };
        collect::create(tx, now, &context, limits, NewCollectionJob { id, bytes: body, query: request.query, room })?;
        if is_over {
            // The job of before keeps its result, where it is.
            content.invalidate(tx, found.as_bytes())?;
        }
        // As for an upload: the drivers learn of it whether or not the collector waits for the answer.
        shared.collections.notify_one();
        shared.jobs.notify_one();
        Ok::<_, WriteError<Problem>>((id, admission))
    };
    let (id, _admission) = app.store.try_write(Point::CollectionCreate, write).await?;
    Ok(id)
}

/// How a collection job is, if there is one, and whether the collector was not told of its outcome yet.
fn look_at_collection(
    app: &App,
    context: &TaskContext,
    job: CollectionJobId,
) -> Result<Option<(CollectionState, bool)>, Fault> {
    let task = context.task.public.id;
    app.store.read(|view| {
        let record = view.collection(&task, &job)?;
        let has_unreported_outcome =
            |record: &_| view.task(&task).is_some_and(|state| results::has_unreported_outcome(state, record));
        Ok(record
            .map(|record| (has_unreported_outcome(&record), record.state))
            .map(|(has_unreported_outcome, state)| (state, has_unreported_outcome)))
    })
}

/// How a collection job is, to be told to the collector: that it was told the outcome is stored first.
pub async fn poll_collection(
    app: &App,
    context: &TaskContext,
    job: CollectionJobId,
) -> Result<Option<CollectionState>, Error> {
    let Some((state, has_unreported_outcome)) = peek_at_collection(app, context, job).await? else { return Ok(None) };
    if has_unreported_outcome {
        let (task, now) = (context.task.public.id, clock::now());
        app.store.write(Point::CollectionFetch, move |tx| results::record_reported(tx, &task, job, now)).await?;
    }
    Ok(Some(state))
}

/// How a collection job is, if there is one. One that goes on is given a moment to end: who polls then has the result
/// as soon as there is one.
pub async fn peek_at_collection(
    app: &App,
    context: &TaskContext,
    job: CollectionJobId,
) -> Result<Option<(CollectionState, bool)>, Error> {
    let deadline = tokio::time::sleep(POLL_HOLD);
    tokio::pin!(deadline);
    loop {
        // Listen first: a result that comes between the look and the wait is heard.
        let ended = app.results.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        let state = look_at_collection(app, context, job)?;
        if !state.as_ref().is_some_and(|(state, _)| state.is_active()) {
            return Ok(state);
        }
        tokio::select! {
            () = ended => {}
            () = &mut deadline => return Ok(state),
            () = app.stopped() => return Ok(state),
        }
    }
}

/// Deletes a collection job. False if there is no such job.
pub async fn delete_collection(app: &App, context: &TaskContext, job: CollectionJobId) -> Result<bool, Error> {
    let task = context.task.public.id;
    let write = move |tx: &mut Tx<'_>| {
        let Some(request) = collect::delete(tx, &task, job)? else { return Ok(false) };
        ResourceKey::new(task, ResourceKind::CollectionJob, &request).invalidate(tx, job.as_bytes())?;
        Ok(true)
    };
    let deleted = app.store.write(Point::CollectionDelete, write).await?;
    app.collections.notify_one();
    app.results.notify_waiters();
    Ok(deleted)
}
