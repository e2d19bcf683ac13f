//! One aggregation job of the leader, from its reports to their sums.
//!
//! Prepared reports are large: for long vectors, as large as the reports. A job therefore reserves its
//! [memory](crate::transport::memory) first, loads its reports in parts, and returns the memory while it waits for
//! long. It then prepares the reports again, which yields the same request.
//!
//! # Decision: a job is dissolved only if the helper cannot have processed it
//!
//! The leader dissolves a job if its request is refused permanently (413, `invalidMessage`, `invalidAggregationParameter` or
//! `unsupportedExtension`), the server has not restarted since the first attempt, and every earlier attempt failed to connect
//! or was refused with a status that proves that nothing was processed, such as 429, or 503 with `Retry-After`. In all
//! other cases it repeats the same request with growing delays, and shows the error in the status of the task.
//!
//! # Decision: a job is deleted at the helper before its reports are retried
//!
//! Reports that were too early for the helper's clock, or whose verification key it did not have, may form a later job that
//! is identical to the byte. A helper that derives job ids from the content would return the old response. The leader
//! therefore deletes the job at the helper first.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration as StdDuration};

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::{
    leader::{
        context::LeaderContext,
        request_loop::{Attempt, HelperRequest, Outcome, RequestLoop},
    },
    pool::Permit,
    shared::peer_transport::PeerRequest,
    transport::memory::JobLease,
};
use dapbox_aggregator::{
    TaskContext,
    leader::{self, EarlyRetry, RejectedAfterContinue, SealOutcome, StartedJob},
};
use dapbox_protocol::{
    model::{
        AggregationJobId, Duration, PartialBatchSelector, PrepareOutcome, PrepareResp, Report, ReportError, Secret,
        TaskId, Time,
    },
    wire::{Problem, ProblemType, ResourceKind},
};
use dapbox_store::{LeaderJobRecord, ReportEntry, ReportRef, Tx};
use dapbox_support::{Fault, Point, timestamp};

/// Delay of reports that are too early for the helper's clock or whose job was refused, unless `leader.retry_max` is
/// shorter.
const EARLY_RETRY_DELAY: std::time::Duration = std::time::Duration::from_secs(10);

fn retry_at(ctx: &LeaderContext) -> Time {
    let pause = EARLY_RETRY_DELAY.min(*ctx.config.get().leader.retry_max);
    ctx.clock.now().saturating_add(Duration(pause.as_secs().max(1)))
}

/// Approximate size of a part of sealed reports, in bytes: enough to keep all workers busy, and a whole job of short
/// reports.
const LOAD_BYTES: usize = 1 << 20;

/// Maximum size of loaded reports: the part being processed, the next one, and one additional report for each.
const LOADED_BYTES: usize = 4 * LOAD_BYTES;

/// Number and maximum length of delays during which prepared reports are kept. A brief retry need not prepare them
/// again; after that, other jobs may claim the memory.
const HOLD_PREPARED: (u32, StdDuration) = (3, StdDuration::from_secs(2));

/// Maximum length of a response to a job without reports, and the increment per report. Prio3 messages have a few dozen
/// bytes.
const ANSWER_BYTES: [usize; 2] = [64 << 10, 512];

/// A job that is ready to be sent.
struct Prepared {
    started: StartedJob,
    request: Bytes,
    batch: PartialBatchSelector,
    /// Whether the request was sent before this start of the server.
    was_sent: bool,
    /// The id of the verification key.
    verify_key_id: u8,
    /// The memory of the prepared reports.
    lease: JobLease,
}

/// Processes one job until it is finished.
pub async fn run(ctx: Arc<LeaderContext>, task: TaskId, id: AggregationJobId) -> Result<(), Fault> {
    let Some(context) = ctx.tasks.get(&task)? else { return Ok(()) };
    let Some(prepared) = prepare(&ctx, &context, id, false).await? else { return Ok(()) };
    let (reports, verify_key_id) = (prepared.started.entries(), prepared.verify_key_id);
    let (outcome, prepared) = exchange(&ctx, &context, id, &reports, prepared).await?;
    // The location of a job that the helper need not keep.
    let leftover = match outcome {
        JobOutcome::Answered { resps, location } => {
            let try_again = resps.iter().any(|resp| leader::is_retried(&resp.outcome));
            let error = without_key(&context, verify_key_id, &resps);
            let Some(prepared) = prepare_again(&ctx, &context, id, prepared).await? else { return Ok(()) };
            finish(&ctx, &context, id, prepared, resps).await?;
            ctx.tasks.set_error(&task, error);
            // A later job of the same reports may be identical to the byte. A helper that derives job ids from the
            // content (DAP-18 section 3.2) would otherwise return the old response.
            location.filter(|_| try_again)
        }
        JobOutcome::Refused { why, too_long, location } => {
            drop(prepared);
            if too_long {
                ctx.tasks.lower_job_cap(&task, reports.len());
            }
            ctx.tasks.set_error(&task, Some(format!("the helper refused an aggregation job: {why}")));
            tracing::warn!(task_id = %task, job_id = %id, error = why, "aggregation job refused by helper");
            let retry_at = retry_at(&ctx);
            ctx.store
                .write(Point::LeaderDissolve, move |tx| leader::dissolve(tx, &task, id, &reports, retry_at))
                .await?;
            location
        }
        JobOutcome::ProtocolViolation { why, location } => {
            drop(prepared);
            tracing::error!(task_id = %task, job_id = %id, error = why, "aggregation job abandoned");
            ctx.store.write(Point::LeaderAbandon, move |tx| leader::abandon(tx, &task, id, &reports)).await?;
            location
        }
        JobOutcome::Stopped => return Ok(()),
    };
    // Deleted only after the job cannot be sent again, because the helper must know it until then.
    if let Some(location) = leftover {
        delete_at_helper(&ctx, &context, &location).await;
    }
    ctx.wakeups.jobs.notify_one();
    ctx.wakeups.collections.notify_one();
    Ok(())
}

/// Prepares the reports of a job and seals its request. Returns `None` if the job has ended or the server stops.
async fn prepare(
    ctx: &Arc<LeaderContext>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    prepare_again: bool,
) -> Result<Option<Prepared>, Fault> {
    let task = context.task.public.id;
    let Some(FoundJob { job, buckets, verify_key: (verify_key_id, verify_key) }) = find(ctx, &task, &id)? else {
        return Ok(None);
    };
    let needed = leader::report_bytes(context) * job.reports.len();
    let fitting = if job.was_sent() { needed } else { needed.min(job_bytes(ctx)) };
    // The sums replace the prepared reports at the end.
    let held = fitting.max(leader::sums_bytes(context, buckets));
    let mut lease = tokio::select! {
        lease = ctx.memory.take(held.max(fitting + LOADED_BYTES), prepare_again) => lease,
        () = ctx.stop.stopped() => return Ok(None),
    };
    let permit = ctx.pool.admit(&context.task.public.id).await;
    let (batch, was_sent) = (job.batch, job.was_sent());
    // A request that was sent must be rebuilt completely.
    let most = if was_sent { usize::MAX } else { fitting };
    let started = start(ctx, context, &permit, id, (job, verify_key), most).await?;
    lease.shrink(held);
    let shared = context.clone();
    let take_request = move |mut started: StartedJob| {
        let (request, hash) = started.take_request(&shared, batch, verify_key_id);
        (started, request, hash)
    };
    let (started, request, hash) = ctx.pool.run(&permit, move || take_request(started)).await?;
    drop(permit);
    let (started, sealed) = ctx
        .store
        .write(Point::LeaderSeal, move |tx| {
            let sealed = leader::seal(tx, &task, id, &started, hash)?;
            Ok((started, sealed))
        })
        .await?;
    match sealed {
        SealOutcome::Send => return Ok(Some(Prepared { started, request, batch, was_sent, verify_key_id, lease })),
        SealOutcome::Empty => {
            ctx.wakeups.jobs.notify_one();
            ctx.wakeups.collections.notify_one();
        }
        SealOutcome::Gone => {}
        SealOutcome::Differs => {
            let text =
                format!("aggregation job {id} differs from the sealed request and is not sent; please report this bug");
            tracing::error!(task_id = %task, job_id = %id, "aggregation job changed");
            ctx.tasks.set_error(&task, Some(text));
        }
    }
    Ok(None)
}

/// Returns the prepared reports, or prepares them again.
async fn prepare_again(
    ctx: &Arc<LeaderContext>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    prepared: Option<Prepared>,
) -> Result<Option<Prepared>, Fault> {
    match prepared {
        Some(prepared) => Ok(Some(prepared)),
        None => prepare(ctx, context, id, true).await,
    }
}

/// A job, its number of batch buckets, and its verification key with the id.
struct FoundJob {
    job: LeaderJobRecord,
    buckets: usize,
    verify_key: (u8, Secret),
}

/// Finds a job.
fn find(ctx: &LeaderContext, task: &TaskId, id: &AggregationJobId) -> Result<Option<FoundJob>, Fault> {
    ctx.store.read(|view| {
        Ok(view.task(task).and_then(|state| {
            let job = state.leader_jobs.get(id)?;
            let (buckets, verify_key) = (leader::bucket_count(state, job), leader::verify_key(state, job)?);
            Some(FoundJob { job: job.clone(), buckets, verify_key })
        }))
    })
}

/// Maximum memory for the prepared reports of a new job, in bytes.
pub fn job_bytes(ctx: &LeaderContext) -> usize {
    let share = ctx.memory.share();
    share - LOADED_BYTES.min(share / 2)
}

/// Maximum number of batch buckets of a new job. Their sums fit into our memory at the commit, and into the memory of a
/// helper with the same configuration.
pub fn max_buckets(ctx: &LeaderContext, context: &TaskContext) -> usize {
    leader::buckets_within(context, job_bytes(ctx).min(ctx.helper_memory_bytes / 2))
}

/// Loads, opens and prepares the reports of a job, until they take about `most` bytes.
async fn start(
    ctx: &Arc<LeaderContext>,
    context: &Arc<TaskContext>,
    permit: &Permit,
    id: AggregationJobId,
    (job, verify_key): (LeaderJobRecord, Secret),
    most: usize,
) -> Result<StartedJob, Fault> {
    // A request that the helper may have seen is rebuilt with the keys that were used then.
    let keys = if job.was_sent() { ctx.keys.ring_for_repeats() } else { ctx.keys.ring() };
    let (task, reports) = (context.task.public.id, Arc::new(job.reports));
    let mut started = StartedJob::default();
    let mut from = 0;
    let mut loading = load(ctx, task, id, &reports, from);
    while let Some(part) = loading.await.unwrap_or_else(|error| Err(Fault::while_doing("loading reports", error)))? {
        from += part.len();
        // Loads the next part while this one is processed.
        loading = load(ctx, task, id, &reports, from);
        let (shared, keys, verify_key) = (context.clone(), keys.clone(), verify_key.clone());
        let append = |part| started.append(part);
        let work = move |part| leader::start(&shared, &keys, &verify_key, part);
        ctx.pool.map_chunks(permit, part, work, append).await?;
        if started.bytes >= most {
            started.left = reports[from..].to_vec();
            break;
        }
    }
    Ok(started)
}

/// A part of the reports of a job.
type Part = Vec<(ReportRef, Report)>;

/// Loads the next reports of a job. Returns `None` at the end, or if the job was removed.
///
/// Reads block while the store commits, and therefore run on a blocking thread.
fn load(
    ctx: &Arc<LeaderContext>,
    task: TaskId,
    id: AggregationJobId,
    reports: &Arc<Vec<ReportRef>>,
    from: usize,
) -> JoinHandle<Result<Option<Part>, Fault>> {
    let (ctx, reports) = (ctx.clone(), reports.clone());
    tokio::task::spawn_blocking(move || {
        let places = &reports[from..];
        ctx.store.read(|view| {
            // The reports exist as long as the job does.
            let has_job = view.task(&task).is_some_and(|state| state.leader_jobs.contains_key(&id));
            if !has_job || places.is_empty() {
                return Ok(None);
            }
            let loaded = view.load_some_reports(&task, places, LOAD_BYTES)?;
            Ok(Some(places.iter().copied().zip(loaded).collect()))
        })
    })
}

/// The outcome of the exchange with the helper.
enum JobOutcome {
    /// The helper has answered the job.
    Answered {
        /// The result for each report.
        resps: Vec<PrepareResp>,
        /// The path of the job at the helper.
        location: Option<String>,
    },
    /// The helper has certainly not processed the job.
    Refused {
        /// The helper's problem.
        why: String,
        /// Whether a shorter job may be accepted.
        too_long: bool,
        /// The path of the job at the helper.
        location: Option<String>,
    },
    /// The response is not valid for this job.
    ProtocolViolation {
        /// The violation.
        why: String,
        /// The path of the job at the helper.
        location: Option<String>,
    },
    /// The server stops. The job continues after the next start.
    Stopped,
}

/// Sends the request until the helper has answered it. Also returns the prepared reports, if they were kept.
async fn exchange(
    ctx: &Arc<LeaderContext>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    asked: &[ReportEntry],
    prepared: Prepared,
) -> Result<(JobOutcome, Option<Prepared>), Fault> {
    let helper_request = HelperRequest {
        kind: ResourceKind::AggregationJob,
        what: "an aggregation job",
        points: [Point::SendJob, Point::PollJob],
        id: id.as_bytes(),
        max_answer: ANSWER_BYTES[0] + ANSWER_BYTES[1] * asked.len(),
        may_be_taken: prepared.was_sent,
        proves_untaken,
        is_final: |problem, may_be_taken| !may_be_taken && is_refused_for_good(problem),
    };
    // A response with too many reports is decoded, so that the violation is reported.
    let most = ctx.config.get().limits.max_job_reports.max(asked.len());
    let read = |body: &Bytes| context.wire.decode_job_resp(body, most);
    let mut request_loop = RequestLoop::new(ctx, context, helper_request);
    let mut held = Some(prepared);
    for tries in 1.. {
        if held.is_none() && request_loop.will_send() {
            held = prepare(ctx, context, id, true).await?;
            if held.is_none() {
                break;
            }
        }
        let request = held.as_ref().map_or_else(Bytes::new, |prepared| prepared.request.clone());
        match request_loop.attempt(&request, read).await {
            Attempt::Ended(end) => return Ok((outcome(asked, end), held)),
            Attempt::Pause(pause) => {
                let is_early = tries <= HOLD_PREPARED.0 && pause <= HOLD_PREPARED.1;
                if rest(ctx, &request_loop, pause, is_early, &mut held).await.is_break() {
                    break;
                }
            }
        }
    }
    Ok((JobOutcome::Stopped, held))
}

/// Waits for `pause`. Drops the prepared reports if another job wants the memory, unless it is too early.
async fn rest(
    ctx: &LeaderContext,
    request_loop: &RequestLoop<'_>,
    pause: StdDuration,
    is_early: bool,
    held: &mut Option<Prepared>,
) -> ControlFlow<()> {
    let pausing = request_loop.wait(pause);
    tokio::pin!(pausing);
    tokio::select! {
        flow = &mut pausing => return flow,
        () = ctx.memory.wanted(), if !is_early => *held = None,
    }
    pausing.await
}

fn outcome(asked: &[ReportEntry], end: Outcome<Vec<PrepareResp>>) -> JobOutcome {
    match end {
        Outcome::Answered { message, location } => match leader::check_answer(asked, &message) {
            Ok(()) => JobOutcome::Answered { resps: message, location },
            Err(violation) => JobOutcome::ProtocolViolation { why: violation.to_string(), location },
        },
        Outcome::Refused { problem, location } => {
            JobOutcome::Refused { why: problem.to_string(), too_long: problem.status == 413, location }
        }
        Outcome::Stopped => JobOutcome::Stopped,
    }
}

/// Whether a refusal proves that the helper processed nothing of this request and will refuse it again. The reports may
/// then be retried in another job, unless an earlier request may have been processed.
fn is_refused_for_good(problem: &Problem) -> bool {
    problem.status == 413
        || matches!(
            problem.kind,
            ProblemType::InvalidMessage | ProblemType::InvalidAggregationParameter | ProblemType::UnsupportedExtension
        )
}

/// Whether a refusal proves that the helper did not process this attempt. It may accept a later one.
///
/// 503 and 507 prove it with `Retry-After`, because the helper has postponed the request. Some proxies return a bare
/// 503 after the connection to the helper broke and the request was sent. 409 and 410 refer to a job that the helper
/// has or had. A 408 may follow a complete body.
fn proves_untaken(problem: &Problem) -> bool {
    match problem.status {
        401 | 403 | 404 | 411 | 415 | 429 => true,
        503 | 507 => problem.retry_after.is_some(),
        _ => {
            let is_unknown = matches!(problem.kind, ProblemType::UnrecognizedTask | ProblemType::UnauthorizedRequest);
            is_unknown || is_refused_for_good(problem)
        }
    }
}

async fn finish(
    ctx: &Arc<LeaderContext>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    prepared: Prepared,
    resps: Vec<PrepareResp>,
) -> Result<(), Fault> {
    let Prepared { started, request, batch, lease, .. } = prepared;
    drop(request);
    let items: Vec<_> = started.awaiting.into_iter().zip(resps.into_iter().map(|resp| resp.outcome)).collect();
    let permit = ctx.pool.admit(&context.task.public.id).await;
    let shared = context.clone();
    let mut finished = leader::FinishedJob::default();
    // The output share of a report takes no more memory than its prepared state, which is dropped.
    let append = |part| finished.append(context, part);
    ctx.pool.map_chunks(&permit, items, move |part| leader::finish(&shared, batch, part), append).await?;
    drop(permit);
    let (rejected_after_continue, unknown_errors) =
        (finished.rejected_after_continue, std::mem::take(&mut finished.unknown_errors));
    let give_up_before = ctx.clock.now().saturating_sub(Duration(ctx.config.get().leader.early_retry_max.as_secs()));
    let (shared, now) = (context.clone(), ctx.clock.now());
    let early_retry = EarlyRetry { now, at: retry_at(ctx), give_up_before };
    let commit = move |tx: &mut Tx<'_>| leader::commit(tx, &shared, id, finished, early_retry);
    ctx.store.write(Point::LeaderCommit, commit).await?;
    drop(lease);
    log_disagreement(context, id, batch, rejected_after_continue, &unknown_errors);
    Ok(())
}

/// Logs disagreements about reports of an answered job. Logs counts, because it may affect every report.
fn log_disagreement(
    context: &TaskContext,
    id: AggregationJobId,
    batch: PartialBatchSelector,
    rejected_after_continue: RejectedAfterContinue,
    unknown_errors: &BTreeMap<u8, u64>,
) {
    let task_id = context.task.public.id;
    if let RejectedAfterContinue { count: report_count, details: Some((first, last, error)) } = rejected_after_continue
    {
        let batch_id = match batch {
            PartialBatchSelector::TimeInterval => None,
            PartialBatchSelector::FixedSize(id) => Some(tracing::field::display(id)),
        };
        let (first_report_time, last_report_time) = (timestamp::show(first), timestamp::show(last));
        tracing::error!(
            %task_id, job_id = %id, batch_id, report_count, first_report_time, last_report_time, %error,
            "report rejected after helper accepted it"
        );
    }
    for (error_code, report_count) in unknown_errors {
        tracing::warn!(%task_id, job_id = %id, error_code, report_count, "helper rejected reports with unknown error code");
    }
}

/// What the operator has to know if the helper does not have the verification key of a job.
fn without_key(context: &TaskContext, id: u8, resps: &[PrepareResp]) -> Option<String> {
    let unknown = PrepareOutcome::Reject(ReportError::UnknownVerificationKeyId);
    let count = resps.iter().filter(|resp| resp.outcome == unknown).count();
    if count == 0 {
        return None;
    }
    tracing::warn!(task_id = %context.task.public.id, key_id = id, report_count = count, "verification key unknown to helper");
    Some(format!(
        "the helper does not have the verification key with the id {id}, or got it after the reports; they wait"
    ))
}

/// Deletes a job at the helper, with one attempt (DAP-09 section 4.5.2.2, DAP-18 section 4.5.5).
async fn delete_at_helper(ctx: &LeaderContext, context: &TaskContext, location: &str) {
    let Some(call) = context.wire.delete_request(ResourceKind::AggregationJob, location) else { return };
    let call = call.with_advertisement(context.advertisement.clone());
    let mut tokens = context.tokens.to_present(ctx.clock.now());
    let Some(token) = tokens.next() else { return };
    let limits = ctx.peer_limits();
    let request = PeerRequest {
        base_url: &context.task.public.helper_url,
        spec: &call,
        token,
        fallback_tokens: tokens.cloned().collect(),
        body: Bytes::new(),
        timeout: limits.timeout,
        max_answer_bytes: limits.max_answer_bytes,
        point: Point::DeleteJob,
    };
    if let Some(Err(error)) = ctx.stop.unless_stopped(ctx.peers.send(request)).await {
        tracing::debug!(%error, "cannot delete aggregation job");
    }
}
