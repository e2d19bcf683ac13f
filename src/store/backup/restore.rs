//! Restores a backup into a new data directory.
//!
//! A copy of the past does not know which reports it aggregated since and which batches it gave shares of. It would do
//! both a second time. The caller therefore passes a function that closes the past. Its changes are written before the
//! directory can be opened: until then the marker says that a restore is running, and the database has another name
//! ([`swap`]).

use std::{
    io::{self, Read},
    path::Path,
};

use super::{
    format::{FormatError, Reader, Record},
    verify::{self, VerifyError},
};
use crate::{
    KeyError, OpenError, Options, Tx,
    engine::{Engine, EngineError, Rows},
    group::Group,
    open,
    rebuild::Importer,
    state::State,
    swap::{self, OldDatabase},
    vault::Vault,
};
use dapbox_protocol::model::{Secret, Time};
use dapbox_support::Fault;

/// Changes are written in portions of this many bytes,
const BYTES_AT_ONCE: usize = 8 << 20;
/// or this many rows.
const ROWS_AT_ONCE: usize = 1000;
/// The number of records between two progress reports.
const RECORDS_PER_TICK: u64 = 256;

/// Why a restore fails.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup is invalid.
    #[error(transparent)]
    Backup(#[from] VerifyError),
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The encryption key is missing.
    #[error(
        "the backup does not contain its encryption key: pass it with --key-file (by default it is secrets.key in the \
         original data directory)"
    )]
    NoKey,
    /// The encryption key is invalid.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An internal error.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<FormatError> for RestoreError {
    fn from(error: FormatError) -> Self {
        Self::Backup(error.into())
    }
}

impl From<EngineError> for RestoreError {
    fn from(error: EngineError) -> Self {
        Self::Directory(error.into())
    }
}

impl From<io::Error> for RestoreError {
    fn from(error: io::Error) -> Self {
        Self::Directory(error.into())
    }
}

/// Restores a backup into a new directory. Leaves nothing behind on failure.
///
/// `close` is called after everything was read and verified, with the moment of the snapshot. It must close everything
/// that the copy cannot know. `key` is the encryption key of the backup; the default is the one in the backup, or else
/// the one of `options`. It is stored where `options` expects it. `read` receives the number of bytes read so far.
pub fn restore<T>(
    dir: &Path,
    options: &Options,
    input: impl Read,
    key: Option<Secret>,
    close: impl FnOnce(&mut Tx<'_>, Time) -> Result<T, Fault>,
    read: impl FnMut(u64),
) -> Result<T, RestoreError> {
    let mut reader = Reader::new(input)?;
    verify::check_header(reader.header())?;
    let key = match key.or(reader.header().key.clone()) {
        Some(key) => key,
        None => options.key.read(dir).map_err(|error| match error {
            KeyError::Missing(_) => RestoreError::NoKey,
            error => error.into(),
        })?,
    };
    let vault = Vault::new(&key)?;
    let claim = open::claim_vacant(dir)?;
    let restored = fill(dir, options.cache_bytes, vault, &mut reader, close, read).and_then(|done| {
        options.key.install(dir, &key)?;
        swap::finish(dir, OldDatabase::Delete)?;
        claim.complete(dir)?;
        Ok(done)
    });
    if restored.is_err() {
        // The first error is returned. The marker makes remaining files unusable.
        let _ = swap::discard(dir).and_then(|()| open::unclaim(dir));
    }
    restored
}

/// Writes the rows into a new database and closes the past.
fn fill<T>(
    dir: &Path,
    cache_bytes: u64,
    vault: Vault,
    reader: &mut Reader<impl Read>,
    close: impl FnOnce(&mut Tx<'_>, Time) -> Result<T, Fault>,
    read: impl FnMut(u64),
) -> Result<T, RestoreError> {
    let engine = swap::begin(dir, cache_bytes)?;
    let done = apply(&engine, reader, read).and_then(|moment| {
        let mut state = State::load(&engine, vault, 0).map_err(OpenError::from)?;
        let mut group = Group::default();
        let done = close(&mut Tx { state: &mut state, group: &mut group, engine: &engine }, moment)?;
        engine.commit(&group.finish(&mut state)?)?;
        Ok(done)
    });
    engine.close()?;
    done
}

/// Writes all records. Returns the moment of the snapshot.
fn apply(engine: &Engine, reader: &mut Reader<impl Read>, mut read: impl FnMut(u64)) -> Result<Time, RestoreError> {
    let damaged = |why: &str| FormatError::Damaged(why.to_owned());
    let mut importer = Importer::new(engine);
    let (mut last, mut changes, mut bytes) = (Vec::new(), Rows::new(), 0);
    while let Some(record) = reader.next()? {
        if let Record::Row(key, value) | Record::Changed(key, value) = &record {
            verify::check_row(key, value)?;
            bytes += value.len();
        }
        match record {
            Record::Row(key, _) if key <= last => return Err(damaged("its rows are out of order").into()),
            Record::Row(key, value) => {
                commit(engine, &mut changes)?;
                last.clone_from(&key);
                importer.add((key, value))?;
            }
            Record::Changed(key, value) => drop(changes.insert(key, Some(value))),
            Record::Gone(key) => drop(changes.insert(key, None)),
        }
        if !changes.is_empty() {
            importer.write()?;
        }
        if changes.len() >= ROWS_AT_ONCE || bytes >= BYTES_AT_ONCE {
            commit(engine, &mut changes)?;
            bytes = 0;
        }
        if reader.progress().0.is_multiple_of(RECORDS_PER_TICK) {
            read(reader.progress().1);
        }
    }
    importer.finish()?;
    commit(engine, &mut changes)?;
    reader.moment().ok_or_else(|| FormatError::CutOff.into())
}

fn commit(engine: &Engine, changes: &mut Rows) -> Result<(), EngineError> {
    if !changes.is_empty() {
        engine.commit(changes)?;
        changes.clear();
    }
    Ok(())
}
