//! The errors of opening a data directory.

use std::io;

use super::{engine::EngineError, space, state::LoadError, table::RowError, vault::KeyError};

/// Why a data directory cannot be opened. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("the data directory is in use by another process; stop that process or use another directory")]
    Locked,
    /// A later release wrote the directory.
    #[error(
        "the data directory was written by a newer release (version {found}); run that release or a newer one, or \
         restore a backup made before the upgrade"
    )]
    Newer {
        /// The layout version that was found.
        found: u32,
    },
    /// An earlier release wrote the directory, and the command needs the current layout.
    #[error("the data directory was written by an earlier release; start the server once to migrate it")]
    NeedsMigration,
    /// There is no data directory.
    #[error("the data directory does not exist; check --config and --data-dir")]
    NoDataDirectory,
    /// The directory holds other files.
    #[error("the directory contains other files; use an empty or new directory")]
    Foreign,
    /// A restore into the directory was interrupted.
    #[error("a restore into the data directory was interrupted; delete the directory and restore again")]
    IncompleteRestore,
    /// The directory is not empty.
    #[error("the directory is not empty; restore into an empty or new directory")]
    NotEmpty,
    /// The content is damaged.
    #[error("the data directory is damaged ({0}); move it away and restore a backup")]
    Damaged(String),
    /// The encryption key is missing or wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file system is full.
    #[error(
        "the file system is full, and opening the data directory takes a few megabytes: free some space or enlarge \
         it; all acknowledged data is safe"
    )]
    Full,
    /// There is no room to rebuild the database.
    #[error("not enough disk space to rebuild the database: {0}; free some space and retry")]
    NoRoom(String),
    /// The file system is read-only.
    #[error("the file system is mounted read-only; remount it for writing or use another directory")]
    ReadOnly,
    /// Access is denied.
    #[error("permission denied for the data directory; run as its owner, or change its owner with chown -R")]
    PermissionDenied,
    /// Root would work on a directory of another user while the server is stopped.
    #[error(
        "the data directory belongs to user {0}, who could not read files created by root; run this command as that \
         user (see the systemd unit), or start the server and use it through the server"
    )]
    ForeignOwner(u32),
    /// A file is in place of the directory.
    #[error("the path of the data directory is a file; use a directory")]
    NotADirectory,
    /// Another error of the file system.
    #[error("cannot use the data directory ({0}); check the system log for disk errors")]
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            _ if space::is_full(&error) => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Self::NotADirectory,
            io::ErrorKind::InvalidData => Self::Damaged(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

impl From<EngineError> for OpenError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Io(error) => error.into(),
            EngineError::Damaged(text) => Self::Damaged(text),
            error @ EngineError::NoRoom { .. } => Self::NoRoom(error.to_string()),
        }
    }
}

impl From<RowError> for OpenError {
    fn from(error: RowError) -> Self {
        LoadError::Row(error).into()
    }
}

impl From<LoadError> for OpenError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Engine(error) => error.into(),
            LoadError::Row(RowError::Newer { found, .. }) => Self::Newer { found: found.into() },
            LoadError::OtherKey => Self::Key(KeyError::Wrong),
            other => Self::Damaged(other.to_string()),
        }
    }
}
