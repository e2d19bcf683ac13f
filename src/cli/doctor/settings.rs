//! The configuration, and what else sets options.

use super::context::DoctorContext;
use crate::{
    cli::findings::{CheckResult, failed, passed, warning},
    config::{Config, Origin},
    peer::RootCertificates,
};

/// Where it comes from.
pub fn configuration(context: &DoctorContext) -> Option<CheckResult> {
    Some(match &context.sources.file {
        Some(file) => passed(file.display().to_string()),
        None => passed("no file; the defaults"),
    })
}

/// Whether the roots besides those that everybody believes can be used, if there are any; if not, a server does not start.
pub fn peer_roots(config: &Config) -> Option<CheckResult> {
    let path = &config.peer.ca_file;
    Some(match RootCertificates::read(path) {
        Ok(_) if path.as_os_str().is_empty() => return None,
        Ok(_) => passed(path.display().to_string()),
        Err(error) => failed(error.to_string(), "Correct the file, or peer.ca_file."),
    })
}

/// The proxies that requests to others go through, if the environment names any.
pub fn proxies(context: &DoctorContext) -> Option<CheckResult> {
    // One that nobody may have, where there is no peer yet.
    const SOMEWHERE: &str = "https://dap.example.org";
    let mut urls: Vec<String> =
        context.known_tasks().iter().flat_map(|task| [&task.leader_url, &task.helper_url]).cloned().collect();
    urls.push(SOMEWHERE.to_owned());
    let mut found: Vec<_> = urls.iter().filter_map(|url| context.proxy(url)).collect();
    found.sort_by_key(|proxy| proxy.to_string());
    found.dedup();
    if let Some((variable, why)) = found.iter().find_map(|proxy| Some((&proxy.variable, proxy.url.as_ref().err()?))) {
        return Some(failed(
            format!("{variable}: {why}"),
            "Correct the variable, or unset it, and restart the server.",
        ));
    }
    let names: Vec<_> = found.iter().map(ToString::to_string).collect();
    let whose = if context.is_running() { "the server" } else { "this program" };
    (!names.is_empty()).then(|| passed(format!("{whose} reaches others through {}", names.join(", "))))
}

/// Whether variables of the environment win over what stands in the file: a server that was started elsewhere may not
/// have them.
pub fn environment(context: &DoctorContext) -> Option<CheckResult> {
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
            format!("{} of the environment wins over the file", names(hiding)),
            "Set each option in one place; 'dapbox check' shows which value is used.",
        ),
    })
}
