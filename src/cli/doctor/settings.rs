//! The configuration, and what else sets options.

use super::world::World;
use crate::{
    cli::findings::{Verdict, failed, good, warning},
    config::{Config, Origin},
    peer::Roots,
};

/// Where it comes from.
pub fn configuration(world: &World) -> Option<Verdict> {
    Some(match &world.sources.file {
        Some(file) => good(file.display().to_string()),
        None => good("no file; the defaults"),
    })
}

/// Whether the roots besides those that everybody believes can be used, if there are any; if not, a server does not start.
pub fn peer_roots(config: &Config) -> Option<Verdict> {
    let path = &config.peer.ca_file;
    Some(match Roots::read(path) {
        Ok(_) if path.as_os_str().is_empty() => return None,
        Ok(_) => good(path.display().to_string()),
        Err(error) => failed(error.to_string(), "Correct the file, or peer.ca_file."),
    })
}

/// Whether variables of the environment win over what stands in the file: a server that was started elsewhere may not
/// have them.
pub fn environment(world: &World) -> Option<Verdict> {
    let settings = world.sources.settings(&world.config).ok()?;
    let variables = settings.iter().filter_map(|setting| match &setting.origin {
        Origin::Environment(name) => Some((name, !setting.shadowed.is_empty())),
        _ => None,
    });
    let (hiding, adding): (Vec<_>, Vec<_>) = variables.partition(|(_, hides)| *hides);
    let names = |found: &[(&String, bool)]| found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    Some(match (hiding.as_slice(), adding.as_slice()) {
        ([], []) => return None,
        ([], adding) => good(format!("sets {}", names(adding))),
        (hiding, _) => warning(
            format!("{} of the environment wins over the file", names(hiding)),
            "Set each option in one place; 'dapbox check' shows which value is used.",
        ),
    })
}
