//! Metrics of the process, with the conventional names.

use std::{fs, time::Duration};

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// CPU time of all threads.
pub fn cpu() -> Duration {
    // This clock is never negative.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Number of open files.
pub fn open_files() -> Option<u64> {
    // The directory handle itself is one of them.
    fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1) as u64)
}

/// Maximum number of open files; `None` if unlimited.
pub fn max_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Resident memory, in bytes.
pub fn memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
