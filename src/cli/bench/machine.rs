//! Where it is measured: processors, disk, version.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration as Span, Instant},
};

use serde::Serialize;

use super::cores;
use crate::cli::style;

/// How often the disk is asked.
const SYNCS: usize = 51;

/// What is written each time, in bytes.
const BLOCK: usize = 4096;

/// What the figures depend on, besides dapbox.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The version of dapbox.
    pub dapbox: &'static str,
    /// Cores that this process may use.
    pub cores: usize,
    /// What the processor calls itself, where the system tells.
    pub cpu: Option<String>,
    /// Where the data directories are.
    pub directory: String,
    /// The file system's type and device there, where the system tells.
    pub file_system: Option<String>,
    /// The median time to write a block to a file there and have it durable, in microseconds.
    pub fdatasync_us: f64,
}

impl Machine {
    /// Looks at the machine and at the disk of a directory.
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

    /// Says if what is measured is no disk.
    pub fn warn_if_in_memory(&self) {
        if self.file_system.as_ref().is_some_and(|kind| kind.starts_with("tmpfs") || kind.starts_with("ramfs")) {
            style::warn(format!("{} is in memory and no disk; name one with --dir", self.directory));
        }
    }

    /// For people, in two lines.
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

/// The type and the device of what is mounted where `dir` is.
fn file_system(dir: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    // Of those that are mounted at the same place, the last one counts.
    let (device, _, kind) =
        fields.filter(|(_, place, _)| dir.starts_with(place)).max_by_key(|(_, place, _)| place.len())?;
    Some(format!("{kind} on {device}"))
}

/// The median time of a bare commit: a block that is written and made durable. The file has its size before.
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
