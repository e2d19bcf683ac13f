//! Opening a data directory: whose it is, which version it has, and that nobody else uses it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use super::{
    Options,
    engine::{Engine, EngineError},
    state::{LoadError, State},
    swap::{self, TABLES},
    table::RowError,
    vault::{self, KeyError, Vault},
    writer::Disk,
};

/// The version of the data directory's layout that this program writes.
const LAYOUT: u32 = 1;
/// The file that says what the directory is; the lock is on it.
const MARKER: &str = "dapbox-data";
/// Its content, before the version and a newline.
const MARKER_TEXT: &str = "dapbox data directory, version ";

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
    /// There is no key for its secrets, or not the right one.
    #[error(transparent)]
    Key(#[from] KeyError),
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
            LoadError::OtherKey => Self::Key(KeyError::Wrong),
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// Opens the directory, or makes it, and reads everything that is held in memory.
///
/// The marker is written after the first row. So if it is whole and the row is missing, then the database has lost
/// everything, which sled does not call an error; and if it is empty, the directory is new, or the power failed
/// while it was.
pub(super) fn open(dir: &Path, options: &Options) -> Result<(Disk, State), OpenError> {
    create_dir(dir)?;
    let (mut marker, is_new) = claim(dir)?;
    let vault = Vault::new(&options.key.load(dir, is_new)?)?;
    swap::recover(dir)?;
    let engine = Engine::open(&dir.join(TABLES), options.cache_bytes)?.with(options.durability);
    if is_new {
        if engine.is_empty()? {
            engine.commit(&State::first_rows(&vault).map_err(|fault| OpenError::Damaged(fault.to_string()))?)?;
        }
        marker.write_all(format!("{MARKER_TEXT}{LAYOUT}\n").as_bytes())?;
        marker.sync_all()?;
        File::open(dir)?.sync_all()?;
    }
    let state = State::load(&engine, vault)?;
    Ok((Disk { engine, _lock: marker }, state))
}

/// Takes the lock of a directory that has been used, to do something to its database.
pub(super) fn claim_existing(dir: &Path) -> Result<File, OpenError> {
    let is_used = fs::metadata(dir.join(MARKER)).is_ok_and(|marker| marker.len() > 0);
    if !is_used {
        return Err(OpenError::Foreign);
    }
    let (marker, _) = claim(dir)?;
    swap::recover(dir)?;
    Ok(marker)
}

/// Makes the directory if there is none, closed to everybody else: there are keys in it.
fn create_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        done => done,
    }
}

/// Checks the marker and returns it locked, with whether it has yet to be written.
fn claim(dir: &Path) -> Result<(File, bool), OpenError> {
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
    let mut bytes = Vec::new();
    // More than the marker can be long, so that a file that only has its name is not read whole.
    (&mut marker).take(200).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let version = text.strip_prefix(MARKER_TEXT).and_then(|version| version.strip_suffix('\n'));
    match version.and_then(|version| version.parse::<u32>().ok()) {
        Some(LAYOUT) => Ok((marker, false)),
        Some(found) if found > LAYOUT => Err(OpenError::Newer { found }),
        None if text.is_empty() => Ok((marker, true)),
        _ => Err(OpenError::Damaged(format!("{MARKER} does not say which version it is"))),
    }
}

/// Whether the directory is empty, but for what file systems put into theirs, and the key.
fn is_vacant(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        // An operator may have put the key there beforehand.
        if name != "lost+found" && name != vault::KEY_FILE {
            return Ok(false);
        }
    }
    Ok(true)
}
