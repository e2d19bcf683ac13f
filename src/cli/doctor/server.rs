//! The server, and the stored data if none runs.

use super::context::{DataDirError, DoctorContext};
use crate::{
    cli::{
        findings::{CheckResult, failed, passed, split_hint, warning},
        style::counted,
    },
    store::OpenError,
    views::status::Health,
};

/// Checks the running server.
pub fn check_server(context: &DoctorContext) -> Option<CheckResult> {
    let ours = crate::support::version::VERSION;
    Some(match context.health.as_ref() {
        None => warning("no server uses this data directory", "Start one: dapbox serve"),
        Some(Err(error)) => failed(format!("the server does not answer: {error}"), "Check its log and restart it."),
        Some(Ok(Health { fault: Some(fault), .. })) => {
            failed(format!("the server stopped working: {fault}"), "Restart it to recover the stored data.")
        }
        Some(Ok(Health { version, .. })) if version != ours => warning(
            format!("the server is release {version} and this program is {ours}"),
            "Restart the server to complete the upgrade.",
        ),
        Some(Ok(_)) => match context.overview.as_ref().filter(|overview| !overview.not_ready.is_empty()) {
            Some(overview) => failed(
                format!("the server is not ready: {}", overview.not_ready.join("; ")),
                "See the other checks and its log.",
            ),
            None => passed(format!("running, release {ours}")),
        },
    })
}

/// Checks that the running server drops no log lines.
pub fn check_log(context: &DoctorContext) -> Option<CheckResult> {
    Some(match context.overview.as_ref()?.log_lines_dropped {
        0 => passed("no line dropped"),
        dropped => warning(
            format!("{} dropped since the start", counted(dropped, "line")),
            "Make the server's standard error writable: read its pipe, or free space where the log is stored.",
        ),
    })
}

/// Checks that the stored data can be read, if no process has it open.
pub fn check_content(context: &DoctorContext) -> Option<CheckResult> {
    if context.health.is_some() {
        return None;
    }
    Some(match context.tasks.as_ref()? {
        Ok(tasks) => passed(format!("intact, with {}", counted(tasks.len() as u64, "task"))),
        Err(DataDirError::Other(fault)) => failed(fault, "Restore a backup."),
        Err(DataDirError::Open(OpenError::Full)) => {
            failed("the disk is too full to open the data", "Free space on the disk.")
        }
        Err(DataDirError::Open(OpenError::Key(error))) => {
            failed(error.to_string(), "Restore the key file, or set secrets.key_file to its path.")
        }
        Err(DataDirError::Open(error)) => {
            let text = error.to_string();
            let (detail, remedy) = split_hint(&text);
            failed(detail, remedy.unwrap_or_else(|| "Restore a backup.".to_owned()))
        }
    })
}
