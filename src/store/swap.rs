//! Replaces a database by another, atomically across crashes.
//!
//! The new database is written beside the old one. Directories are then renamed in an order that shows the progress, so
//! no other state is needed. Each step is synced before the next. The next opening ([`recover`], under the directory's
//! lock) completes or undoes an interrupted swap:
//!
//! | directories | state | action of [`recover`] |
//! |---|---|---|
//! | `tables` | no swap | none |
//! | `tables`, `tables.new` | the new one is incomplete | deletes the new one |
//! | `tables`, `tables.ready` | the new one is complete and unused | deletes the new one |
//! | `tables.old`, `tables.ready` | the old one is moved away | renames the new one to `tables` |
//! | `tables`, `tables.old` | the new one is in use | deletes the old one |
//!
//! A complete but unused database is deleted because an earlier release, which does not know these names, may have
//! written to `tables` since. With [`OldDatabase::Keep`] the old database gets its permanent name instead of
//! `tables.old` and is never deleted.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use super::engine::{Engine, EngineError};

/// The database in use.
pub(super) const TABLES: &str = "tables";
/// An incomplete new database.
const NEW: &str = "tables.new";
/// A complete new database.
const READY: &str = "tables.ready";
/// A replaced database.
const OLD: &str = "tables.old";

/// What happens to the replaced database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OldDatabase {
    /// Delete it.
    Delete,
    /// Keep it under this name.
    Keep(&'static str),
}

/// Completes or undoes an interrupted swap. The caller holds the directory's lock and has not opened the database.
pub(super) fn recover(dir: &Path) -> io::Result<()> {
    remove(dir, NEW)?;
    if dir.join(READY).is_dir() {
        if dir.join(TABLES).is_dir() {
            remove(dir, READY)?;
        } else {
            rename(dir, READY, TABLES)?;
        }
    }
    if dir.join(TABLES).is_dir() {
        remove(dir, OLD)?;
    }
    Ok(())
}

/// Creates an empty database beside the one in use.
pub(super) fn begin(dir: &Path, cache_bytes: u64) -> Result<Engine, EngineError> {
    remove(dir, NEW)?;
    remove(dir, READY)?;
    Engine::open(&dir.join(NEW), cache_bytes)
}

/// Opens the closed new database again.
pub(super) fn reopen(dir: &Path, cache_bytes: u64) -> Result<Engine, EngineError> {
    Engine::open(&dir.join(NEW), cache_bytes)
}

/// Deletes the new database.
pub(super) fn abandon(dir: &Path) -> io::Result<()> {
    remove(dir, NEW)
}

/// Deletes a new database in any state, in a directory without an old one.
pub(super) fn discard(dir: &Path) -> io::Result<()> {
    [NEW, READY, TABLES].into_iter().try_for_each(|name| remove(dir, name))
}

/// Puts the new database into use. Both must be closed ([`Engine::close`]); an old one need not exist.
pub(super) fn finish(dir: &Path, old: OldDatabase) -> io::Result<()> {
    sync_tree(&dir.join(NEW))?;
    rename(dir, NEW, READY)?;
    if dir.join(TABLES).is_dir() {
        let name = match old {
            OldDatabase::Delete => OLD,
            OldDatabase::Keep(name) => name,
        };
        rename(dir, TABLES, name)?;
    }
    rename(dir, READY, TABLES)?;
    if old == OldDatabase::Delete {
        remove(dir, OLD)?;
    }
    Ok(())
}

/// Renames a database durably.
fn rename(dir: &Path, from: &str, to: &str) -> io::Result<()> {
    fs::rename(dir.join(from), dir.join(to))?;
    File::open(dir)?.sync_all()
}

/// Deletes a database, if it exists.
fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_dir_all(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Syncs everything below a directory.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Rows;

    const CACHE: u64 = 1 << 20;

    /// Creates a database with a content.
    fn make(dir: &Path, name: &str, content: &str) {
        let engine = Engine::open(&dir.join(name), CACHE).unwrap();
        engine.commit(&Rows::from([(vec![1], Some(content.into()))])).unwrap();
        engine.close().unwrap();
    }

    fn content(dir: &Path) -> String {
        let engine = Engine::open(&dir.join(TABLES), CACHE).unwrap();
        let value = engine.get(&[1]).unwrap().unwrap();
        engine.close().unwrap();
        String::from_utf8(value).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Databases with their contents, then the expected content and directories.
    type State = (&'static [(&'static str, &'static str)], &'static str, &'static [&'static str]);

    #[test]
    fn recovers_from_every_crash_state() {
        let states: [State; 8] = [
            (&[(TABLES, "old")], "old", &[TABLES]),
            (&[(TABLES, "old"), (NEW, "new")], "old", &[TABLES]),
            (&[(TABLES, "old"), (READY, "new")], "old", &[TABLES]),
            (&[(OLD, "old"), (READY, "new")], "new", &[TABLES]),
            (&[(TABLES, "new"), (OLD, "old")], "new", &[TABLES]),
            // The old database is kept.
            (&[("tables.kept", "old"), (READY, "new")], "new", &[TABLES, "tables.kept"]),
            (&[(TABLES, "new"), ("tables.kept", "old")], "new", &[TABLES, "tables.kept"]),
            // There is no old database.
            (&[(READY, "new")], "new", &[TABLES]),
        ];
        for (before, expected, after) in states {
            let dir = tempfile::tempdir().unwrap();
            before.iter().for_each(|(name, content)| make(dir.path(), name, content));
            recover(dir.path()).unwrap();
            assert_eq!((content(dir.path()).as_str(), names(dir.path())), (expected, to_strings(after)), "{before:?}");
            recover(dir.path()).unwrap();
            assert_eq!(names(dir.path()), to_strings(after), "{before:?}");
        }
    }

    fn to_strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finishes_interrupted_deletion() {
        for (half, whole) in [(NEW, TABLES), (READY, TABLES), (OLD, TABLES)] {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path(), half, "half");
            make(dir.path(), whole, "whole");
            fs::remove_file(dir.path().join(half).join("db")).unwrap();
            recover(dir.path()).unwrap();
            assert_eq!((content(dir.path()).as_str(), names(dir.path())), ("whole", to_strings(&[TABLES])));
        }
    }

    #[test]
    fn replaces_old_database() {
        for old in [OldDatabase::Delete, OldDatabase::Keep("tables.kept")] {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path(), TABLES, "old");
            let engine = begin(dir.path(), CACHE).unwrap();
            engine.commit(&Rows::from([(vec![1], Some("new".into()))])).unwrap();
            engine.close().unwrap();
            finish(dir.path(), old).unwrap();
            assert_eq!(content(dir.path()), "new");
            let kept: &[&str] = if old == OldDatabase::Delete { &[TABLES] } else { &[TABLES, "tables.kept"] };
            assert_eq!(names(dir.path()), to_strings(kept));
        }
    }
}
