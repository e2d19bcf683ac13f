//! Asking the helper for something until it is decided: the same bytes again and again, and where the helper takes its
//! time (DAP-18 section 3.1), polls of what it has made of them.

use std::time::Duration;

use bytes::Bytes;

use super::{app::App, persist::Persistence};
use crate::{
    aggregator::TaskContext,
    config,
    model::{Party, Point},
    peer::{Backoff, CallError, Reply},
    wire::{Interaction, Malformed, Problem, ProblemType},
};

/// What the helper is asked for.
pub struct Errand<'a> {
    /// In which interaction.
    pub interaction: Interaction,
    /// The request's name for the operator.
    pub what: &'static str,
    /// The names of the request and of the polls where something can be made to fail.
    pub points: [Point; 2],
    /// What we call the resource, should the protocol leave that to us.
    pub id: &'a [u8; 16],
    /// The body of the request.
    pub request: Bytes,
    /// Whether the helper may have seen the request before.
    pub may_have_arrived: bool,
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

/// Runs an errand. `read` decodes the answer: one that does not decode may be a proxy's, or cut short, and says nothing
/// about the errand.
pub async fn pursue<T>(
    app: &App,
    context: &TaskContext,
    errand: Errand<'_>,
    read: impl Fn(&Bytes) -> Result<T, Malformed>,
) -> Pursued<T> {
    let Errand { interaction, what, points: [sending, polling], id, request, mut may_have_arrived, is_final } = errand;
    let task = &context.task;
    let Party::Leader { helper_token, .. } = &task.party else { return Pursued::Stopped };
    let (url, token) = (&task.public.helper_url, Some(helper_token));
    let create = context.wire.create_call(interaction, &task.public.id, id);
    let poll_at = |place: &Option<String>| context.wire.poll_call(interaction, place.as_deref()?);
    let mut persistence = Persistence::new(app, task.public.id, what);
    let mut pace = Pace::new(&app.config.leader);
    let (sender, poller) = (app.peer.at(sending), app.peer.at(polling));
    // Where the helper has the resource, once it has said that this is not ready.
    let mut pending = None;
    loop {
        let poll = poll_at(&pending);
        let sent = match &poll {
            Some(poll) => poller.ask(url, poll, token, Bytes::new()),
            None => sender.ask(url, &create, token, request.clone()),
        };
        let Some(reply) = app.unless_stopped(sent).await else { return Pursued::Stopped };
        let error = match reply {
            Ok(Reply { ready: Some(body), place, .. }) => match read(&body) {
                Ok(message) => return Pursued::Answered { message, place: place.or(pending) },
                Err(malformed) => CallError::Unexpected(malformed.to_string()),
            },
            Ok(Reply { place, retry_after, .. }) => {
                pending = place.or(pending);
                if poll_at(&pending).is_some() {
                    if persistence.wait(pace.next(retry_after)).await.is_break() {
                        return Pursued::Stopped;
                    }
                    continue;
                }
                CallError::Unexpected("an empty body, and no place to ask for the answer".to_owned())
            }
            Err(CallError::Refused(problem)) if poll.is_some() && is_gone(&problem) => {
                // It is made again from the same bytes.
                pending = None;
                CallError::Refused(problem)
            }
            // What the helper has made of the request has failed, so that nothing else came of it, whatever was sent
            // before.
            Err(CallError::Refused(problem)) if is_final(&problem, may_have_arrived && poll.is_none()) => {
                return Pursued::Refused { problem: *problem, place: pending };
            }
            Err(error) => error,
        };
        may_have_arrived |= match &error {
            CallError::Unanswered(error) => !error.never_sent(),
            CallError::Refused(_) | CallError::Unexpected(_) => true,
        };
        if persistence.pause(&error).await.is_break() {
            return Pursued::Stopped;
        }
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
