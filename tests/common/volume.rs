//! A small mounted file system that a test fills up. Mounting requires privileges.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use dapbox::store::space::space;
use tempfile::TempDir;

use super::skip::{may_mount, skip};

/// Bytes of one write.
const CHUNK: usize = 64 << 10;

/// A mounted file system.
pub struct Volume {
    dir: TempDir,
}

impl Volume {
    /// Mounts one of this size in MiB. Returns `None` if the test may not or cannot mount; it is then skipped and must
    /// return.
    pub fn mount(mib: u32) -> Option<Self> {
        Self::mount_with(&format!("size={mib}m"))
    }

    /// Mounts one with these options.
    pub fn mount_with(options: &str) -> Option<Self> {
        if !may_mount() {
            return None;
        }
        let dir = TempDir::new().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { dir });
        }
        skip("cannot mount a file system; run it as root");
        None
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Remounts with other options.
    pub fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path()).status();
        assert!(done.unwrap().success());
    }

    /// Free bytes.
    pub fn free(&self) -> u64 {
        space(self.path()).unwrap().free
    }

    /// Fills it until at most this many bytes are free.
    pub fn fill(&self, leave: u64) {
        let mut file = File::options().append(true).create(true).open(self.filler()).unwrap();
        while self.free() > leave {
            match file.write(&[1; CHUNK]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Frees the filled space.
    pub fn clear(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: open files disappear when they are closed.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
