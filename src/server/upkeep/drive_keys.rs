//! The driver that replaces HPKE keys when it is time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{app::App, upkeep::keys};
use dapbox_aggregator::{
    future_timestamps::future_timestamps,
    keys::{Policy, Request, is_due, is_near_limit, next},
    views::overview::FutureTimestamp,
};
use dapbox_store::WriteError;
use dapbox_support::{Fault, Part, clock};

/// After this time at the latest it looks again: clocks are set, tasks go, jobs end.
const LOOK: Duration = Duration::from_secs(60);

/// Replaces keys until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    // As with what is swept: whoever starts with a clock that is far ahead has time to notice before keys are old.
    let settles = Instant::now() + *app.config.retention.sweep_interval;
    let (mut was_crowded, mut was_settled) = (false, false);
    warn_of_times_ahead(&app)?;
    loop {
        app.failpoints.turn(Part::HpkeKeys);
        let (now, policy) = (clock::now(), Policy::of(&app.config));
        let settled = Instant::now() >= settles;
        if settled && !was_settled {
            // The clock may have been set since the start.
            warn_of_times_ahead(&app)?;
        }
        was_settled = settled;
        let (due, next, crowded) = app
            .store
            .read(|view| Ok((is_due(view, now, &policy, settled), next(view, now, &policy), is_near_limit(view))))?;
        if crowded && !was_crowded {
            tracing::warn!("too many HPKE keys");
        }
        was_crowded = crowded;
        if due {
            match keys::change(&app, Request::Advance { settled }).await {
                Ok(_) => {}
                Err(WriteError::Refused(refusal)) => tracing::error!(error = %refusal, "HPKE key rotation failed"),
                Err(WriteError::Fault(fault)) => return Err(fault),
            }
        }
        let pause = next.map_or(LOOK, |next| Duration::from_secs(next.0.saturating_sub(now.0)).min(LOOK));
        let pause = if settled { pause } else { pause.min(settles.saturating_duration_since(Instant::now())) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // By an operator, or just now: what was due may be only the first of several things.
            () = app.keys.changed.notified() => {}
            () = app.stopped() => return Ok(()),
        }
    }
}

/// Tells the log which stored times are ahead of the clock.
fn warn_of_times_ahead(app: &App) -> Result<(), Fault> {
    for FutureTimestamp { record, time, is_permanent } in
        app.store.read(|view| Ok(future_timestamps(view, clock::now())))?
    {
        tracing::warn!(record, time = time.0, is_permanent, "stored time ahead of clock");
    }
    Ok(())
}
