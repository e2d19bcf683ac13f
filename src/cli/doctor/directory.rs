//! The data directory: existence, owner, permissions and file system.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use rustix::process::geteuid;

use super::context::DoctorContext;
use crate::{
    cli::findings::{CheckResult, failed, passed, warning},
    server,
    store::space,
};

/// Checks that the data directory exists and has data.
pub fn check_data_dir(context: &DoctorContext) -> Option<CheckResult> {
    let dir = context.dir.display();
    Some(match fs::metadata(&context.dir) {
        Ok(found) if !found.is_dir() => {
            failed(format!("{dir} is not a directory"), "Choose a directory with --data-dir.")
        }
        Ok(_) if context.has_data() => passed(dir.to_string()),
        Ok(_) => {
            warning(format!("{dir} is empty"), "Start the server once, or choose another directory with --data-dir.")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => failed(
            format!("{dir} does not exist"),
            "Start the server once, or choose another directory with --config or --data-dir.",
        ),
        Err(error) => failed(format!("{dir}: {error}"), "Run this command as the owner of the directory."),
    })
}

/// Checks that only the owner can access the data directory.
pub fn check_permissions(context: &DoctorContext) -> Option<CheckResult> {
    let (dir, found) = (context.dir.display(), fs::metadata(&context.dir).ok()?);
    let (owner, user, mode) = (found.uid(), geteuid().as_raw(), found.mode() & 0o777);
    if mode & 0o077 != 0 {
        return Some(failed(
            format!("{dir} has mode {mode:o}: other users can access the keys in it"),
            format!("Run: chmod 700 {dir}"),
        ));
    }
    // Root may inspect servers of other users.
    if owner != user && user != 0 {
        let remedy = format!("Run the server as user {owner}, or: chown -R {user} {dir}");
        return Some(warning(format!("{dir} belongs to user {owner}, and this is user {user}"), remedy));
    }
    Some(passed(format!("only user {owner} has access")))
}

/// Checks that only the owner can read the secrets key.
pub fn check_secrets_key(context: &DoctorContext) -> Option<CheckResult> {
    check_secrets_file(&server::store_options(&context.config).key.file(&context.dir)?)
}

/// Checks the permissions of a key file that may not exist. The server refuses a file that everyone can read.
pub fn check_secrets_file(path: &Path) -> Option<CheckResult> {
    let mode = fs::metadata(path).ok()?.mode() & 0o777;
    let remedy = format!("Run: chmod 600 {}", path.display());
    Some(match mode & 0o077 {
        0 => passed("only the owner has access"),
        others if others & 0o007 == 0 => {
            warning(format!("{} has mode {mode:o}: its group can read it", path.display()), remedy)
        }
        _ => failed(format!("{} has mode {mode:o}: everyone can read it", path.display()), remedy),
    })
}

/// Checks that the file system survives a restart.
pub fn check_file_system(context: &DoctorContext) -> Option<CheckResult> {
    match space::volatile_file_system(&context.dir) {
        Ok(Some(kind)) => Some(warning(
            format!("the data is on {kind}, which does not survive a restart of the machine or container"),
            "Mount a persistent volume there.",
        )),
        Ok(None) => Some(passed("persistent")),
        Err(_) => None,
    }
}
