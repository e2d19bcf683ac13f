//! Opening a data directory: whose it is, which version it has, and that nobody else uses it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::Path,
};

use super::{
    Options,
    engine::{Engine, EngineError},
    migrate,
    owner::check_user,
    space::{self, Ballast},
    state::{LoadError, State},
    swap::{self, TABLES},
    table::RowError,
    vault::{self, KeyError, Vault},
    writer::Disk,
};

/// The version of the data directory's layout that this program writes.
pub(super) const LAYOUT: u32 = 2;
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
    /// An earlier release has written it, and what is asked for is done to today's only.
    #[error(
        "the data directory was written by an earlier release; start the server on it once, which brings it up to date"
    )]
    NeedsMigration,
    /// There is no data directory.
    #[error("there is no data directory there; is --config or --data-dir missing?")]
    NoDataDirectory,
    /// The directory is not ours.
    #[error("the data directory holds something else; name an empty directory, or one that does not exist yet")]
    Foreign,
    /// A restore into it was interrupted.
    #[error("a backup was being restored into the data directory and is not complete; delete it and restore again")]
    IncompleteRestore,
    /// There is something in it.
    #[error("the directory is not empty, and a backup is restored into an empty one only; name another one")]
    NotEmpty,
    /// The content does not make sense.
    #[error("the data directory is damaged ({0}); move it away and restore a backup")]
    Damaged(String),
    /// There is no key for its secrets, or not the right one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no room on the file system.
    #[error(
        "the file system is full, and opening the data directory takes a few megabytes: free some space or enlarge it; \
         nothing that was acknowledged is lost"
    )]
    Full,
    /// There is no room to write the database anew.
    #[error("writing the database anew takes room for a while: {0}; free some space and try again")]
    NoRoom(String),
    /// The file system lets nobody write.
    #[error("the file system is mounted read-only; mount it for writing, or name a directory elsewhere")]
    ReadOnly,
    /// The file system does not let us.
    #[error(
        "there is no permission to use the data directory; run as the user that it belongs to, or give it to this one \
         with chown -R"
    )]
    PermissionDenied,
    /// Root is to work on somebody else's directory, while the server does not run.
    #[error(
        "the data directory belongs to user {0}, who could not read what root leaves behind in it; run this as that user \
         (the unit file for systemd says how), or start the server and ask it"
    )]
    ForeignOwner(u32),
    /// There is a file where the directory should be.
    #[error("there is a file in place of the data directory; name a directory, or a place where one can be made")]
    NotADirectory,
    /// The file system refused otherwise.
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

/// Opens the directory, or makes it, and reads everything that is held in memory.
///
/// The marker is written after the first row. So if it is whole and the row is missing, then the database has lost
/// everything, which sled does not call an error; and if it is empty, the directory is new, or the power failed
/// while it was.
pub(super) fn open(dir: &Path, options: &Options) -> Result<(Disk, State), OpenError> {
    create_dir(dir)?;
    let (marker, found) = claim(dir)?;
    if found == MarkerState::Version1 && !options.migrate {
        return Err(OpenError::NeedsMigration);
    }
    let key = match found {
        MarkerState::Current => options.key.read(dir)?,
        MarkerState::New | MarkerState::Version1 => options.key.read_or_make(dir)?,
    };
    let vault = Vault::new(&key)?;
    swap::recover(dir)?;
    let mut engine = match found {
        MarkerState::Version1 => Engine::open_of_earlier_release(&dir.join(TABLES), options.cache_bytes)?,
        MarkerState::New | MarkerState::Current => open_engine(dir, options)?,
    };
    match found {
        MarkerState::Current => {}
        MarkerState::New => {
            if engine.is_empty()? {
                engine.commit(&State::initial_rows(&vault).map_err(|fault| OpenError::Damaged(fault.to_string()))?)?;
            }
            mark(dir, &marker)?;
        }
        MarkerState::Version1 => {
            tracing::info!("the data directory is from an earlier release and is brought up to date");
            migrate::from_1(dir, options.cache_bytes, engine, &vault, &mut |_, _, _| {})?;
            mark(dir, &marker)?;
            tracing::warn!(
                kept = %dir.join(migrate::KEPT).display(),
                "the data directory is up to date; what it was is kept, with secrets that are not encrypted: delete it \
                 when you are certain that you do not want to go back"
            );
            engine = open_engine(dir, options)?;
        }
    }
    let engine = engine.with(options.durability);
    let state = State::load(&engine, vault, options.sum_cache_bytes)?;
    Ok((Disk { engine, _lock: marker }, state))
}

/// Writes today's layout into the marker.
fn mark(dir: &Path, marker: &File) -> io::Result<()> {
    marker.write_all_at(format!("{MARKER_TEXT}{LAYOUT}\n").as_bytes(), 0)?;
    marker.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Opens the database. If the disk is too full for that, or will be as soon as something is written, the ballast goes.
fn open_engine(dir: &Path, options: &Options) -> Result<Engine, OpenError> {
    let (cache_bytes, ballast_bytes) = (options.cache_bytes, options.ballast_bytes);
    let ballast = Ballast::new(dir, ballast_bytes);
    let give_up_ballast = || -> io::Result<bool> {
        let given_up = ballast_bytes > 0 && ballast.release()?;
        if given_up {
            tracing::warn!(ballast_bytes, "the disk is full: the ballast is given up so that the store can be opened");
        }
        Ok(given_up)
    };
    if space::space(dir)?.free < ballast_bytes {
        give_up_ballast()?;
    }
    let tables = dir.join(TABLES);
    match Engine::open(&tables, cache_bytes).map_err(OpenError::from) {
        Err(OpenError::Full) if give_up_ballast()? => Ok(Engine::open(&tables, cache_bytes)?),
        opened => Ok(opened?),
    }
}

/// Takes the lock of a directory that has been used, to do something to its database.
pub(super) fn claim_existing(dir: &Path) -> Result<File, OpenError> {
    check_user(dir)?;
    match fs::metadata(dir.join(MARKER)) {
        Ok(marker) if marker.len() > 0 => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => return Err(OpenError::NoDataDirectory),
    }
    let (marker, found) = claim(dir)?;
    if found != MarkerState::Current {
        return Err(OpenError::NeedsMigration);
    }
    swap::recover(dir)?;
    Ok(marker)
}

/// A directory that is ours alone and cannot be opened by anybody.
pub(super) struct DirectoryClaim {
    /// Keeps other processes out.
    _lock: File,
}

/// Takes an empty directory, or makes it, to restore a backup into it.
pub(super) fn claim_vacant(dir: &Path) -> Result<DirectoryClaim, OpenError> {
    create_dir(dir)?;
    check_user(dir)?;
    if !is_vacant(dir)? {
        return Err(OpenError::NotEmpty);
    }
    let mut marker = OpenOptions::new().write(true).create_new(true).open(dir.join(MARKER))?;
    marker.try_lock().map_err(io::Error::from)?;
    marker.write_all(RESTORING.as_bytes())?;
    marker.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(DirectoryClaim { _lock: marker })
}

impl DirectoryClaim {
    /// The directory has all that it needs, and can be opened from now on.
    pub(super) fn complete(self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(format!("{MARKER}.new"));
        let mut marker = File::create(&temporary)?;
        marker.write_all(format!("{MARKER_TEXT}{LAYOUT}\n").as_bytes())?;
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

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MarkerState {
    /// It has yet to be written.
    New,
    /// The directory has today's layout.
    Current,
    /// The directory has the first layout.
    Version1,
}

/// Checks the marker and returns it locked, with what it says.
fn claim(dir: &Path) -> Result<(File, MarkerState), OpenError> {
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
        Some(LAYOUT) => Ok((marker, MarkerState::Current)),
        Some(1) => Ok((marker, MarkerState::Version1)),
        Some(found) if found > LAYOUT => Err(OpenError::Newer { found }),
        None if text.is_empty() => Ok((marker, MarkerState::New)),
        None if text == RESTORING => Err(OpenError::IncompleteRestore),
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
