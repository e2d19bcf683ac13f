//! Rebuilds a database. The file only shrinks in a copy, because sled reuses freed space and never returns it.
//!
//! [`rewrite`] copies the rows in order and lets a function change, drop or add rows. [`rebuild`] verifies the copy and
//! replaces the original ([`swap`]).

use std::{ops::ControlFlow, path::Path};

use sha2::{Digest, Sha256};

use super::{
    engine::{Engine, EngineError, Row},
    space,
    swap::{self, OldDatabase},
};

/// How many bytes are written together, which are also held in memory.
const BYTES_AT_ONCE: usize = 32 << 20;
/// The most rows written together.
const ROWS_AT_ONCE: usize = 100_000;
/// The number of rows between two progress reports.
const ROWS_PER_TICK: u64 = 64;

/// The stage of a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactStage {
    /// Counting the existing rows.
    Reading,
    /// Writing the copy.
    Writing,
    /// Verifying the copy.
    Checking,
}

/// Receives the stage, the bytes done, and the total bytes; zero if the total is unknown.
pub type ProgressFn<'a> = &'a mut dyn FnMut(CompactStage, u64, u64);

/// The content of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// The number of rows.
    pub rows: u64,
    /// The total length of keys and values, in bytes.
    pub bytes: u64,
    /// The sum of the hashes of all rows, independent of their order.
    hash: [u64; 4],
}

impl Totals {
    /// Adds a row.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
        let mut hash = Sha256::new();
        hash.update((key.len() as u64).to_be_bytes());
        hash.update(key);
        hash.update(value);
        let hash: [u8; 32] = hash.finalize().into();
        for (sum, part) in self.hash.iter_mut().zip(hash.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_be_bytes(*part));
        }
    }

    /// Reads all rows of a database.
    pub(super) fn of(engine: &Engine, mut read: impl FnMut(&Self)) -> Result<Self, EngineError> {
        let mut totals = Self::default();
        engine.scan_after(None, |key, value| {
            totals.add(key, &value);
            if totals.rows.is_multiple_of(ROWS_PER_TICK) {
                read(&totals);
            }
            Ok::<_, EngineError>(ControlFlow::Continue(()))
        })?;
        Ok(totals)
    }
}

/// Imports rows into a new database in large portions.
pub(super) struct Importer<'a> {
    to: &'a Engine,
    rows: Vec<Row>,
    bytes: usize,
    totals: Totals,
}

impl<'a> Importer<'a> {
    pub(super) fn new(to: &'a Engine) -> Self {
        Self { to, rows: Vec::new(), bytes: 0, totals: Totals::default() }
    }

    /// Adds a row with a new key. The database is densest if rows come in order.
    pub(super) fn add(&mut self, (key, value): Row) -> Result<(), EngineError> {
        self.totals.add(&key, &value);
        self.bytes += key.len() + value.len();
        self.rows.push((key, value));
        if self.bytes >= BYTES_AT_ONCE || self.rows.len() >= ROWS_AT_ONCE {
            self.write()?;
        }
        Ok(())
    }

    /// Writes the remaining rows and returns the content.
    pub(super) fn finish(mut self) -> Result<Totals, EngineError> {
        self.write()?;
        Ok(self.totals)
    }

    /// Writes all rows so far.
    pub(super) fn write(&mut self) -> Result<(), EngineError> {
        if !self.rows.is_empty() {
            self.to.import(&self.rows)?;
        }
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Copies all rows into an empty database and returns its content.
///
/// `map` receives each row in order, and `None` at the end. The rows that it adds to the list are written. It may add
/// any rows, each key once.
fn rewrite<E: From<EngineError>>(
    from: &Engine,
    to: &Engine,
    mut map: impl FnMut(Option<Row>, &mut Vec<Row>) -> Result<(), E>,
    mut read: impl FnMut(u64),
) -> Result<Totals, E> {
    let mut importer = Importer::new(to);
    let (mut mapped, mut bytes, mut rows) = (Vec::new(), 0, 0);
    from.scan_after(None, |key, value| {
        bytes += (key.len() + value.len()) as u64;
        rows += 1;
        map(Some((key.to_vec(), value)), &mut mapped)?;
        mapped.drain(..).try_for_each(|row| importer.add(row))?;
        if rows % ROWS_PER_TICK == 0 {
            read(bytes);
        }
        Ok::<_, E>(ControlFlow::Continue(()))
    })?;
    map(None, &mut mapped)?;
    mapped.drain(..).try_for_each(|row| importer.add(row))?;
    Ok(importer.finish()?)
}

/// Replaces the database of a data directory by a mapped copy, after verifying the copy from its files. On failure the
/// original stays. The caller holds the lock of the directory and passes the open original, which is closed.
pub(super) fn rebuild<E: From<EngineError>>(
    dir: &Path,
    cache_bytes: u64,
    from: Engine,
    old: OldDatabase,
    map: impl FnMut(Option<Row>, &mut Vec<Row>) -> Result<(), E>,
    progress: ProgressFn<'_>,
) -> Result<Totals, E> {
    let before = Totals::of(&from, |t| progress(CompactStage::Reading, t.bytes, 0))?;
    check_room(dir, before.bytes)?;
    let to = swap::begin(dir, cache_bytes)?;
    let written =
        rewrite(&from, &to, map, |bytes| progress(CompactStage::Writing, bytes, before.bytes)).and_then(|totals| {
            to.close()?;
            from.close()?;
            let again = swap::reopen(dir, cache_bytes)?;
            let found = Totals::of(&again, |t| progress(CompactStage::Checking, t.bytes, totals.bytes))?;
            again.close()?;
            match found == totals {
                true => Ok(totals),
                false => Err(EngineError::Damaged("the copy differs from the original".into()).into()),
            }
        });
    match written {
        Ok(totals) => {
            swap::finish(dir, old).map_err(EngineError::from)?;
            Ok(totals)
        }
        Err(error) => {
            // The next opening deletes what remains; the first error is returned.
            let _ = swap::abandon(dir);
            Err(error)
        }
    }
}

/// Fails if the disk has no room for a database with rows of this length.
pub(super) fn check_room(dir: &Path, bytes: u64) -> Result<(), EngineError> {
    let needed = bytes + bytes / 4 + ROOM;
    let free = space::space(dir)?.free;
    if free >= needed {
        Ok(())
    } else {
        Err(EngineError::NoRoom { needed_mib: needed.div_ceil(1 << 20), free_mib: free >> 20 })
    }
}

/// The size of a database beyond its rows: a few segments.
const ROOM: u64 = 32 << 20;
