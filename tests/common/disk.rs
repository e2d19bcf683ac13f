//! An ext4 file system in a file whose power can be cut.
//!
//! The ioctl `EXT4_IOC_SHUTDOWN` stops all writes and discards the journal in memory. After the next mount the file
//! system
//! holds what was synced, and an arbitrary part of what was not. Until then, every access fails.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The size of a disk. The file is sparse.
const BYTES: u64 = 4 << 30;
/// A long commit interval: only a sync makes metadata durable.
const OPTIONS: &str = "loop,commit=300";
/// Shuts down the file systems of these directories. `_IOR('X', 125, __u32)` with 2: the journal is not flushed.
const CUT: &str = r#"
    my $how = pack("L", 2);
    my @disks = map { sysopen(my $disk, $_, 0) or die "$_: $!"; $disk } @ARGV;
    for (@disks) { ioctl($_, 0x8004587d, $how) or die "$!" }
"#;
/// How long a file system may stay busy after its last user was killed.
const BUSY: Duration = Duration::from_secs(20);

/// A mounted disk, unmounted when dropped.
pub struct Disk {
    image: PathBuf,
    /// The mount point.
    pub root: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// Makes a disk in `dir`. The error says why this machine cannot.
    pub fn new(dir: &Path, name: &str) -> Result<Self, String> {
        let (image, root) = (dir.join(format!("{name}.disk")), dir.join(name));
        let made = File::create(&image).and_then(|file| file.set_len(BYTES)).and_then(|()| fs::create_dir(&root));
        made.map_err(|error| format!("{}: {error}", image.display()))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0"]).arg(&image))?;
        let mut disk = Self { image, root, is_mounted: false };
        disk.mount()?;
        // Fail early where a shutdown is not permitted.
        Self::cut([&disk])?;
        disk.remount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        run(Command::new("mount").args(["-t", "ext4", "-o", OPTIONS]).args([&self.image, &self.root]))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Cuts the power of disks, all in one process.
    pub fn cut<'a>(disks: impl IntoIterator<Item = &'a Self>) -> Result<(), String> {
        run(Command::new("perl").args(["-e", CUT]).args(disks.into_iter().map(|disk| &disk.root)))
    }

    /// Makes everything on the disk durable.
    pub fn sync(&self) -> Result<(), String> {
        run(Command::new("sync").arg("-f").arg(&self.root))
    }

    /// Restores power. No process may use the disk meanwhile.
    pub fn remount(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + BUSY;
        while let Err(error) = run(Command::new("umount").arg(&self.root)) {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.is_mounted = false;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Detaches now; the loop device goes with the last user.
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.root));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // These programs may be outside of `PATH`.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.env("PATH", path).stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
