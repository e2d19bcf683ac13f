//! DAP-09's resources over HTTP (DAP-09 sections 4.3 to 4.6): methods, media types and status codes.

use std::sync::Arc;

use bytes::Bytes;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    app::App,
    auth, flow,
    http::{Request, Response, content, empty, failure},
};
use crate::{
    aggregator::{Error, TaskContext, upload::Verdict},
    model::{AggregationJobId, CollectionJobId, Party, ReportError, Revision, Role, TaskId, TokenHash},
    store::CollectionState,
    wire::{
        self, Problem, ProblemType,
        dap09::{Resource, decode_job_continue, media, parse_hpke_config_query, parse_path},
    },
};

/// Answers a request whose path below the revision's prefix is `path`.
pub async fn handle(app: &Arc<App>, path: &str, request: Request) -> Response {
    let resource = match parse_path(path) {
        Ok(resource) => resource,
        Err(bad) => return failure(Problem::from(bad).into()),
    };
    let for_browsers = matches!(resource, Resource::HpkeConfig | Resource::Reports(_));
    let allowed = methods(&resource);
    let mut response = if request.method == Method::OPTIONS && for_browsers {
        preflight(allowed)
    } else if !allowed.split(", ").any(|method| method == request.method.as_str()) {
        not_allowed(allowed)
    } else {
        let answered = answer(app, resource, request).await;
        answered.unwrap_or_else(|error| failure(about_task(error, task_of(&resource))))
    };
    if for_browsers {
        // Errors too: a browser must see `outdatedConfig` to know that it should fetch the keys again.
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}

fn methods(resource: &Resource) -> &'static str {
    match resource {
        Resource::HpkeConfig => "GET",
        Resource::Reports(_) => "PUT",
        Resource::AggregationJob(..) | Resource::CollectionJob(..) => "PUT, POST, DELETE",
        Resource::AggregateShares(_) => "POST",
    }
}

fn preflight(allowed: &'static str) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(allowed));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn not_allowed(allowed: &'static str) -> Response {
    let detail = format!("this resource takes {allowed}");
    let mut response = failure(Problem::about(405).with_detail(detail).into());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The task that a resource belongs to.
fn task_of(resource: &Resource) -> Option<TaskId> {
    match resource {
        Resource::HpkeConfig => None,
        Resource::Reports(task)
        | Resource::AggregationJob(task, _)
        | Resource::CollectionJob(task, _)
        | Resource::AggregateShares(task) => Some(*task),
    }
}

/// Names the task in every problem about one (DAP-09 section 3.2): there are clients that cannot do without.
fn about_task(error: Error, task: Option<TaskId>) -> Error {
    let error = match error {
        // A type that later drafts have.
        Error::Problem(problem) if problem.kind == ProblemType::InvalidAggregationParameter => {
            Problem { kind: ProblemType::InvalidMessage, ..problem }.into()
        }
        error => error,
    };
    match (error, task) {
        (Error::Busy, Some(task)) => Problem::busy().with_task(task).into(),
        (Error::Problem(problem), Some(task)) if problem.task_id.is_none() => problem.with_task(task).into(),
        (error, _) => error,
    }
}

async fn answer(app: &Arc<App>, resource: Resource, request: Request) -> Result<Response, Error> {
    // Keys are given out however busy we are: they cost nothing, and a client without them cannot even wait its turn.
    let _slot = match resource {
        Resource::HpkeConfig => None,
        _ => Some(app.requests.try_acquire().map_err(|_| Error::Busy)?),
    };
    let method = request.method.as_str().to_owned();
    match (resource, method.as_str()) {
        (Resource::HpkeConfig, _) => hpke_config(app, &request),
        (Resource::Reports(task), _) => upload(app, task, request).await,
        (Resource::AggregationJob(task, job), "PUT") => init_job(app, task, job, request).await,
        (Resource::AggregationJob(task, job), "POST") => continue_job(app, task, job, request).await,
        (Resource::AggregationJob(task, job), _) => delete_job(app, task, job, request).await,
        (Resource::CollectionJob(task, job), "PUT") => create_collection(app, task, job, request).await,
        (Resource::CollectionJob(task, job), "POST") => poll_collection(app, task, job, request).await,
        (Resource::CollectionJob(task, job), _) => delete_collection(app, task, job, request).await,
        (Resource::AggregateShares(task), _) => aggregate_share(app, task, request).await,
    }
}

/// The task, if it is of this revision and we have the role that the resource belongs to.
fn task_for(app: &App, id: TaskId, role: Option<Role>) -> Result<Arc<TaskContext>, Error> {
    app.context(&id)?
        .filter(|context| context.task.public.revision == Revision::Dap09)
        .filter(|context| role.is_none_or(|role| role == context.role()))
        .ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(id).into())
}

/// The task at its leader, for its collector; or at its helper, for its leader.
fn authorized(app: &App, id: TaskId, role: Role, headers: &HeaderMap) -> Result<Arc<TaskContext>, Error> {
    let context = task_for(app, id, Some(role))?;
    let expected: &TokenHash = match &context.task.party {
        Party::Leader { collector_token, .. } => collector_token,
        Party::Helper { leader_token } => leader_token,
    };
    auth::check(headers, &context.task, expected)?;
    Ok(context)
}

/// The body of a request, if it is of the given media type and not too long.
async fn body(app: &App, mut request: Request, media_type: &str, limit: usize) -> Result<Bytes, Problem> {
    request.expect_type(media_type)?;
    request.read_body(limit, *app.config.limits.request_timeout).await
}

fn hpke_config(app: &App, request: &Request) -> Result<Response, Error> {
    // Our keys are the same for all tasks, so the task may be left out.
    if let Some(task) = parse_hpke_config_query(&request.query).map_err(Problem::from)? {
        task_for(app, task, None)?;
    }
    let list = wire::of(Revision::Dap09).encode_hpke_configs(&app.keys.configs());
    let mut response = content(StatusCode::OK, media::HPKE_CONFIG_LIST, list);
    let cache = format!("max-age={}", app.config.hpke.cache_max_age.as_secs());
    if let Ok(value) = HeaderValue::from_str(&cache) {
        response.headers_mut().insert(header::CACHE_CONTROL, value);
    }
    Ok(response)
}

async fn upload(app: &Arc<App>, task: TaskId, request: Request) -> Result<Response, Error> {
    let context = task_for(app, task, Some(Role::Leader))?;
    let body = body(app, request, media::REPORT, app.config.limits.max_report_bytes).await?;
    let reports = match context.wire.decode_upload(&context.task.public, &body) {
        Ok(reports) => reports,
        Err(malformed) => return Err(flow::malformed_upload(app, &context, malformed).await),
    };
    match flow::upload(app, &context, reports).await?.pop() {
        Some(Verdict::Refused(error)) => Err(upload_refusal(error).into()),
        _ => Ok(empty(StatusCode::CREATED)),
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
        _ => (ProblemType::ReportRejected, "the report is older than the task's retention window"),
    };
    Problem::new(kind).with_detail(detail)
}

async fn init_job(app: &Arc<App>, task: TaskId, job: AggregationJobId, request: Request) -> Result<Response, Error> {
    let context = authorized(app, task, Role::Helper, &request.headers)?;
    let body = body(app, request, media::AGGREGATION_JOB_INIT_REQ, app.config.limits.max_job_bytes).await?;
    let answer = flow::aggregation_job(app, &context, job, body).await?;
    Ok(content(StatusCode::CREATED, media::AGGREGATION_JOB_RESP, answer))
}

/// Our VDAFs are done after one round, so there is no right continuation (DAP-09 section 4.5.2.2).
async fn continue_job(
    app: &Arc<App>,
    task: TaskId,
    job: AggregationJobId,
    request: Request,
) -> Result<Response, Error> {
    let context = authorized(app, task, Role::Helper, &request.headers)?;
    let body = body(app, request, media::AGGREGATION_JOB_CONTINUE_REQ, app.config.limits.max_job_bytes).await?;
    let step = decode_job_continue(&body, app.config.limits.max_job_reports).map_err(Error::from)?.step;
    let refuse = |kind, detail: &str| Err(Problem::new(kind).with_detail(detail).with_aggregation_job(job).into());
    if !flow::has_aggregation_job(app, &context, job)? {
        return refuse(ProblemType::UnrecognizedAggregationJob, "");
    }
    if step == 0 {
        return refuse(ProblemType::InvalidMessage, "a continuation cannot be step 0");
    }
    refuse(ProblemType::StepMismatch, "the task's VDAF has one round: the job was finished by its first answer")
}

async fn delete_job(app: &App, task: TaskId, job: AggregationJobId, request: Request) -> Result<Response, Error> {
    let context = authorized(app, task, Role::Helper, &request.headers)?;
    if flow::delete_aggregation_job(app, &context, job).await? {
        Ok(empty(StatusCode::NO_CONTENT))
    } else {
        let problem = Problem::new(ProblemType::UnrecognizedAggregationJob);
        Err(problem.with_aggregation_job(job).into())
    }
}

async fn create_collection(
    app: &Arc<App>,
    task: TaskId,
    job: CollectionJobId,
    request: Request,
) -> Result<Response, Error> {
    let context = authorized(app, task, Role::Leader, &request.headers)?;
    let body = body(app, request, media::COLLECT_REQ, app.config.limits.max_message_bytes).await?;
    flow::create_collection(app, &context, job, body).await?;
    Ok(empty(StatusCode::CREATED))
}

fn no_collection(job: CollectionJobId) -> Error {
    let problem = Problem::about(404).with_detail("there is no such collection job");
    problem.with_collection_job(job).into()
}

async fn poll_collection(app: &App, task: TaskId, job: CollectionJobId, request: Request) -> Result<Response, Error> {
    let context = authorized(app, task, Role::Leader, &request.headers)?;
    match flow::collection_state(app, &context, job).await? {
        None => Err(no_collection(job)),
        Some(CollectionState::Waiting | CollectionState::Closed { .. }) => {
            let mut response = empty(StatusCode::ACCEPTED);
            // A fraction of a second is no Retry-After.
            let seconds = app.config.leader.collection_retry_after.as_secs().max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            Ok(response)
        }
        Some(CollectionState::Done { body }) => Ok(content(StatusCode::OK, media::COLLECTION, body)),
        Some(CollectionState::Failed { kind, detail }) => {
            let kind = ProblemType::from_urn(&kind).unwrap_or(ProblemType::About(500));
            Err(Problem::new(kind).with_detail(detail).with_collection_job(job).into())
        }
        Some(CollectionState::Deleted) => Ok(empty(StatusCode::NO_CONTENT)),
    }
}

async fn delete_collection(app: &App, task: TaskId, job: CollectionJobId, request: Request) -> Result<Response, Error> {
    let context = authorized(app, task, Role::Leader, &request.headers)?;
    if flow::delete_collection(app, &context, job).await? {
        Ok(empty(StatusCode::NO_CONTENT))
    } else {
        Err(no_collection(job))
    }
}

async fn aggregate_share(app: &App, task: TaskId, request: Request) -> Result<Response, Error> {
    let context = authorized(app, task, Role::Helper, &request.headers)?;
    let body = body(app, request, media::AGGREGATE_SHARE_REQ, app.config.limits.max_message_bytes).await?;
    let share = flow::aggregate_share(app, &context, body).await?;
    Ok(content(StatusCode::OK, media::AGGREGATE_SHARE, share))
}
