//! `dapbox doctor`: diagnoses a server and its environment.
//!
//! # Decision: `check` reads the configuration, `doctor` the environment
//!
//! `check` validates a configuration without side effects, so it can run anywhere and before every reload. `doctor` also
//! inspects the data directory, the running server and the network. To other aggregators it sends requests for HPKE keys
//! only, so that their operators see no unexpected traffic.

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
mod results;
mod server;
mod settings;

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use super::{
    Outcome,
    args::{ConfigArgs, Format, OutputArgs, parse_duration},
    clock,
    findings::{self, CheckResult, Finding},
    style::{self, Style, print},
};
pub use api::ApiProbe;
pub use certificate::check_certificate_files;
pub use context::DoctorContext;
pub use directory::check_secrets_file;
pub use files::check_open_files;
pub use ports::{PortState, probe_port, warn_if_exposed};
pub use settings::check_peer_roots;

/// Arguments of `dapbox doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Works with and without a running server, and runs more checks with one. Changes nothing; peers \
receive requests for their keys only. The exit code is 1 if a check failed, and 0 if there are warnings at most.\n\n\
    Examples:\n  \
    dapbox doctor\n  \
    dapbox doctor --config /etc/dapbox/appliance.toml\n  \
    dapbox doctor --data-dir /var/lib/dapbox -o json\n  \
    dapbox doctor --offline"
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Skip checks beyond this machine: names, peers and the public URL.
    #[arg(long)]
    offline: bool,
    /// Time limit for each network check; they run concurrently.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    timeout: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

/// A check; `None` if it does not apply.
type Check = fn(&DoctorContext) -> Option<CheckResult>;

/// The local checks with their names, in the order of the output.
const CHECKS: &[(&str, Check)] = &[
    ("configuration", settings::check_configuration),
    ("environment", settings::check_environment),
    ("proxies", settings::check_proxies),
    ("peer roots", |context| check_peer_roots(&context.config)),
    ("data directory", directory::check_data_dir),
    ("permissions", directory::check_permissions),
    ("secrets key", directory::check_secrets_key),
    ("file system", directory::check_file_system),
    ("disk space", disk::check_disk_space),
    ("ballast", disk::check_ballast),
    ("sync", disk::check_sync_latency),
    ("server", server::check_server),
    ("log", server::check_log),
    ("content", server::check_content),
    ("open files", files::check_limit),
    ("keys", keys::check_keys),
    ("stored times", keys::check_stored_times),
    ("backlog", backlog::check_backlog),
    ("results", results::check_results),
];

/// Runs `dapbox doctor`.
pub async fn run(args: Args) -> Outcome {
    if let Err(issue) = clock::examine(SystemTime::now()) {
        // All other checks depend on the clock.
        return print_findings(&[Finding::new("clock", Err(issue))], args.output.format);
    }
    let (config, sources) = args.config.load_with_sources(None)?;
    let spinner = style::spinner("looking");
    let context = std::sync::Arc::new(DoctorContext::gather(config, sources, args.timeout).await?);
    let shared = context.clone();
    let mut findings = tokio::task::spawn_blocking(move || examine(&shared)).await?;
    spinner.set_message("checking the network");
    findings.extend(ports::examine(&context).await);
    findings.extend(certificate::examine(&context).await);
    if !args.offline {
        let (names, public, peers) =
            tokio::join!(names::examine(&context), public::examine(&context), peers::examine(&context));
        findings.extend(names.into_iter().chain(public).chain(peers));
    }
    spinner.finish_and_clear();
    print_findings(&findings, args.output.format)
}

fn print_findings(findings: &[Finding], output: Format) -> Outcome {
    print(match output {
        Format::Json => serde_json::to_string_pretty(findings)?,
        Format::Text => findings::show(findings, Style::stdout()),
    })?;
    findings::outcome(findings)
}

/// Runs all local checks that apply.
fn examine(context: &DoctorContext) -> Vec<Finding> {
    let found = |(name, check): &(&'static str, Check)| Some(Finding::new(name, check(context)?));
    CHECKS.iter().filter_map(found).collect()
}

/// Runs checks concurrently and keeps their order.
async fn join_findings<F: Future<Output = Vec<Finding>>>(looks: impl IntoIterator<Item = F>) -> Vec<Finding> {
    join_all(looks).await.into_iter().flatten().collect()
}
