//! What the routes of all revisions share: methods, CORS, tokens, media types and problem documents.
//!
//! # Decision: one function routes all requests
//!
//! Requests are routed by a function of method and path rather than by a warp filter per resource. The order of 404,
//! 405 and 415 is therefore defined, and CORS headers are present on errors, too.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::{
    dap::{
        auth, collections,
        context::{DapContext, RequestContext},
        helper_jobs,
    },
    transport::{
        http::{Request, Response, content, empty, failure, head},
        slots::RequestSlot,
    },
    upkeep::never_contacted,
};
use dapbox_aggregator::{Error, TaskContext, config::Seconds, helper::JobState};
use dapbox_protocol::{
    model::{AggregationJobId, CollectionJobId, Revision, Role, TaskId},
    wire::{self, AggregationJobContinueReq, Malformed, Problem, ProblemType},
};

/// The resource of a request, independent of the revision.
#[derive(Clone, Copy, Debug)]
pub struct RouteTarget {
    /// The task of the resource.
    pub task: Option<TaskId>,
    /// The methods of the resource.
    pub methods: &'static str,
    /// Whether browsers use the resource.
    pub for_browsers: bool,
}

/// An authorized request in progress.
pub struct Authorized<'a> {
    /// The task.
    pub context: Arc<TaskContext>,
    _slot: RequestSlot<'a>,
}

/// The routes of one revision.
#[derive(Clone, Copy)]
pub struct Routes {
    /// The revision.
    pub revision: Revision,
    /// Maps a problem to the types of the revision.
    pub map_problem: fn(Problem) -> Problem,
    /// The headers that browsers may send.
    pub browser_headers: &'static str,
    /// Media type and decoder of a request to continue an aggregation job.
    pub continuation: (&'static str, DecodeContinue),
}

/// Decodes a request to continue an aggregation job. The number is the maximum of its reports.
type DecodeContinue = fn(&Bytes, usize) -> Result<AggregationJobContinueReq, Malformed>;

impl Routes {
    /// Calls `answer` if the resource has the method of the request.
    pub async fn respond<F>(&self, target: RouteTarget, request: Request, answer: impl FnOnce(Request) -> F) -> Response
    where
        F: Future<Output = Result<Response, Error>>,
    {
        let RouteTarget { task, methods, for_browsers } = target;
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
            // On errors, too: a browser must see `outdatedConfig` to fetch the keys again.
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        response
    }

    /// Adds the task to every problem about one (DAP-09 section 3.2, DAP-18 section 3.6), because some clients require
    /// it.
    fn about_task(&self, error: Error, task: Option<TaskId>) -> Error {
        let problem = match error {
            Error::Problem(problem) => problem,
            Error::Busy => Problem::busy(),
            Error::Fault(fault) => return fault.into(),
        };
        let task = problem.task_id.or(task);
        (self.map_problem)(Problem { task_id: task, ..problem }).into()
    }

    /// Finds a task of this revision in which we have `role`, if given.
    pub fn task_for(&self, ctx: &RequestContext, id: TaskId, role: Option<Role>) -> Result<Arc<TaskContext>, Error> {
        let context = ctx
            .tasks
            .get(&id)?
            .filter(|context| context.task.public.revision == self.revision)
            .filter(|context| role.is_none_or(|role| role == context.role()))
            .ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(id))?;
        if role.is_some() {
            never_contacted::contact(&ctx.store, &context);
        }
        Ok(context)
    }

    /// Authorizes a request without a body: the collector at the leader, or the leader at the helper.
    pub fn authorized<'a>(
        &self,
        ctx: &'a RequestContext,
        id: TaskId,
        role: Role,
        headers: &HeaderMap,
    ) -> Result<Authorized<'a>, Error> {
        let context = self.check_token(ctx, id, role, headers)?;
        Ok(Authorized { context, _slot: ctx.slots.peer()? })
    }

    /// Authorizes a request and reads its body. The request takes its slot once the body has arrived.
    pub async fn authorized_body<'a>(
        &self,
        ctx: &'a RequestContext,
        id: TaskId,
        role: Role,
        mut request: Request,
        media_type: &str,
        limit: usize,
    ) -> Result<(Authorized<'a>, Bytes), Error> {
        let context = self.check_token(ctx, id, role, &request.headers)?;
        self.expect_type(&request, media_type)?;
        let (config, bodies) = (ctx.config.get(), &ctx.slots.request_bodies);
        let limits = &config.limits;
        let (timeout, silence) = (*limits.request_timeout, *limits.max_body_silence);
        let body = request.read_body(limit, timeout, &ctx.memory, bodies, silence).await?;
        Ok((Authorized { context, _slot: ctx.slots.peer()? }, body))
    }

    fn check_token(
        &self,
        ctx: &RequestContext,
        id: TaskId,
        role: Role,
        headers: &HeaderMap,
    ) -> Result<Arc<TaskContext>, Error> {
        let context = self.task_for(ctx, id, Some(role))?;
        let now = ctx.clock.now();
        let hash = auth::check(headers, id, &context.tokens, now)?;
        if context.tokens.accepted_count(now) > 1 {
            ctx.tasks.record_token_use(&id, hash, now);
        }
        Ok(context)
    }

    /// Rejects a body of another media type.
    pub fn expect_type(&self, request: &Request, expected: &str) -> Result<(), Problem> {
        match request.header(header::CONTENT_TYPE) {
            Some(given) if wire::media::matches(given, expected) => Ok(()),
            given => Err(Problem::from_status(415).with_detail(match given {
                Some(given) => format!("unsupported media type {given}; expected {expected}"),
                None => format!("missing media type; expected {expected}"),
            })),
        }
    }

    /// Returns the HPKE configurations (DAP-09 section 4.4.1, DAP-18 section 4.4.1). All tasks share them.
    pub fn hpke_configs(&self, ctx: &RequestContext, media_type: &'static str) -> Response {
        let list = wire::for_revision(self.revision).encode_hpke_configs(&ctx.keys.ring().configs());
        let mut response = content(StatusCode::OK, media_type, list);
        let cache = format!("max-age={}", ctx.config.get().hpke.cache_max_age.as_secs());
        if let Ok(value) = HeaderValue::from_str(&cache) {
            response.headers_mut().insert(header::CACHE_CONTROL, value);
        }
        response
    }
}

/// Handlers that are identical in all revisions.
impl Routes {
    /// Rejects the continuation of an aggregation job (DAP-09 section 4.5.2.2, DAP-18 section 4.5.4.2). Our VDAFs have
    /// one round, so no continuation is valid.
    pub async fn continue_job(
        &self,
        ctx: &DapContext,
        task: TaskId,
        job: AggregationJobId,
        request: Request,
    ) -> Result<Response, Error> {
        let (config, (media_type, decode)) = (ctx.requests.config.get(), self.continuation);
        let limits = &config.limits;
        let limit = limits.max_job_bytes;
        let (leader, body) =
            self.authorized_body(&ctx.requests, task, Role::Helper, request, media_type, limit).await?;
        let step = decode(&body, limits.max_job_reports)?.step;
        let refuse = |kind, detail: &str| Err(Problem::new(kind).with_detail(detail).with_aggregation_job(job).into());
        match helper_jobs::state(&ctx.helper, &leader.context, job)? {
            None | Some(JobState::Deleted) => Err(no_aggregation_job(job)),
            Some(_) if step == 0 => refuse(ProblemType::InvalidMessage, "invalid step 0 of a continuation"),
            Some(_) => {
                refuse(ProblemType::StepMismatch, "the VDAF has one round, so the first response finished the job")
            }
        }
    }

    /// Deletes an aggregation job (DAP-09 section 4.5.2.2, DAP-18 section 4.5.5).
    pub async fn delete_job(
        &self,
        ctx: &DapContext,
        task: TaskId,
        job: AggregationJobId,
        request: Request,
    ) -> Result<Response, Error> {
        let leader = self.authorized(&ctx.requests, task, Role::Helper, &request.headers)?;
        deleted(helper_jobs::delete(&ctx.helper, &leader.context, job).await?, no_aggregation_job(job))
    }

    /// Deletes a collection job (DAP-09 section 4.6.1, DAP-18 section 4.6.3).
    pub async fn delete_collection(
        &self,
        ctx: &DapContext,
        task: TaskId,
        job: CollectionJobId,
        request: Request,
    ) -> Result<Response, Error> {
        let collector = self.authorized(&ctx.requests, task, Role::Leader, &request.headers)?;
        deleted(collections::delete(&ctx.collections, &collector.context, job).await?, no_collection(job))
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
    let detail = format!("method not allowed; this resource supports {allowed}");
    let mut response = failure(Problem::from_status(405).with_detail(detail).into());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A response that is not ready, with the delay of the next poll.
pub fn not_ready(status: StatusCode, retry_after: Seconds) -> Response {
    let mut response = empty(status);
    // `Retry-After` has whole seconds.
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
    response
}

/// The error for an unknown aggregation job.
pub fn no_aggregation_job(job: AggregationJobId) -> Error {
    Problem::new(ProblemType::UnrecognizedAggregationJob).with_aggregation_job(job).into()
}

/// The error for an unknown collection job.
pub fn no_collection(job: CollectionJobId) -> Error {
    Problem::from_status(404).with_detail("unknown collection job").with_collection_job(job).into()
}

/// The error of a failed collection job.
pub fn failed_collection(job: CollectionJobId, kind: &str, detail: String) -> Error {
    let kind = ProblemType::from_urn(kind).unwrap_or(ProblemType::HttpStatus(500));
    Problem::new(kind).with_detail(detail).with_collection_job(job).into()
}

/// The response to a deletion.
pub fn deleted(was_there: bool, nothing: Error) -> Result<Response, Error> {
    if was_there { Ok(empty(StatusCode::NO_CONTENT)) } else { Err(nothing) }
}
