//! `dapbox doctor`: looks at everything that a server needs and at the context around it, and says what to do about what is
//! wrong.

mod api;
mod backlog;
mod certificate;
mod context;
mod directory;
mod disk;
mod files;
mod keys;
mod names;
mod peers;
mod ports;
mod public;
mod server;
mod settings;

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use super::{
    Outcome,
    args::{ConfigArgs, Format, duration},
    clock,
    findings::{self, CheckResult, Finding},
    style::{self, Style, say},
};
pub use api::ApiProbe;
pub use certificate::check_certificate_files;
pub use context::DoctorContext;
pub use directory::secrets_file;
pub use files::open_files;
pub use ports::{PortState, probe_port, warn_if_exposed};
pub use settings::peer_roots;

/// Arguments of `dapbox doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Works whether a server runs or not; with one running it sees more. Nothing is changed, and \
    peers are asked for nothing but their keys. Exit code 1 if something is wrong, 0 if there are warnings at most.\n\n\
    Examples:\n  \
    dapbox doctor\n  \
    dapbox doctor --config /etc/dapbox/appliance.toml\n  \
    dapbox doctor --data-dir /var/lib/dapbox -o json\n  \
    dapbox doctor --offline")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Look at nothing that is beyond this machine: no names, no peers, not our public URL.
    #[arg(long)]
    offline: bool,
    /// How long each look at the network may take. They are all at the same time.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    timeout: Duration,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Looks at one thing: nothing if there is nothing to look at.
type Check = fn(&DoctorContext) -> Option<CheckResult>;

/// The checks of this machine, with their names, in the order in which they are shown.
const CHECKS: &[(&str, Check)] = &[
    ("configuration", settings::configuration),
    ("environment", settings::environment),
    ("proxies", settings::proxies),
    ("peer roots", |context| peer_roots(&context.config)),
    ("data directory", directory::directory),
    ("permissions", directory::permissions),
    ("secrets key", directory::secrets_key),
    ("file system", directory::file_system),
    ("disk space", disk::disk_space),
    ("ballast", disk::ballast),
    ("sync", disk::sync),
    ("server", server::server),
    ("log", server::log),
    ("content", server::content),
    ("open files", files::check),
    ("keys", keys::keys),
    ("stored times", keys::stored_times),
    ("backlog", backlog::backlog),
];

/// Runs `dapbox doctor`.
pub async fn run(args: Args) -> Outcome {
    if let Err(trouble) = clock::examine(SystemTime::now()) {
        // Nothing else can be judged by it, and TLS would fail.
        return print_findings(&[Finding::new("clock", Err(trouble))], args.output);
    }
    let (config, sources) = args.config.load_with_sources(None)?;
    let spinner = style::spinner("looking");
    let context = std::sync::Arc::new(DoctorContext::gather(config, sources, args.timeout).await?);
    let shared = context.clone();
    let mut findings = tokio::task::spawn_blocking(move || examine(&shared)).await?;
    spinner.set_message("looking at the network");
    findings.extend(ports::examine(&context).await);
    findings.extend(certificate::examine(&context).await);
    if !args.offline {
        let (names, public, peers) =
            tokio::join!(names::examine(&context), public::examine(&context), peers::examine(&context));
        findings.extend(names.into_iter().chain(public).chain(peers));
    }
    spinner.finish_and_clear();
    print_findings(&findings, args.output)
}

fn print_findings(findings: &[Finding], output: Format) -> Outcome {
    say(match output {
        Format::Json => serde_json::to_string_pretty(findings)?,
        Format::Text => findings::show(findings, Style::stdout()),
    })?;
    findings::outcome(findings)
}

/// Makes all checks of this machine that have something to look at.
fn examine(context: &DoctorContext) -> Vec<Finding> {
    let found = |(name, check): &(&'static str, Check)| Some(Finding::new(name, check(context)?));
    CHECKS.iter().filter_map(found).collect()
}

/// All at the same time, in the order that they are given in.
async fn join_findings<F: Future<Output = Vec<Finding>>>(looks: impl IntoIterator<Item = F>) -> Vec<Finding> {
    join_all(looks).await.into_iter().flatten().collect()
}
