//! The machine under test: processors, disk, version.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration as Span, Instant},
};

use serde::Serialize;

use super::cores;
use crate::cli::style;

/// Number of `fdatasync` calls measured.
const SYNCS: usize = 51;

/// Bytes written before each call.
const BLOCK: usize = 4096;

/// Properties of the machine that the results depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The version of dapbox.
    pub dapbox: &'static str,
    /// Cores available to this process.
    pub cores: usize,
    /// Model name of the processor, if the system reports it.
    pub cpu: Option<String>,
    /// Directory of the data directories.
    pub directory: String,
    /// Type and device of its file system, if the system reports them.
    pub file_system: Option<String>,
    /// Median time to write one block durably, in microseconds.
    pub fdatasync_us: f64,
}

impl Machine {
    /// Inspects the machine and the disk of a directory.
    pub fn inspect(dir: &Path) -> std::io::Result<Self> {
        let dir = dir.canonicalize()?;
        Ok(Self {
            dapbox: env!("CARGO_PKG_VERSION"),
            cores: cores::count(),
            cpu: cpu(),
            file_system: file_system(&dir),
            fdatasync_us: fdatasync(&dir)?.as_secs_f64() * 1e6,
            directory: dir.display().to_string(),
        })
    }

    /// Warns if the directory is in memory.
    pub fn warn_if_in_memory(&self) {
        if self.file_system.as_ref().is_some_and(|kind| kind.starts_with("tmpfs") || kind.starts_with("ramfs")) {
            style::warn(format!("{} is in memory, not on a disk; choose a directory with --dir", self.directory));
        }
    }

    /// A summary in two lines.
    pub fn summary(&self) -> String {
        let (cpu, disk) = (self.cpu.as_deref().unwrap_or("unknown"), self.file_system.as_deref().unwrap_or("unknown"));
        format!(
            "dapbox {}, {}: {cpu}\n{} ({disk}), fdatasync {:.0} us",
            self.dapbox,
            style::counted(self.cores as u64, "core"),
            self.directory,
            self.fdatasync_us
        )
    }
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Type and device of the file system at `dir`.
fn file_system(dir: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    // If several are mounted at the same place, the last one is visible.
    let (device, _, kind) =
        fields.filter(|(_, mount, _)| dir.starts_with(mount)).max_by_key(|(_, mount, _)| mount.len())?;
    Some(format!("{kind} on {device}"))
}

/// Median time of a bare commit: one block written and synced. The file has its final size before.
fn fdatasync(dir: &Path) -> std::io::Result<Span> {
    let path = dir.join("fdatasync");
    let mut file = File::create(&path)?;
    file.write_all(&vec![0; BLOCK * SYNCS])?;
    file.sync_all()?;
    let mut file = File::options().write(true).open(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begin = Instant::now();
        file.write_all(&[1; BLOCK])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    fs::remove_file(path)?;
    times.sort();
    Ok(times[SYNCS / 2])
}
