//! What the system says about this process, under the names that all programs use.

use std::{fs, time::Duration};

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// The processors' time that was used, by all threads.
pub fn cpu() -> Duration {
    // This clock is never negative.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// How many files are open.
pub fn open_files() -> Option<u64> {
    // The directory that is read is one of them, for a moment.
    fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1) as u64)
}

/// How many may be; none if there is no limit.
pub fn max_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The memory that is in use, in bytes.
pub fn memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
