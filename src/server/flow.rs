//! How each interaction runs: which decisions of the aggregator, in the store's writer or on the pool, in what order.
//!
//! Nothing here knows the revision of a task. Work that must not be cut short when a peer hangs up is spawned.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::app::App;
use crate::{
    aggregator::{
        Error, TaskContext, collect, helper,
        upload::{self, Verdict},
    },
    model::{AggregationJobId, CollectionJobId, Duration, Fault, JobInit, Report, ReportError, Time},
    pool::Permit,
    store::{CollectionJobRecord, CollectionState, Tx},
    wire::{Malformed, Problem, ProblemType},
};

/// How long a poll of a collection job that goes on is held.
const POLL_HOLD: std::time::Duration = std::time::Duration::from_millis(500);

/// Runs work to its end even if whoever waits for it goes away.
async fn unhurried<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Fault::while_doing("running a request", error).into()))
}

/// Stores reports and says what becomes of each (DAP-09 section 4.4.2, DAP-18 section 4.4.2).
pub async fn upload(app: &Arc<App>, context: &TaskContext, reports: Vec<Report>) -> Result<Vec<Verdict>, Error> {
    let (now, task, shared) = (Time::now(), context.task.public.id, app.clone());
    let write = move |tx: &mut Tx<'_>| {
        let accepted = upload::accept(tx, now, &shared.config.limits, &shared.keys, &task, &reports)?;
        // Here and not below: the report is stored even if the client hangs up, and nobody comes by there then.
        if accepted.is_ok() {
            shared.jobs.notify_one();
        }
        Ok(accepted)
    };
    app.store.write(write).await?
}

/// Counts an upload that does not decode.
pub async fn malformed_upload(app: &App, context: &TaskContext, malformed: Malformed) -> Error {
    let task = context.task.public.id;
    match app.store.write(move |tx| upload::count_malformed(tx, &task)).await {
        Ok(()) => malformed.into(),
        Err(fault) => fault.into(),
    }
}

/// Answers an aggregation job (DAP-09 section 4.5.1.2).
pub async fn aggregation_job(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    job: AggregationJobId,
    body: Bytes,
) -> Result<Bytes, Error> {
    let permit = app.pool.try_admit().ok_or(Error::Busy)?;
    let (app, context) = (app.clone(), context.clone());
    unhurried(async move {
        // A repeat of a request that is being worked on waits here, and then finds the stored answer.
        let _lock = app.helper_jobs.lock((context.task.public.id, job)).await;
        let (hash, init) = read_job(&app, &context, &permit, body).await?;
        let request = helper::Request { task: context.task.public.id, job, hash, batch: init.batch, now: Time::now() };
        match reserve(&app, request, &init).await? {
            Ok(answer) => Ok(answer),
            Err(verdicts) => {
                let answered = answer_job(&app, &context, request, init, verdicts, permit).await;
                if answered.is_err() {
                    let release = move |tx: &mut Tx<'_>| {
                        helper::release(tx, &request.task, job);
                        Ok(())
                    };
                    app.store.write(release).await?;
                }
                answered
            }
        }
    })
    .await
}

/// Hashes and decodes a job's request on the pool: it may be many megabytes.
async fn read_job(
    app: &App,
    context: &Arc<TaskContext>,
    permit: &Permit,
    body: Bytes,
) -> Result<([u8; 32], JobInit), Error> {
    let (context, most) = (context.clone(), app.config.limits.max_job_reports);
    let read = move |body: Bytes| -> Result<([u8; 32], JobInit), Error> {
        let init = context.wire.decode_job_init(&context.task.public, &body, most)?;
        helper::check_request(&context.task, &init)?;
        Ok((Sha256::digest(&body).into(), init))
    };
    app.pool.run(permit, move || read(body)).await?
}

type Verdicts = Vec<Option<ReportError>>;

/// The stored answer to the job, or for each report whether it is reserved for the job now.
async fn reserve(app: &App, request: helper::Request, init: &JobInit) -> Result<Result<Bytes, Verdicts>, Error> {
    let skew = Duration(app.config.limits.clock_skew.as_secs());
    let reports: Vec<_> = init.inits.iter().map(|init| init.share.metadata).collect();
    let reserved = app.store.write(move |tx| helper::reserve(tx, &request, skew, &reports)).await?;
    let refuse = |problem: Problem| Err(problem.with_aggregation_job(request.job).into());
    match reserved {
        helper::Reserved::New(verdicts) => Ok(Err(verdicts)),
        helper::Reserved::Answered(answer) => Ok(Ok(answer)),
        helper::Reserved::Conflict => {
            refuse(Problem::about(409).with_detail("the aggregation job exists with another request"))
        }
        helper::Reserved::Deleted => refuse(Problem::about(410).with_detail("the aggregation job was deleted")),
        helper::Reserved::NoTask => refuse(Problem::new(ProblemType::UnrecognizedTask)),
    }
}

async fn answer_job(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    request: helper::Request,
    init: JobInit,
    verdicts: Verdicts,
    permit: Permit,
) -> Result<Bytes, Error> {
    let candidates: Vec<_> =
        init.inits.into_iter().zip(verdicts).map(|(init, refused)| helper::Candidate { init, refused }).collect();
    let (shared, keys) = (context.clone(), app.keys.clone());
    let prepare = move |part| helper::prepare(&shared, &keys, request.batch, part);
    let mut prepared = helper::Prepared::default();
    for part in app.pool.map_chunks(&permit, candidates, prepare).await? {
        prepared.append(context, part);
    }
    let shared = context.clone();
    let answer = app.store.write(move |tx| helper::commit(tx, &shared, &request, prepared)).await?;
    answer.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).into())
}

/// Deletes an aggregation job's answer (DAP-09 section 4.5.2.2). False if there is no such job.
pub async fn delete_aggregation_job(app: &App, context: &TaskContext, job: AggregationJobId) -> Result<bool, Error> {
    let task = context.task.public.id;
    Ok(app.store.write(move |tx| helper::delete(tx, &task, job)).await?)
}

/// Whether the helper knows an aggregation job.
pub fn has_aggregation_job(app: &App, context: &TaskContext, job: AggregationJobId) -> Result<bool, Error> {
    let task = context.task.public.id;
    Ok(app.store.read(|view| Ok(view.helper_job(&task, &job)?.is_some()))?)
}

/// Gives the helper's aggregate share of a batch (DAP-09 section 4.6.2).
pub async fn aggregate_share(app: &App, context: &Arc<TaskContext>, body: Bytes) -> Result<Bytes, Error> {
    let request = context.wire.decode_aggregate_share_req(&context.task.public, &body)?;
    collect::check_passed_on(&context.task, &request)?;
    let context = context.clone();
    Ok(app.store.write(move |tx| collect::helper_share(tx, &context, &body, &request)).await??)
}

/// Creates a collection job (DAP-09 section 4.6.1).
pub async fn create_collection(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    job: CollectionJobId,
    body: Bytes,
) -> Result<(), Error> {
    let request = context.wire.decode_collection_req(&context.task.public, &body)?;
    collect::check_request(&context.task, &request)?;
    let (now, context, shared) = (Time::now(), context.clone(), app.clone());
    let write = move |tx: &mut Tx<'_>| {
        let created = collect::create(tx, now, &context, &shared.config.leader, job, body, request.query)?;
        // As for an upload: the drivers learn of it whether or not the collector waits for the answer.
        shared.collections.notify_one();
        shared.jobs.notify_one();
        Ok(created)
    };
    Ok(app.store.write(write).await??)
}

/// How a collection job is, if there is one. One that goes on is given a moment to end: who polls then has the result
/// as soon as there is one.
pub async fn collection_state(
    app: &App,
    context: &TaskContext,
    job: CollectionJobId,
) -> Result<Option<CollectionState>, Error> {
    let task = context.task.public.id;
    let look = || -> Result<Option<CollectionState>, Fault> {
        let record = app.store.read(|view| view.collection(&task, &job))?;
        Ok(record.map(|CollectionJobRecord { state, .. }| state))
    };
    let deadline = tokio::time::sleep(POLL_HOLD);
    tokio::pin!(deadline);
    loop {
        // Listen first: a result that comes between the look and the wait is heard.
        let ended = app.results.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        let state = look()?;
        if !state.as_ref().is_some_and(CollectionState::is_active) {
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
    let deleted = app.store.write(move |tx| collect::delete(tx, &task, job)).await?;
    app.collections.notify_one();
    app.results.notify_waiters();
    Ok(deleted)
}
