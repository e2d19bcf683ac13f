//! Disk space of the data directory: free space, and a ballast file that reserves some.
//!
//! A database on a full disk cannot be opened, because opening writes the rest of the last segment and a list of pages.
//! A ballast file therefore reserves space. It is released when a store opens on a full disk. The store then returns
//! existing aggregates and refuses uploads until there is space.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rand::RngCore;
use rustix::fs::{FallocateFlags, fallocate, statfs, statvfs};

/// The name of the ballast file. Backups do not need it.
const NAME: &str = "ballast-without-data";
/// The chunk size for file systems that cannot reserve space.
const CHUNK: usize = 1 << 20;

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Space available to this user.
    pub free: u64,
    /// The total space.
    pub total: u64,
}

/// The space of the file system of a file or directory.
pub fn space(path: &Path) -> io::Result<Space> {
    let found = statvfs(path)?;
    // Space reserved for root does not count.
    Ok(Space {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

/// The description of a file system that does not survive a restart, if this is one.
pub fn volatile_file_system(path: &Path) -> io::Result<Option<&'static str>> {
    // Magic numbers from linux/magic.h.
    Ok(match statfs(path)?.f_type as u32 {
        0x0102_1994 => Some("tmpfs, which is in memory"),
        0x8584_58f6 => Some("ramfs, which is in memory"),
        0x794c_7630 => Some("overlayfs, which is deleted with its container"),
        _ => None,
    })
}

/// Whether an error means that the file system or the quota is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// A file that reserves disk space.
#[derive(Clone, Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// The ballast of a data directory. It need not exist. No ballast is wanted if `bytes` is 0.
    pub fn new(dir: &Path, bytes: u64) -> Self {
        Self { path: dir.join(NAME), bytes }
    }

    /// Whether the ballast exists in full size.
    pub fn is_ready(&self) -> bool {
        let allocated =
            fs::metadata(&self.path).map(|found| if found.len() == self.bytes { allocated(&found) } else { 0 });
        allocated.unwrap_or(0) >= self.bytes
    }

    /// The configured size, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Creates the ballast, or leaves nothing behind on failure.
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

    /// Deletes the ballast. Returns whether it occupied any space.
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

/// The space that a file occupies, in bytes.
fn allocated(found: &fs::Metadata) -> u64 {
    found.blocks().saturating_mul(512)
}

/// Allocates space for a new file.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    // Random bytes, because some file systems compress zeros.
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
        // A sparse file and a file of another size are no ballast.
        let hole = File::create(&ballast.path).unwrap();
        hole.set_len(3 << 20).unwrap();
        assert!(!ballast.is_ready());
        ballast.create().unwrap();
        assert!(ballast.is_ready() && !Ballast::new(dir.path(), 4 << 20).is_ready());
        assert!(ballast.release().unwrap() && !ballast.is_ready());
        // No ballast is wanted.
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
