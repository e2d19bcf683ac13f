//! Backups: files that hold all rows of the database as of one moment.
//!
//! `format.rs` defines their bytes, `create.rs` creates them while the store is in use (`changes.rs` tracks concurrent
//! changes), `verify.rs` checks them, and `restore.rs` restores them.

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
pub use verify::{BackupContents, CollectorContents, TaskContents, VerifyError, verify};

/// Why a backup fails.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another backup is running.
    #[error("another backup is running; wait until it ends")]
    Busy,
    /// Too many rows changed during the backup.
    #[error(
        "too many rows changed during the backup; retry with less load or a faster target, or raise \
         limits.max_backup_tracking_bytes"
    )]
    TooManyChanges,
    /// The output failed.
    #[error("cannot write the backup: {0}")]
    Write(std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}
