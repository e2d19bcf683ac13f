//! Going on from a backup.
//!
//! A restored aggregator does not know what it did after the backup: it could aggregate reports and give out shares of
//! batches a second time. So everything that it may know nothing of is closed, within the restore, before anybody can open
//! the directory. Tasks and keys go on.

use std::{io::Read, path::Path};

use serde::Serialize;

use super::{
    never_contacted,
    retention::{self, DataLoss},
};
use dapbox_protocol::model::{Duration, Role, Secret, TaskId, Time};
use dapbox_store as store;
use dapbox_store::{Options, RestoreError};

/// What a restore came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The moment that the backup shows.
    pub moment: Time,
    /// How far ahead of the clock reports may be: the larger of what was passed to [`restore`] and what the backup says
    /// that its server ran with.
    pub clock_skew: Duration,
    /// What is earlier is closed, rounded up to each task's time precision.
    pub closed_before: Time,
    /// The tasks.
    pub tasks: Vec<RestoredTask>,
}

/// What a restore did to a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestoredTask {
    /// The task's id.
    pub id: TaskId,
    /// Our role.
    pub role: Role,
    /// Everything before this time is closed.
    pub closed_before: Time,
}

/// Makes a data directory of a backup, where there is nothing yet, and closes the past of all its tasks.
///
/// The past ends `clock_skew` after `now`, for there may be reports from clients whose clocks are ahead by so much. If the
/// server that was backed up took reports further ahead, that counts. It does not end before the moment of the backup, in
/// case our clock is wrong. `read` is told from time to time how many bytes were read.
pub fn restore(
    dir: &Path,
    options: &Options,
    input: impl Read,
    key: Option<Secret>,
    (now, clock_skew): (Time, Duration),
    read: impl FnMut(u64),
) -> Result<Restored, RestoreError> {
    let close = |tx: &mut store::Tx<'_>, moment: Time| {
        let clock_skew = clock_skew.max(tx.clock_skew());
        let before = now.max(moment).saturating_add(clock_skew);
        let mut tasks = Vec::new();
        for (id, role) in tx.tasks().map(|(id, state)| (*id, state.task.role())).collect::<Vec<_>>() {
            let closed_before = retention::close_before(tx, &id, before, DataLoss::Own)?.unwrap_or(before);
            // Whether somebody has since the backup is not known.
            never_contacted::contact(tx, &id)?;
            tasks.push(RestoredTask { id, role, closed_before });
        }
        // Tasks that were added since the backup come again as if they were new: by an operator, a control plane or
        // in-band. So do those that were removed since, whose tombstones are lost.
        tx.raise_history_lost_before(before)?;
        Ok(Restored { moment, clock_skew, closed_before: before, tasks })
    };
    store::restore(dir, options, input, key, close, read)
}
