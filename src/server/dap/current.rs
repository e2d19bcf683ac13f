//! The resources of DAP-18 and later drafts over HTTP (DAP-18 sections 3 and 4.4 to 4.6): methods, media types, locations and
//! status codes.

use url::Url;
use warp::http::{HeaderValue, Method, StatusCode, header};

use crate::{
    dap::{
        aggregate_shares::{self, AggregateShareAnswer},
        collections,
        context::DapContext,
        helper_jobs::{self, AnswerTiming},
        in_band::{AdvertisedTask, RequestSender},
        routes::{self, RouteTarget, Routes},
        upload_stream,
    },
    transport::http::{Request, Response, content, empty, failure},
};
use dapbox_aggregator::{
    Error, TaskContext,
    helper::JobState,
    resource_id::{IdSource, ResourceKey},
};
use dapbox_protocol::{
    model::{AggregateShareId, AggregationJobId, CollectionJobId, ReportError, ReportId, Revision, Role, TaskId},
    wire::{
        self, Problem, ProblemType, ResourceKind, Wire,
        current::{Resource, decode_job_continue, media, parse_path, parse_step},
    },
};
use dapbox_store::CollectionState;
use dapbox_support::Fault;

/// The routes of a revision.
fn routes_of(revision: Revision) -> Routes {
    let has_in_band_tasks = wire::taskprov::for_revision(revision).is_some();
    Routes {
        revision,
        map_problem,
        browser_headers: if has_in_band_tasks { "content-type, dap-taskprov" } else { "content-type" },
        continuation: (media::AGGREGATION_JOB_CONTINUE_REQ, decode_job_continue),
    }
}

/// Answers a request with `path` below the prefix of the revision.
pub async fn handle(revision: Revision, ctx: &DapContext, path: &str, request: Request) -> Response {
    let routes = &routes_of(revision);
    let resource = match parse_path(path) {
        Ok(resource) => resource,
        Err(bad) => return failure(Problem::from(bad).into()),
    };
    routes.respond(target(&resource), request, |request| answer(routes, ctx, resource, request)).await
}

fn target(resource: &Resource) -> RouteTarget {
    let (task, methods, for_browsers) = match resource {
        Resource::HpkeConfig => (None, "GET, HEAD", true),
        Resource::Reports(task) => (Some(*task), "POST", true),
        Resource::AggregationJobs(task) | Resource::CollectionJobs(task) | Resource::AggregateShares(task) => {
            (Some(*task), "POST", false)
        }
        Resource::AggregationJob(task, _) => (Some(*task), "GET, HEAD, POST, DELETE", false),
        Resource::CollectionJob(task, _) | Resource::AggregateShare(task, _) => {
            (Some(*task), "GET, HEAD, DELETE", false)
        }
    };
    RouteTarget { task, methods, for_browsers }
}

/// Omits problem types that this revision does not register (section 3.6). The status remains.
fn map_problem(problem: Problem) -> Problem {
    let kind = match problem.kind {
        ProblemType::InvalidMessage
        | ProblemType::UnrecognizedTask
        | ProblemType::UnrecognizedAggregationJob
        | ProblemType::BatchInvalid
        | ProblemType::InvalidBatchSize
        | ProblemType::InvalidAggregationParameter
        | ProblemType::BatchMismatch
        | ProblemType::StepMismatch
        | ProblemType::BatchOverlap
        | ProblemType::UnsupportedExtension
        | ProblemType::InvalidExtension
        // Registered by the taskprov extension, and sent only if a request advertises a task.
        | ProblemType::InvalidTask => problem.kind,
        ProblemType::HttpStatus(_)
        | ProblemType::OutdatedConfig
        | ProblemType::ReportRejected
        | ProblemType::ReportTooEarly
        | ProblemType::BatchQueriedTooManyTimes
        | ProblemType::UnauthorizedRequest
        | ProblemType::MissingTaskId => ProblemType::HttpStatus(problem.status),
    };
    Problem { kind, ..problem }
}

async fn answer(routes: &Routes, ctx: &DapContext, resource: Resource, request: Request) -> Result<Response, Error> {
    let method = request.method_of_resource().to_owned();
    match (resource, method.as_str()) {
        (Resource::HpkeConfig, _) => Ok(routes.hpke_configs(&ctx.requests, media::HPKE_CONFIG_LIST)),
        (Resource::Reports(task), _) => upload(routes, ctx, task, request).await,
        (Resource::AggregationJobs(task), _) => create_job(routes, ctx, task, request).await,
        (Resource::AggregationJob(task, job), "GET") => poll_job(routes, ctx, task, job, request),
        (Resource::AggregationJob(task, job), "POST") => routes.continue_job(ctx, task, job, request).await,
        (Resource::AggregationJob(task, job), _) => routes.delete_job(ctx, task, job, request).await,
        (Resource::CollectionJobs(task), _) => create_collection(routes, ctx, task, request).await,
        (Resource::CollectionJob(task, job), "GET") => poll_collection(routes, ctx, task, job, request).await,
        (Resource::CollectionJob(task, job), _) => routes.delete_collection(ctx, task, job, request).await,
        (Resource::AggregateShares(task), _) => create_share(routes, ctx, task, request).await,
        (Resource::AggregateShare(task, share), "GET") => get_share(routes, ctx, task, share, request),
        (Resource::AggregateShare(task, share), _) => delete_share(routes, ctx, task, share, request).await,
    }
}

/// Sets the `Location` of a resource (section 3.2): its path below our URL in the task. A proxy may have rewritten the
/// path of the request.
fn with_location(
    mut response: Response,
    context: &TaskContext,
    resource: Resource,
    query: &str,
) -> Result<Response, Error> {
    let task = &context.task.public;
    let ours = match context.role() {
        Role::Leader => &task.leader_url,
        _ => &task.helper_url,
    };
    let base = Url::parse(ours).map_err(|error| Fault::while_doing("parsing our URL", error))?;
    let location = format!("{}/{}{query}", base.path().trim_end_matches('/'), resource.path());
    let location =
        HeaderValue::from_str(&location).map_err(|error| Fault::while_doing("creating a Location header", error))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Stores reports (section 4.4.2).
async fn upload(routes: &Routes, ctx: &DapContext, task: TaskId, request: Request) -> Result<Response, Error> {
    routes.expect_type(&request, media::UPLOAD_REQ)?;
    if let Some(advertised) = routes.advertised_task(&ctx.requests, task, RequestSender::Client, &request.headers)? {
        return first_upload(routes, ctx, advertised, request).await;
    }
    let context = routes.task_for(&ctx.requests, task, Some(Role::Leader))?;
    let refused = upload_stream::take(&ctx.uploads, &context, request).await?;
    Ok(upload_answer(context.wire, &refused))
}

/// Stores the first reports of an in-band task. Uploads carry no token. The task is therefore set up only after its reports
/// have arrived and one of them was checked, so they are buffered.
async fn first_upload(
    routes: &Routes,
    ctx: &DapContext,
    advertised: AdvertisedTask,
    mut request: Request,
) -> Result<Response, Error> {
    ctx.uploads.disk.check()?;
    let (id, wire) = (advertised.task.public.id, wire::for_revision(routes.revision));
    let config = ctx.uploads.config.get();
    let (limits, bodies) = (&config.limits, &ctx.uploads.slots.upload_bodies);
    let (timeout, budget, silence) = (*limits.request_timeout, &ctx.uploads.memory, *limits.max_body_silence);
    let body = request.read_body(limits.max_upload_bytes, timeout, budget, bodies, silence).await?;
    drop(request);
    let refused = routes.opt_in_for_upload(&ctx.requests, advertised, &body).await?;
    if !refused.is_empty() {
        let refused: Vec<_> = refused.into_iter().map(|(id, error)| (id, wire.upload_error(error))).collect();
        return Ok(upload_answer(wire, &refused));
    }
    let context = routes.task_for(&ctx.requests, id, Some(Role::Leader))?;
    let reports = wire.decode_upload(&context.task.public, &body)?;
    let refused = upload_stream::store(&ctx.uploads, &context, reports).await?;
    Ok(upload_answer(wire, &refused))
}

/// The response lists the rejected reports only.
fn upload_answer(wire: &dyn Wire, refused: &[(ReportId, ReportError)]) -> Response {
    match refused {
        [] => empty(StatusCode::OK),
        refused => content(StatusCode::OK, media::UPLOAD_ERRORS, wire.encode_upload_answer(refused)),
    }
}

async fn create_job(routes: &Routes, ctx: &DapContext, task: TaskId, request: Request) -> Result<Response, Error> {
    routes.opt_in(&ctx.requests, task, RequestSender::Leader, &request.headers).await?;
    let limit = ctx.requests.config.get().limits.max_job_bytes;
    let media_type = media::AGGREGATION_JOB_INIT_REQ;
    let (leader, body) = routes.authorized_body(&ctx.requests, task, Role::Helper, request, media_type, limit).await?;
    let context = &leader.context;
    let timing = AnswerTiming::DeferAbove(ctx.helper.config.get().helper.synchronous_reports);
    let (job, answer) = helper_jobs::create(&ctx.helper, context, IdSource::Derived, body, timing).await?;
    let resource = Resource::AggregationJob(task, job);
    match answer {
        Some(answer) => {
            with_location(content(StatusCode::OK, media::AGGREGATION_JOB_RESP, answer), context, resource, "")
        }
        None => job_not_ready(ctx, context, resource),
    }
}

fn job_not_ready(ctx: &DapContext, context: &TaskContext, resource: Resource) -> Result<Response, Error> {
    with_location(
        routes::not_ready(StatusCode::OK, ctx.helper.config.get().helper.retry_after),
        context,
        resource,
        "?step=0",
    )
}

/// Returns the response to an aggregation job (section 4.5.3.2). The leader names the step; our VDAFs have only step 0.
fn poll_job(
    routes: &Routes,
    ctx: &DapContext,
    task: TaskId,
    job: AggregationJobId,
    request: Request,
) -> Result<Response, Error> {
    let leader = routes.authorized(&ctx.requests, task, Role::Helper, &request.headers)?;
    let context = &leader.context;
    let refuse = |kind, detail: &str| Err(Problem::new(kind).with_detail(detail).with_aggregation_job(job).into());
    let step = parse_step(&request.query).map_err(Problem::from)?;
    let state = match helper_jobs::state(&ctx.helper, context, job)? {
        None | Some(JobState::Deleted) => return Err(routes::no_aggregation_job(job)),
        Some(state) => state,
    };
    match step {
        None => return refuse(ProblemType::InvalidMessage, "missing step in the query"),
        Some(0) => {}
        Some(_) => return refuse(ProblemType::StepMismatch, "the job is at step 0"),
    }
    match state {
        JobState::Answered(answer) => Ok(content(StatusCode::OK, media::AGGREGATION_JOB_RESP, answer)),
        JobState::Expired => {
            Err(Problem::from_status(410).with_detail(helper_jobs::ANSWER_EXPIRED).with_aggregation_job(job).into())
        }
        _ => job_not_ready(ctx, context, Resource::AggregationJob(task, job)),
    }
}

async fn create_collection(
    routes: &Routes,
    ctx: &DapContext,
    task: TaskId,
    request: Request,
) -> Result<Response, Error> {
    routes.opt_in(&ctx.requests, task, RequestSender::Collector, &request.headers).await?;
    let limit = ctx.requests.config.get().limits.max_message_bytes;
    let media_type = media::COLLECTION_JOB_REQ;
    let (collector, body) =
        routes.authorized_body(&ctx.requests, task, Role::Leader, request, media_type, limit).await?;
    let context = &collector.context;
    let job = collections::create(&ctx.collections, context, IdSource::Derived, body).await?;
    // Waits briefly like a poll, so that a batch that is ready is returned immediately.
    let state = collections::poll(&ctx.collections, context, job).await?;
    with_location(collection(ctx, job, state)?, context, Resource::CollectionJob(task, job), "")
}

async fn poll_collection(
    routes: &Routes,
    ctx: &DapContext,
    task: TaskId,
    job: CollectionJobId,
    request: Request,
) -> Result<Response, Error> {
    let collector = routes.authorized(&ctx.requests, task, Role::Leader, &request.headers)?;
    let context = &collector.context;
    let state = match request.method {
        // A HEAD request does not fetch the result.
        Method::HEAD => collections::wait(&ctx.collections, context, job).await?.map(|(state, _)| state),
        _ => collections::poll(&ctx.collections, context, job).await?,
    };
    collection(ctx, job, state)
}

/// The response for the state of a collection job (section 4.6.1).
fn collection(ctx: &DapContext, job: CollectionJobId, state: Option<CollectionState>) -> Result<Response, Error> {
    match state {
        None => Err(routes::no_collection(job)),
        Some(CollectionState::Waiting | CollectionState::Closed { .. }) => {
            Ok(routes::not_ready(StatusCode::OK, ctx.collections.config.get().leader.collection_retry_after))
        }
        Some(CollectionState::Done { body }) => Ok(content(StatusCode::OK, media::COLLECTION_JOB_RESP, body)),
        Some(CollectionState::Failed { kind, detail }) => Err(routes::failed_collection(job, &kind, detail)),
        Some(CollectionState::Deleted) => {
            let problem = Problem::from_status(410).with_detail("the collection job was deleted");
            Err(problem.with_collection_job(job).into())
        }
    }
}

async fn create_share(routes: &Routes, ctx: &DapContext, task: TaskId, request: Request) -> Result<Response, Error> {
    routes.opt_in(&ctx.requests, task, RequestSender::Leader, &request.headers).await?;
    let limit = ctx.requests.config.get().limits.max_message_bytes;
    let media_type = media::AGGREGATE_SHARE_REQ;
    let (leader, body) = routes.authorized_body(&ctx.requests, task, Role::Helper, request, media_type, limit).await?;
    let context = &leader.context;
    let id = ResourceKey::new(task, ResourceKind::AggregateShare, &body).share_id();
    let share = aggregate_shares::aggregate_share(&ctx.helper, context, body, Some(id)).await?;
    let response = content(StatusCode::OK, media::AGGREGATE_SHARE, share);
    with_location(response, context, Resource::AggregateShare(task, id), "")
}

fn get_share(
    routes: &Routes,
    ctx: &DapContext,
    task: TaskId,
    id: AggregateShareId,
    request: Request,
) -> Result<Response, Error> {
    let leader = routes.authorized(&ctx.requests, task, Role::Helper, &request.headers)?;
    let context = &leader.context;
    match aggregate_shares::find_share(&ctx.helper, context, id)? {
        Some(AggregateShareAnswer::Released(answer)) => Ok(content(StatusCode::OK, media::AGGREGATE_SHARE, answer)),
        Some(AggregateShareAnswer::Deleted) => {
            Err(Problem::from_status(410).with_detail("the aggregate share was deleted").into())
        }
        None => Err(no_share()),
    }
}

async fn delete_share(
    routes: &Routes,
    ctx: &DapContext,
    task: TaskId,
    id: AggregateShareId,
    request: Request,
) -> Result<Response, Error> {
    let leader = routes.authorized(&ctx.requests, task, Role::Helper, &request.headers)?;
    let context = &leader.context;
    routes::deleted(aggregate_shares::delete_share(&ctx.helper, context, id).await?, no_share())
}

fn no_share() -> Error {
    Problem::from_status(404).with_detail("unknown aggregate share").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_aggregator::testing;

    #[test]
    fn maps_unregistered_problem_types_to_status() {
        for kind in ProblemType::DEFINED {
            let mapped = map_problem(Problem::new(kind));
            assert_eq!(mapped.status, kind.status());
            assert!(mapped.kind == kind || mapped.kind == ProblemType::HttpStatus(kind.status()), "{kind}");
        }
        let mapped = map_problem(Problem::new(ProblemType::UnauthorizedRequest));
        assert_eq!((mapped.kind.urn().as_str(), mapped.status), ("about:blank", 403));
        assert_eq!(map_problem(Problem::new(ProblemType::BatchOverlap)).kind, ProblemType::BatchOverlap);
    }

    #[test]
    fn location_uses_public_url() {
        for (ours, prefix) in [
            ("https://helper.example/dap-18/", "/dap-18"),
            ("https://helper.example:8443/a/b/dap-18", "/a/b/dap-18"),
            ("https://helper.example", ""),
        ] {
            let mut task = testing::task(Revision::Dap18);
            task.public.helper_url = ours.to_owned();
            let (id, job) = (task.public.id, AggregationJobId::new([1; 16]));
            let context = TaskContext::new(task.into()).unwrap();
            let resource = Resource::AggregationJob(id, job);
            let response = with_location(empty(StatusCode::OK), &context, resource, "?step=0").unwrap();
            let expected = format!("{prefix}/tasks/{id}/aggregation_jobs/{job}?step=0");
            assert_eq!(response.headers()[header::LOCATION], expected);
        }
    }
}
