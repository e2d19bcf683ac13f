//! The data directory: whether it is there, whose it is, and what it is on.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use rustix::process::geteuid;

use super::context::DoctorContext;
use crate::{
    cli::findings::{CheckResult, failed, passed, warning},
    server,
    store::space,
};

/// Whether it is there.
pub fn directory(context: &DoctorContext) -> Option<CheckResult> {
    let dir = context.dir.display();
    Some(match fs::metadata(&context.dir) {
        Ok(found) if !found.is_dir() => {
            failed(format!("{dir} is not a directory"), "Name a directory with --data-dir.")
        }
        Ok(_) if context.has_data() => passed(dir.to_string()),
        Ok(_) => warning(format!("{dir} has no data in it"), "Start the server once, or name the right one."),
        Err(error) if error.kind() == io::ErrorKind::NotFound => failed(
            format!("{dir} does not exist"),
            "Start the server once, which makes it, or name the right one with --config or --data-dir.",
        ),
        Err(error) => failed(format!("{dir}: {error}"), "Run this as the user that the directory belongs to."),
    })
}

/// Whether nobody else may look into it.
pub fn permissions(context: &DoctorContext) -> Option<CheckResult> {
    let (dir, found) = (context.dir.display(), fs::metadata(&context.dir).ok()?);
    let (owner, user, mode) = (found.uid(), geteuid().as_raw(), found.mode() & 0o777);
    if mode & 0o077 != 0 {
        return Some(failed(
            format!("others may look into it (mode {mode:o}), and keys are kept there"),
            format!("chmod 700 {dir}"),
        ));
    }
    // Root looks at other users' servers.
    if owner != user && user != 0 {
        let remedy = format!("Run the server as that user, or: chown -R {user} {dir}");
        return Some(warning(format!("it belongs to user {owner} and this is user {user}"), remedy));
    }
    Some(passed(format!("for user {owner} only")))
}

/// Whether nobody else may read the key of the secrets.
pub fn secrets_key(context: &DoctorContext) -> Option<CheckResult> {
    secrets_file(&server::store_options(&context.config).key.file(&context.dir)?)
}

/// The same of a file that may not be there. A server refuses one that everybody may read.
pub fn secrets_file(path: &Path) -> Option<CheckResult> {
    let mode = fs::metadata(path).ok()?.mode() & 0o777;
    let remedy = format!("chmod 600 {}", path.display());
    Some(match mode & 0o077 {
        0 => passed("for its owner only"),
        others if others & 0o007 == 0 => warning(format!("a group may read it (mode {mode:o})"), remedy),
        _ => failed(format!("everybody may read it (mode {mode:o})"), remedy),
    })
}

/// Whether what is written there stays.
pub fn file_system(context: &DoctorContext) -> Option<CheckResult> {
    match space::volatile(&context.dir) {
        Ok(Some(kind)) => Some(warning(
            format!("the data is on {kind}: it does not survive a restart of the machine or the container"),
            "Mount a volume there.",
        )),
        Ok(None) => Some(passed("keeps what is synced to it")),
        Err(_) => None,
    }
}
