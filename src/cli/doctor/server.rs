//! The server, and what is stored while none runs.

use super::world::{Unread, World};
use crate::{
    cli::{
        findings::{Verdict, failed, good, warning},
        style::counted,
    },
    store::OpenError,
    views::status::Health,
};

/// Whether it runs, and runs well.
pub fn server(world: &World) -> Option<Verdict> {
    let ours = crate::support::version::VERSION;
    Some(match world.health.as_ref() {
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
        Some(Ok(_)) => match world.overview.as_ref().filter(|overview| !overview.not_ready.is_empty()) {
            Some(overview) => failed(
                format!("it runs and is not ready: {}", overview.not_ready.join("; ")),
                "See the other checks, and its log.",
            ),
            None => good(format!("runs, release {ours}")),
        },
    })
}

/// Whether the running server's log is written.
pub fn log(world: &World) -> Option<Verdict> {
    Some(match world.overview.as_ref()?.log_lines_dropped {
        0 => good("every line is written"),
        dropped => warning(
            format!("{} dropped since the start", counted(dropped, "line")),
            "Make standard error of the server writable: read its pipe, or make room where its log is stored.",
        ),
    })
}

/// Whether what is stored can be read, if nobody else has it open.
pub fn content(world: &World) -> Option<Verdict> {
    if world.health.is_some() {
        return None;
    }
    Some(match world.tasks.as_ref()? {
        Ok(tasks) => good(format!("whole, with {}", counted(tasks.len() as u64, "task"))),
        Err(Unread::Other(fault)) => failed(fault, "Restore a backup."),
        Err(Unread::Open(OpenError::Full)) => failed("there is not enough room to open it", "Make room on the disk."),
        Err(Unread::Open(OpenError::Key(error))) => {
            failed(error.to_string(), "Bring the key back, or name its place with secrets.key_file.")
        }
        Err(Unread::Open(error)) => {
            let text = error.to_string();
            let (detail, remedy) = text.rsplit_once("; ").unwrap_or((&text, "Restore a backup."));
            failed(detail, remedy)
        }
    })
}
