//! Asking the helper for something until it is decided: the same bytes again and again, and where the helper takes its
//! time (DAP-18 section 3.1), polls of what it has made of them.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{app::App, leader::persist::Persistence};
use dapbox_aggregator::{TaskContext, config};
use dapbox_client::peer::{Backoff, PeerError, Reply, RequestError};
use dapbox_protocol::wire::{Malformed, Problem, ProblemType, RequestSpec, ResourceKind};
use dapbox_support::{Point, clock};

/// What the helper is asked for.
pub struct Errand<'a> {
    /// In which interaction.
    pub interaction: ResourceKind,
    /// The request's name for the operator.
    pub what: &'static str,
    /// The names of the request and of the polls where something can be made to fail.
    pub points: [Point; 2],
    /// What we call the resource, should the protocol leave that to us.
    pub id: &'a [u8; 16],
    /// The longest answer, in bytes.
    pub max_answer: usize,
    /// Whether the helper may have acted on the request before.
    pub may_be_taken: bool,
    /// Whether a refusal proves that the helper did not act on the request that it answers.
    pub proves_untaken: fn(&Problem) -> bool,
    /// Whether a refusal decides the errand; it is told whether the helper may have acted on the request otherwise.
    pub is_final: fn(&Problem, bool) -> bool,
}

/// How an errand ended.
pub enum Pursued<T> {
    /// With an answer.
    Answered {
        /// The answer.
        message: T,
        /// The path of the resource at the helper, if it has one.
        place: Option<String>,
    },
    /// With a refusal that decides it.
    Refused {
        /// The refusal.
        problem: Problem,
        /// The path of the resource at the helper, if it had one.
        place: Option<String>,
    },
    /// The server stops, or the task was removed.
    Stopped,
}

/// How one attempt at an errand went.
pub enum Attempt<T> {
    /// The errand is over.
    Ended(Pursued<T>),
    /// It goes on after this pause.
    Pause(Duration),
}

/// Runs an errand. `read` decodes the answer: one that does not decode may be a proxy's, or cut short, and says nothing
/// about the errand.
pub async fn pursue<T>(
    app: &App,
    context: &TaskContext,
    errand: Errand<'_>,
    request: Bytes,
    read: impl Fn(&Bytes) -> Result<T, Malformed>,
) -> Pursued<T> {
    let mut pursuit = Pursuit::new(app, context, errand);
    loop {
        match pursuit.attempt(&request, &read).await {
            Attempt::Ended(end) => return end,
            Attempt::Pause(pause) => {
                if pursuit.wait(pause).await.is_break() {
                    return Pursued::Stopped;
                }
            }
        }
    }
}

/// An errand under way.
pub struct Pursuit<'a> {
    app: &'a App,
    context: &'a TaskContext,
    errand: Errand<'a>,
    persistence: Persistence<'a>,
    pace: Pace<'a>,
    /// Where the helper has the resource, once it has said that this is not ready.
    pending: Option<String>,
}

impl<'a> Pursuit<'a> {
    /// Before the first attempt.
    pub fn new(app: &'a App, context: &'a TaskContext, errand: Errand<'a>) -> Self {
        let persistence = Persistence::new(app, context.task.public.id, errand.what);
        Self { app, context, errand, persistence, pace: Pace::new(&app.config.leader), pending: None }
    }

    /// Whether the next attempt sends the request, as opposed to asking for what the helper has made of it.
    pub fn is_to_send(&self) -> bool {
        self.poll().is_none()
    }

    fn poll(&self) -> Option<RequestSpec> {
        let call = self.context.wire.poll_request(self.errand.interaction, self.pending.as_deref()?)?;
        Some(call.with_advertisement(self.context.advertisement.clone()))
    }

    /// Sends the request, which must always be the same, or asks for the answer to it.
    pub async fn attempt<T>(&mut self, request: &Bytes, read: impl Fn(&Bytes) -> Result<T, Malformed>) -> Attempt<T> {
        let poll = self.poll();
        let Some(reply) = self.ask(poll.as_ref(), request).await else { return Attempt::Ended(Pursued::Stopped) };
        let error = match reply {
            Ok(Reply { ready: Some(body), location: place, .. }) => match read(&body) {
                Ok(message) => {
                    self.app.recorder.contact(&self.context.task.public.id, true);
                    return Attempt::Ended(Pursued::Answered { message, place: place.or(self.pending.take()) });
                }
                Err(malformed) => RequestError::Unexpected(malformed.to_string()),
            },
            Ok(Reply { location: place, retry_after, .. }) => {
                self.pending = place.or(self.pending.take());
                self.errand.may_be_taken = true;
                if !self.is_to_send() {
                    self.app.recorder.contact(&self.context.task.public.id, true);
                    return Attempt::Pause(self.pace.next(retry_after));
                }
                RequestError::Unexpected("an empty body, and no place to ask for the answer".to_owned())
            }
            Err(RequestError::Refused(problem)) if poll.is_some() && is_gone(&problem) => {
                // It is made again from the same bytes.
                self.pending = None;
                RequestError::Refused(problem)
            }
            // What the helper has made of the request has failed, so that nothing else came of it, whatever was sent
            // before.
            Err(RequestError::Refused(problem))
                if (self.errand.is_final)(&problem, self.errand.may_be_taken && poll.is_none()) =>
            {
                self.app.recorder.contact(&self.context.task.public.id, false);
                return Attempt::Ended(Pursued::Refused { problem: *problem, place: self.pending.take() });
            }
            Err(error) => error,
        };
        self.errand.may_be_taken |= match &error {
            RequestError::NoAnswer(error) => !error.never_sent(),
            RequestError::Refused(problem) => !(self.errand.proves_untaken)(problem),
            RequestError::Unexpected(_) => true,
        };
        Attempt::Pause(self.persistence.failed(&error))
    }

    /// One request and its answer. None if the server stops first, or the task was removed.
    async fn ask(&self, poll: Option<&RequestSpec>, request: &Bytes) -> Option<Result<Reply, RequestError>> {
        let task = &self.context.task.public;
        let Errand { interaction, points: [sending, polling], id, max_answer, .. } = self.errand;
        let create = self.context.wire.create_request(interaction, &task.id, id);
        let create = create.with_advertisement(self.context.advertisement.clone());
        let (call, body, point) = match poll {
            Some(poll) => (poll, Bytes::new(), polling),
            None => (&create, request.clone(), sending),
        };
        // Not those of when the errand began: it may take days, and be stuck at a token that was replaced since.
        let current = self.app.context(&task.id).ok().flatten()?;
        let mut tokens = current.tokens.to_present(clock::now());
        let Some(token) = tokens.next() else { return Some(Err(no_token(&task.helper_url))) };
        let peer = self
            .app
            .peer()
            .with_max_answer_bytes(max_answer)
            .with_failpoint(point)
            .with_fallback_tokens(tokens.cloned());
        let begin = Instant::now();
        let reply = self.app.unless_stopped(peer.ask(&task.helper_url, call, Some(token), body)).await?;
        self.app.recorder.asked(interaction, poll.is_some(), &reply, begin.elapsed());
        Some(reply)
    }

    /// Pauses. Breaks if the server stops meanwhile, or the task is removed.
    pub async fn wait(&self, pause: Duration) -> ControlFlow<()> {
        self.persistence.wait(pause).await
    }
}

/// How often the helper is asked for what is not ready.
struct Pace<'a> {
    limits: &'a config::Leader,
    backoff: Backoff,
}

impl<'a> Pace<'a> {
    fn new(limits: &'a config::Leader) -> Self {
        Self { limits, backoff: Backoff::new(*limits.retry_initial, *limits.retry_max) }
    }

    /// The next pause: as long as the helper asks for, if it does, since it knows best when it will be ready.
    fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        match retry_after {
            Some(pause) => pause.max(*self.limits.retry_initial).min(*self.limits.retry_max),
            None => self.backoff.next_delay(None),
        }
    }
}

/// A task that was set up in-band has no token while its peer is out of the configuration. It goes on when that is back.
fn no_token(helper: &str) -> RequestError {
    let why = "there is no token for it: it is not among the peers any more (the option taskprov.peers)".to_owned();
    PeerError::InvalidRequest { url: helper.to_owned(), why }.into()
}

/// Whether the helper does not know a resource (any more) that it had made.
fn is_gone(problem: &Problem) -> bool {
    matches!(problem.status, 404 | 410) || problem.kind == ProblemType::UnrecognizedAggregationJob
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_says_when_is_asked_then_within_our_limits() {
        let limits = config::Leader::default();
        let mut pace = Pace::new(&limits);
        for (asked, pause) in [(30, 30), (30, 30), (30, 30), (86_400, limits.retry_max.as_secs())] {
            assert_eq!(pace.next(Some(Duration::from_secs(asked))).as_secs(), pause);
        }
        assert_eq!(pace.next(Some(Duration::ZERO)), *limits.retry_initial);
        assert!(pace.next(None) <= *limits.retry_initial);
    }
}
