//! Trying again until a peer has answered: the same request, with growing pauses, shown to the operator.

use std::{ops::ControlFlow, time::Duration};

use crate::app::App;
use dapbox_client::peer::{Backoff, RequestError};
use dapbox_protocol::model::TaskId;

/// Attempts at one request to a task's helper.
pub struct Persistence<'a> {
    app: &'a App,
    task: TaskId,
    what: &'static str,
    backoff: Backoff,
    failures: u32,
}

impl<'a> Persistence<'a> {
    /// Before the first attempt. `what` names the request for the operator.
    pub fn new(app: &'a App, task: TaskId, what: &'static str) -> Self {
        let limits = &app.config.leader;
        let backoff = Backoff::new(*limits.retry_initial, *limits.retry_max);
        Self { app, task, what, backoff, failures: 0 }
    }

    /// Notes an attempt that failed. Returns how long to wait before the next.
    pub fn failed(&mut self, error: &RequestError) -> Duration {
        self.failures += 1;
        let Self { app, task, what, failures, .. } = self;
        let pause = self.backoff.next_delay(error.retry_after());
        // A single failure is usual; those that go on are told less and less often.
        if failures.is_power_of_two() {
            tracing::warn!(task_id = %task, request = what, attempt = failures, delay = ?pause, %error, "helper request retried");
        }
        app.recorder.contact(task, false);
        app.set_trouble(task, Some(format!("the helper did not take {what} ({failures} times): {error}")));
        pause
    }

    /// Pauses. Breaks if the server stops meanwhile, or the task is removed.
    pub async fn wait(&self, pause: Duration) -> ControlFlow<()> {
        let Self { app, task, .. } = self;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = app.stopped() => return ControlFlow::Break(()),
        }
        if matches!(app.context(task), Ok(Some(_))) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

impl Drop for Persistence<'_> {
    /// The request is decided, or the server stops: there is no trouble with it any more.
    fn drop(&mut self) {
        if self.failures > 0 {
            self.app.set_trouble(&self.task, None);
        }
    }
}
