//! One aggregation job of the leader, from its reports to their sums.
//!
//! What is prepared is large: for a long vector, as many bytes as the reports themselves. So a job takes its part of the
//! [memory](crate::transport::memory) first, loads its reports little by little, and gives its part back while it waits for long.
//! It is prepared again then, which makes the same request.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration as StdDuration};

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::pool::Permit;
use crate::{
    app::App,
    leader::pursue::{Attempt, Errand, Pursued, Pursuit},
    transport::memory::JobLease,
};
use dapbox_aggregator::{
    TaskContext,
    leader::{self, EarlyRetry, RejectedAfterContinue, SealOutcome, StartedJob},
};
use dapbox_protocol::{
    model::{
        AggregationJobId, Duration, PartialBatchSelector, PrepareOutcome, PrepareResp, Report, ReportError, TaskId,
        Time,
    },
    wire::{Problem, ProblemType, ResourceKind},
};
use dapbox_store::{LeaderJobRecord, ReportEntry, ReportRef, Tx};
use dapbox_support::{Fault, Point, clock, timestamp};

/// How long reports wait that are too early for the helper's clock, or whose job it refused; a shorter longest pause
/// between requests counts for them as well.
const RETRY_LATER: std::time::Duration = std::time::Duration::from_secs(10);

fn retry_at(app: &App) -> Time {
    let pause = RETRY_LATER.min(*app.config.leader.retry_max);
    clock::now().saturating_add(Duration(pause.as_secs().max(1)))
}

/// Sealed reports are loaded in parts of about so many bytes: enough to keep all workers busy, and short reports of a
/// job all at once.
const PART: usize = 1 << 20;

/// What is loaded of a job at once: a part that is worked on, the one that follows, and of each of them one report more.
const LOADED: usize = 4 * PART;

/// What is prepared is kept for so many pauses of at most this length: who asks a busy helper again in a moment need not
/// prepare everything again. After that whoever waits for the memory may have it.
const KEPT: (u32, StdDuration) = (3, StdDuration::from_secs(2));

/// The longest answer about a job of no reports, and what each adds to it. Prio3's messages have a few dozen bytes.
const ANSWER: [usize; 2] = [64 << 10, 512];

/// A job whose request may be sent.
struct Prepared {
    started: StartedJob,
    request: Bytes,
    batch: PartialBatchSelector,
    /// Whether the request was sent before this start of the server.
    was_sent: bool,
    /// The memory for all this.
    lease: JobLease,
}

/// Sees one job through.
pub async fn run(app: Arc<App>, task: TaskId, id: AggregationJobId) -> Result<(), Fault> {
    let Some(context) = app.context(&task)? else { return Ok(()) };
    let Some(prepared) = prepare(&app, &context, id, false).await? else { return Ok(()) };
    let reports = prepared.started.entries();
    let (outcome, prepared) = exchange(&app, &context, id, &reports, prepared).await?;
    // Where the helper has something that it need not keep.
    let leftover = match outcome {
        Outcome::Answered { resps, place } => {
            let try_again =
                resps.iter().any(|resp| resp.outcome == PrepareOutcome::Reject(ReportError::ReportTooEarly));
            let Some(prepared) = again(&app, &context, id, prepared).await? else { return Ok(()) };
            finish(&app, &context, id, prepared, resps).await?;
            app.set_trouble(&task, None);
            // A later job of the same reports may be the same request to the byte. A helper that knows its jobs by their
            // content (DAP-18 section 3.2) would answer it as before, were this one still there.
            place.filter(|_| try_again)
        }
        Outcome::Refused { why, too_long, place } => {
            drop(prepared);
            if too_long {
                app.lower_job_cap(&task, reports.len());
            }
            app.set_trouble(&task, Some(format!("the helper refused an aggregation job: {why}")));
            tracing::warn!(task_id = %task, job_id = %id, error = why, "aggregation job refused by helper");
            let retry_at = retry_at(&app);
            app.store
                .write(Point::LeaderDissolve, move |tx| leader::dissolve(tx, &task, id, &reports, retry_at))
                .await?;
            place
        }
        Outcome::ProtocolViolation { why, place } => {
            drop(prepared);
            tracing::error!(task_id = %task, job_id = %id, error = why, "aggregation job abandoned");
            app.store.write(Point::LeaderAbandon, move |tx| leader::abandon(tx, &task, id, &reports)).await?;
            place
        }
        Outcome::Stopped => return Ok(()),
    };
    // Only now: as long as the job could be sent again, the helper had to know it.
    if let Some(place) = leftover {
        delete_at_helper(&app, &context, &place).await;
    }
    app.jobs.notify_one();
    app.collections.notify_one();
    Ok(())
}

/// Prepares the job's reports and stores what its request is made of. None if the job ends here, or the server stops.
async fn prepare(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    again: bool,
) -> Result<Option<Prepared>, Fault> {
    let task = context.task.public.id;
    let Some((job, buckets)) = find(app, &task, &id)? else { return Ok(None) };
    let needed = leader::report_bytes(context) * job.reports.len();
    let fitting = if job.was_sent() { needed } else { needed.min(room(app)) };
    // In the end the sums take the place of what was prepared.
    let held = fitting.max(leader::sums_bytes(context, buckets));
    let mut lease = tokio::select! {
        lease = app.job_memory.take(held.max(fitting + LOADED), again) => lease,
        () = app.stopped() => return Ok(None),
    };
    let permit = app.pool.admit(&context.task.public.id).await;
    let (batch, was_sent) = (job.batch, job.was_sent());
    // What was sent must be made again whole, however long it is.
    let most = if was_sent { usize::MAX } else { fitting };
    let started = start(app, context, &permit, id, job, most).await?;
    lease.shrink(held);
    let shared = context.clone();
    let take_request = move |mut started: StartedJob| {
        let (request, hash) = started.take_request(&shared, batch);
        (started, request, hash)
    };
    let (started, request, hash) = app.pool.run(&permit, move || take_request(started)).await?;
    drop(permit);
    let (started, sealed) = app
        .store
        .write(Point::LeaderSeal, move |tx| {
            let sealed = leader::seal(tx, &task, id, &started, hash)?;
            Ok((started, sealed))
        })
        .await?;
    match sealed {
        SealOutcome::Send => return Ok(Some(Prepared { started, request, batch, was_sent, lease })),
        SealOutcome::Empty => {
            app.jobs.notify_one();
            app.collections.notify_one();
        }
        SealOutcome::Gone => {}
        SealOutcome::Differs => {
            let trouble =
                format!("aggregation job {id} was rebuilt differently and is not sent; this is a bug in dapbox");
            tracing::error!(task_id = %task, job_id = %id, "aggregation job changed");
            app.set_trouble(&task, Some(trouble));
        }
    }
    Ok(None)
}

/// What is prepared of a job, or what it is when it is prepared again.
async fn again(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    prepared: Option<Prepared>,
) -> Result<Option<Prepared>, Fault> {
    match prepared {
        Some(prepared) => Ok(Some(prepared)),
        None => prepare(app, context, id, true).await,
    }
}

/// The job, and how many batch buckets it has.
fn find(app: &App, task: &TaskId, id: &AggregationJobId) -> Result<Option<(LeaderJobRecord, usize)>, Fault> {
    app.store.read(|view| {
        let found = view.task(task).and_then(|state| Some((state, state.leader_jobs.get(id)?)));
        Ok(found.map(|(state, job)| (job.clone(), leader::bucket_count(state, job))))
    })
}

/// The most memory for what is prepared of a new job.
pub fn room(app: &App) -> usize {
    let share = app.job_memory.share();
    share - LOADED.min(share / 2)
}

/// The most batch buckets of a new job: their sums fit into our memory when the job is stored, and into that of a helper
/// that has as much as we would have.
pub fn bucket_room(app: &App, context: &TaskContext) -> usize {
    leader::buckets_within(context, room(app).min(app.helper_memory.bytes() / 2))
}

/// Loads, opens and prepares the job's reports, until what comes of them takes about `most` bytes.
async fn start(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    permit: &Permit,
    id: AggregationJobId,
    job: LeaderJobRecord,
    most: usize,
) -> Result<StartedJob, Fault> {
    // What the helper may have seen is opened with the keys that it was opened with then, whatever became of them.
    let keys = if job.was_sent() { app.keys.ring_for_repeats() } else { app.keys.ring() };
    let (task, reports) = (context.task.public.id, Arc::new(job.reports));
    let mut started = StartedJob::default();
    let mut from = 0;
    let mut loading = load(app, task, id, &reports, from);
    while let Some(part) = loading.await.unwrap_or_else(|error| Err(Fault::while_doing("loading reports", error)))? {
        from += part.len();
        // While this part is worked on.
        loading = load(app, task, id, &reports, from);
        let (shared, keys) = (context.clone(), keys.clone());
        let append = |part| started.append(part);
        app.pool.map_chunks(permit, part, move |part| leader::start(&shared, &keys, part), append).await?;
        if started.bytes >= most {
            started.left = reports[from..].to_vec();
            break;
        }
    }
    Ok(started)
}

/// Some of a job's reports, to be worked on.
type Part = Vec<(ReportRef, Report)>;

/// Loads the job's next reports. None if there are no more, or the job is gone.
///
/// Reading waits while the store commits: the asynchronous threads have better things to do, and so have the workers.
fn load(
    app: &Arc<App>,
    task: TaskId,
    id: AggregationJobId,
    reports: &Arc<Vec<ReportRef>>,
    from: usize,
) -> JoinHandle<Result<Option<Part>, Fault>> {
    let (app, reports) = (app.clone(), reports.clone());
    tokio::task::spawn_blocking(move || {
        let places = &reports[from..];
        app.store.read(|view| {
            // The reports are there as long as the job is.
            let has_job = view.task(&task).is_some_and(|state| state.leader_jobs.contains_key(&id));
            if !has_job || places.is_empty() {
                return Ok(None);
            }
            let loaded = view.load_some_reports(&task, places, PART)?;
            Ok(Some(places.iter().copied().zip(loaded).collect()))
        })
    })
}

/// How the exchange with the helper about a job ended.
enum Outcome {
    /// With an answer to this job.
    Answered {
        /// What the helper says of each report.
        resps: Vec<PrepareResp>,
        /// The path of the job at the helper.
        place: Option<String>,
    },
    /// The helper certainly did not take the job.
    Refused {
        /// What it says.
        why: String,
        /// Whether a shorter job may be taken.
        too_long: bool,
        /// The path of the job at the helper.
        place: Option<String>,
    },
    /// The helper answered something that is no answer to this job.
    ProtocolViolation {
        /// In what way.
        why: String,
        /// The path of the job at the helper.
        place: Option<String>,
    },
    /// The server stops; the job goes on after the next start.
    Stopped,
}

/// Sends the request until the helper has answered it. Returns what is prepared as well, if it was kept.
async fn exchange(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    asked: &[ReportEntry],
    prepared: Prepared,
) -> Result<(Outcome, Option<Prepared>), Fault> {
    let errand = Errand {
        interaction: ResourceKind::AggregationJob,
        what: "an aggregation job",
        points: [Point::SendJob, Point::PollJob],
        id: id.as_bytes(),
        max_answer: ANSWER[0] + ANSWER[1] * asked.len(),
        may_be_taken: prepared.was_sent,
        proves_untaken,
        is_final: |problem, may_be_taken| !may_be_taken && is_refused_for_good(problem),
    };
    // An answer about more reports than we asked for decodes, to be found out.
    let most = app.config.limits.max_job_reports.max(asked.len());
    let read = |body: &Bytes| context.wire.decode_job_resp(body, most);
    let mut pursuit = Pursuit::new(app, context, errand);
    let mut held = Some(prepared);
    for tries in 1.. {
        if held.is_none() && pursuit.is_to_send() {
            held = prepare(app, context, id, true).await?;
            if held.is_none() {
                break;
            }
        }
        let request = held.as_ref().map_or_else(Bytes::new, |prepared| prepared.request.clone());
        match pursuit.attempt(&request, read).await {
            Attempt::Ended(end) => return Ok((outcome(asked, end), held)),
            Attempt::Pause(pause) => {
                let is_early = tries <= KEPT.0 && pause <= KEPT.1;
                if rest(app, &pursuit, pause, is_early, &mut held).await.is_break() {
                    break;
                }
            }
        }
    }
    Ok((Outcome::Stopped, held))
}

/// Pauses. What is held goes when somebody else wants its memory, unless it is too early for that.
async fn rest(
    app: &App,
    pursuit: &Pursuit<'_>,
    pause: StdDuration,
    is_early: bool,
    held: &mut Option<Prepared>,
) -> ControlFlow<()> {
    let pausing = pursuit.wait(pause);
    tokio::pin!(pausing);
    tokio::select! {
        flow = &mut pausing => return flow,
        () = app.job_memory.wanted(), if !is_early => *held = None,
    }
    pausing.await
}

fn outcome(asked: &[ReportEntry], end: Pursued<Vec<PrepareResp>>) -> Outcome {
    match end {
        Pursued::Answered { message, place } => match leader::check_answer(asked, &message) {
            Ok(()) => Outcome::Answered { resps: message, place },
            Err(breach) => Outcome::ProtocolViolation { why: breach.to_string(), place },
        },
        Pursued::Refused { problem, place } => {
            Outcome::Refused { why: problem.to_string(), too_long: problem.status == 413, place }
        }
        Pursued::Stopped => Outcome::Stopped,
    }
}

/// Whether a refusal proves that the helper committed nothing of this request and would refuse the same again, so that
/// the reports may be tried in another job, unless an earlier request may have been taken.
fn is_refused_for_good(problem: &Problem) -> bool {
    problem.status == 413
        || matches!(
            problem.kind,
            ProblemType::InvalidMessage | ProblemType::InvalidAggregationParameter | ProblemType::UnsupportedExtension
        )
}

/// Whether a refusal proves that the helper committed nothing of this request, whatever it says to the next.
///
/// 503 and 507 prove it if they say when to come back: somebody counted the request and put it off. There are proxies
/// that answer a bare 503 after the connection to the helper broke, with the request sent. 409 and 410 are about a job
/// that the helper has or had, and 408 is said of a body that may have arrived.
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
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    prepared: Prepared,
    resps: Vec<PrepareResp>,
) -> Result<(), Fault> {
    let Prepared { started, request, batch, lease, .. } = prepared;
    drop(request);
    let items: Vec<_> = started.awaiting.into_iter().zip(resps.into_iter().map(|resp| resp.outcome)).collect();
    let permit = app.pool.admit(&context.task.public.id).await;
    let shared = context.clone();
    let mut finished = leader::FinishedJob::default();
    // A report's part of the sums takes no more than what was prepared of it, which is gone then.
    let append = |part| finished.append(context, part);
    app.pool.map_chunks(&permit, items, move |part| leader::finish(&shared, batch, part), append).await?;
    drop(permit);
    let (rejected_after_continue, unknown_errors) =
        (finished.rejected_after_continue, std::mem::take(&mut finished.unknown_errors));
    let give_up_before = clock::now().saturating_sub(Duration(app.config.leader.early_retry_max.as_secs()));
    let (shared, early_retry) = (context.clone(), EarlyRetry { at: retry_at(app), give_up_before });
    let commit = move |tx: &mut Tx<'_>| leader::commit(tx, &shared, id, finished, early_retry);
    app.store.write(Point::LeaderCommit, commit).await?;
    drop(lease);
    log_disagreement(context, id, batch, rejected_after_continue, &unknown_errors);
    Ok(())
}

/// Logs what no helper should do to a job that it has answered: with counts, since it may be so with every report.
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

/// Tells the helper that a job is not needed any more, once (DAP-09 section 4.5.2.2, DAP-18 section 4.5.5).
async fn delete_at_helper(app: &App, context: &TaskContext, place: &str) {
    let Some(call) = context.wire.delete_request(ResourceKind::AggregationJob, place) else { return };
    let call = call.with_advertisement(context.advertisement.clone());
    let mut tokens = context.tokens.to_present(clock::now());
    let Some(token) = tokens.next() else { return };
    let peer = app.peer().with_failpoint(Point::DeleteJob).with_fallback_tokens(tokens.cloned());
    let sent = peer.call(&context.task.public.helper_url, &call, Some(token), Bytes::new());
    if let Some(Err(error)) = app.unless_stopped(sent).await {
        tracing::debug!(%error, "cannot delete aggregation job");
    }
}
