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

/// Writes the current layout into the marker.
fn mark(dir: &Path, marker: &File) -> io::Result<()> {
    marker.write_all_at(format!("{MARKER_TEXT}{LAYOUT}\n").as_bytes(), 0)?;
    marker.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Opens the database. Releases the ballast if the disk is too full to open it or to write to it.
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

/// Locks an existing directory to work on its database.
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

/// An exclusively locked directory that cannot be opened.
pub(super) struct DirectoryClaim {
    /// Excludes other processes.
    _lock: File,
}

/// Claims an empty or new directory to restore a backup into it.
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
    /// Marks the directory as complete: it can be opened from now on.
    pub(super) fn complete(self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(format!("{MARKER}.new"));
        let mut marker = File::create(&temporary)?;
        marker.write_all(format!("{MARKER_TEXT}{LAYOUT}\n").as_bytes())?;
        marker.sync_all()?;
        fs::rename(temporary, dir.join(MARKER))?;
        File::open(dir)?.sync_all()
    }
}

/// Removes the marker.
pub(super) fn unclaim(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join(MARKER))
}

/// Creates the directory if it does not exist, with access for its owner only: it holds keys.
fn create_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        done => done,
    }
}

/// The content of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MarkerState {
    /// Empty: the directory is new.
    New,
    /// The current layout.
    Current,
    /// The first layout.
    Version1,
}

/// Locks and reads the marker.
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
    // Longer than any marker, so that an unrelated file of this name is not read completely.
    (&mut marker).take(200).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let version = text.strip_prefix(MARKER_TEXT).and_then(|version| version.strip_suffix('\n'));
    match version.and_then(|version| version.parse::<u32>().ok()) {
        Some(LAYOUT) => Ok((marker, MarkerState::Current)),
        Some(1) => Ok((marker, MarkerState::Version1)),
        Some(found) if found > LAYOUT => Err(OpenError::Newer { found }),
        None if text.is_empty() => Ok((marker, MarkerState::New)),
        None if text == RESTORING => Err(OpenError::IncompleteRestore),
        _ => Err(OpenError::Damaged(format!("{MARKER} has no valid version"))),
    }
}

/// Whether the directory is empty, apart from `lost+found` and the key.
fn is_vacant(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        // An operator may have installed the key beforehand.
        if name != "lost+found" && name != vault::KEY_FILE {
            return Ok(false);
        }
    }
    Ok(true)
}
