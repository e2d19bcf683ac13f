//! The driver that deletes expired data, in steps between which other writes run.

use std::sync::Arc;

use crate::upkeep::{context::UpkeepContext, never_contacted};
use dapbox_aggregator::retention;
use dapbox_protocol::model::{TaskId, Time};
use dapbox_store::{SweepCursor, Tx};
use dapbox_support::{Fault, Part, Point};

/// Nothing has expired at this time. Only closed and removed data is deleted.
const BEGINNING: Time = Time(0);

/// Sweeps until the server stops.
pub async fn drive(ctx: Arc<UpkeepContext>) -> Result<(), Fault> {
    let begun = ctx.clock.instant();
    loop {
        ctx.failpoints.turn(Part::Sweep);
        let mut pause = ctx.clock.sleep(*ctx.config.get().retention.sweep_interval);
        // The first full pass is delayed, and no wakeup advances it: an operator who starts the server with a wrong
        // clock has time to notice it before data expires.
        loop {
            tokio::select! {
                () = ctx.stop.stopped() => return Ok(()),
                () = ctx.wakeups.sweeps.notified() => pass(&ctx, BEGINNING).await?,
                () = &mut pause => break,
            }
        }
        never_contacted::sweep(&ctx, ctx.clock.now(), begun).await?;
        pass(&ctx, ctx.clock.now()).await?;
    }
}

/// Deletes what has expired at `now`.
async fn pass(ctx: &Arc<UpkeepContext>, now: Time) -> Result<(), Fault> {
    while !ctx.stop.is_sent() && ctx.store.write(Point::SweepRemoved, |tx| tx.sweep_removed()).await? {}
    for task in ctx.store.read(|view| Ok(view.tasks().map(|(id, _)| *id).collect::<Vec<_>>()))? {
        sweep_task(ctx, task, now).await?;
    }
    // Collection jobs of closed batches can fail now.
    ctx.wakeups.collections.notify_one();
    Ok(())
}

async fn sweep_task(ctx: &Arc<UpkeepContext>, task: TaskId, now: Time) -> Result<(), Fault> {
    let mut next = Some(SweepCursor::default());
    while let Some(place) = next
        && !ctx.stop.is_sent()
    {
        let config = ctx.config.get();
        let step = move |tx: &mut Tx<'_>| retention::sweep(tx, &task, now, &config.retention, place);
        next = ctx.store.write(Point::Sweep, step).await?;
    }
    Ok(())
}
