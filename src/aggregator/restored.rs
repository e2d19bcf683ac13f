//! Restoring a backup.
//!
//! # Decision: a restore closes the past
//!
//! A restored aggregator does not know which reports it aggregated and which shares it gave out after the backup, and
//! no protocol tells it. It could do both a second time. The restore therefore raises the horizon of every task above
//! the current time before the directory can be opened. Tasks and keys stay in use.

use std::{io::Read, path::Path};

use serde::Serialize;

use super::{
    never_contacted, privacy,
    retention::{self, DataLoss},
};
use dapbox_protocol::model::{Duration, Role, Secret, TaskId, Time};
use dapbox_store as store;
use dapbox_store::{Options, RestoreError};

/// The result of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The time of the backup.
    pub moment: Time,
    /// How far ahead of the clock reports may be, in seconds: the larger of the argument of [`restore`] and the value
    /// recorded in the backup.
    pub clock_skew: Duration,
    /// Earlier times are closed, rounded up to each task's time precision.
    pub closed_before: Time,
    /// The tasks.
    pub tasks: Vec<RestoredTask>,
}

/// The result of a restore for one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestoredTask {
    /// The id of the task.
    pub id: TaskId,
    /// Our role.
    pub role: Role,
    /// Everything before this time is closed.
    pub closed_before: Time,
}

/// Restores a backup into a new data directory and closes the past of all its tasks.
///
/// The past ends `clock_skew` after `now`, because reports of clients with fast clocks may exist. A larger value
/// recorded in the backup takes precedence. The past never ends before the time of the backup, in case our clock is
/// wrong. `read` is called with the number of bytes read so far.
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
            // Whether the task was contacted since the backup is unknown.
            never_contacted::contact(tx, &id)?;
            privacy::mark_uncertain(tx, &id)?;
            tasks.push(RestoredTask { id, role, closed_before });
        }
        // Tasks that were added since the backup come again as new: from an operator, a control plane or in-band. So do
        // tasks that were removed since, whose tombstones are lost.
        tx.raise_history_lost_before(before)?;
        Ok(Restored { moment, clock_skew, closed_before: before, tasks })
    };
    store::restore(dir, options, input, key, close, read)
}
