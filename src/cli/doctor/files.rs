//! The limit on open files, which includes connections.

use rustix::process::{Resource, getrlimit};

use super::context::DoctorContext;
use crate::{
    cli::findings::{CheckResult, passed, warning},
    config::Config,
};

/// Open files besides connections.
const OWN_FILES: u64 = 256;

/// Checks the limit of the server's process, or of this process without one. The limit of a service is set in its unit,
/// not in the shell.
pub fn check_open_files(config: &Config, server: Option<i32>) -> CheckResult {
    let wanted = OWN_FILES + config.limits.max_connections as u64;
    let limit = match server.and_then(limit_of) {
        Some(limit) => limit,
        None => getrlimit(Resource::Nofile).current,
    };
    match limit {
        Some(limit) if limit < wanted => warning(
            format!("the limit on open files is {limit}, and up to {wanted} may be needed"),
            "Raise the limit (ulimit -n, or LimitNOFILE= in the unit), or lower limits.max_connections.",
        ),
        Some(limit) => passed(format!("limit {limit}")),
        None => passed("unlimited"),
    }
}

/// The limit of a process, if the system reports it; the inner `None` is unlimited.
fn limit_of(process: i32) -> Option<Option<u64>> {
    let text = std::fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    let soft = line.split_whitespace().nth(3)?;
    if soft == "unlimited" { Some(None) } else { soft.parse().ok().map(Some) }
}

/// Checks the limit for the doctor.
pub fn check_limit(context: &DoctorContext) -> Option<CheckResult> {
    Some(check_open_files(&context.config, context.process))
}
