//! What processes and directories take up.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Memory of this process that is in use now, in bytes, where the system tells.
pub fn resident() -> Option<u64> {
    read_status_field("self", "VmRSS:")
}

/// The most memory that a process has had in use so far, in bytes, where the system tells.
pub fn peak(process: u32) -> Option<u64> {
    read_status_field(&process.to_string(), "VmHWM:")
}

fn read_status_field(process: &str, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// What a directory takes up on its disk, in bytes.
pub fn on_disk(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        bytes += if metadata.is_dir() { on_disk(&path)? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
