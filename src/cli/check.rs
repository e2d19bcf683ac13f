//! `dapbox check`: validates the configuration without starting the server or opening the data directory.

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt, path::Path, time::SystemTime};

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, ConfigSources, Format, OutputArgs},
    clock, doctor,
    endpoint::Endpoint,
    findings::{self, CheckResult, Finding, failed, passed, warning},
    logging,
    style::{self, Style, print},
};
use crate::config::{Config, Setting, TlsMode, address, taskprov::read_peers};

/// The port that a certificate authority validates (RFC 8737 section 3).
const ACME_PORT: u16 = 443;

/// Arguments of `dapbox check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads the configuration like 'dapbox serve' with the same flags and environment, and the files that it \
    names, but not the data directory. Lists the options that differ from the defaults, with their source. The exit code \
    is 1 if 'dapbox serve' would not start.\n\n\
    Examples:\n  \
    dapbox check\n  \
    dapbox check --config /etc/dapbox/appliance.toml\n  \
    dapbox check --config new.toml -o json"
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on, as for 'dapbox serve'.
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The findings and the changed options.
#[derive(Serialize)]
struct CheckReport {
    findings: Vec<Finding>,
    options: Vec<OptionView>,
}

/// An option with a non-default value.
#[derive(Serialize)]
struct OptionView {
    key: String,
    /// As TOML; empty for a secret.
    value: String,
    /// The source of the value.
    origin: String,
    /// Sources whose value is overridden.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    overridden: Vec<String>,
}

/// Runs `dapbox check`.
pub fn run(args: Args) -> Outcome {
    let report = validate(&args.config.sources(args.listen))?;
    print(match args.output.format {
        Format::Json => serde_json::to_string_pretty(&report)?,
        Format::Text => show(&report, Style::stdout()),
    })?;
    findings::outcome(&report.findings)
}

fn validate(sources: &ConfigSources) -> Result<CheckReport, Failure> {
    let clock = clock::examine(SystemTime::now()).err().map(Err);
    let config = match Config::load(sources.file.as_deref(), &sources.flags) {
        Ok(config) => config,
        Err(error) => {
            let verdict = failed(error.to_string(), "Correct it; 'dapbox serve' does not start with it.");
            let found = [("clock", clock), ("configuration", Some(verdict))];
            let findings = found.into_iter().filter_map(|(name, verdict)| Some(Finding::new(name, verdict?))).collect();
            return Ok(CheckReport { findings, options: Vec::new() });
        }
    };
    let file = sources.file.as_ref().map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
    let options: Vec<_> = sources.settings(&config)?.into_iter().map(OptionView::of).collect();
    let changed = style::counted(options.len() as u64, "option");
    let checks: [(&'static str, Option<CheckResult>); 13] = [
        ("clock", clock),
        ("configuration", Some(passed(format!("{file}; {changed} set")))),
        ("log level", check_log_level(&config)),
        ("listen address", check_listen(&config)),
        ("monitor", check_monitor(&config)),
        ("public URL", check_public_url(&config)),
        ("management", check_management(&config)),
        ("peers", check_peers(&config)),
        ("certificate", (config.tls.mode == TlsMode::Files).then(|| doctor::check_certificate_files(&config))),
        ("certificate key", check_private_file(&config.tls.key_file)),
        ("peer roots", doctor::check_peer_roots(&config)),
        ("secrets key", check_secrets_key(&config)),
        ("open files", Some(doctor::check_open_files(&config, None))),
    ];
    let found = checks.into_iter().filter_map(|(name, verdict)| Some(Finding::new(name, verdict?)));
    Ok(CheckReport { findings: found.collect(), options })
}

impl OptionView {
    fn of(setting: Setting) -> Self {
        let overridden = setting.shadowed.iter().map(ToString::to_string).collect();
        Self { key: setting.key, value: setting.value, origin: setting.origin.to_string(), overridden }
    }
}

fn check_log_level(config: &Config) -> Option<CheckResult> {
    let error = logging::filter(&config.log.level).err()?;
    Some(failed(error, "Use a level such as info, or levels by module."))
}

/// Checks the public listener.
fn check_listen(config: &Config) -> Option<CheckResult> {
    let (listen, tls) = (config.listen, config.tls.mode);
    if tls == TlsMode::Off && !listen.ip().is_loopback() && config.proxy.trusted.is_empty() {
        return Some(warning(
            format!("{listen} is plain HTTP on a public address: tokens are sent in the clear"),
            "Set tls.mode to files or acme, or proxy.trusted to the proxy in front that adds HTTPS.",
        ));
    }
    if tls == TlsMode::Acme && listen.port() != ACME_PORT {
        return Some(warning(
            format!("ACME needs port {ACME_PORT}, but this server listens on port {}", listen.port()),
            "Listen on port 443, or forward its TCP connections to this port.",
        ));
    }
    Some(passed(format!("{listen}, {}", if tls == TlsMode::Off { "plain HTTP" } else { "HTTPS" })))
}

fn check_management(config: &Config) -> Option<CheckResult> {
    let management = &config.management;
    let url = management.url(&config.public_url).or_else(|| Some(management.listen.0?.to_string()))?;
    let is_reached = management.listen.0.is_some_and(|listen| !listen.ip().is_loopback());
    if is_reached && config.tls.mode == TlsMode::Off && config.proxy.trusted.is_empty() {
        return Some(warning(
            format!("{url} is plain HTTP on a public address: tokens are sent in the clear"),
            "Set tls.mode to files or acme, or management.listen to a loopback address with a proxy in front.",
        ));
    }
    Some(passed(format!("{url}, for API tokens of 'dapbox token'")))
}

/// Checks the files of peers whose tasks are accepted in-band.
fn check_peers(config: &Config) -> Option<CheckResult> {
    let files = &config.taskprov.peers;
    let peers = match read_peers(files) {
        Ok(peers) if peers.is_empty() => return None,
        Ok(peers) => peers,
        Err(error) => return Some(failed(error, "Correct the file, or remove it from taskprov.peers.")),
    };
    let open = files.iter().filter_map(|file| check_private_file(file)).find(Result::is_err);
    let names: Vec<_> = peers.iter().map(|peer| format!("the {} {}", peer.role(), peer.endpoint)).collect();
    Some(open.unwrap_or_else(|| passed(format!("accepts in-band tasks of {}", names.join(", ")))))
}

fn check_monitor(config: &Config) -> Option<CheckResult> {
    let monitor = config.monitor.listen.0?;
    let is_same = monitor.port() == config.listen.port() && monitor.port() != 0;
    let overlaps = [config.listen.ip(), monitor.ip()].iter().any(|ip| ip.is_unspecified());
    if is_same && (overlaps || monitor.ip() == config.listen.ip()) {
        return Some(failed(
            format!("{monitor} is also the address of the public listener"),
            "Set monitor.listen to another port.",
        ));
    }
    Some(doctor::warn_if_exposed(monitor).unwrap_or_else(|| passed(monitor.to_string())))
}

/// Checks that the public URL matches the TLS mode and the certificate.
fn check_public_url(config: &Config) -> Option<CheckResult> {
    let (endpoint, url) = (Endpoint::of(&config.public_url)?, &config.public_url);
    if config.tls.mode != TlsMode::Off && !endpoint.is_secure {
        let text = format!("{url} has no TLS, but this server speaks TLS only");
        return Some(failed(text, "Use https:// in public_url."));
    }
    let is_named = |domain: &String| domain.eq_ignore_ascii_case(&endpoint.host);
    if config.tls.mode == TlsMode::Acme && !config.acme.domains.iter().any(is_named) {
        return Some(failed(
            format!("the certificate will be for {}, not for {}", config.acme.domains.join(", "), endpoint.host),
            "Add the name to acme.domains, or correct public_url.",
        ));
    }
    if !endpoint.is_secure && !endpoint.is_loopback() {
        let text = format!("{url} has no TLS: tokens are sent in the clear");
        return Some(warning(text, "Enable TLS in this server or in a proxy in front."));
    }
    Some(passed(url.clone()))
}

/// Checks that a private key file is not readable for everyone.
fn check_private_file(path: &Path) -> Option<CheckResult> {
    // The check of the certificate reports a file that cannot be read.
    let mode = fs::metadata(path).ok()?.mode() & 0o777;
    let shown = path.display();
    Some(match mode & 0o007 {
        0 => passed(format!("{shown}, mode {mode:o}")),
        _ => warning(format!("{shown} has mode {mode:o}: everyone can read it"), format!("Run: chmod o= {shown}")),
    })
}

/// Checks a secrets key file outside the data directory. The server creates a missing file, but not its directory.
fn check_secrets_key(config: &Config) -> Option<CheckResult> {
    let path = &config.secrets.key_file;
    if path.as_os_str().is_empty() || !config.secrets.key.expose().is_empty() {
        return None;
    }
    let shown = path.display();
    Some(match fs::metadata(path) {
        Ok(_) => match (doctor::check_secrets_file(path), fs::File::open(path)) {
            (Some(Err(issue)), _) => Err(issue),
            (_, Ok(_)) => passed(shown.to_string()),
            (_, Err(error)) => {
                warning(format!("this user cannot read {shown}: {error}"), "Make it readable for the server's user.")
            }
        },
        Err(_) if path.parent().is_some_and(|dir| dir.as_os_str().is_empty() || dir.is_dir()) => {
            passed(format!("{shown} is created at the first start"))
        }
        Err(error) => failed(format!("{shown}: {error}"), "Create its directory, or correct secrets.key_file."),
    })
}

/// The report as text.
fn show(report: &CheckReport, style: Style) -> String {
    let mut text = findings::show(&report.findings, style);
    if report.options.is_empty() {
        return text;
    }
    text.push_str("\nNon-default options:\n");
    let width = report.options.iter().map(|option| option.key.len()).max().unwrap_or_default();
    for option in &report.options {
        let value = if option.value.is_empty() { "(secret)" } else { &option.value };
        text.push_str(&format!("  {:<width$} = {value}  {}\n", option.key, style.dim(&option.origin)));
        for source in &option.overridden {
            text.push_str(&format!("  {:<width$}   {}\n", "", style.dim(&format!("overridden: {source}"))));
        }
    }
    text
}
