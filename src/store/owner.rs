//! Whose a data directory is.
//!
//! A service has a user of its own, and whoever looks after it is root. As root they ask the server. While it does not run
//! they have its directory for themselves, and whatever root wrote there the service could not read afterwards.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustix::process::geteuid;

use super::OpenError;

/// Refuses root a directory of somebody else, for what is done to it while that user's server does not run.
pub fn check_user(dir: &Path) -> Result<(), OpenError> {
    match fs::metadata(dir).map(|found| found.uid()) {
        Ok(owner) if owner != 0 && geteuid().is_root() => Err(OpenError::ForeignOwner(owner)),
        _ => Ok(()),
    }
}
