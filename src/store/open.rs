//! Opening a data directory: whose it is, which version it has, and that nobody else uses it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use super::{
    engine::{Engine, EngineError},
    state::{LoadError, State},
    table::RowError,
    writer::Disk,
};

/// The version of the data directory's layout that this program writes.
const LAYOUT: u32 = 1;
/// The file that says what the directory is; the lock is on it.
const MARKER: &str = "dapbox-data";
/// Its content, before the version and a newline.
const MARKER_TEXT: &str = "dapbox data directory, version ";
/// Where the database is.
const TABLES: &str = "tables";

/// Why a store cannot be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data directory is in use by another process; stop that one first, or give this one its own")]
    Locked,
    /// A later release has written it.
    #[error(
        "the data directory was written by a newer release (version {found}); run that release, or a newer one, \
         or restore a backup made before the upgrade"
    )]
    Newer {
        /// The version that was found.
        found: u32,
    },
    /// The directory is not ours.
    #[error("the data directory holds something else; name an empty directory, or one that does not exist yet")]
    Foreign,
    /// The content does not make sense.
    #[error("the data directory is damaged ({0}); move it away and restore a backup")]
    Damaged(String),
    /// The file system refused.
    #[error("the data directory cannot be used ({0}); check its permissions, its owner and the free space")]
    Io(#[from] io::Error),
}

impl From<EngineError> for OpenError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Io(error) => Self::Io(error),
            EngineError::Damaged(text) => Self::Damaged(text),
        }
    }
}

impl From<LoadError> for OpenError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Engine(error) => error.into(),
            LoadError::Row(RowError::Newer { found, .. }) => Self::Newer { found: found.into() },
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// Opens the directory, or makes it, and reads everything that is held in memory.
pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<(Disk, State), OpenError> {
    create_dir(dir)?;
    let lock = claim(dir)?;
    let engine = Engine::open(&dir.join(TABLES), cache_bytes)?;
    File::open(dir)?.sync_all()?;
    let state = State::load(&engine)?;
    Ok((Disk { engine, _lock: lock }, state))
}

/// Makes the directory if there is none, closed to everybody else: there are keys in it.
fn create_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        done => done,
    }
}

/// Checks or writes the marker, and returns it locked.
fn claim(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(MARKER);
    if !path.exists() && !is_vacant(dir)? {
        return Err(OpenError::Foreign);
    }
    let mut marker = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match marker.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    let mut text = String::new();
    // More than the marker can be long, so that a file that only has its name is not read whole.
    (&marker).take(200).read_to_string(&mut text)?;
    if text.is_empty() && !dir.join(TABLES).exists() {
        // New, or the power failed while it was new.
        marker.write_all(format!("{MARKER_TEXT}{LAYOUT}\n").as_bytes())?;
        marker.sync_all()?;
        return Ok(marker);
    }
    let version = text.strip_prefix(MARKER_TEXT).and_then(|version| version.trim_end().parse::<u32>().ok());
    match version {
        Some(LAYOUT) => Ok(marker),
        Some(found) if found > LAYOUT => Err(OpenError::Newer { found }),
        _ => Err(OpenError::Damaged(format!("{MARKER} does not say which version it is"))),
    }
}

/// Whether the directory is empty, but for what file systems put into theirs.
fn is_vacant(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}
