//! Delays and errors of a request that is repeated until a peer answers.

use std::{ops::ControlFlow, time::Duration};

use crate::leader::context::LeaderContext;
use dapbox_client::peer::{Backoff, RequestError};
use dapbox_protocol::model::TaskId;

/// The attempts of one request to the helper of a task.
pub struct RetryState<'a> {
    ctx: &'a LeaderContext,
    task: TaskId,
    what: &'static str,
    backoff: Backoff,
    failures: u32,
}

impl<'a> RetryState<'a> {
    /// The state before the first attempt. `what` names the request for the operator.
    pub fn new(ctx: &'a LeaderContext, task: TaskId, what: &'static str) -> Self {
        let config = ctx.config.get();
        let limits = &config.leader;
        let backoff = Backoff::new(*limits.retry_initial, *limits.retry_max);
        Self { ctx, task, what, backoff, failures: 0 }
    }

    /// Records a failed attempt. Returns the delay before the next one.
    pub fn failed(&mut self, error: &RequestError) -> Duration {
        self.failures += 1;
        let Self { ctx, task, what, failures, .. } = self;
        let pause = self.backoff.next_delay(error.retry_after());
        // Single failures are common, so repeated ones are logged at growing intervals.
        if failures.is_power_of_two() {
            tracing::warn!(task_id = %task, request = what, attempt = failures, delay = ?pause, %error, "helper request retried");
        }
        ctx.recorder.contact(task, false);
        ctx.tasks.set_error(task, Some(format!("{what} failed ({failures} times): {error}")));
        pause
    }

    /// Waits for `pause`. Breaks if the server stops or the task is removed.
    pub async fn wait(&self, pause: Duration) -> ControlFlow<()> {
        let Self { ctx, task, .. } = self;
        tokio::select! {
            () = ctx.clock.sleep(pause) => {}
            () = ctx.stop.stopped() => return ControlFlow::Break(()),
        }
        if matches!(ctx.tasks.get(task), Ok(Some(_))) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

impl Drop for RetryState<'_> {
    /// Clears the error of the task: the request is final, or the server stops.
    fn drop(&mut self) {
        if self.failures > 0 {
            self.ctx.tasks.set_error(&self.task, None);
        }
    }
}
