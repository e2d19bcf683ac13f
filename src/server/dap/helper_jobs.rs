//! The aggregation jobs of a helper. A job is processed immediately, or its request is stored and processed by
//! [`deferred_jobs`](crate::dap::deferred_jobs).

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use sha2::{Digest, Sha256};

use crate::pool::Permit;
use crate::{dap::context::HelperContext, transport::memory::Lease, upkeep::supervise::run_to_completion};
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
use dapbox_support::{Fault, Point, fault::panic_text};

/// Detail of the problem for a repeated request whose response has expired.
pub const ANSWER_EXPIRED: &str = "the response to the aggregation job has expired";

/// When a job is processed.
#[derive(Clone, Copy, Debug)]
pub enum AnswerTiming {
    /// While the leader waits.
    Immediate,
    /// Later, if it has more reports than this.
    DeferAbove(usize),
}

/// A job and its response, if it exists yet.
pub type Created = (AggregationJobId, Option<Bytes>);

/// Creates an aggregation job, or finds the existing one (DAP-09 section 4.5.1.2, DAP-18 section 4.5.3.2).
pub async fn create(
    ctx: &Arc<HelperContext>,
    context: &Arc<TaskContext>,
    id_source: IdSource,
    body: Bytes,
    timing: AnswerTiming,
) -> Result<Created, Error> {
    let permit = ctx.pool.try_admit(&context.task.public.id).ok_or(Error::Busy)?;
    let (ctx, context) = (ctx.clone(), context.clone());
    run_to_completion(async move {
        let task = context.task.public.id;
        let most = ctx.config.get().limits.max_job_reports;
        let DecodedRequest { hash, init, memory } = read(&ctx, &context, &permit, body.clone(), most).await?;
        let room = if memory.fits(ctx.memory.bytes()) { Some(JobRoom::take(&ctx, memory).await) } else { None };
        let content = ResourceKey { task, kind: ResourceKind::AggregationJob, hash };
        let job_request = JobRequest {
            content,
            id_source,
            batch: init.batch,
            verify_key_id: init.verify_key_id,
            now: ctx.clock.now(),
        };
        // A repeated request waits for the first one and then finds the stored response.
        let _lock = ctx.job_locks.lock((task, AggregationJobId::new(content.lock_key(id_source)))).await;
        let Some(room) = room else { return refuse_too_large(&ctx, job_request, memory).await };
        match timing {
            AnswerTiming::DeferAbove(most) if init.prepare_inits.len() > most => defer(&ctx, job_request, body).await,
            _ => {
                let (request, reserved) = reserve(&ctx, job_request, metadata(&init)).await?;
                match reserved {
                    Reservation::New(verdicts) => {
                        // Admitted only once the job is known to be new: an existing response needs no disk space.
                        let admission = match ctx.disk.admit(body.len()) {
                            Ok(admission) => admission,
                            Err(problem) => {
                                release(&ctx, request).await?;
                                return Err(problem.into());
                            }
                        };
                        let answer = answer(&ctx, &context, request, init, verdicts, room, permit).await?;
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

/// A decoded request. The job id is derived in the write that creates the job.
#[derive(Clone, Copy)]
struct JobRequest {
    content: ResourceKey,
    id_source: IdSource,
    batch: PartialBatchSelector,
    verify_key_id: Option<u8>,
    now: Time,
}

impl JobRequest {
    fn request(&self, tx: &Tx<'_>) -> Result<Request, Fault> {
        let Self { content, id_source, batch, verify_key_id, now } = *self;
        let job = AggregationJobId::new(content.current_id(tx, id_source)?);
        Ok(Request { task: content.task, job, hash: content.hash, batch, verify_key_id, now })
    }
}

/// The decoded body of a request.
struct DecodedRequest {
    hash: [u8; 32],
    init: AggregationJobInitReq,
    memory: JobMemory,
}

/// Hashes and decodes a request on the pool, because it may have many megabytes.
async fn read(
    ctx: &HelperContext,
    context: &Arc<TaskContext>,
    permit: &Permit,
    body: Bytes,
    most: usize,
) -> Result<DecodedRequest, Error> {
    let context = context.clone();
    let read = move || -> Result<_, Error> {
        let init = context.wire.decode_job_init(&context.task.public, &body, most)?;
        helper::check_request(&context, &init)?;
        let memory = JobMemory::of(&context, &init);
        Ok(DecodedRequest { hash: Sha256::digest(&body).into(), init, memory })
    };
    ctx.pool.run(permit, read).await?
}

/// The memory of a job.
struct JobRoom {
    _lease: Lease,
    /// Number of reports that are prepared in one pass.
    per_pass: usize,
}

impl JobRoom {
    /// Waits for the memory of a job. Jobs that hold memory wait only for workers and the store, so that this cannot
    /// deadlock.
    async fn take(ctx: &HelperContext, memory: JobMemory) -> Self {
        let chunks = ctx.pool.window();
        let lease = ctx.memory.take(memory.preferred_bytes(chunks)).await;
        Self { per_pass: memory.reports_per_pass(lease.bytes(), chunks), _lease: lease }
    }
}

/// Rejects a new job that needs more memory than the budget, before its reports are reserved or prepared. An existing
/// job gets its response, because the budget may have been larger before.
async fn refuse_too_large(ctx: &HelperContext, job_request: JobRequest, memory: JobMemory) -> Result<Created, Error> {
    let looked_up = reserve(ctx, job_request, Vec::new()).await?;
    let (request, Reservation::New(_)) = looked_up else { return existing(looked_up.0.job, looked_up.1) };
    let detail = format!(
        "the aggregation job needs about {} bytes of memory and the helper has {} (helper.max_memory_bytes); send fewer \
         reports, or reports of fewer batch buckets, in one job",
        memory.min_bytes(),
        ctx.memory.bytes()
    );
    tracing::warn!(task_id = %request.task, detail, "oversized aggregation job rejected");
    Err(Problem::from_status(413).with_detail(detail).with_task(request.task).into())
}

/// Stores the request for later processing.
async fn defer(ctx: &Arc<HelperContext>, job_request: JobRequest, body: Bytes) -> Result<Created, Error> {
    let wakeups = ctx.wakeups.clone();
    let admission = ctx.disk.admit(body.len());
    let most = if admission.is_ok() { ctx.config.get().helper.max_deferred_jobs } else { 0 };
    let write = move |tx: &mut Tx<'_>| {
        let request = job_request.request(tx)?;
        let deferred = helper::defer(tx, &request, &body, most)?;
        // Within the write, because the request is stored even if the leader disconnects.
        wakeups.deferred.notify_one();
        Ok((request.job, deferred))
    };
    match ctx.store.write(Point::HelperDefer, write).await? {
        (job, Deferral::Stored) => Ok((job, None)),
        (_, Deferral::TooMany) => Err(admission.err().map_or(Error::Busy, Error::from)),
        (job, Deferral::Not(known)) => existing(job, known),
    }
}

/// Returns the stored response, or reserves the reports for the job and returns the verdict on each.
async fn reserve(
    ctx: &HelperContext,
    job_request: JobRequest,
    reports: Vec<ReportMetadata>,
) -> Result<(Request, Reservation), Error> {
    let bounds = Bounds::of(&ctx.config.get().limits);
    let write = move |tx: &mut Tx<'_>| {
        let request = job_request.request(tx)?;
        Ok((request, helper::reserve(tx, &request, bounds, &reports)?))
    };
    Ok(ctx.store.write(Point::HelperReserve, write).await?)
}

fn metadata(init: &AggregationJobInitReq) -> Vec<ReportMetadata> {
    init.prepare_inits.iter().map(|init| init.share.metadata).collect()
}

/// The outcome for a job that already exists.
fn existing(job: AggregationJobId, known: Reservation) -> Result<Created, Error> {
    let refuse = |problem: Problem| Err(problem.with_aggregation_job(job).into());
    match known {
        Reservation::Existing(JobState::Answered(answer)) => Ok((job, Some(answer))),
        Reservation::Existing(JobState::Pending) => Ok((job, None)),
        Reservation::Existing(JobState::Deleted) => {
            refuse(Problem::from_status(410).with_detail("the aggregation job was deleted"))
        }
        Reservation::Existing(JobState::Expired) => refuse(Problem::from_status(410).with_detail(ANSWER_EXPIRED)),
        Reservation::Conflict => {
            refuse(Problem::from_status(409).with_detail("the aggregation job exists with another request"))
        }
        Reservation::NoTask | Reservation::New(_) => refuse(Problem::new(ProblemType::UnrecognizedTask)),
    }
}

/// Processes a job whose reports are reserved, and stores its response. Releases the reservations on failure.
async fn answer(
    ctx: &Arc<HelperContext>,
    context: &Arc<TaskContext>,
    request: Request,
    init: AggregationJobInitReq,
    verdicts: Vec<Option<ReportError>>,
    room: JobRoom,
    permit: Permit,
) -> Result<Bytes, Error> {
    let with_verdicts = init.prepare_inits.into_iter().zip(verdicts);
    let candidates: Vec<_> = with_verdicts.map(|(init, refused)| helper::CandidateReport { init, refused }).collect();
    let prepared = AssertUnwindSafe(prepare(ctx, context, request, candidates, room, permit)).catch_unwind().await;
    let answered = prepared.unwrap_or_else(|panic| {
        Err(Fault::new(format!("processing an aggregation job panicked: {}", panic_text(&*panic))).into())
    });
    if answered.is_err() {
        release(ctx, request).await?;
    }
    answered
}

/// Releases the reservations of a job.
async fn release(ctx: &HelperContext, request: Request) -> Result<(), Error> {
    let write = move |tx: &mut Tx<'_>| {
        helper::release(tx, &request.task, request.job);
        Ok(())
    };
    Ok(ctx.store.write(Point::HelperRelease, write).await?)
}

async fn prepare(
    ctx: &Arc<HelperContext>,
    context: &Arc<TaskContext>,
    request: Request,
    mut candidates: Vec<helper::CandidateReport>,
    room: JobRoom,
    permit: Permit,
) -> Result<Bytes, Error> {
    let (shared, keys) = (context.clone(), ctx.keys.ring());
    let prepare = Arc::new(move |part: Vec<helper::CandidateReport>| helper::prepare(&shared, &keys, &request, part));
    let mut prepared = helper::PreparedJob::default();
    while !candidates.is_empty() {
        let later = candidates.split_off(room.per_pass.min(candidates.len()));
        let (part, work) = (std::mem::replace(&mut candidates, later), prepare.clone());
        ctx.pool.map_chunks(&permit, part, move |part| work(part), |part| prepared.append(context, part)).await?;
    }
    let (shared, bounds) = (context.clone(), Bounds::of(&ctx.config.get().limits));
    let commit = move |tx: &mut Tx<'_>| helper::commit(tx, &shared, &request, bounds, prepared);
    let answer = ctx.store.write(Point::HelperCommit, commit).await?;
    answer.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).into())
}

/// Processes a deferred job, unless it was deleted.
pub async fn resume(ctx: &Arc<HelperContext>, task: TaskId, job: AggregationJobId) -> Result<(), Error> {
    let permit = ctx.pool.admit(&task).await;
    let Some(context) = ctx.tasks.get(&task)? else { return Ok(()) };
    let Some(body) = ctx.store.read(|view| view.helper_request(&task, &job))? else { return Ok(()) };
    // The number of reports was checked when the request was accepted.
    let DecodedRequest { hash, init, memory } = read(ctx, &context, &permit, body, usize::MAX).await?;
    // An accepted job is processed even if the budget has become smaller.
    let room = JobRoom::take(ctx, memory).await;
    let (batch, verify_key_id) = (init.batch, init.verify_key_id);
    let request = Request { task, job, hash, batch, verify_key_id, now: ctx.clock.now() };
    let (bounds, reports) = (Bounds::of(&ctx.config.get().limits), metadata(&init));
    let resume = move |tx: &mut Tx<'_>| {
        // Reservations of an interrupted attempt.
        helper::release(tx, &request.task, request.job);
        helper::resume(tx, &request, bounds, &reports)
    };
    match ctx.store.write(Point::HelperResume, resume).await? {
        Reservation::New(verdicts) => answer(ctx, &context, request, init, verdicts, room, permit).await.map(drop),
        _ => Ok(()),
    }
}

/// Reads the state of an aggregation job.
pub fn state(ctx: &HelperContext, context: &TaskContext, job: AggregationJobId) -> Result<Option<JobState>, Error> {
    let task = context.task.public.id;
    Ok(ctx.store.read(|view| Ok(view.helper_job(&task, &job)?.map(JobState::from)))?)
}

/// Deletes an aggregation job (DAP-09 section 4.5.2.2, DAP-18 section 4.5.5). Returns `false` if it does not exist.
pub async fn delete(ctx: &HelperContext, context: &TaskContext, job: AggregationJobId) -> Result<bool, Error> {
    let task = context.task.public.id;
    let write = move |tx: &mut Tx<'_>| {
        let Some(hash) = helper::delete(tx, &task, job)? else { return Ok(false) };
        ResourceKey { task, kind: ResourceKind::AggregationJob, hash }.invalidate(tx, job.as_bytes())?;
        Ok(true)
    };
    Ok(ctx.store.write(Point::HelperDelete, write).await?)
}
