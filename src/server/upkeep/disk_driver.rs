//! Checks the free space of the disk periodically.

use std::{sync::Arc, time::Duration};

use crate::upkeep::context::UpkeepContext;
use dapbox_support::{Fault, Part};

/// Minimum interval between checks.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Checks the free space and maintains the ballast until the server stops.
pub async fn drive(ctx: Arc<UpkeepContext>) -> Result<(), Fault> {
    loop {
        ctx.failpoints.turn(Part::Disk);
        let interval = (*ctx.config.get().disk.check_interval).max(MIN_CHECK_INTERVAL);
        tokio::select! {
            () = ctx.stop.stopped() => return Ok(()),
            () = ctx.clock.sleep(interval) => {}
        }
        let disk = ctx.disk.clone();
        let checked = tokio::task::spawn_blocking(move || disk.check_and_fill_ballast()).await;
        checked.map_err(|error| Fault::while_doing("checking the disk", error))?;
    }
}
