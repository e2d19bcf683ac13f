//! A file system of our own whose power can be cut: ext4 in a file, shut down under those who use it.
//!
//! The ioctl `EXT4_IOC_SHUTDOWN` stops all writing at once, and what is in the journal's memory is lost. Mounted again,
//! the file system is what a disk had at that moment: what was synced, and anything or nothing of what was not. From then
//! on, until it is mounted again, whoever uses it gets errors.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The size of a disk; only what is used takes room.
const BYTES: u64 = 4 << 30;
/// Metadata is written at leisure, so that there is much to lose: nothing but a sync makes it durable.
const OPTIONS: &str = "loop,commit=300";
/// Shuts file systems down, given by their directories. `_IOR('X', 125, __u32)` with 2: the journal is not flushed.
const CUT: &str = r#"
    my $how = pack("L", 2);
    my @disks = map { sysopen(my $disk, $_, 0) or die "$_: $!"; $disk } @ARGV;
    for (@disks) { ioctl($_, 0x8004587d, $how) or die "$!" }
"#;
/// How long a file system may be busy after its last user has been killed.
const BUSY: Duration = Duration::from_secs(20);

/// A disk, mounted; unmounted and forgotten when it is dropped.
pub struct Disk {
    image: PathBuf,
    /// Where it is mounted.
    pub root: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// Makes a disk in `dir`, or says why that cannot be done on this machine.
    pub fn new(dir: &Path, name: &str) -> Result<Self, String> {
        let (image, root) = (dir.join(format!("{name}.disk")), dir.join(name));
        let made = File::create(&image).and_then(|file| file.set_len(BYTES)).and_then(|()| fs::create_dir(&root));
        made.map_err(|error| format!("{}: {error}", image.display()))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0"]).arg(&image))?;
        let mut disk = Self { image, root, is_mounted: false };
        disk.mount()?;
        // Tried out, so that it is known here whether it can be done at all.
        Self::cut([&disk])?;
        disk.remount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        run(Command::new("mount").args(["-t", "ext4", "-o", OPTIONS]).args([&self.image, &self.root]))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Cuts the power of disks, all at once.
    pub fn cut<'a>(disks: impl IntoIterator<Item = &'a Self>) -> Result<(), String> {
        run(Command::new("perl").args(["-e", CUT]).args(disks.into_iter().map(|disk| &disk.root)))
    }

    /// Makes everything durable that is on the disk so far.
    pub fn sync(&self) -> Result<(), String> {
        run(Command::new("sync").arg("-f").arg(&self.root))
    }

    /// The power is back. Nobody may use the disk meanwhile.
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
            // Detached now, whoever still uses it; the loop device goes with the last user.
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.root));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // Its place is not in everybody's path.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.env("PATH", path).stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
