//! Performs the action of a window: one exchange with its leader, whose outcome is stored.
//!
//! What is asked is durable before it is asked, and what is received is durable before it is deleted at the leader. Every
//! step can therefore be repeated after a crash.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration as Span,
};

use bytes::Bytes;

use crate::results::{
    classify,
    collectors::{self, CollectorError},
    context::ResultsContext,
    leader_clock,
    storing::{self, Content, SealedResult},
};
use dapbox_client::collector::{CollectError, CollectedAggregate, Collector, Step};
use dapbox_protocol::model::{CollectionJobId, FixedSizeQuery, Query, TaskId};
use dapbox_results::{
    CollectedWindow, CollectionRequest, LossReason, Window, WindowState,
    ledger::{self, Action, Event, Failure, FailureKind},
};
use dapbox_store::CollectorRecord;
use dapbox_support::{Fault, Point};

/// The shortest delay before a refused request is repeated.
const REFUSED_DELAY: Span = Span::from_secs(30);
/// The longest delay before a window that has not ended by the leader's clock is tried again.
const CLOCK_DELAY: Span = Span::from_secs(600);

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The window changed: the next step follows immediately.
    Changed,
    /// Nothing changed: the step is repeated with backoff, after at least this delay.
    Again(Option<Span>),
    /// The window is not tried again before this delay has passed.
    Postponed(Span),
    /// Nothing is left to do with the window for this record of the task.
    Done,
}

/// The outcome of a step, with the failure of the exchange for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performed {
    /// What follows.
    pub outcome: Outcome,
    /// Why the exchange failed. `Ok` clears earlier failures of the task; `None` leaves them.
    pub exchange: Option<Result<(), String>>,
}

impl Performed {
    fn exchanged(outcome: Outcome) -> Self {
        Self { outcome, exchange: Some(Ok(())) }
    }

    fn failed(outcome: Outcome, why: impl ToString) -> Self {
        Self { outcome, exchange: Some(Err(why.to_string())) }
    }
}

/// A step of a window.
pub struct StepJob {
    /// The task.
    pub task: Arc<CollectorRecord>,
    /// The window.
    pub window: Window,
    /// What to do.
    pub action: Action,
}

impl StepJob {
    fn key(&self) -> (TaskId, u64) {
        (self.task.public.id, self.window.number)
    }

    /// Performs the step.
    pub async fn perform(&self, ctx: &Arc<ResultsContext>) -> Result<Performed, Fault> {
        let point = match self.action {
            Action::None => return Ok(Performed { outcome: Outcome::Done, exchange: None }),
            Action::Begin | Action::Request => Point::SendCollection,
            Action::Poll | Action::Cancel | Action::Release | Action::Reopen => Point::PollCollection,
        };
        let collector = match collectors::collector(ctx, &self.task, point) {
            Ok(collector) => collector,
            Err(CollectorError::Client(fault)) => return Err(fault),
            Err(error) => return Ok(Performed::failed(Outcome::Again(Some(REFUSED_DELAY)), error)),
        };
        match (self.action, &self.window.state) {
            (Action::Begin, WindowState::Due) => self.begin(ctx, &collector).await,
            (Action::Release, WindowState::Collected(CollectedWindow { to_release: Some(location), .. })) => {
                self.release(ctx, &collector, location).await
            }
            (Action::Reopen, _) => self.reopen(ctx, &collector).await,
            (action, state) => match requested(state) {
                Some((request, Some(location))) if action == Action::Cancel => {
                    self.cancel(ctx, &collector, request, location).await
                }
                // The leader may not have the job: a proxy accepted the request in its place, or the leader was restored.
                Some((request, Some(location))) if is_refused(state) && is_chosen(&collector, request, location) => {
                    self.request(ctx, &collector, request).await
                }
                Some((request, Some(location))) => self.poll(ctx, &collector, request, location).await,
                Some((request, None)) => self.request(ctx, &collector, request).await,
                None => Ok(Performed { outcome: Outcome::Done, exchange: None }),
            },
        }
    }

    /// Stores a request and sends it, if the window has ended by the leader's clock.
    async fn begin(&self, ctx: &Arc<ResultsContext>, collector: &Collector) -> Result<Performed, Fault> {
        if let Some(delayed) = self.check_clock(ctx, collector).await {
            return Ok(delayed);
        }
        let query = match self.window.interval {
            Some(interval) => Query::TimeInterval(interval),
            None => Query::FixedSize(FixedSizeQuery::CurrentBatch),
        };
        let body = match collector.encode(query) {
            Ok(body) => body.to_vec(),
            Err(error) => return Ok(Performed::failed(Outcome::Again(Some(REFUSED_DELAY)), error)),
        };
        let request = CollectionRequest { id: CollectionJobId::random(), query, body, created: ctx.clock.now() };
        let (task, number) = self.key();
        if !storing::begin(ctx, task, number, request.clone()).await? {
            return Ok(Performed { outcome: Outcome::Changed, exchange: None });
        }
        let window = ledger::begin(&self.window, request.clone(), request.created);
        let begun = Self { task: self.task.clone(), window, action: Action::Request };
        begun.request(ctx, collector, &request).await
    }

    /// Delays a window that has not ended by the clock of the leader or by this server's clock.
    async fn check_clock(&self, ctx: &ResultsContext, collector: &Collector) -> Option<Performed> {
        let interval = self.window.interval?;
        let due = ledger::due_time(&interval, &self.task.settings);
        if ctx.clock.now() < due {
            // This server's clock was set back.
            return Some(Performed { outcome: Outcome::Postponed(Span::from_secs(1)), exchange: None });
        }
        let (end, leader) = (interval.end(), &self.task.public.leader_url);
        let leader_time = match ctx.leader_clocks.now(leader, ctx.clock.instant()) {
            Some(time) => time,
            None => match collector.leader_time().await {
                Ok(Some(time)) => {
                    ctx.leader_clocks.record(leader, time, ctx.clock.instant());
                    time
                }
                Ok(None) => return None,
                Err(error) => return Some(Performed::failed(Outcome::Again(None), error)),
            },
        };
        if leader_clock::has_ended(end, leader_time) {
            return None;
        }
        let delay = Span::from_secs(end.saturating_sub(dapbox_protocol::model::Duration(leader_time.0)).0);
        let why = "the window has not ended by the leader's clock (hint: check the clocks of both servers)";
        tracing::warn!(
            task_id = %self.task.public.id, window = self.window.number, ?delay, "window has not ended at leader"
        );
        Some(Performed::failed(Outcome::Postponed(delay.min(CLOCK_DELAY)), why))
    }

    /// Sends a stored request.
    async fn request(
        &self,
        ctx: &Arc<ResultsContext>,
        collector: &Collector,
        request: &CollectionRequest,
    ) -> Result<Performed, Fault> {
        let asked = collector.request(&request.id, Bytes::from(request.body.clone()), &AtomicBool::new(true)).await;
        let location = collector.chosen_location(&request.id);
        self.received(ctx, collector, request, location, asked).await
    }

    /// Polls a collection job.
    async fn poll(
        &self,
        ctx: &Arc<ResultsContext>,
        collector: &Collector,
        request: &CollectionRequest,
        location: &str,
    ) -> Result<Performed, Fault> {
        let polled = collector.poll(location, &AtomicBool::new(true)).await;
        self.received(ctx, collector, request, Some(location.to_owned()), polled).await
    }

    /// Polls a collection job, and deletes it if it has no result.
    async fn cancel(
        &self,
        ctx: &Arc<ResultsContext>,
        collector: &Collector,
        request: &CollectionRequest,
        location: &str,
    ) -> Result<Performed, Fault> {
        match collector.poll(location, &AtomicBool::new(true)).await {
            Ok(Step { ready: None, .. }) => {}
            // Deleted before a restart.
            Err(CollectError::Deleted) => {}
            polled => return self.received(ctx, collector, request, Some(location.to_owned()), polled).await,
        }
        if let Err(error) = collector.delete(location).await {
            return Ok(Performed::failed(Outcome::Again(None), error));
        }
        self.store(ctx, Some(request.id), Event::Cancelled, Content::None).await?;
        Ok(Performed::exchanged(Outcome::Changed))
    }

    /// Stores what the leader answered to a request or a poll.
    async fn received(
        &self,
        ctx: &Arc<ResultsContext>,
        collector: &Collector,
        request: &CollectionRequest,
        known: Option<String>,
        answer: Result<Step, CollectError>,
    ) -> Result<Performed, Fault> {
        let Step { location, ready, retry_after, leader_time } = match answer {
            Ok(step) => step,
            Err(error) => return self.failed(ctx, collector, request, known, &error).await,
        };
        if let Some(time) = leader_time {
            ctx.leader_clocks.record(&self.task.public.leader_url, time, ctx.clock.instant());
        }
        let found = location.or(known);
        if let Some(result) = ready {
            self.result(ctx, collector, request, found, &result).await?;
            return Ok(Performed::exchanged(Outcome::Changed));
        }
        let Some(found) = found else {
            let error = CollectError::AnswerMismatch("neither a result nor a location");
            return self.failed(ctx, collector, request, None, &error).await;
        };
        let is_new = requested(&self.window.state).and_then(|(_, location)| location) != Some(found.as_str());
        let event = if is_new { Event::Accepted { location: found } } else { Event::Waiting };
        self.store(ctx, Some(request.id), event, Content::None).await?;
        // A batch may be ready soon: the first poll follows immediately unless the leader requests a delay.
        Ok(Performed::exchanged(if is_new && retry_after.is_none() {
            Outcome::Changed
        } else {
            Outcome::Again(retry_after)
        }))
    }

    /// Stores a failure.
    async fn failed(
        &self,
        ctx: &Arc<ResultsContext>,
        collector: &Collector,
        request: &CollectionRequest,
        location: Option<String>,
        error: &CollectError,
    ) -> Result<Performed, Fault> {
        let deadline = ledger::deadline(&self.window, &self.task.settings);
        let failure = classify::failure(error, deadline, ctx.clock.now());
        let (kind, detail) = (failure.kind, failure.detail.clone());
        if matches!(kind, FailureKind::TooFewReports | FailureKind::Lost(_))
            && let Some(location) = location
        {
            // Otherwise the same request may find the failed job later. If this fails, it does.
            let _ = collector.delete(&location).await;
        }
        self.store(ctx, Some(request.id), Event::Failed(failure), Content::None).await?;
        let retry_after = match error {
            CollectError::Request(error) => error.retry_after(),
            _ => None,
        };
        Ok(match kind {
            FailureKind::Retryable => Performed::failed(Outcome::Again(retry_after), detail),
            FailureKind::Unauthorized => {
                Performed::failed(Outcome::Again(Some(retry_after.unwrap_or_default().max(REFUSED_DELAY))), detail)
            }
            // The leader has forgotten the job. The window is requested again.
            FailureKind::Deleted => Performed::failed(Outcome::Again(Some(REFUSED_DELAY)), detail),
            // About the window, which shows it.
            FailureKind::TooFewReports | FailureKind::Lost(_) => Performed::exchanged(Outcome::Changed),
        })
    }

    /// Opens and stores a result.
    async fn result(
        &self,
        ctx: &Arc<ResultsContext>,
        collector: &Collector,
        request: &CollectionRequest,
        location: Option<String>,
        result: &Bytes,
    ) -> Result<(), Fault> {
        match collector.open_result(&request.query, &request.body, result) {
            Ok(collected) => self.collected(ctx, Some(request.id), &request.query, location, collected).await,
            Err(error) => {
                tracing::error!(
                    task_id = %self.task.public.id, window = self.window.number, %error, "result does not open"
                );
                // A leader that reports no batch ids returns the same batch until its job is deleted.
                let to_release = location.filter(|_| request.query == Query::FixedSize(FixedSizeQuery::CurrentBatch));
                let sealed = SealedResult { request: request.clone(), result: result.to_vec(), to_release };
                let reason = FailureKind::Lost(LossReason::Unreadable);
                let event = Event::Failed(Failure { kind: reason, detail: error.to_string() });
                self.store(ctx, Some(request.id), event, Content::Sealed(sealed)).await
            }
        }
    }

    async fn collected(
        &self,
        ctx: &Arc<ResultsContext>,
        request: Option<CollectionJobId>,
        query: &Query,
        location: Option<String>,
        collected: CollectedAggregate,
    ) -> Result<(), Fault> {
        // A leader that reports batch ids returns the next batch next time, and this one by its id.
        let must_be_released = *query == Query::FixedSize(FixedSizeQuery::CurrentBatch) && collected.batch_id.is_none();
        let window = CollectedWindow {
            report_count: collected.report_count,
            report_interval: collected.interval,
            batch_id: collected.batch_id,
            collected: ctx.clock.now(),
            to_release: location.filter(|_| must_be_released),
        };
        let event = Event::Collected(window);
        self.store(ctx, request, event, Content::Result(collected.result)).await
    }

    /// Deletes the collection job of a stored result at the leader.
    async fn release(&self, ctx: &Arc<ResultsContext>, collector: &Collector, at: &str) -> Result<Performed, Fault> {
        if let Err(error) = collector.delete(at).await {
            return Ok(Performed::failed(Outcome::Again(None), error));
        }
        self.store(ctx, None, Event::Released, Content::None).await?;
        Ok(Performed::exchanged(Outcome::Changed))
    }

    /// Opens a stored sealed result again, with the task's current key.
    async fn reopen(&self, ctx: &Arc<ResultsContext>, collector: &Collector) -> Result<Performed, Fault> {
        let (task, number) = self.key();
        let done = Performed { outcome: Outcome::Done, exchange: None };
        let row = ctx.store.read(|view| view.sealed_result(&task, number))?;
        let Some(mut sealed) = row.map(|row| SealedResult::decode(&row)).transpose()? else { return Ok(done) };
        if let Some(location) = &sealed.to_release {
            if let Err(error) = collector.delete(location).await {
                return Ok(Performed::failed(Outcome::Again(None), error));
            }
            sealed.to_release = None;
            storing::put_sealed(ctx, (task, number), sealed.clone()).await?;
        }
        let SealedResult { request, result, .. } = sealed;
        match collector.open_result(&request.query, &request.body, &Bytes::from(result)) {
            Ok(collected) => {
                self.collected(ctx, None, &request.query, None, collected).await?;
                Ok(Performed { outcome: Outcome::Changed, exchange: None })
            }
            // Shown by the window.
            Err(_) => Ok(done),
        }
    }

    async fn store(
        &self,
        ctx: &Arc<ResultsContext>,
        request: Option<CollectionJobId>,
        event: Event,
        content: Content,
    ) -> Result<(), Fault> {
        // Most polls change nothing.
        let changed = ledger::apply(&self.window, event.clone(), ctx.clock.now());
        if changed.state == self.window.state && content == Content::None {
            return Ok(());
        }
        storing::apply(ctx, self.key(), request, event, content).await.map(drop)
    }
}

fn is_refused(state: &WindowState) -> bool {
    matches!(state, WindowState::Refused { .. })
}

/// Whether this side chose the path of the collection job, so that the same request creates no second one.
fn is_chosen(collector: &Collector, request: &CollectionRequest, location: &str) -> bool {
    collector.chosen_location(&request.id).as_deref() == Some(location)
}

/// The request that the leader may have, and the path of its collection job.
fn requested(state: &WindowState) -> Option<(&CollectionRequest, Option<&str>)> {
    match state {
        WindowState::Requested { request, .. } => Some((request, None)),
        WindowState::Pending { request, location, .. } => Some((request, Some(location))),
        WindowState::Refused { request, location, .. } => Some((request, location.as_deref())),
        WindowState::TooFewReports { request: Some(request), location, .. } => Some((request, location.as_deref())),
        _ => None,
    }
}
