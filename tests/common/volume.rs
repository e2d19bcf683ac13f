//! A small file system of its own, to be filled up. Mounting takes privileges: without them there is none.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use dapbox::store::space::space;
use tempfile::TempDir;

use super::skip::{may_mount, skip};

/// What is written at once.
const CHUNK: usize = 64 << 10;

/// A mounted file system.
pub struct Volume {
    dir: TempDir,
}

impl Volume {
    /// Mounts one of that many MiB. If the test may not or cannot mount, it is skipped, and must return.
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

    /// Changes how it is mounted.
    pub fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path()).status();
        assert!(done.unwrap().success());
    }

    /// How many bytes are free.
    pub fn free(&self) -> u64 {
        space(self.path()).unwrap().free
    }

    /// Fills it until at most that much is free.
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

    /// Takes away what it was filled with.
    pub fn clear(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: what is still open goes when it is closed.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
