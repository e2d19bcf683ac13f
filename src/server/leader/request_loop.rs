//! Sends a request to the helper until the response is final: repeats the same bytes, and polls the resource if the
//! helper defers its response (DAP-18 section 3.1).

use std::{ops::ControlFlow, time::Duration};

use bytes::Bytes;

use crate::{
    leader::{context::LeaderContext, retry_state::RetryState},
    shared::peer_transport::PeerRequest,
};
use dapbox_aggregator::{TaskContext, config};
use dapbox_client::peer::{Backoff, PeerError, Reply, RequestError};
use dapbox_protocol::wire::{Malformed, Problem, ProblemType, RequestSpec, ResourceKind};
use dapbox_support::Point;

/// A request to a helper.
pub struct HelperRequest<'a> {
    /// The kind of the resource.
    pub kind: ResourceKind,
    /// The name of the request for the operator.
    pub what: &'static str,
    /// The failpoints of the request and of its polls.
    pub points: [Point; 2],
    /// The id of the resource, if the protocol lets us choose it.
    pub id: &'a [u8; 16],
    /// Maximum length of the response, in bytes.
    pub max_answer: usize,
    /// Whether the helper may have processed an earlier request.
    pub may_be_taken: bool,
    /// Whether a refusal proves that the helper did not process the request.
    pub proves_untaken: fn(&Problem) -> bool,
    /// Whether a refusal is final. The flag says whether the helper may have processed another attempt.
    pub is_final: fn(&Problem, bool) -> bool,
}

/// The outcome of a request.
pub enum Outcome<T> {
    /// The helper has answered.
    Answered {
        /// The response.
        message: T,
        /// The path of the resource at the helper, if it has one.
        location: Option<String>,
    },
    /// The helper has refused the request permanently.
    Refused {
        /// The refusal.
        problem: Problem,
        /// The path of the resource at the helper, if it had one.
        location: Option<String>,
    },
    /// The server stops, or the task was removed.
    Stopped,
}

/// The result of one attempt.
pub enum Attempt<T> {
    /// The outcome is final.
    Ended(Outcome<T>),
    /// The next attempt follows after this delay.
    Pause(Duration),
}

/// Sends a request until its outcome is final. `read` decodes the response. A response that does not decode may come
/// from a proxy or be truncated, and is not final.
pub async fn send_until_final<T>(
    ctx: &LeaderContext,
    context: &TaskContext,
    helper_request: HelperRequest<'_>,
    request: Bytes,
    read: impl Fn(&Bytes) -> Result<T, Malformed>,
) -> Outcome<T> {
    let mut request_loop = RequestLoop::new(ctx, context, helper_request);
    loop {
        match request_loop.attempt(&request, &read).await {
            Attempt::Ended(end) => return end,
            Attempt::Pause(pause) => {
                if request_loop.wait(pause).await.is_break() {
                    return Outcome::Stopped;
                }
            }
        }
    }
}

/// A request in progress.
pub struct RequestLoop<'a> {
    ctx: &'a LeaderContext,
    context: &'a TaskContext,
    helper_request: HelperRequest<'a>,
    retry_state: RetryState<'a>,
    pace: PollPace,
    /// The location of the resource, once the helper has deferred its response.
    pending: Option<String>,
}

impl<'a> RequestLoop<'a> {
    /// The state before the first attempt.
    pub fn new(ctx: &'a LeaderContext, context: &'a TaskContext, helper_request: HelperRequest<'a>) -> Self {
        let retry_state = RetryState::new(ctx, context.task.public.id, helper_request.what);
        Self { ctx, context, helper_request, retry_state, pace: PollPace::new(&ctx.config.get().leader), pending: None }
    }

    /// Whether the next attempt sends the request, as opposed to polling the resource.
    pub fn will_send(&self) -> bool {
        self.poll().is_none()
    }

    fn poll(&self) -> Option<RequestSpec> {
        let call = self.context.wire.poll_request(self.helper_request.kind, self.pending.as_deref()?)?;
        Some(call.with_advertisement(self.context.advertisement.clone()))
    }

    /// Sends the request, which must always be the same, or polls the resource.
    pub async fn attempt<T>(&mut self, request: &Bytes, read: impl Fn(&Bytes) -> Result<T, Malformed>) -> Attempt<T> {
        let poll = self.poll();
        let Some(reply) = self.ask(poll.as_ref(), request).await else { return Attempt::Ended(Outcome::Stopped) };
        let error = match reply {
            Ok(Reply { ready: Some(body), location, .. }) => match read(&body) {
                Ok(message) => {
                    self.ctx.recorder.contact(&self.context.task.public.id, true);
                    return Attempt::Ended(Outcome::Answered { message, location: location.or(self.pending.take()) });
                }
                Err(malformed) => RequestError::Unexpected(malformed.to_string()),
            },
            Ok(Reply { location, retry_after, .. }) => {
                self.pending = location.or(self.pending.take());
                self.helper_request.may_be_taken = true;
                if !self.will_send() {
                    self.ctx.recorder.contact(&self.context.task.public.id, true);
                    return Attempt::Pause(self.pace.next(retry_after));
                }
                RequestError::Unexpected("an empty body without the location of the response".to_owned())
            }
            Err(RequestError::Refused(problem)) if poll.is_some() && is_gone(&problem) => {
                // The next attempt sends the same bytes again.
                self.pending = None;
                RequestError::Refused(problem)
            }
            // Final: the helper refused this attempt and cannot have processed an earlier one.
            Err(RequestError::Refused(problem))
                if (self.helper_request.is_final)(&problem, self.helper_request.may_be_taken && poll.is_none()) =>
            {
                self.ctx.recorder.contact(&self.context.task.public.id, false);
                return Attempt::Ended(Outcome::Refused { problem: *problem, location: self.pending.take() });
            }
            Err(error) => error,
        };
        self.helper_request.may_be_taken |= match &error {
            RequestError::NoAnswer(error) => !error.never_sent(),
            RequestError::Refused(problem) => !(self.helper_request.proves_untaken)(problem),
            RequestError::Unexpected(_) => true,
        };
        Attempt::Pause(self.retry_state.failed(&error))
    }

    /// Sends one request. Returns `None` if the server stops or the task was removed.
    async fn ask(&self, poll: Option<&RequestSpec>, request: &Bytes) -> Option<Result<Reply, RequestError>> {
        let task = &self.context.task.public;
        let HelperRequest { kind, points: [sending, polling], id, max_answer, .. } = self.helper_request;
        let create = self.context.wire.create_request(kind, &task.id, id);
        let create = create.with_advertisement(self.context.advertisement.clone());
        let (call, body, point) = match poll {
            Some(poll) => (poll, Bytes::new(), polling),
            None => (&create, request.clone(), sending),
        };
        // The current tokens, because a request may be repeated for days and its token may be rotated meanwhile.
        let current = self.ctx.tasks.get(&task.id).ok().flatten()?;
        let mut tokens = current.tokens.to_present(self.ctx.clock.now());
        let Some(token) = tokens.next() else { return Some(Err(no_token(&task.helper_url))) };
        // The current limits, because they may be reloaded meanwhile.
        let (clock, limits) = (&self.ctx.clock, self.ctx.peer_limits());
        let request = PeerRequest {
            base_url: &task.helper_url,
            spec: call,
            token,
            fallback_tokens: tokens.cloned().collect(),
            body,
            timeout: limits.timeout,
            max_answer_bytes: max_answer.min(limits.max_answer_bytes),
            point,
        };
        let begin = clock.instant();
        let reply = self.ctx.stop.unless_stopped(self.ctx.peers.send(request)).await?;
        let time = clock.instant().saturating_duration_since(begin);
        self.ctx.recorder.record_helper_request(kind, poll.is_some(), &reply, time);
        Some(reply)
    }

    /// Waits for `pause`. Breaks if the server stops or the task is removed.
    pub async fn wait(&self, pause: Duration) -> ControlFlow<()> {
        self.retry_state.wait(pause).await
    }
}

/// The delays between polls.
struct PollPace {
    min: Duration,
    max: Duration,
    backoff: Backoff,
}

impl PollPace {
    fn new(limits: &config::Leader) -> Self {
        let (min, max) = (*limits.retry_initial, *limits.retry_max);
        Self { min, max, backoff: Backoff::new(min, max) }
    }

    /// The next delay: that of the helper if it sends one, because it knows best when the resource will be ready.
    fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        match retry_after {
            Some(pause) => pause.max(self.min).min(self.max),
            None => self.backoff.next_delay(None),
        }
    }
}

/// The error for an in-band task whose peer was removed from the configuration. The job continues once the peer is
/// back.
fn no_token(helper: &str) -> RequestError {
    let why = "no token: the peer was removed from taskprov.peers".to_owned();
    PeerError::InvalidRequest { url: helper.to_owned(), why }.into()
}

/// Whether the helper no longer knows a resource.
fn is_gone(problem: &Problem) -> bool {
    matches!(problem.status, 404 | 410) || problem.kind == ProblemType::UnrecognizedAggregationJob
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn respects_retry_after_within_limits() {
        let limits = config::Leader::default();
        let mut pace = PollPace::new(&limits);
        for (asked, pause) in [(30, 30), (30, 30), (30, 30), (86_400, limits.retry_max.as_secs())] {
            assert_eq!(pace.next(Some(Duration::from_secs(asked))).as_secs(), pause);
        }
        assert_eq!(pace.next(Some(Duration::ZERO)), *limits.retry_initial);
        assert!(pace.next(None) <= *limits.retry_initial);
    }
}
