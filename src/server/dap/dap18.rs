//! DAP-18's resources over HTTP (DAP-18 sections 3 and 4.4 to 4.6): methods, media types, places and status codes.

use std::sync::Arc;

use url::Url;
use warp::http::{HeaderValue, Method, StatusCode, header};

use crate::{
    app::App,
    dap::{
        flow::{self, Share},
        jobs::{self, Timing},
        routes::{self, Routes, Target},
        uploads,
    },
    transport::http::{Request, Response, content, empty, failure},
};
use dapbox_aggregator::{
    Error, TaskContext,
    helper::JobState,
    resource_id::{IdSource, ResourceKey},
};
use dapbox_protocol::{
    model::{AggregateShareId, AggregationJobId, CollectionJobId, Revision, Role, TaskId},
    wire::{
        Problem, ProblemType, ResourceKind,
        dap18::{Resource, decode_job_continue, encode_upload_errors, media, parse_path, parse_step},
    },
};
use dapbox_store::CollectionState;
use dapbox_support::Fault;

const ROUTES: Routes = Routes {
    revision: Revision::Dap18,
    tell,
    browser_headers: "content-type",
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
        Resource::Reports(task) => (Some(*task), "POST", true),
        Resource::AggregationJobs(task) | Resource::CollectionJobs(task) | Resource::AggregateShares(task) => {
            (Some(*task), "POST", false)
        }
        Resource::AggregationJob(task, _) => (Some(*task), "GET, HEAD, POST, DELETE", false),
        Resource::CollectionJob(task, _) | Resource::AggregateShare(task, _) => {
            (Some(*task), "GET, HEAD, DELETE", false)
        }
    };
    Target { task, methods, for_browsers }
}

/// A type that is not registered for this revision must not be used (section 3.6): the status says it all then.
fn tell(problem: Problem) -> Problem {
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
        | ProblemType::InvalidExtension => problem.kind,
        ProblemType::HttpStatus(_)
        | ProblemType::OutdatedConfig
        | ProblemType::ReportRejected
        | ProblemType::ReportTooEarly
        | ProblemType::BatchQueriedTooManyTimes
        | ProblemType::UnauthorizedRequest
        | ProblemType::MissingTaskId
        | ProblemType::InvalidTask => ProblemType::HttpStatus(problem.status),
    };
    Problem { kind, ..problem }
}

async fn answer(app: &Arc<App>, resource: Resource, request: Request) -> Result<Response, Error> {
    let method = request.method_of_resource().to_owned();
    match (resource, method.as_str()) {
        (Resource::HpkeConfig, _) => Ok(ROUTES.hpke_configs(app, media::HPKE_CONFIG_LIST)),
        (Resource::Reports(task), _) => upload(app, task, request).await,
        (Resource::AggregationJobs(task), _) => create_job(app, task, request).await,
        (Resource::AggregationJob(task, job), "GET") => poll_job(app, task, job, request),
        (Resource::AggregationJob(task, job), "POST") => ROUTES.continue_job(app, task, job, request).await,
        (Resource::AggregationJob(task, job), _) => ROUTES.delete_job(app, task, job, request).await,
        (Resource::CollectionJobs(task), _) => create_collection(app, task, request).await,
        (Resource::CollectionJob(task, job), "GET") => poll_collection(app, task, job, request).await,
        (Resource::CollectionJob(task, job), _) => ROUTES.delete_collection(app, task, job, request).await,
        (Resource::AggregateShares(task), _) => create_share(app, task, request).await,
        (Resource::AggregateShare(task, share), "GET") => get_share(app, task, share, request),
        (Resource::AggregateShare(task, share), _) => delete_share(app, task, share, request).await,
    }
}

/// Says where a resource is (section 3.2): by its path, as peers reach it. A proxy in front of us may have put more
/// before that than we see; our URL in the task has it.
fn at(mut response: Response, context: &TaskContext, resource: Resource, query: &str) -> Result<Response, Error> {
    let task = &context.task.public;
    let ours = match context.role() {
        Role::Leader => &task.leader_url,
        _ => &task.helper_url,
    };
    let base = Url::parse(ours).map_err(|error| Fault::while_doing("reading our own URL", error))?;
    let place = format!("{}/{}{query}", base.path().trim_end_matches('/'), resource.path());
    let place = HeaderValue::from_str(&place).map_err(|error| Fault::while_doing("writing a Location", error))?;
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

/// Takes reports (section 4.4.2): those that are taken are not mentioned in the answer.
async fn upload(app: &Arc<App>, task: TaskId, request: Request) -> Result<Response, Error> {
    let context = ROUTES.task_for(app, task, Some(Role::Leader))?;
    ROUTES.expect_type(&request, media::UPLOAD_REQ)?;
    let refused = uploads::take(app, &context, request).await?;
    if refused.is_empty() {
        return Ok(empty(StatusCode::OK));
    }
    Ok(content(StatusCode::OK, media::UPLOAD_ERRORS, encode_upload_errors(&refused)))
}

async fn create_job(app: &Arc<App>, task: TaskId, request: Request) -> Result<Response, Error> {
    let limit = app.config.limits.max_job_bytes;
    let media_type = media::AGGREGATION_JOB_INIT_REQ;
    let (leader, body) = ROUTES.authorized_body(app, task, Role::Helper, request, media_type, limit).await?;
    let context = &leader.context;
    let timing = Timing::LaterAbove(app.config.helper.synchronous_reports);
    let (job, answer) = jobs::create(app, context, IdSource::Derived, body, timing).await?;
    let resource = Resource::AggregationJob(task, job);
    match answer {
        Some(answer) => at(content(StatusCode::OK, media::AGGREGATION_JOB_RESP, answer), context, resource, ""),
        None => job_not_ready(app, context, resource),
    }
}

fn job_not_ready(app: &App, context: &TaskContext, resource: Resource) -> Result<Response, Error> {
    at(routes::not_ready(StatusCode::OK, app.config.helper.retry_after), context, resource, "?step=0")
}

/// Gives the answer to an aggregation job (section 4.5.3.2). The leader says at which step it is; our VDAFs have one.
fn poll_job(app: &App, task: TaskId, job: AggregationJobId, request: Request) -> Result<Response, Error> {
    let leader = ROUTES.authorized(app, task, Role::Helper, &request.headers)?;
    let context = &leader.context;
    let refuse = |kind, detail: &str| Err(Problem::new(kind).with_detail(detail).with_aggregation_job(job).into());
    let step = parse_step(&request.query).map_err(Problem::from)?;
    let state = match jobs::state(app, context, job)? {
        None | Some(JobState::Deleted) => return Err(routes::no_aggregation_job(job)),
        Some(state) => state,
    };
    match step {
        None => return refuse(ProblemType::InvalidMessage, "the query does not say the step"),
        Some(0) => {}
        Some(_) => return refuse(ProblemType::StepMismatch, "the job is at step 0"),
    }
    match state {
        JobState::Answered(answer) => Ok(content(StatusCode::OK, media::AGGREGATION_JOB_RESP, answer)),
        JobState::Expired => {
            Err(Problem::from_status(410).with_detail(jobs::FORGOTTEN).with_aggregation_job(job).into())
        }
        _ => job_not_ready(app, context, Resource::AggregationJob(task, job)),
    }
}

async fn create_collection(app: &Arc<App>, task: TaskId, request: Request) -> Result<Response, Error> {
    let limit = app.config.limits.max_message_bytes;
    let media_type = media::COLLECTION_JOB_REQ;
    let (collector, body) = ROUTES.authorized_body(app, task, Role::Leader, request, media_type, limit).await?;
    let context = &collector.context;
    let job = flow::create_collection(app, context, IdSource::Derived, body).await?;
    // Held for a moment like a poll: a batch that is ready is answered at once.
    let state = flow::poll_collection(app, context, job).await?;
    at(collection(app, job, state)?, context, Resource::CollectionJob(task, job), "")
}

async fn poll_collection(app: &App, task: TaskId, job: CollectionJobId, request: Request) -> Result<Response, Error> {
    let collector = ROUTES.authorized(app, task, Role::Leader, &request.headers)?;
    let context = &collector.context;
    let state = match request.method {
        // Who asks for the head alone has not fetched the result.
        Method::HEAD => flow::peek_at_collection(app, context, job).await?.map(|(state, _)| state),
        _ => flow::poll_collection(app, context, job).await?,
    };
    collection(app, job, state)
}

/// How a collection job is (section 4.6.1).
fn collection(app: &App, job: CollectionJobId, state: Option<CollectionState>) -> Result<Response, Error> {
    match state {
        None => Err(routes::no_collection(job)),
        Some(CollectionState::Waiting | CollectionState::Closed { .. }) => {
            Ok(routes::not_ready(StatusCode::OK, app.config.leader.collection_retry_after))
        }
        Some(CollectionState::Done { body }) => Ok(content(StatusCode::OK, media::COLLECTION_JOB_RESP, body)),
        Some(CollectionState::Failed { kind, detail }) => Err(routes::failed_collection(job, &kind, detail)),
        Some(CollectionState::Deleted) => {
            let problem = Problem::from_status(410).with_detail("the collection job was deleted");
            Err(problem.with_collection_job(job).into())
        }
    }
}

async fn create_share(app: &Arc<App>, task: TaskId, request: Request) -> Result<Response, Error> {
    let limit = app.config.limits.max_message_bytes;
    let media_type = media::AGGREGATE_SHARE_REQ;
    let (leader, body) = ROUTES.authorized_body(app, task, Role::Helper, request, media_type, limit).await?;
    let context = &leader.context;
    let id = ResourceKey::new(task, ResourceKind::AggregateShare, &body).share_id();
    let share = flow::aggregate_share(app, context, body, Some(id)).await?;
    let response = content(StatusCode::OK, media::AGGREGATE_SHARE, share);
    at(response, context, Resource::AggregateShare(task, id), "")
}

fn get_share(app: &App, task: TaskId, id: AggregateShareId, request: Request) -> Result<Response, Error> {
    let leader = ROUTES.authorized(app, task, Role::Helper, &request.headers)?;
    let context = &leader.context;
    match flow::find_share(app, context, id)? {
        Some(Share::GivenOut(answer)) => Ok(content(StatusCode::OK, media::AGGREGATE_SHARE, answer)),
        Some(Share::Deleted) => Err(Problem::from_status(410).with_detail("the aggregate share was deleted").into()),
        None => Err(no_share()),
    }
}

async fn delete_share(app: &App, task: TaskId, id: AggregateShareId, request: Request) -> Result<Response, Error> {
    let leader = ROUTES.authorized(app, task, Role::Helper, &request.headers)?;
    let context = &leader.context;
    routes::deleted(flow::delete_share(app, context, id).await?, no_share())
}

fn no_share() -> Error {
    Problem::from_status(404).with_detail("there is no such aggregate share").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_aggregator::testing;

    #[test]
    fn only_registered_names_are_used() {
        for kind in ProblemType::DEFINED {
            let told = tell(Problem::new(kind));
            assert_eq!(told.status, kind.status());
            assert!(told.kind == kind || told.kind == ProblemType::HttpStatus(kind.status()), "{kind}");
        }
        let told = tell(Problem::new(ProblemType::UnauthorizedRequest));
        assert_eq!((told.kind.urn().as_str(), told.status), ("about:blank", 403));
        assert_eq!(tell(Problem::new(ProblemType::BatchOverlap)).kind, ProblemType::BatchOverlap);
    }

    #[test]
    fn a_place_is_where_peers_reach_us_whatever_is_before_us() {
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
            let response = at(empty(StatusCode::OK), &context, resource, "?step=0").unwrap();
            let expected = format!("{prefix}/tasks/{id}/aggregation_jobs/{job}?step=0");
            assert_eq!(response.headers()[header::LOCATION], expected);
        }
    }
}
