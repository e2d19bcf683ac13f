//! What the routes of all revisions have in common: methods, browsers, tokens, media types, and what peers are told.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::{
    app::App,
    dap::{auth, flow, jobs},
    transport::{
        http::{Request, Response, content, empty, failure, head},
        slots::Slot,
    },
    upkeep::never_contacted,
};
use dapbox_aggregator::{Error, TaskContext, config::Seconds, helper::JobState};
use dapbox_protocol::{
    model::{AggregationJobId, CollectionJobId, Revision, Role, TaskId},
    wire::{self, AggregationJobContinueReq, Malformed, Problem, ProblemType},
};
use dapbox_support::clock;

/// What a request's path names, as far as all revisions see it alike.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The task that the resource belongs to.
    pub task: Option<TaskId>,
    /// The methods that the resource has.
    pub methods: &'static str,
    /// Whether browsers come here.
    pub for_browsers: bool,
}

/// A request whose sender has shown the task's token, in progress.
pub struct Authorized<'a> {
    /// The task.
    pub context: Arc<TaskContext>,
    _slot: Slot<'a>,
}

/// The routes of one revision.
#[derive(Clone, Copy)]
pub struct Routes {
    /// Which.
    pub revision: Revision,
    /// Says a problem in the revision's words.
    pub tell: fn(Problem) -> Problem,
    /// The headers that browsers may send.
    pub browser_headers: &'static str,
    /// The media type of a request to continue an aggregation job, and how it is read.
    pub continuation: (&'static str, DecodeContinue),
}

/// Reads a request to continue an aggregation job of at most so many reports.
type DecodeContinue = fn(&Bytes, usize) -> Result<AggregationJobContinueReq, Malformed>;

impl Routes {
    /// Answers a request with `answer`, once it is clear that its resource has such a method.
    pub async fn respond<F>(&self, target: Target, request: Request, answer: impl FnOnce(Request) -> F) -> Response
    where
        F: Future<Output = Result<Response, Error>>,
    {
        let Target { task, methods, for_browsers } = target;
        let is_head = request.method == Method::HEAD;
        let mut response = if request.method == Method::OPTIONS && for_browsers {
            preflight(methods, self.browser_headers)
        } else if !methods.split(", ").any(|method| method == request.method_of_resource()) {
            not_allowed(methods)
        } else {
            let answered = answer(request).await;
            answered.unwrap_or_else(|error| failure(self.about_task(error, task)))
        };
        if is_head {
            response = head(response);
        }
        if for_browsers {
            // Errors too: a browser must see `outdatedConfig` to know that it should fetch the keys again.
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        response
    }

    /// Names the task in every problem about one (DAP-09 section 3.2, DAP-18 section 3.6): there are clients that cannot
    /// do without.
    fn about_task(&self, error: Error, task: Option<TaskId>) -> Error {
        let problem = match error {
            Error::Problem(problem) => problem,
            Error::Busy => Problem::busy(),
            Error::Fault(fault) => return fault.into(),
        };
        let task = problem.task_id.or(task);
        (self.tell)(Problem { task_id: task, ..problem }).into()
    }

    /// The task, if it is of this revision and we have the role that the resource belongs to.
    pub fn task_for(&self, app: &App, id: TaskId, role: Option<Role>) -> Result<Arc<TaskContext>, Error> {
        let context = app
            .context(&id)?
            .filter(|context| context.task.public.revision == self.revision)
            .filter(|context| role.is_none_or(|role| role == context.role()))
            .ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(id))?;
        if role.is_some() {
            never_contacted::contact(app, &context);
        }
        Ok(context)
    }

    /// The task at its leader, for its collector; or at its helper, for its leader. For requests without a body.
    pub fn authorized<'a>(
        &self,
        app: &'a App,
        id: TaskId,
        role: Role,
        headers: &HeaderMap,
    ) -> Result<Authorized<'a>, Error> {
        let context = self.check_token(app, id, role, headers)?;
        Ok(Authorized { context, _slot: app.slots.peer()? })
    }

    /// The same with the request's body, if it is of the given media type and not too long. The request takes its slot when
    /// the body is there.
    pub async fn authorized_body<'a>(
        &self,
        app: &'a App,
        id: TaskId,
        role: Role,
        mut request: Request,
        media_type: &str,
        limit: usize,
    ) -> Result<(Authorized<'a>, Bytes), Error> {
        let context = self.check_token(app, id, role, &request.headers)?;
        self.expect_type(&request, media_type)?;
        let (limits, bodies) = (&app.config.limits, &app.slots.request_bodies);
        let (timeout, silence) = (*limits.request_timeout, *limits.max_body_silence);
        let body = request.read_body(limit, timeout, &app.request_memory, bodies, silence).await?;
        Ok((Authorized { context, _slot: app.slots.peer()? }, body))
    }

    fn check_token(&self, app: &App, id: TaskId, role: Role, headers: &HeaderMap) -> Result<Arc<TaskContext>, Error> {
        let context = self.task_for(app, id, Some(role))?;
        let now = clock::now();
        let hash = auth::check(headers, id, &context.tokens, now)?;
        if context.tokens.accepted_count(now) > 1 {
            app.note_token(&id, hash, now);
        }
        Ok(context)
    }

    /// Refuses a body of another media type than the one that is expected.
    pub fn expect_type(&self, request: &Request, expected: &str) -> Result<(), Problem> {
        match request.header(header::CONTENT_TYPE) {
            Some(given) if wire::media::matches(given, expected) => Ok(()),
            given => Err(Problem::from_status(415).with_detail(match given {
                Some(given) => format!("the body's media type is {given} and must be {expected}"),
                None => format!("the body has no media type and must be {expected}"),
            })),
        }
    }

    /// Our keys (DAP-09 section 4.4.1, DAP-18 section 4.4.1): they are the same for all tasks.
    pub fn hpke_configs(&self, app: &App, media_type: &'static str) -> Response {
        let list = wire::for_revision(self.revision).encode_hpke_configs(&app.keys.ring().configs());
        let mut response = content(StatusCode::OK, media_type, list);
        let cache = format!("max-age={}", app.config.hpke.cache_max_age.as_secs());
        if let Ok(value) = HeaderValue::from_str(&cache) {
            response.headers_mut().insert(header::CACHE_CONTROL, value);
        }
        response
    }
}

/// What is the same to the letter in all revisions.
impl Routes {
    /// Refuses to continue an aggregation job: our VDAFs are done after one round, so there is no right continuation
    /// (DAP-09 section 4.5.2.2, DAP-18 section 4.5.4.2).
    pub async fn continue_job(
        &self,
        app: &App,
        task: TaskId,
        job: AggregationJobId,
        request: Request,
    ) -> Result<Response, Error> {
        let (limits, (media_type, decode)) = (&app.config.limits, self.continuation);
        let limit = limits.max_job_bytes;
        let (leader, body) = self.authorized_body(app, task, Role::Helper, request, media_type, limit).await?;
        let step = decode(&body, limits.max_job_reports)?.step;
        let refuse = |kind, detail: &str| Err(Problem::new(kind).with_detail(detail).with_aggregation_job(job).into());
        match jobs::state(app, &leader.context, job)? {
            None | Some(JobState::Deleted) => Err(no_aggregation_job(job)),
            Some(_) if step == 0 => refuse(ProblemType::InvalidMessage, "a continuation cannot be step 0"),
            Some(_) => refuse(
                ProblemType::StepMismatch,
                "the task's VDAF has one round: the job was finished by its first answer",
            ),
        }
    }

    /// Deletes an aggregation job (DAP-09 section 4.5.2.2, DAP-18 section 4.5.5).
    pub async fn delete_job(
        &self,
        app: &App,
        task: TaskId,
        job: AggregationJobId,
        request: Request,
    ) -> Result<Response, Error> {
        let leader = self.authorized(app, task, Role::Helper, &request.headers)?;
        deleted(jobs::delete(app, &leader.context, job).await?, no_aggregation_job(job))
    }

    /// Deletes a collection job (DAP-09 section 4.6.1, DAP-18 section 4.6.3).
    pub async fn delete_collection(
        &self,
        app: &App,
        task: TaskId,
        job: CollectionJobId,
        request: Request,
    ) -> Result<Response, Error> {
        let collector = self.authorized(app, task, Role::Leader, &request.headers)?;
        deleted(flow::delete_collection(app, &collector.context, job).await?, no_collection(job))
    }
}

fn preflight(allowed: &'static str, headers_allowed: &'static str) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(allowed));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(headers_allowed));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn not_allowed(allowed: &'static str) -> Response {
    let detail = format!("this resource takes {allowed}");
    let mut response = failure(Problem::from_status(405).with_detail(detail).into());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Says that an answer is not ready, and when to ask again.
pub fn not_ready(status: StatusCode, retry_after: Seconds) -> Response {
    let mut response = empty(status);
    // A fraction of a second is no Retry-After.
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
    response
}

/// There is no such aggregation job.
pub fn no_aggregation_job(job: AggregationJobId) -> Error {
    Problem::new(ProblemType::UnrecognizedAggregationJob).with_aggregation_job(job).into()
}

/// There is no such collection job.
pub fn no_collection(job: CollectionJobId) -> Error {
    Problem::from_status(404).with_detail("there is no such collection job").with_collection_job(job).into()
}

/// A collection job has failed.
pub fn failed_collection(job: CollectionJobId, kind: &str, detail: String) -> Error {
    let kind = ProblemType::from_urn(kind).unwrap_or(ProblemType::HttpStatus(500));
    Problem::new(kind).with_detail(detail).with_collection_job(job).into()
}

/// What is deleted, or is not there.
pub fn deleted(was_there: bool, nothing: Error) -> Result<Response, Error> {
    if was_there { Ok(empty(StatusCode::NO_CONTENT)) } else { Err(nothing) }
}
