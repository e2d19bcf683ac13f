//! The driver that replaces HPKE keys when it is time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{app::App, keys};
use crate::{
    aggregator::keys::{Policy, Request, is_due, next},
    model::{Fault, Time},
};

/// After this time at the latest it looks again: clocks are set, tasks go, jobs end.
const LOOK: Duration = Duration::from_secs(60);
/// So long after a change it looks again.
const AFTER: Duration = Duration::from_secs(1);

/// Replaces keys until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    // As with what is swept: whoever starts with a clock that is far ahead has time to notice before keys are old.
    let settles = Instant::now() + *app.config.retention.sweep_interval;
    loop {
        let (now, policy) = (Time::now(), Policy::of(&app.config));
        let settled = Instant::now() >= settles;
        let (due, next) = app.store.read(|view| {
            let due = is_due(view, now, &policy, settled);
            Ok((due, next(view, now, &policy)))
        })?;
        if due && let Err(refusal) = keys::change(&app, Request::Turn { settled }).await? {
            tracing::error!(%refusal, "HPKE keys cannot be replaced");
        }
        let pause = next.map_or(LOOK, |next| Duration::from_secs(next.0.saturating_sub(now.0)).min(LOOK));
        // What was due may be only the first of several things.
        let pause = if due { AFTER } else { pause };
        let pause = if settled { pause } else { pause.min(settles.saturating_duration_since(Instant::now())) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = app.stopped() => return Ok(()),
        }
    }
}
