//! The next steps after `dapbox init`.

use std::{net::SocketAddr, path::Path};

use serde::Serialize;

use super::{
    super::{
        args::DEFAULT_FILE,
        doctor::{PortState, probe_port},
        findings::wrap,
        style::Style,
    },
    ServerRole, TlsChoice,
    decide::Decisions,
};
use crate::config::environment;

/// The result of `dapbox init`, with the next steps.
#[derive(Serialize)]
pub struct Summary<'a> {
    /// The file.
    config: String,
    /// The copy of the replaced file.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_file: Option<String>,
    role: ServerRole,
    tls: TlsChoice,
    public_url: &'a str,
    domains: &'a [String],
    data_dir: String,
    listen: SocketAddr,
    /// Possible obstacles.
    hints: Vec<String>,
    next: Vec<Step>,
}

/// A step.
#[derive(Serialize)]
struct Step {
    description: String,
    /// The command to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

impl<'a> Summary<'a> {
    /// Summarizes the settings and the next steps.
    pub fn new(decisions: &'a Decisions, path: &Path, previous_file: Option<&Path>) -> Self {
        let config = &decisions.config;
        Self {
            config: path.display().to_string(),
            previous_file: previous_file.map(|path| path.display().to_string()),
            role: decisions.role,
            tls: decisions.tls,
            public_url: &config.public_url,
            domains: &config.acme.domains,
            data_dir: config.data_dir.display().to_string(),
            listen: config.listen,
            hints: hints(decisions),
            next: steps(decisions, path),
        }
    }
}

/// Possible obstacles to starting the server.
fn hints(decisions: &Decisions) -> Vec<String> {
    let (listen, tls) = (decisions.config.listen, decisions.tls);
    let mut hints = Vec::new();
    hints.extend(match probe_port(listen) {
        PortState::PermissionDenied => Some(format!(
            "This user cannot bind port {}: ports below 1024 are privileged. As a service it works, because the systemd \
            unit grants CAP_NET_BIND_SERVICE.",
            listen.port()
        )),
        PortState::InUse => Some(format!("Another program listens on {listen} ('ss -ltnp' shows it). Stop it first.")),
        PortState::NotLocal => Some(format!("{} is not an address of this machine now.", listen.ip())),
        PortState::Free | PortState::Unknown => None,
    });
    if tls == TlsChoice::Acme && listen.port() != 443 {
        hints.push(format!("ACME needs port 443: forward its TCP connections to port {}.", listen.port()));
    }
    if tls == TlsChoice::Off && !listen.ip().is_loopback() {
        hints.push(format!("{listen} is plain HTTP on a public address: tokens are sent in the clear."));
    }
    let variables = environment::read(std::env::vars_os()).unwrap_or_default();
    let service_variables = environment::service_variables(variables.clone());
    let ours: Vec<_> =
        variables.into_iter().map(|(name, _)| name).filter(|name| !service_variables.contains(name)).collect();
    if !ours.is_empty() {
        hints.push(format!("Environment variables override the file: {}.", ours.join(", ")));
    }
    hints
}

fn steps(decisions: &Decisions, path: &Path) -> Vec<Step> {
    let config = &decisions.config;
    let flag = if path == Path::new(DEFAULT_FILE) { String::new() } else { format!(" --config {}", path.display()) };
    let step = |description: &str, command: Option<String>| Step { description: description.to_owned(), command };
    let run = |description: &str, command: &str| step(description, Some(format!("dapbox {command}{flag}")));
    let mut steps = vec![run("Validate the configuration:", "check")];
    steps.extend(network_steps(decisions).into_iter().map(|description| Step { description, command: None }));
    steps.push(run("Start the server, by hand or as a service (systemd unit):", "serve"));
    steps.push(run("Diagnose the running server:", "doctor"));
    let ours = match config.public_url.as_str() {
        "" => format!("http://{}", config.listen),
        url => url.to_owned(),
    };
    if matches!(decisions.role, ServerRole::Helper | ServerRole::Both) {
        if !config.public_url.is_empty() {
            steps.push(step(&format!("Tell the leader's operator the URL of this server: {ours}"), None));
        }
        let text = "As a helper: get a task's helper.toml from the leader's operator over a channel that both of you \
            trust.";
        steps.push(run(text, "task add helper.toml"));
    }
    if matches!(decisions.role, ServerRole::Leader | ServerRole::Both) {
        let text = "As a leader: get the helper's URL from its operator, create a task, and send its helper.toml there over a \
        channel that both of you trust.";
        let command = format!("dapbox task new --leader {ours} --helper HELPER-URL --vdaf count --out my-task");
        steps.push(step(text, Some(command)));
        steps.push(run("Add your part of the task:", "task add my-task/leader.toml"));
    }
    steps
}

/// The network connections to allow.
fn network_steps(decisions: &Decisions) -> Vec<String> {
    let (listen, mut steps) = (decisions.config.listen, Vec::new());
    match decisions.tls {
        TlsChoice::Acme => steps.push(
            "Allow incoming TCP port 443 from everywhere in the firewall: the authority, the other aggregator and clients \
            connect to it."
                .to_owned(),
        ),
        TlsChoice::Files => steps.push(format!(
            "Allow incoming TCP port {} from everywhere in the firewall: the other aggregator and clients connect to it.",
            listen.port()
        )),
        TlsChoice::Proxy => steps.push(format!(
            "Configure the proxy to forward /dap-09/ and /dap-18/ unchanged to http://{listen}, with bodies of up to {} MiB, \
            and to set X-Forwarded-For and X-Forwarded-Proto.",
            decisions.config.limits.max_job_bytes >> 20
        )),
        TlsChoice::Off => {}
    }
    if decisions.role != ServerRole::Helper && decisions.tls != TlsChoice::Off {
        steps.push("Allow outgoing connections to the helper, usually TCP port 443.".to_owned());
    }
    steps
}

/// The summary as text.
pub fn show(summary: &Summary<'_>, style: Style) -> String {
    let mut text =
        format!("{} was created. The data directory is {}.\n", style.bold(&summary.config), summary.data_dir);
    if let Some(previous) = &summary.previous_file {
        text.push_str(&format!("The previous file was kept as {previous}.\n"));
    }
    for hint in &summary.hints {
        text.push_str(&paragraph("  ! ", hint, style));
    }
    text.push_str("\nNext:\n");
    for (number, Step { description, command }) in (1..).zip(&summary.next) {
        text.push_str(&paragraph(&format!("  {number}. "), description, style));
        if let Some(command) = command {
            text.push_str(&format!("       {}\n", style.accent(command)));
        }
    }
    text
}

/// Text after a mark, with a hanging indent.
fn paragraph(mark: &str, text: &str, style: Style) -> String {
    let lines = wrap(text, style.width() - mark.len());
    format!("{mark}{}\n", lines.join(&format!("\n{}", " ".repeat(mark.len()))))
}
