//! DAP-09's resources over HTTP (DAP-09 sections 4.3 to 4.6): methods, media types and status codes.

use std::sync::Arc;

use warp::http::StatusCode;

use crate::{
    app::App,
    dap::{
        flow,
        in_band::Sender,
        jobs::{self, Timing},
        routes::{self, Routes, Target},
    },
    transport::http::{Request, Response, content, empty, failure},
};
use dapbox_aggregator::{Error, resource_id::IdSource, upload::Verdict};
use dapbox_protocol::{
    model::{AggregationJobId, CollectionJobId, ReportError, Revision, Role, TaskId},
    wire::{
        Problem, ProblemType,
        dap09::{Resource, decode_job_continue, media, parse_hpke_config_query, parse_path},
    },
};
use dapbox_store::CollectionState;

const ROUTES: Routes = Routes {
    revision: Revision::Dap09,
    tell,
    browser_headers: "content-type, dap-taskprov",
    continuation: (media::AGGREGATION_JOB_CONTINUE_REQ, decode_job_continue),
};

/// Answers a request whose path below the revision's prefix is `path`.
pub async fn handle(app: &Arc<App>, path: &str, request: Request) -> Response {
    let resource = match parse_path(path) {
        Ok(resource) => resource,
        Err(bad) => return failure(Problem::from(bad).into()),
    };
    ROUTES.respond(target(&resource), request, |request| answer(app, resource, request)).await
}

fn target(resource: &Resource) -> Target {
    let (task, methods, for_browsers) = match resource {
        Resource::HpkeConfig => (None, "GET, HEAD", true),
        Resource::Reports(task) => (Some(*task), "PUT", true),
        Resource::AggregationJob(task, _) | Resource::CollectionJob(task, _) => {
            (Some(*task), "PUT, POST, DELETE", false)
        }
        Resource::AggregateShares(task) => (Some(*task), "POST", false),
    };
    Target { task, methods, for_browsers }
}

/// A type that later drafts have is the general one here (section 3.2).
fn tell(problem: Problem) -> Problem {
    match problem.kind {
        ProblemType::InvalidAggregationParameter => Problem { kind: ProblemType::InvalidMessage, ..problem },
        _ => problem,
    }
}

async fn answer(app: &Arc<App>, resource: Resource, request: Request) -> Result<Response, Error> {
    let method = request.method_of_resource().to_owned();
    match (resource, method.as_str()) {
        (Resource::HpkeConfig, _) => hpke_config(app, &request),
        (Resource::Reports(task), _) => upload(app, task, request).await,
        (Resource::AggregationJob(task, job), "PUT") => init_job(app, task, job, request).await,
        (Resource::AggregationJob(task, job), "POST") => ROUTES.continue_job(app, task, job, request).await,
        (Resource::AggregationJob(task, job), _) => ROUTES.delete_job(app, task, job, request).await,
        (Resource::CollectionJob(task, job), "PUT") => create_collection(app, task, job, request).await,
        (Resource::CollectionJob(task, job), "POST") => poll_collection(app, task, job, request).await,
        (Resource::CollectionJob(task, job), _) => ROUTES.delete_collection(app, task, job, request).await,
        (Resource::AggregateShares(task), _) => aggregate_share(app, task, request).await,
    }
}

fn hpke_config(app: &App, request: &Request) -> Result<Response, Error> {
    // Our keys are the same for all tasks, so the task may be left out. One that is set up in-band need not be known yet
    // (draft-wang-ppm-dap-taskprov-06 section 3.4).
    if let Some(task) = parse_hpke_config_query(&request.query).map_err(Problem::from)?
        && !app.store.read(|view| Ok(app.peers.are_any(view)))?
    {
        ROUTES.task_for(app, task, None)?;
    }
    Ok(ROUTES.hpke_configs(app, media::HPKE_CONFIG_LIST))
}

async fn upload(app: &Arc<App>, task: TaskId, mut request: Request) -> Result<Response, Error> {
    // An upload shows no token: its task is not set up before the report is there.
    let offer = ROUTES.offer(app, task, Sender::Client, &request.headers)?;
    if offer.is_none() {
        ROUTES.task_for(app, task, Some(Role::Leader))?;
    }
    app.disk.check()?;
    ROUTES.expect_type(&request, media::REPORT)?;
    let limits = &app.config.limits;
    let (timeout, bodies) = (*limits.request_timeout, &app.slots.upload_bodies);
    let (budget, silence) = (&app.upload_memory, *limits.max_body_silence);
    let body = request.read_body(limits.max_report_bytes, timeout, budget, bodies, silence).await?;
    drop(request);
    let _slot = app.slots.upload()?;
    if let Some(offer) = offer
        && let Err(refused) = ROUTES.opt_in_with_reports(app, offer, &body).await?
    {
        return Err(upload_refusal(refused).into());
    }
    let context = ROUTES.task_for(app, task, Some(Role::Leader))?;
    let reports = match context.wire.decode_upload(&context.task.public, &body) {
        Ok(reports) => reports,
        Err(malformed) => return Err(flow::malformed_upload(app, &context, malformed).await),
    };
    match flow::upload(app, &context, reports).await?.pop() {
        Some(Verdict::Refused(error)) => Err(upload_refusal(error).into()),
        Some(Verdict::BucketLimit) => {
            let detail = "the task has uncollected reports of too many different times; upload the report after some of \
                          them are collected, or with a time that others have";
            Err(Problem::new(ProblemType::ReportRejected).with_detail(detail).into())
        }
        // The draft says 201. Deployed servers answer 200, and Firefox takes any other status for a failure.
        _ => Ok(empty(StatusCode::OK)),
    }
}

/// What a client is told of a report that is not taken (DAP-09 section 4.4.2).
fn upload_refusal(error: ReportError) -> Problem {
    let (kind, detail) = match error {
        ReportError::ReportTooEarly => (
            ProblemType::ReportTooEarly,
            "the report's time is too far in the future; check the client's clock and upload it later",
        ),
        ReportError::OutdatedConfig => (
            ProblemType::OutdatedConfig,
            "the leader's share is sealed to an unknown key; fetch the HPKE configurations again",
        ),
        ReportError::TaskExpired => (ProblemType::ReportRejected, "the report's time is after the end of the task"),
        ReportError::BatchCollected => {
            (ProblemType::ReportRejected, "the batch that the report's time belongs to was collected already")
        }
        ReportError::HpkeDecryptError => (
            ProblemType::ReportRejected,
            "the leader cannot decrypt its share of the report; check the task's parameters, and that the share is sealed \
             to the leader's HPKE configuration",
        ),
        ReportError::InvalidMessage | ReportError::VdafPrepError => (
            ProblemType::ReportRejected,
            "the leader's share of the report is malformed or does not fit; check the client's VDAF and its parameters",
        ),
        _ => (ProblemType::ReportRejected, "the report is older than the task's retention window"),
    };
    Problem::new(kind).with_detail(detail)
}

async fn init_job(app: &Arc<App>, task: TaskId, job: AggregationJobId, request: Request) -> Result<Response, Error> {
    ROUTES.opt_in(app, task, Sender::Leader, &request.headers).await?;
    let limit = app.config.limits.max_job_bytes;
    let media_type = media::AGGREGATION_JOB_INIT_REQ;
    let (leader, body) = ROUTES.authorized_body(app, task, Role::Helper, request, media_type, limit).await?;
    let context = &leader.context;
    let id_source = IdSource::Chosen(*job.as_bytes());
    match jobs::create(app, context, id_source, body, Timing::AtOnce).await? {
        (_, Some(answer)) => Ok(content(StatusCode::CREATED, media::AGGREGATION_JOB_RESP, answer)),
        // It was deferred under another revision's rules, which no task of this one ever is.
        (_, None) => Err(Error::Busy),
    }
}

async fn create_collection(
    app: &Arc<App>,
    task: TaskId,
    job: CollectionJobId,
    request: Request,
) -> Result<Response, Error> {
    ROUTES.opt_in(app, task, Sender::Collector, &request.headers).await?;
    let limit = app.config.limits.max_message_bytes;
    let media_type = media::COLLECT_REQ;
    let (collector, body) = ROUTES.authorized_body(app, task, Role::Leader, request, media_type, limit).await?;
    let context = &collector.context;
    flow::create_collection(app, context, IdSource::Chosen(*job.as_bytes()), body).await?;
    Ok(empty(StatusCode::CREATED))
}

async fn poll_collection(app: &App, task: TaskId, job: CollectionJobId, request: Request) -> Result<Response, Error> {
    let collector = ROUTES.authorized(app, task, Role::Leader, &request.headers)?;
    let context = &collector.context;
    match flow::poll_collection(app, context, job).await? {
        None => Err(routes::no_collection(job)),
        Some(CollectionState::Waiting | CollectionState::Closed { .. }) => {
            Ok(routes::not_ready(StatusCode::ACCEPTED, app.config.leader.collection_retry_after))
        }
        Some(CollectionState::Done { body }) => Ok(content(StatusCode::OK, media::COLLECTION, body)),
        Some(CollectionState::Failed { kind, detail }) => Err(routes::failed_collection(job, &kind, detail)),
        Some(CollectionState::Deleted) => Ok(empty(StatusCode::NO_CONTENT)),
    }
}

async fn aggregate_share(app: &Arc<App>, task: TaskId, request: Request) -> Result<Response, Error> {
    ROUTES.opt_in(app, task, Sender::Leader, &request.headers).await?;
    let limit = app.config.limits.max_message_bytes;
    let media_type = media::AGGREGATE_SHARE_REQ;
    let (leader, body) = ROUTES.authorized_body(app, task, Role::Helper, request, media_type, limit).await?;
    let context = &leader.context;
    let share = flow::aggregate_share(app, context, body, None).await?;
    Ok(content(StatusCode::OK, media::AGGREGATE_SHARE, share))
}
