//! Opening a data directory: whose it is, which version it has, and that nobody else uses it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use super::{
    engine::{Engine, EngineError, Rows},
    state::{LoadError, State},
    swap::{self, TABLES},
    table::RowError,
    writer::Disk,
};

/// The version of the data directory's layout that this program writes.
pub(super) const LAYOUT: u32 = 1;
/// The file that says what the directory is; the lock is on it.
const MARKER: &str = "dapbox-data";
/// Its content, before the version and a newline.
const MARKER_TEXT: &str = "dapbox data directory, version ";

/// What the marker says until a restore is complete.
const RESTORING: &str = "dapbox data directory, being restored\n";

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
    /// A restore into it was interrupted.
    #[error("a backup was being restored into the data directory and is not complete; delete it and restore again")]
    Unfinished,
    /// There is something in it.
    #[error("the directory is not empty, and a backup is restored into an empty one only; name another one")]
    NotEmpty,
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
///
/// The marker is written after the first row. So if it is whole and the row is missing, then the database has lost
/// everything, which sled does not call an error; and if it is empty, the directory is new, or the power failed
/// while it was.
pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<(Disk, State), OpenError> {
    create_dir(dir)?;
    let (mut marker, is_new) = claim(dir)?;
    swap::recover(dir)?;
    let engine = Engine::open(&dir.join(TABLES), cache_bytes)?;
    if is_new {
        let (key, value) = State::first_row().map_err(|fault| OpenError::Damaged(fault.to_string()))?;
        if engine.get(&key)?.is_none() {
            engine.commit(&Rows::from([(key, Some(value))]))?;
        }
        marker.write_all(format!("{MARKER_TEXT}{LAYOUT}\n").as_bytes())?;
        marker.sync_all()?;
        File::open(dir)?.sync_all()?;
    }
    let state = State::load(&engine)?;
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

/// A directory that is ours alone and cannot be opened by anybody.
pub(super) struct Claim {
    /// Keeps other processes out.
    _lock: File,
}

/// Takes an empty directory, or makes it, to restore a backup into it.
pub(super) fn claim_vacant(dir: &Path) -> Result<Claim, OpenError> {
    create_dir(dir)?;
    if !is_vacant(dir)? {
        return Err(OpenError::NotEmpty);
    }
    let mut marker = OpenOptions::new().write(true).create_new(true).open(dir.join(MARKER))?;
    marker.try_lock().map_err(io::Error::from)?;
    marker.write_all(RESTORING.as_bytes())?;
    marker.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(Claim { _lock: marker })
}

impl Claim {
    /// The directory has all that it needs, and can be opened from now on.
    pub(super) fn complete(self, dir: &Path, layout: u32) -> io::Result<()> {
        let temporary = dir.join(format!("{MARKER}.new"));
        let mut marker = File::create(&temporary)?;
        marker.write_all(format!("{MARKER_TEXT}{layout}\n").as_bytes())?;
        marker.sync_all()?;
        fs::rename(temporary, dir.join(MARKER))?;
        File::open(dir)?.sync_all()
    }
}

/// Leaves a directory as empty as it was.
pub(super) fn unclaim(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join(MARKER))
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
        None if text == RESTORING => Err(OpenError::Unfinished),
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
