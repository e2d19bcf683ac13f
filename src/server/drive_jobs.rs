//! The driver of aggregation jobs: makes jobs of waiting reports and sees each through, whatever the helper does.

use std::{collections::HashMap, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    app::App,
    pursue::{Errand, Pursued, pursue},
};
use crate::{
    aggregator::{
        TaskContext,
        leader::{self, Sealed, Started},
    },
    model::{
        AggregationJobId, Duration, Fault, Party, Point, PrepareOutcome, PrepareResp, Report, ReportError, ReportId,
        Role, TaskId, Time,
    },
    store::LeaderJobRecord,
    wire::{Interaction, Problem, ProblemType},
};

/// How often waiting reports are looked at while nothing happens: no more often than delays are set in.
const TICK: std::time::Duration = std::time::Duration::from_millis(250);

/// How long reports wait that are too early for the helper's clock, or whose job it refused; a shorter longest pause
/// between requests counts for them as well.
const RETRY_LATER: std::time::Duration = std::time::Duration::from_secs(10);

fn retry_at(app: &App) -> Time {
    let pause = RETRY_LATER.min(*app.config.leader.retry_max);
    Time::now().saturating_add(Duration(pause.as_secs().max(1)))
}

/// Drives all aggregation jobs until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    let mut running = JoinSet::new();
    for (task, job) in unfinished(&app)? {
        running.spawn(run(app.clone(), task, job));
    }
    let mut ages: HashMap<TaskId, Instant> = HashMap::new();
    loop {
        let idle = form(&app, &mut ages, &mut running).await?;
        tokio::select! {
            () = app.stopped() => break,
            () = app.jobs.notified() => {}
            Some(ended) = running.join_next() => settle(ended)?,
            () = tokio::time::sleep(TICK), if !idle => {}
        }
    }
    // What is under way goes on to the next point where it can be resumed.
    while let Some(ended) = running.join_next().await {
        settle(ended)?;
    }
    Ok(())
}

fn settle(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Result<(), Fault> {
    ended.unwrap_or_else(|error| Err(Fault::while_doing("driving an aggregation job", error)))
}

fn unfinished(app: &App) -> Result<Vec<(TaskId, AggregationJobId)>, Fault> {
    app.store.read(|view| {
        let of_task = |(task, state): (&TaskId, &crate::store::TaskState)| {
            let task = *task;
            state.leader_jobs.keys().map(move |job| (task, *job)).collect::<Vec<_>>()
        };
        Ok(view.tasks().flat_map(of_task).collect())
    })
}

/// Makes as many jobs as there can be. True if no report waits.
async fn form(
    app: &Arc<App>,
    ages: &mut HashMap<TaskId, Instant>,
    running: &mut JoinSet<Result<(), Fault>>,
) -> Result<bool, Fault> {
    let now = Time::now();
    let waiting = app.store.read(|view| {
        let waits = |(_, state): &(&TaskId, &crate::store::TaskState)| {
            state.task.role() == Role::Leader && !state.waiting.is_empty()
        };
        Ok(view.tasks().filter(waits).map(|(id, _)| *id).collect::<Vec<_>>())
    })?;
    ages.retain(|task, _| waiting.contains(task));
    for task in &waiting {
        let since = *ages.entry(*task).or_insert_with(Instant::now);
        let aged = since.elapsed() >= *app.config.leader.max_job_delay;
        while let Some(job) = pick(app, *task, now, aged).await? {
            ages.insert(*task, Instant::now());
            running.spawn(run(app.clone(), *task, job));
        }
    }
    Ok(waiting.is_empty())
}

async fn pick(app: &Arc<App>, task: TaskId, now: Time, aged: bool) -> Result<Option<AggregationJobId>, Fault> {
    let mut limits = app.config.leader.clone();
    limits.max_job_size = limits.max_job_size.min(app.job_cap(&task));
    let worth_it =
        app.store.read(|view| Ok(view.task(&task).is_some_and(|state| leader::may_pick(state, &limits, aged))))?;
    if !worth_it {
        return Ok(None);
    }
    app.store.write(Point::LeaderPick, move |tx| leader::pick(tx, now, &limits, &task, aged)).await
}

/// Sees one job through.
async fn run(app: Arc<App>, task: TaskId, id: AggregationJobId) -> Result<(), Fault> {
    let Some(context) = app.context(&task)? else { return Ok(()) };
    let Some((job, reports)) = load(&app, &task, &id)? else { return Ok(()) };
    let Some((started, request)) = prepare(&app, &context, id, &job, reports).await? else { return Ok(()) };
    let outcome = exchange(&app, &context, id, &started.ids(), request, job.was_sent()).await;
    // Where the helper has something that it need not keep.
    let leftover = match outcome {
        Outcome::Answered { resps, place } => {
            let try_again =
                resps.iter().any(|resp| resp.outcome == PrepareOutcome::Reject(ReportError::ReportTooEarly));
            finish(&app, &context, id, &job, started, resps).await?;
            app.set_trouble(&task, None);
            // A later job of the same reports may be the same request to the byte. A helper that knows its jobs by their
            // content (DAP-18 section 3.2) would answer it as before, were this one still there.
            place.filter(|_| try_again)
        }
        Outcome::Refused { why, too_long, place } => {
            if too_long {
                app.lower_job_cap(&task, started.awaiting.len());
            }
            app.set_trouble(&task, Some(format!("the helper refused an aggregation job: {why}")));
            tracing::warn!(%task, job = %id, why, "the helper refused an aggregation job; its reports will be tried again");
            let retry_at = retry_at(&app);
            app.store
                .write(Point::LeaderDissolve, move |tx| leader::dissolve(tx, &task, id, &started.awaiting, retry_at))
                .await?;
            place
        }
        Outcome::Breach { why, place } => {
            tracing::error!(%task, job = %id, why, "the helper broke the protocol: the aggregation job is given up");
            app.store.write(Point::LeaderAbandon, move |tx| leader::abandon(tx, &task, id, &started.awaiting)).await?;
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

/// The job and its reports, as they are together.
fn load(app: &App, task: &TaskId, id: &AggregationJobId) -> Result<Option<(LeaderJobRecord, Vec<Report>)>, Fault> {
    app.store.read(|view| {
        let Some(job) = view.task(task).and_then(|state| state.leader_jobs.get(id)).cloned() else { return Ok(None) };
        let reports = view.load_reports(task, &job.reports)?;
        Ok(Some((job, reports)))
    })
}

/// Prepares the job's reports and stores what its request is made of. None if the job ends here.
async fn prepare(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    job: &LeaderJobRecord,
    reports: Vec<Report>,
) -> Result<Option<(Started, Bytes)>, Fault> {
    let (task, batch) = (context.task.public.id, job.batch);
    let items: Vec<_> = job.reports.iter().copied().zip(reports).collect();
    let permit = app.pool.admit(&task).await;
    let (shared, keys) = (context.clone(), app.keys.clone());
    let mut started = Started::default();
    let start = move |part| leader::start(&shared, &keys, part);
    app.pool.map_chunks(&permit, items, start, |part| started.append(part)).await?;
    let shared = context.clone();
    let (started, request, hash) = app
        .pool
        .run(&permit, move || {
            let (request, hash) = started.take_request(&shared, batch);
            (started, request, hash)
        })
        .await?;
    drop(permit);
    let (started, sealed) = app
        .store
        .write(Point::LeaderSeal, move |tx| {
            let sealed = leader::seal(tx, &task, id, &started, hash)?;
            Ok((started, sealed))
        })
        .await?;
    match sealed {
        Sealed::Send => return Ok(Some((started, request))),
        Sealed::Empty => {
            app.jobs.notify_one();
            app.collections.notify_one();
        }
        Sealed::Gone => {}
        Sealed::Differs => {
            let trouble =
                format!("aggregation job {id} was rebuilt differently and is not sent; this is a bug in dapbox");
            tracing::error!(%task, "{trouble}");
            app.set_trouble(&task, Some(trouble));
        }
    }
    Ok(None)
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
    Breach {
        /// In what way.
        why: String,
        /// The path of the job at the helper.
        place: Option<String>,
    },
    /// The server stops; the job goes on after the next start.
    Stopped,
}

/// Sends the request until the helper has answered it.
async fn exchange(
    app: &App,
    context: &TaskContext,
    id: AggregationJobId,
    asked: &[ReportId],
    request: Bytes,
    may_have_arrived: bool,
) -> Outcome {
    let errand = Errand {
        interaction: Interaction::AggregationJob,
        what: "an aggregation job",
        points: [Point::SendJob, Point::PollJob],
        id: id.as_bytes(),
        request,
        may_have_arrived,
        is_final: |problem, may_have_arrived| !may_have_arrived && took_nothing(problem),
    };
    // An answer about more reports than we asked for decodes, to be found out.
    let most = app.config.limits.max_job_reports.max(asked.len());
    match pursue(app, context, errand, |body| context.wire.decode_job_resp(body, most)).await {
        Pursued::Answered { message, place } => match leader::check_answer(asked, &message) {
            Ok(()) => Outcome::Answered { resps: message, place },
            Err(breach) => Outcome::Breach { why: breach.to_string(), place },
        },
        Pursued::Refused { problem, place } => {
            Outcome::Refused { why: problem.to_string(), too_long: problem.status == 413, place }
        }
        Pursued::Stopped => Outcome::Stopped,
    }
}

/// Whether a refusal proves that the helper committed nothing and would refuse the same request again, so that the
/// reports may be tried in another job.
fn took_nothing(problem: &Problem) -> bool {
    problem.status == 413
        || matches!(
            problem.kind,
            ProblemType::InvalidMessage | ProblemType::InvalidAggregationParameter | ProblemType::UnsupportedExtension
        )
}

async fn finish(
    app: &Arc<App>,
    context: &Arc<TaskContext>,
    id: AggregationJobId,
    job: &LeaderJobRecord,
    started: Started,
    resps: Vec<PrepareResp>,
) -> Result<(), Fault> {
    let items: Vec<_> = started.awaiting.into_iter().zip(resps.into_iter().map(|resp| resp.outcome)).collect();
    let permit = app.pool.admit(&context.task.public.id).await;
    let (shared, batch) = (context.clone(), job.batch);
    let mut finished = leader::Finished::default();
    let finish = move |part| leader::finish(&shared, batch, part);
    app.pool.map_chunks(&permit, items, finish, |part| finished.append(context, part)).await?;
    drop(permit);
    let (shared, retry_at) = (context.clone(), retry_at(app));
    app.store.write(Point::LeaderCommit, move |tx| leader::commit(tx, &shared, id, finished, retry_at)).await
}

/// Tells the helper that a job is not needed any more, once (DAP-09 section 4.5.2.2, DAP-18 section 4.5.5).
async fn delete_at_helper(app: &App, context: &TaskContext, place: &str) {
    let Party::Leader { helper_token, .. } = &context.task.party else { return };
    let Some(call) = context.wire.delete_call(Interaction::AggregationJob, place) else { return };
    let peer = app.peer.at(Point::DeleteJob);
    let sent = peer.call(&context.task.public.helper_url, &call, Some(helper_token), Bytes::new());
    if let Some(Err(error)) = app.unless_stopped(sent).await {
        tracing::debug!(%error, "the helper did not take the deletion of an aggregation job");
    }
}
