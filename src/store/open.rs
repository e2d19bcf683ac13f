//! Opens a data directory: checks its owner and version, and locks it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::Path,
};

use super::{
    Options,
    engine::Engine,
    migrate,
    open_error::OpenError,
    owner::check_user,
    space::{self, Ballast},
    state::State,
    swap::{self, TABLES},
    vault::{self, Vault},
    writer::Disk,
};

/// The layout version that this program writes.
pub(super) const LAYOUT: u32 = 2;
/// The marker file, which identifies and locks the directory.
const MARKER: &str = "dapbox-data";
/// The content of the marker before the version and a newline.
const MARKER_TEXT: &str = "dapbox data directory, version ";

/// The content of the marker until a restore is complete.
const RESTORING: &str = "dapbox data directory, being restored\n";

/// Opens or creates the directory and loads the state.
///
/// The marker is written after the first row. If the marker is complete and the row is missing, the database has lost
/// everything, which sled does not report. If the marker is empty, the directory is new, or the power failed during its
/// creation.
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
            tracing::info!("data directory upgrade started");
            migrate::from_1(dir, options.cache_bytes, engine, &vault, &mut |_, _, _| {})?;
            mark(dir, &marker)?;
            tracing::warn!(
                path = %dir.join(migrate::KEPT).display(),
                "data directory upgraded"
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
            tracing::warn!(ballast_bytes, "ballast released");
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
