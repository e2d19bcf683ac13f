//! The server, and what is stored while none runs.

use super::context::{DataDirError, DoctorContext};
use crate::{
    cli::{
        findings::{CheckResult, failed, passed, warning},
        style::counted,
    },
    store::OpenError,
    views::status::Health,
};

/// Whether it runs, and runs well.
pub fn server(context: &DoctorContext) -> Option<CheckResult> {
    let ours = crate::support::version::VERSION;
    Some(match context.health.as_ref() {
        None => warning("no server runs on this data directory", "Start one: dapbox serve"),
        Some(Err(error)) => {
            failed(format!("it runs and does not answer: {error}"), "Look into its log; start it again.")
        }
        Some(Ok(Health { fault: Some(fault), .. })) => {
            failed(format!("it has stopped working: {fault}"), "Start it again, which recovers what was stored.")
        }
        Some(Ok(Health { version, .. })) if version != ours => warning(
            format!("it is release {version} and this is {ours}"),
            "Start it again if it was meant to be upgraded.",
        ),
        Some(Ok(_)) => match context.overview.as_ref().filter(|overview| !overview.not_ready.is_empty()) {
            Some(overview) => failed(
                format!("it runs and is not ready: {}", overview.not_ready.join("; ")),
                "See the other checks, and its log.",
            ),
            None => passed(format!("runs, release {ours}")),
        },
    })
}

/// Whether the running server's log is written.
pub fn log(context: &DoctorContext) -> Option<CheckResult> {
    Some(match context.overview.as_ref()?.log_lines_dropped {
        0 => passed("every line is written"),
        dropped => warning(
            format!("{} dropped since the start", counted(dropped, "line")),
            "Make standard error of the server writable: read its pipe, or make room where its log is stored.",
        ),
    })
}

/// Whether what is stored can be read, if nobody else has it open.
pub fn content(context: &DoctorContext) -> Option<CheckResult> {
    if context.health.is_some() {
        return None;
    }
    Some(match context.tasks.as_ref()? {
        Ok(tasks) => passed(format!("whole, with {}", counted(tasks.len() as u64, "task"))),
        Err(DataDirError::Other(fault)) => failed(fault, "Restore a backup."),
        Err(DataDirError::Open(OpenError::Full)) => {
            failed("there is not enough room to open it", "Make room on the disk.")
        }
        Err(DataDirError::Open(OpenError::Key(error))) => {
            failed(error.to_string(), "Bring the key back, or name its place with secrets.key_file.")
        }
        Err(DataDirError::Open(error)) => {
            let text = error.to_string();
            let (detail, remedy) = text.rsplit_once("; ").unwrap_or((&text, "Restore a backup."));
            failed(detail, remedy)
        }
    })
}
