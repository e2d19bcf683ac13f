//! Backups: files outside the database that hold all of its rows, as they were at one moment.
//!
//! `format.rs` says what their bytes are, `create.rs` makes them while the store is in use (`notes.rs` has what changes
//! meanwhile), `verify.rs` reads them through, and `restore.rs` makes a data directory of one.

mod changes;
mod create;
mod format;
mod restore;
mod verify;

use dapbox_support::Fault;

pub(super) use changes::ChangeTracker;
pub use create::{BackupOptions, BackupSummary};
pub use format::{FormatError, Header};
pub use restore::{RestoreError, restore};
pub use verify::{BackupContents, TaskContents, VerifyError, verify};

/// Why a backup is not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another one is being made.
    #[error("a backup is being made already; wait until it is finished")]
    Busy,
    /// More was written to the store than could be noted.
    #[error(
        "more was written meanwhile than a backup can catch up with; make it when there is less to do, write it to \
         something faster, or raise limits.max_backup_tracking_bytes"
    )]
    TooManyChanges,
    /// Its bytes cannot be written.
    #[error("the backup cannot be written: {0}")]
    Write(std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}
