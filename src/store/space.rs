//! Room on the file system of the data directory: how much there is, and a file that keeps some of it back.
//!
//! A database whose disk is full cannot be opened: opening writes the rest of the last segment and a list of all pages.
//! So a ballast of nothing lies beside it while there is room. What it takes is given up when a store is opened on a
//! disk that is short, so that it opens, gives out what was aggregated, and waits for better times.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rand::RngCore;
use rustix::fs::{FallocateFlags, fallocate, statfs, statvfs};

/// The ballast's name, for those who wonder what it is; a backup needs it as little as the database does.
const NAME: &str = "ballast-without-data";
/// What is written at once where a file system cannot reserve room.
const CHUNK: usize = 1 << 20;

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What can still be written.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// The room on the file system of a file or directory.
pub fn space(path: &Path) -> io::Result<Space> {
    let found = statvfs(path)?;
    // What is kept for the superuser does not count: it is there so that the system survives us.
    Ok(Space {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

/// The name of a file system that does not keep what is synced to it, if this is one.
pub fn volatile_file_system(path: &Path) -> io::Result<Option<&'static str>> {
    // linux/magic.h
    Ok(match statfs(path)?.f_type as u32 {
        0x0102_1994 => Some("tmpfs, which is memory"),
        0x8584_58f6 => Some("ramfs, which is memory"),
        0x794c_7630 => Some("overlayfs, which goes with its container"),
        _ => None,
    })
}

/// Whether the file system refused because it is full, or its user's share of it is.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// A file that takes up room for bad times.
#[derive(Clone, Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// The ballast of a data directory, which need not be there. None is wanted if `bytes` is 0.
    pub fn new(dir: &Path, bytes: u64) -> Self {
        Self { path: dir.join(NAME), bytes }
    }

    /// Whether it is as it should be.
    pub fn is_ready(&self) -> bool {
        let allocated =
            fs::metadata(&self.path).map(|found| if found.len() == self.bytes { allocated(&found) } else { 0 });
        allocated.unwrap_or(0) >= self.bytes
    }

    /// How much room it takes when it is as it should be.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it, or leaves nothing of it behind.
    pub fn create(&self) -> io::Result<()> {
        self.release()?;
        if self.bytes == 0 {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&self.path)?;
        let made = fill(&file, self.bytes).and_then(|()| file.sync_all());
        if made.is_err() {
            self.release()?;
        }
        made
    }

    /// Gives its room up. True if there was any.
    pub fn release(&self) -> io::Result<bool> {
        let allocated = match fs::metadata(&self.path) {
            Ok(found) => allocated(&found),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        fs::remove_file(&self.path)?;
        Ok(allocated > 0)
    }
}

/// How much room a file takes.
fn allocated(found: &fs::Metadata) -> u64 {
    found.blocks().saturating_mul(512)
}

/// Makes a new file take up that much room.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    // Not zeros: there are file systems that make nothing of them.
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        rand::rng().fill_bytes(&mut chunk);
        let part = left.min(CHUNK as u64) as usize;
        file.write_all(&chunk[..part])?;
        left -= part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_allocates_and_releases_space() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 3 << 20);
        assert!(!ballast.is_ready() && !ballast.release().unwrap());
        ballast.create().unwrap();
        assert!(ballast.is_ready());
        // A hole of the same length is none, and neither is one of another size.
        let hole = File::create(&ballast.path).unwrap();
        hole.set_len(3 << 20).unwrap();
        assert!(!ballast.is_ready());
        ballast.create().unwrap();
        assert!(ballast.is_ready() && !Ballast::new(dir.path(), 4 << 20).is_ready());
        assert!(ballast.release().unwrap() && !ballast.is_ready());
        // Not wanting one is easily satisfied.
        let none = Ballast::new(dir.path(), 0);
        none.create().unwrap();
        assert!(none.is_ready() && fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    #[test]
    fn reports_disk_space_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let Space { free, total } = space(dir.path()).unwrap();
        assert!(free > 1 << 20 && free <= total);
        assert_eq!(space(&dir.path().join("nothing")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
