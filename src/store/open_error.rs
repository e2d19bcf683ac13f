//! The errors of opening a data directory.

use std::io;

use super::{engine::EngineError, space, state::LoadError, table::RowError, vault::KeyError};

/// Why a data directory cannot be opened. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("the data directory is in use by another process; stop that one first, or give this one its own")]
    Locked,
    /// A later release wrote the directory.
    #[error(
        "the data directory was written by a newer release (version {found}); run that release, or a newer one, \
         or restore a backup made before the upgrade"
    )]
    Newer {
        /// The layout version that was found.
        found: u32,
    },
    /// An earlier release wrote the directory, and the command needs the current layout.
    #[error(
        "the data directory was written by an earlier release; start the server on it once, which brings it up to date"
    )]
    NeedsMigration,
    /// There is no data directory.
    #[error("there is no data directory there; is --config or --data-dir missing?")]
    NoDataDirectory,
    /// The directory holds other files.
    #[error("the data directory holds something else; name an empty directory, or one that does not exist yet")]
    Foreign,
    /// A restore into the directory was interrupted.
    #[error("a backup was being restored into the data directory and is not complete; delete it and restore again")]
    IncompleteRestore,
    /// The directory is not empty.
    #[error("the directory is not empty, and a backup is restored into an empty one only; name another one")]
    NotEmpty,
    /// The content is damaged.
    #[error("the data directory is damaged ({0}); move it away and restore a backup")]
    Damaged(String),
    /// The encryption key is missing or wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file system is full.
    #[error(
        "the file system is full, and opening the data directory takes a few megabytes: free some space or enlarge it; \
         nothing that was acknowledged is lost"
    )]
    Full,
    /// There is no room to rebuild the database.
    #[error("writing the database anew takes room for a while: {0}; free some space and try again")]
    NoRoom(String),
    /// The file system is read-only.
    #[error("the file system is mounted read-only; mount it for writing, or name a directory elsewhere")]
    ReadOnly,
    /// Access is denied.
    #[error(
        "there is no permission to use the data directory; run as the user that it belongs to, or give it to this one \
         with chown -R"
    )]
    PermissionDenied,
    /// Root would work on a directory of another user while the server is stopped.
    #[error(
        "the data directory belongs to user {0}, who could not read what root leaves behind in it; run this as that user \
         (the unit file for systemd says how), or start the server and ask it"
    )]
    ForeignOwner(u32),
    /// A file is in place of the directory.
    #[error("there is a file in place of the data directory; name a directory, or a place where one can be made")]
    NotADirectory,
    /// Another error of the file system.
    #[error("the data directory cannot be used ({0}); look into the system's log for errors of the disk")]
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
