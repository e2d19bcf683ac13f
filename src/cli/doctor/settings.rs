//! The sources of the configuration.

use super::context::DoctorContext;
use crate::{
    cli::findings::{CheckResult, failed, passed, warning},
    config::{Config, Origin},
    peer::RootCertificates,
};

/// Shows the configuration file.
pub fn check_configuration(context: &DoctorContext) -> Option<CheckResult> {
    Some(match &context.sources.file {
        Some(file) => passed(file.display().to_string()),
        None => passed("no file; defaults"),
    })
}

/// Checks the additional root certificates, if there are any. The server does not start with invalid ones.
pub fn check_peer_roots(config: &Config) -> Option<CheckResult> {
    let path = &config.peer.ca_file;
    Some(match RootCertificates::read(path) {
        Ok(_) if path.as_os_str().is_empty() => return None,
        Ok(_) => passed(path.display().to_string()),
        Err(error) => failed(error.to_string(), "Correct the file, or peer.ca_file."),
    })
}

/// Checks the proxies for outgoing requests, if the environment sets any.
pub fn check_proxies(context: &DoctorContext) -> Option<CheckResult> {
    // An unassigned name, if there is no peer yet.
    const SAMPLE_URL: &str = "https://dap.example.org";
    let mut urls: Vec<String> =
        context.known_tasks().iter().flat_map(|task| [&task.leader_url, &task.helper_url]).cloned().collect();
    urls.push(SAMPLE_URL.to_owned());
    let mut found: Vec<_> = urls.iter().filter_map(|url| context.proxy(url)).collect();
    found.sort_by_key(|proxy| proxy.to_string());
    found.dedup();
    if let Some((variable, why)) = found.iter().find_map(|proxy| Some((&proxy.variable, proxy.url.as_ref().err()?))) {
        return Some(failed(format!("{variable}: {why}"), "Correct or unset the variable, and restart the server."));
    }
    let names: Vec<_> = found.iter().map(ToString::to_string).collect();
    let client = if context.is_running() { "the server" } else { "this program" };
    (!names.is_empty()).then(|| passed(format!("{client} connects through {}", names.join(", "))))
}

/// Warns if environment variables override options of the file: a server started elsewhere may not have them.
pub fn check_environment(context: &DoctorContext) -> Option<CheckResult> {
    let settings = context.sources.settings(&context.config).ok()?;
    let variables = settings.iter().filter_map(|setting| match &setting.origin {
        Origin::Environment(name) => Some((name, !setting.shadowed.is_empty())),
        _ => None,
    });
    let (hiding, adding): (Vec<_>, Vec<_>) = variables.partition(|(_, hides)| *hides);
    let names = |found: &[(&String, bool)]| found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    Some(match (hiding.as_slice(), adding.as_slice()) {
        ([], []) => return None,
        ([], adding) => passed(format!("sets {}", names(adding))),
        (hiding, _) => warning(
            format!("environment variables override the file: {}", names(hiding)),
            "Set each option in one place; 'dapbox check' shows the effective values.",
        ),
    })
}
