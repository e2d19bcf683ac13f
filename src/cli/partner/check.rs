//! `dapbox partner check`: checks the management API as a control plane does.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format, OutputArgs},
        findings::{self, Finding, wrap},
        input,
        style::{Style, print},
    },
    probe::{NOT_CHECKED, ProbeArgs},
};
use crate::model::Secret;

/// Maximum length of a token file, in bytes.
const MAX_TOKEN: u64 = 4096;

/// Arguments of `dapbox partner check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sends the requests of Divvi Up's control plane when it pairs with an aggregator. Checks the name, the \
    address, the certificate against the web's roots, the URL with and without a trailing slash, requests with and without \
    a token, media types, and where the advertised DAP URL leads. Creates a temporary API token in the running server for \
    that and revokes it afterwards; changes nothing else.\n\n\
    To check from another machine, as others see this server, use --api-url and --token-file.\n\n\
    The exit code is 1 if a check failed, and 0 if there are warnings at most.\n\n\
    Examples:\n  \
    dapbox partner check\n  \
    dapbox partner check --config /etc/dapbox/appliance.toml -o json\n  \
    dapbox partner check --api-url https://helper.example/api \\\n      --token-file token.txt"
)]
pub struct Args {
    #[command(flatten)]
    probe: ProbeArgs,
    /// File with an API token to use instead of a temporary one.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The results as JSON.
#[derive(Serialize)]
struct Report<'a> {
    api_url: String,
    findings: &'a [Finding],
    not_checked: &'a [&'static str],
}

/// Runs `dapbox partner check`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    let token = match &args.token_file {
        None => None,
        Some(path) => {
            let text = input::read_limited(path, MAX_TOKEN)?;
            Some(Secret::token(text.trim()).map_err(|why| Failure::new(why).context(path.display()))?)
        }
    };
    let api_url = args.probe.url(&config)?;
    let findings = args.probe.run(config, token).await?;
    match args.output.format {
        Format::Json => {
            let report = Report { api_url, findings: &findings, not_checked: &NOT_CHECKED };
            print(serde_json::to_string_pretty(&report)?)?;
        }
        Format::Text => {
            print(format!("{}\n{}", findings::show(&findings, Style::stdout()), not_checked(Style::stdout())))?
        }
    }
    findings::outcome(&findings)
}

/// What the checks do not cover, as text.
pub fn not_checked(style: Style) -> String {
    let mut text = "Not covered by these checks:\n".to_owned();
    for what in NOT_CHECKED {
        text.push_str(&format!("  {}\n", wrap(what, style.width() - 4).join("\n    ")));
    }
    text.push_str("'dapbox partner check --api-url URL' on another machine covers more.");
    text
}
