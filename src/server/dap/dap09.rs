//! The resources of DAP-09 over HTTP (DAP-09 sections 4.3 to 4.6): methods, media types and status codes.

use warp::http::StatusCode;

use crate::{
    dap::{
        aggregate_shares, collections,
        context::{DapContext, RequestContext},
        helper_jobs::{self, AnswerTiming},
        in_band::RequestSender,
        routes::{self, RouteTarget, Routes},
        upload,
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
    map_problem,
    browser_headers: "content-type, dap-taskprov",
    continuation: (media::AGGREGATION_JOB_CONTINUE_REQ, decode_job_continue),
};

/// Answers a request with `path` below the prefix of the revision.
pub async fn handle(ctx: &DapContext, path: &str, request: Request) -> Response {
    let resource = match parse_path(path) {
        Ok(resource) => resource,
        Err(bad) => return failure(Problem::from(bad).into()),
    };
    ROUTES.respond(target(&resource), request, |request| answer(ctx, resource, request)).await
}

fn target(resource: &Resource) -> RouteTarget {
    let (task, methods, for_browsers) = match resource {
        Resource::HpkeConfig => (None, "GET, HEAD", true),
        Resource::Reports(task) => (Some(*task), "PUT", true),
        Resource::AggregationJob(task, _) | Resource::CollectionJob(task, _) => {
            (Some(*task), "PUT, POST, DELETE", false)
        }
        Resource::AggregateShares(task) => (Some(*task), "POST", false),
    };
    RouteTarget { task, methods, for_browsers }
}

/// Maps problem types of later drafts to general ones (section 3.2).
fn map_problem(problem: Problem) -> Problem {
    match problem.kind {
        ProblemType::InvalidAggregationParameter => Problem { kind: ProblemType::InvalidMessage, ..problem },
        _ => problem,
    }
}

async fn answer(ctx: &DapContext, resource: Resource, request: Request) -> Result<Response, Error> {
    let method = request.method_of_resource().to_owned();
    match (resource, method.as_str()) {
        (Resource::HpkeConfig, _) => hpke_config(&ctx.requests, &request),
        (Resource::Reports(task), _) => put_report(ctx, task, request).await,
        (Resource::AggregationJob(task, job), "PUT") => init_job(ctx, task, job, request).await,
        (Resource::AggregationJob(task, job), "POST") => ROUTES.continue_job(ctx, task, job, request).await,
        (Resource::AggregationJob(task, job), _) => ROUTES.delete_job(ctx, task, job, request).await,
        (Resource::CollectionJob(task, job), "PUT") => create_collection(ctx, task, job, request).await,
        (Resource::CollectionJob(task, job), "POST") => poll_collection(ctx, task, job, request).await,
        (Resource::CollectionJob(task, job), _) => ROUTES.delete_collection(ctx, task, job, request).await,
        (Resource::AggregateShares(task), _) => aggregate_share(ctx, task, request).await,
    }
}

fn hpke_config(ctx: &RequestContext, request: &Request) -> Result<Response, Error> {
    // The task is optional, because all tasks share the HPKE keys. An in-band task need not be known yet
    // (draft-wang-ppm-dap-taskprov-06 section 3.4).
    if let Some(task) = parse_hpke_config_query(&request.query).map_err(Problem::from)?
        && !ctx.store.read(|view| Ok(ctx.peers.has_peers(view)))?
    {
        ROUTES.task_for(ctx, task, None)?;
    }
    Ok(ROUTES.hpke_configs(ctx, media::HPKE_CONFIG_LIST))
}

async fn put_report(ctx: &DapContext, task: TaskId, mut request: Request) -> Result<Response, Error> {
    // Uploads carry no token. An in-band task is therefore set up only after its report has arrived and was checked.
    let advertised = ROUTES.advertised_task(&ctx.requests, task, RequestSender::Client, &request.headers)?;
    if advertised.is_none() {
        ROUTES.task_for(&ctx.requests, task, Some(Role::Leader))?;
    }
    ctx.uploads.disk.check()?;
    ROUTES.expect_type(&request, media::REPORT)?;
    let config = ctx.uploads.config.get();
    let limits = &config.limits;
    let (timeout, bodies) = (*limits.request_timeout, &ctx.uploads.slots.upload_bodies);
    let (budget, silence) = (&ctx.uploads.memory, *limits.max_body_silence);
    let body = request.read_body(limits.max_report_bytes, timeout, budget, bodies, silence).await?;
    drop(request);
    let _slot = ctx.uploads.slots.upload()?;
    if let Some(advertised) = advertised
        && let [(_, refused), ..] = ROUTES.opt_in_for_upload(&ctx.requests, advertised, &body).await?[..]
    {
        return Err(upload_refusal(refused).into());
    }
    let context = ROUTES.task_for(&ctx.requests, task, Some(Role::Leader))?;
    let reports = match context.wire.decode_upload(&context.task.public, &body) {
        Ok(reports) => reports,
        Err(malformed) => return Err(upload::count_malformed(&ctx.uploads, &context, malformed).await),
    };
    match upload::store(&ctx.uploads, &context, reports).await?.pop() {
        Some(Verdict::Refused(error)) => Err(upload_refusal(error).into()),
        Some(Verdict::BucketLimit) => {
            let detail = "the task has too many open batch buckets; retry after a batch is collected";
            Err(Problem::new(ProblemType::ReportRejected).with_detail(detail).into())
        }
        // The draft says 201. Deployed servers respond with 200, and Firefox treats any other status as a failure.
        _ => Ok(empty(StatusCode::OK)),
    }
}

/// The problem for a rejected report (DAP-09 section 4.4.2).
fn upload_refusal(error: ReportError) -> Problem {
    let (kind, detail) = match error {
        ReportError::ReportTooEarly => (
            ProblemType::ReportTooEarly,
            "the report's time is too far in the future; check the client's clock and retry later",
        ),
        ReportError::OutdatedConfig => (
            ProblemType::OutdatedConfig,
            "the leader's share is sealed to an unknown key; fetch the HPKE configurations again",
        ),
        ReportError::TaskExpired => (ProblemType::ReportRejected, "the report's time is after the task's end"),
        ReportError::BatchCollected => (ProblemType::ReportRejected, "the batch of the report was already collected"),
        ReportError::HpkeDecryptError => (
            ProblemType::ReportRejected,
            "the leader cannot decrypt its share; check the task parameters and the HPKE configuration of the client",
        ),
        ReportError::InvalidMessage | ReportError::VdafPrepError => {
            (ProblemType::ReportRejected, "the leader's share is malformed; check the VDAF and its parameters")
        }
        _ => (ProblemType::ReportRejected, "the report is older than the task's retention window"),
    };
    Problem::new(kind).with_detail(detail)
}

async fn init_job(ctx: &DapContext, task: TaskId, job: AggregationJobId, request: Request) -> Result<Response, Error> {
    ROUTES.opt_in(&ctx.requests, task, RequestSender::Leader, &request.headers).await?;
    let limit = ctx.requests.config.get().limits.max_job_bytes;
    let media_type = media::AGGREGATION_JOB_INIT_REQ;
    let (leader, body) = ROUTES.authorized_body(&ctx.requests, task, Role::Helper, request, media_type, limit).await?;
    let context = &leader.context;
    let id_source = IdSource::Chosen(*job.as_bytes());
    match helper_jobs::create(&ctx.helper, context, id_source, body, AnswerTiming::Immediate).await? {
        (_, Some(answer)) => Ok(content(StatusCode::CREATED, media::AGGREGATION_JOB_RESP, answer)),
        // Only DAP-18 jobs are deferred, and a task has one revision.
        (_, None) => Err(Error::Busy),
    }
}

async fn create_collection(
    ctx: &DapContext,
    task: TaskId,
    job: CollectionJobId,
    request: Request,
) -> Result<Response, Error> {
    ROUTES.opt_in(&ctx.requests, task, RequestSender::Collector, &request.headers).await?;
    let limit = ctx.requests.config.get().limits.max_message_bytes;
    let media_type = media::COLLECT_REQ;
    let (collector, body) =
        ROUTES.authorized_body(&ctx.requests, task, Role::Leader, request, media_type, limit).await?;
    let context = &collector.context;
    collections::create(&ctx.collections, context, IdSource::Chosen(*job.as_bytes()), body).await?;
    Ok(empty(StatusCode::CREATED))
}

async fn poll_collection(
    ctx: &DapContext,
    task: TaskId,
    job: CollectionJobId,
    request: Request,
) -> Result<Response, Error> {
    let collector = ROUTES.authorized(&ctx.requests, task, Role::Leader, &request.headers)?;
    let context = &collector.context;
    match collections::poll(&ctx.collections, context, job).await? {
        None => Err(routes::no_collection(job)),
        Some(CollectionState::Waiting | CollectionState::Closed { .. }) => {
            Ok(routes::not_ready(StatusCode::ACCEPTED, ctx.collections.config.get().leader.collection_retry_after))
        }
        Some(CollectionState::Done { body }) => Ok(content(StatusCode::OK, media::COLLECTION, body)),
        Some(CollectionState::Failed { kind, detail }) => Err(routes::failed_collection(job, &kind, detail)),
        Some(CollectionState::Deleted) => Ok(empty(StatusCode::NO_CONTENT)),
    }
}

async fn aggregate_share(ctx: &DapContext, task: TaskId, request: Request) -> Result<Response, Error> {
    ROUTES.opt_in(&ctx.requests, task, RequestSender::Leader, &request.headers).await?;
    let limit = ctx.requests.config.get().limits.max_message_bytes;
    let media_type = media::AGGREGATE_SHARE_REQ;
    let (leader, body) = ROUTES.authorized_body(&ctx.requests, task, Role::Helper, request, media_type, limit).await?;
    let context = &leader.context;
    let share = aggregate_shares::aggregate_share(&ctx.helper, context, body, None).await?;
    Ok(content(StatusCode::OK, media::AGGREGATE_SHARE, share))
}
