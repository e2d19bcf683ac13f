//! The owner of a data directory.
//!
//! A service runs as its own user, and its administrator is root. While the server is stopped, files that root creates
//! in the directory would be unreadable for the service.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustix::process::geteuid;

use super::OpenError;

/// Rejects root for a directory of another user.
pub fn check_user(dir: &Path) -> Result<(), OpenError> {
    match fs::metadata(dir).map(|found| found.uid()) {
        Ok(owner) if owner != 0 && geteuid().is_root() => Err(OpenError::ForeignOwner(owner)),
        _ => Ok(()),
    }
}
