//! The driver that rotates HPKE keys.

use std::{sync::Arc, time::Duration};

use crate::upkeep::context::UpkeepContext;
use dapbox_aggregator::{
    future_timestamps::future_timestamps,
    keys::{Policy, Request, is_due, is_near_limit, next},
    views::overview::FutureTimestamp,
};
use dapbox_store::WriteError;
use dapbox_support::{Fault, Part};

/// Maximum interval between checks: clocks are set, tasks are removed, jobs end.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Rotates keys until the server stops.
pub async fn drive(ctx: Arc<UpkeepContext>) -> Result<(), Fault> {
    // As in the sweep driver, an operator who starts the server with a wrong clock has time to notice it before keys
    // expire.
    let settles = ctx.clock.instant() + *ctx.config.get().retention.sweep_interval;
    let (mut was_crowded, mut was_settled) = (false, false);
    warn_of_times_ahead(&ctx)?;
    loop {
        ctx.failpoints.turn(Part::HpkeKeys);
        let (now, policy) = (ctx.clock.now(), Policy::of(&ctx.config.get()));
        let settled = ctx.clock.instant() >= settles;
        if settled && !was_settled {
            // The clock may have been set since the start.
            warn_of_times_ahead(&ctx)?;
        }
        was_settled = settled;
        let (due, next, crowded) = ctx
            .store
            .read(|view| Ok((is_due(view, now, &policy, settled), next(view, now, &policy), is_near_limit(view))))?;
        if crowded && !was_crowded {
            tracing::warn!("too many HPKE keys");
        }
        was_crowded = crowded;
        if due {
            match ctx.keys.change(Request::Advance { settled }).await {
                Ok(_) => {}
                Err(WriteError::Refused(refusal)) => tracing::error!(error = %refusal, "HPKE key rotation failed"),
                Err(WriteError::Fault(fault)) => return Err(fault),
            }
        }
        let pause = next.map_or(CLOCK_CHECK_INTERVAL, |next| {
            Duration::from_secs(next.0.saturating_sub(now.0)).min(CLOCK_CHECK_INTERVAL)
        });
        let pause = if settled { pause } else { pause.min(settles.saturating_duration_since(ctx.clock.instant())) };
        tokio::select! {
            () = ctx.clock.sleep(pause) => {}
            // An operator changed a key, or this driver did and more changes may be due.
            () = ctx.keys.changed.notified() => {}
            () = ctx.stop.stopped() => return Ok(()),
        }
    }
}

/// Logs the stored times that are ahead of the clock.
fn warn_of_times_ahead(ctx: &UpkeepContext) -> Result<(), Fault> {
    for FutureTimestamp { record, time, is_permanent } in
        ctx.store.read(|view| Ok(future_timestamps(view, ctx.clock.now())))?
    {
        tracing::warn!(record, time = time.0, is_permanent, "stored time ahead of clock");
    }
    Ok(())
}
