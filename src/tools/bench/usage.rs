//! Memory of processes and disk usage of directories.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Resident memory of this process, in bytes, if the system reports it.
pub fn resident() -> Option<u64> {
    read_status_field("self", "VmRSS:")
}

/// Peak resident memory of a process, in bytes, if the system reports it.
pub fn peak(process: u32) -> Option<u64> {
    read_status_field(&process.to_string(), "VmHWM:")
}

fn read_status_field(process: &str, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Disk usage of a directory, in bytes.
pub fn on_disk(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        bytes += if metadata.is_dir() { on_disk(&path)? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
