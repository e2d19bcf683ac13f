//! Trying again until a peer has answered: the same request, with growing pauses, shown to the operator.

use std::ops::ControlFlow;

use super::app::App;
use crate::{
    model::TaskId,
    peer::{Backoff, CallError},
};

/// What one attempt came to.
pub enum Verdict<T> {
    /// It is decided.
    Done(T),
    /// It is worth another try.
    Retry(CallError),
}

/// Repeats an attempt until it is decided. Breaks if the server stops first, after the attempt that is under way.
pub async fn persist<T>(
    app: &App,
    task: &TaskId,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Verdict<T>,
) -> ControlFlow<(), T> {
    let limits = &app.config.leader;
    let mut backoff = Backoff::new(*limits.retry_initial, *limits.retry_max);
    let mut failures = 0_u32;
    loop {
        let error = match attempt().await {
            Verdict::Done(outcome) => {
                if failures > 0 {
                    app.set_trouble(task, None);
                }
                return ControlFlow::Continue(outcome);
            }
            Verdict::Retry(error) => error,
        };
        failures += 1;
        let pause = backoff.next_delay(error.retry_after());
        // A single failure is usual; one that lasts is worth an operator's attention.
        if failures.is_power_of_two() {
            tracing::warn!(%task, %error, failures, pause_ms = pause.as_millis() as u64, "the helper did not take {what}");
        }
        app.set_trouble(task, Some(format!("the helper did not take {what} ({failures} times): {error}")));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = app.stopped() => return ControlFlow::Break(()),
        }
    }
}
