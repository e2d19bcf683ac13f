//! The helper's aggregation jobs: which decisions of the aggregator, in the store's writer or on the pool, in what
//! order. A job is answered at once, or its request is stored and answered when there is time
//! ([`drive_deferred`](crate::dap::drive_deferred)).

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use sha2::{Digest, Sha256};

use crate::pool::Permit;
use crate::{app::App, dap::flow::unhurried, transport::memory::Lease};
use dapbox_aggregator::{
    Error, TaskContext,
    helper::{self, Bounds, Deferral, JobMemory, JobState, Request, Reservation},
    resource_id::{IdSource, ResourceKey},
};
use dapbox_protocol::{
    model::{AggregationJobId, AggregationJobInitReq, PartialBatchSelector, ReportError, ReportMetadata, TaskId, Time},
    wire::{Problem, ProblemType, ResourceKind},
};
use dapbox_store::Tx;
use dapbox_support::{Fault, Point, clock, fault::panic_text};

/// What a leader is told that comes back too late.
pub const FORGOTTEN: &str = "the aggregation job was answered long ago; its answer is not kept";

/// When jobs are answered.
#[derive(Clone, Copy, Debug)]
pub enum Timing {
    /// While the leader waits.
    AtOnce,
    /// Those of more reports than this later.
    LaterAbove(usize),
}

/// A job and its answer, if there is one yet.
pub type Created = (AggregationJobId, Option<Bytes>);

/// Makes an aggregation job, or finds it (DAP-09 section 4.5.1.2, DAP-18 section 4.5.3.2).
pub async fn create(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    id_source: IdSource,
    body: Bytes,
    timing: Timing,
) -> Result<Created, Error> {
    let permit = app.pool.try_admit(&context.task.public.id).ok_or(Error::Busy)?;
    let (app, context) = (app.clone(), context.clone());
    unhurried(async move {
        let task = context.task.public.id;
        let most = app.config.limits.max_job_reports;
        let Read { hash, init, memory } = read(&app, &context, &permit, body.clone(), most).await?;
        let room = if memory.fits(app.helper_memory.bytes()) { Some(Room::take(&app, memory).await) } else { None };
        let content = ResourceKey { task, kind: ResourceKind::AggregationJob, hash };
        let arrival = Arrival { content, id_source, batch: init.batch, now: clock::now() };
        // A repeat of a request that is being worked on waits here, and then finds the stored answer.
        let _lock = app.helper_jobs.lock((task, AggregationJobId::new(content.lock_key(id_source)))).await;
        let Some(room) = room else { return refuse_too_large(&app, arrival, memory).await };
        match timing {
            Timing::LaterAbove(most) if init.prepare_inits.len() > most => defer(&app, arrival, body).await,
            _ => {
                let (request, reserved) = reserve(&app, arrival, metadata(&init)).await?;
                match reserved {
                    Reservation::New(verdicts) => {
                        // Not before it is clear that the job is new: the answer that there is already takes no room.
                        let admission = match app.disk.admit(body.len()) {
                            Ok(admission) => admission,
                            Err(problem) => {
                                release(&app, request).await?;
                                return Err(problem.into());
                            }
                        };
                        let answer = answer(&app, &context, request, init, verdicts, room, permit).await?;
                        drop(admission);
                        Ok((request.job, Some(answer)))
                    }
                    known => existing(request.job, known),
                }
            }
        }
    })
    .await
}

/// A request as it came: what its job is called is decided in the write that makes the job.
#[derive(Clone, Copy)]
struct Arrival {
    content: ResourceKey,
    id_source: IdSource,
    batch: PartialBatchSelector,
    now: Time,
}

impl Arrival {
    fn request(&self, tx: &Tx<'_>) -> Result<Request, Fault> {
        let Self { content, id_source, batch, now } = *self;
        let job = AggregationJobId::new(content.current_id(tx, id_source)?);
        Ok(Request { task: content.task, job, hash: content.hash, batch, now })
    }
}

/// A request for a job, taken apart.
struct Read {
    hash: [u8; 32],
    init: AggregationJobInitReq,
    memory: JobMemory,
}

/// Hashes and decodes a job's request on the pool: it may be many megabytes.
async fn read(app: &App, context: &Arc<TaskContext>, permit: &Permit, body: Bytes, most: usize) -> Result<Read, Error> {
    let context = context.clone();
    let read = move || -> Result<_, Error> {
        let init = context.wire.decode_job_init(&context.task.public, &body, most)?;
        helper::check_request(&context.task, &init)?;
        let memory = JobMemory::of(&context, &init);
        Ok(Read { hash: Sha256::digest(&body).into(), init, memory })
    };
    app.pool.run(permit, read).await?
}

/// The memory of a job.
struct Room {
    _lease: Lease,
    /// How many of its reports are prepared in one pass.
    per_pass: usize,
}

impl Room {
    /// Waits for the memory that a job takes. Those who have theirs wait for nothing that we hold: for workers and the store
    /// alone.
    async fn take(app: &App, memory: JobMemory) -> Self {
        let chunks = app.pool.window();
        let lease = app.helper_memory.take(memory.preferred_bytes(chunks)).await;
        Self { per_pass: memory.reports_per_pass(lease.bytes(), chunks), _lease: lease }
    }
}

/// Refuses a new job that needs more memory than there is, before anything of it is reserved or prepared. A job that was
/// answered before gets its answer: the budget may have been larger then.
async fn refuse_too_large(app: &App, arrival: Arrival, memory: JobMemory) -> Result<Created, Error> {
    let looked_up = reserve(app, arrival, Vec::new()).await?;
    let (request, Reservation::New(_)) = looked_up else { return existing(looked_up.0.job, looked_up.1) };
    let detail = format!(
        "the aggregation job needs about {} bytes of memory and the helper has {} (helper.max_memory_bytes); send fewer \
         reports, or reports of fewer batch buckets, in one job",
        memory.min_bytes(),
        app.helper_memory.bytes()
    );
    tracing::warn!(task_id = %request.task, detail, "oversized aggregation job rejected");
    Err(Problem::from_status(413).with_detail(detail).with_task(request.task).into())
}

/// Stores the request, to be answered later.
async fn defer(app: &Arc<App>, arrival: Arrival, body: Bytes) -> Result<Created, Error> {
    let shared = app.clone();
    let admission = app.disk.admit(body.len());
    let most = if admission.is_ok() { app.config.helper.max_deferred_jobs } else { 0 };
    let write = move |tx: &mut Tx<'_>| {
        let request = arrival.request(tx)?;
        let deferred = helper::defer(tx, &request, &body, most)?;
        // Here and not below: the request is stored even if the leader hangs up, and nobody comes by there then.
        shared.deferred.notify_one();
        Ok((request.job, deferred))
    };
    match app.store.write(Point::HelperDefer, write).await? {
        (job, Deferral::Stored) => Ok((job, None)),
        (_, Deferral::TooMany) => Err(admission.err().map_or(Error::Busy, Error::from)),
        (job, Deferral::Not(known)) => existing(job, known),
    }
}

/// The job's stored answer, or for each report whether it is reserved for the job now.
async fn reserve(app: &App, arrival: Arrival, reports: Vec<ReportMetadata>) -> Result<(Request, Reservation), Error> {
    let bounds = Bounds::of(&app.config.limits);
    let write = move |tx: &mut Tx<'_>| {
        let request = arrival.request(tx)?;
        Ok((request, helper::reserve(tx, &request, bounds, &reports)?))
    };
    Ok(app.store.write(Point::HelperReserve, write).await?)
}

fn metadata(init: &AggregationJobInitReq) -> Vec<ReportMetadata> {
    init.prepare_inits.iter().map(|init| init.share.metadata).collect()
}

/// What the leader is told of a job that there was before.
fn existing(job: AggregationJobId, known: Reservation) -> Result<Created, Error> {
    let refuse = |problem: Problem| Err(problem.with_aggregation_job(job).into());
    match known {
        Reservation::Existing(JobState::Answered(answer)) => Ok((job, Some(answer))),
        Reservation::Existing(JobState::Pending) => Ok((job, None)),
        Reservation::Existing(JobState::Deleted) => {
            refuse(Problem::from_status(410).with_detail("the aggregation job was deleted"))
        }
        Reservation::Existing(JobState::Expired) => refuse(Problem::from_status(410).with_detail(FORGOTTEN)),
        Reservation::Conflict => {
            refuse(Problem::from_status(409).with_detail("the aggregation job exists with another request"))
        }
        Reservation::NoTask | Reservation::New(_) => refuse(Problem::new(ProblemType::UnrecognizedTask)),
    }
}

/// Works on a job whose reports are reserved, and stores its answer. Gives the reservations up if that fails.
async fn answer(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    request: Request,
    init: AggregationJobInitReq,
    verdicts: Vec<Option<ReportError>>,
    room: Room,
    permit: Permit,
) -> Result<Bytes, Error> {
    let candidates: Vec<_> = init
        .prepare_inits
        .into_iter()
        .zip(verdicts)
        .map(|(init, refused)| helper::CandidateReport { init, refused })
        .collect();
    let prepared = AssertUnwindSafe(prepare(app, context, request, candidates, room, permit)).catch_unwind().await;
    let answered = prepared.unwrap_or_else(|panic| {
        Err(Fault::new(format!("answering an aggregation job panicked: {}", panic_text(&*panic))).into())
    });
    if answered.is_err() {
        release(app, request).await?;
    }
    answered
}

/// Gives up a job's reservations.
async fn release(app: &App, request: Request) -> Result<(), Error> {
    let write = move |tx: &mut Tx<'_>| {
        helper::release(tx, &request.task, request.job);
        Ok(())
    };
    Ok(app.store.write(Point::HelperRelease, write).await?)
}

async fn prepare(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    request: Request,
    mut candidates: Vec<helper::CandidateReport>,
    room: Room,
    permit: Permit,
) -> Result<Bytes, Error> {
    let (shared, keys) = (context.clone(), app.keys.ring());
    let prepare =
        Arc::new(move |part: Vec<helper::CandidateReport>| helper::prepare(&shared, &keys, request.batch, part));
    let mut prepared = helper::PreparedJob::default();
    while !candidates.is_empty() {
        let later = candidates.split_off(room.per_pass.min(candidates.len()));
        let (part, work) = (std::mem::replace(&mut candidates, later), prepare.clone());
        app.pool.map_chunks(&permit, part, move |part| work(part), |part| prepared.append(context, part)).await?;
    }
    let (shared, bounds) = (context.clone(), Bounds::of(&app.config.limits));
    let commit = move |tx: &mut Tx<'_>| helper::commit(tx, &shared, &request, bounds, prepared);
    let answer = app.store.write(Point::HelperCommit, commit).await?;
    answer.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).into())
}

/// Answers a job whose request was stored, unless it was deleted meanwhile.
pub async fn resume(app: &Arc<App>, task: TaskId, job: AggregationJobId) -> Result<(), Error> {
    let permit = app.pool.admit(&task).await;
    let Some(context) = app.context(&task)? else { return Ok(()) };
    let Some(body) = app.store.read(|view| view.helper_request(&task, &job))? else { return Ok(()) };
    // How many reports it may have was decided when it was accepted.
    let Read { hash, init, memory } = read(app, &context, &permit, body, usize::MAX).await?;
    // One that was accepted is answered, even if there is less memory since.
    let room = Room::take(app, memory).await;
    let request = Request { task, job, hash, batch: init.batch, now: clock::now() };
    let (bounds, reports) = (Bounds::of(&app.config.limits), metadata(&init));
    let resume = move |tx: &mut Tx<'_>| {
        // What an attempt has reserved that was cut short.
        helper::release(tx, &request.task, request.job);
        helper::resume(tx, &request, bounds, &reports)
    };
    match app.store.write(Point::HelperResume, resume).await? {
        Reservation::New(verdicts) => answer(app, &context, request, init, verdicts, room, permit).await.map(drop),
        _ => Ok(()),
    }
}

/// How an aggregation job is, if there is one.
pub fn state(app: &App, context: &TaskContext, job: AggregationJobId) -> Result<Option<JobState>, Error> {
    let task = context.task.public.id;
    Ok(app.store.read(|view| Ok(view.helper_job(&task, &job)?.map(JobState::from)))?)
}

/// Deletes an aggregation job (DAP-09 section 4.5.2.2, DAP-18 section 4.5.5). False if there is no such job.
pub async fn delete(app: &App, context: &TaskContext, job: AggregationJobId) -> Result<bool, Error> {
    let task = context.task.public.id;
    let write = move |tx: &mut Tx<'_>| {
        let Some(hash) = helper::delete(tx, &task, job)? else { return Ok(false) };
        ResourceKey { task, kind: ResourceKind::AggregationJob, hash }.invalidate(tx, job.as_bytes())?;
        Ok(true)
    };
    Ok(app.store.write(Point::HelperDelete, write).await?)
}
