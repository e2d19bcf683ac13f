//! How many files may be open, connections included.

use rustix::process::{Resource, getrlimit};

use super::context::DoctorContext;
use crate::{
    cli::findings::{CheckResult, passed, warning},
    config::Config,
};

/// Open files beside those of connections.
const OWN_FILES: u64 = 256;

/// Whether it is enough: for the server that runs as that process, else for this one. The limit of a service is its
/// unit's, and not that of the shell.
pub fn open_files(config: &Config, server: Option<i32>) -> CheckResult {
    let wanted = OWN_FILES + config.limits.max_connections as u64;
    let limit = match server.and_then(limit_of) {
        Some(limit) => limit,
        None => getrlimit(Resource::Nofile).current,
    };
    match limit {
        Some(limit) if limit < wanted => warning(
            format!("at most {limit} files may be open, connections included, and {wanted} may be needed"),
            "Raise the limit: ulimit -n, or LimitNOFILE= in the unit; or lower limits.max_connections.",
        ),
        Some(limit) => passed(format!("up to {limit}")),
        None => passed("any number"),
    }
}

/// A process's limit, if the system tells; the inner nothing is no limit.
fn limit_of(process: i32) -> Option<Option<u64>> {
    let text = std::fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    let soft = line.split_whitespace().nth(3)?;
    if soft == "unlimited" { Some(None) } else { soft.parse().ok().map(Some) }
}

/// The same for the doctor.
pub fn check(context: &DoctorContext) -> Option<CheckResult> {
    Some(open_files(&context.config, context.process))
}
