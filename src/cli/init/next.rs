//! What to do next.

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

/// What was decided and written, and what to do next.
#[derive(Serialize)]
pub struct Summary<'a> {
    /// The file.
    config: String,
    /// Where the file is now that was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
    role: ServerRole,
    tls: TlsChoice,
    public_url: &'a str,
    domains: &'a [String],
    data_dir: String,
    listen: SocketAddr,
    /// What may keep the server from its work.
    hints: Vec<String>,
    next: Vec<Step>,
}

/// Something to do.
#[derive(Serialize)]
struct Step {
    what: String,
    /// What to type.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

impl<'a> Summary<'a> {
    /// What is to be said after the file was written.
    pub fn new(decisions: &'a Decisions, path: &Path, kept: Option<&Path>) -> Self {
        let config = &decisions.config;
        Self {
            config: path.display().to_string(),
            kept: kept.map(|path| path.display().to_string()),
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

/// What may keep the server from its work.
fn hints(decisions: &Decisions) -> Vec<String> {
    let (listen, tls) = (decisions.config.listen, decisions.tls);
    let mut hints = Vec::new();
    hints.extend(match probe_port(listen) {
        PortState::PermissionDenied => Some(format!(
            "This user may not listen on port {}: ports below 1024 need a right. As a service it works, because the \
             systemd unit has AmbientCapabilities=CAP_NET_BIND_SERVICE.",
            listen.port()
        )),
        PortState::InUse => {
            Some(format!("Another program listens on {listen} now: 'ss -ltnp' says which. Stop it first."))
        }
        PortState::NotLocal => Some(format!("{} is no address of this machine now.", listen.ip())),
        PortState::Free | PortState::Unknown => None,
    });
    if tls == TlsChoice::Acme && listen.port() != 443 {
        hints.push(format!("The authority connects to port 443: have it forwarded to port {}.", listen.port()));
    }
    if tls == TlsChoice::Off && !listen.ip().is_loopback() {
        hints.push(format!("{listen} is plain HTTP that others reach: whoever is between sees the tokens."));
    }
    let variables = environment::read(std::env::vars_os()).unwrap_or_default();
    let of_services = environment::of_services(variables.clone());
    let ours: Vec<_> = variables.into_iter().map(|(name, _)| name).filter(|name| !of_services.contains(name)).collect();
    if !ours.is_empty() {
        hints.push(format!("The environment wins over the file: {}.", ours.join(", ")));
    }
    hints
}

fn steps(decisions: &Decisions, path: &Path) -> Vec<Step> {
    let config = &decisions.config;
    let flag = if path == Path::new(DEFAULT_FILE) { String::new() } else { format!(" --config {}", path.display()) };
    let step = |what: &str, command: Option<String>| Step { what: what.to_owned(), command };
    let run = |what: &str, command: &str| step(what, Some(format!("dapbox {command}{flag}")));
    let mut steps = vec![run("Look whether the configuration makes sense:", "check")];
    steps.extend(reachable(decisions).into_iter().map(|what| Step { what, command: None }));
    steps.push(run("Start the server, by hand or as a service (the systemd unit):", "serve"));
    steps.push(run("With the server running, look whether all is well:", "doctor"));
    let ours = match config.public_url.as_str() {
        "" => format!("http://{}", config.listen),
        url => url.to_owned(),
    };
    if matches!(decisions.role, ServerRole::Helper | ServerRole::Both) {
        if !config.public_url.is_empty() {
            steps.push(step(&format!("Tell the leader's operator where this server is: {ours}"), None));
        }
        let text = "As a helper: get a task's helper.toml from the leader's operator, over a channel that both of you \
            trust.";
        steps.push(run(text, "task add helper.toml"));
    }
    if matches!(decisions.role, ServerRole::Leader | ServerRole::Both) {
        let text = "As a leader: ask the helper's operator for the helper's URL, make a task, and send its helper.toml \
            there over a channel that both of you trust.";
        let command = format!("dapbox task new --leader {ours} --helper HELPER-URL --vdaf count --out my-task");
        steps.push(step(text, Some(command)));
        steps.push(run("Add your own part of it:", "task add my-task/leader.toml"));
    }
    steps
}

/// What has to be let through, and by whom.
fn reachable(decisions: &Decisions) -> Vec<String> {
    let (listen, mut steps) = (decisions.config.listen, Vec::new());
    match decisions.tls {
        TlsChoice::Acme => steps.push(
            "In the firewall, let TCP port 443 in from everywhere: for the authority, the other aggregator, and clients, \
             which ask leader and helper for their keys."
                .to_owned(),
        ),
        TlsChoice::Files => steps.push(format!(
            "In the firewall, let TCP port {} in from everywhere: clients ask leader and helper for their keys.",
            listen.port()
        )),
        TlsChoice::Proxy => steps.push(format!(
            "Have the proxy pass /dap-09/ and /dap-18/ on to http://{listen}, unchanged, with bodies of up to {} MiB, and \
             X-Forwarded-For and X-Forwarded-Proto set by itself.",
            decisions.config.limits.max_job_bytes >> 20
        )),
        TlsChoice::Off => {}
    }
    if decisions.role != ServerRole::Helper && decisions.tls != TlsChoice::Off {
        steps.push("Let this server reach the helper: usually TCP port 443 to the outside.".to_owned());
    }
    steps
}

/// For people.
pub fn show(summary: &Summary<'_>, style: Style) -> String {
    let mut text = format!("{} is written. The data will be in {}.\n", style.bold(&summary.config), summary.data_dir);
    if let Some(kept) = &summary.kept {
        text.push_str(&format!("What was there before is in {kept}.\n"));
    }
    for hint in &summary.hints {
        text.push_str(&paragraph("  ! ", hint, style));
    }
    text.push_str("\nNext:\n");
    for (number, Step { what, command }) in (1..).zip(&summary.next) {
        text.push_str(&paragraph(&format!("  {number}. "), what, style));
        if let Some(command) = command {
            text.push_str(&format!("       {}\n", style.accent(command)));
        }
    }
    text
}

/// Text after a mark, and its further lines below its first.
fn paragraph(mark: &str, text: &str, style: Style) -> String {
    let lines = wrap(text, style.width() - mark.len());
    format!("{mark}{}\n", lines.join(&format!("\n{}", " ".repeat(mark.len()))))
}
