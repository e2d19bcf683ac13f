//! `dapbox partner check`.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format},
        findings::{self, Finding, wrap},
        pasted,
        style::{Style, say},
    },
    probe::{NOT_CHECKED, ProbeArgs},
};
use crate::model::Secret;

/// The longest file with a token that is read, in bytes.
const MAX_TOKEN: u64 = 4096;

/// Arguments of `dapbox partner check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Asks what Divvi Up's control plane asks when an aggregator is paired, and the way it does: the \
    name, the address, the certificate by the roots of the web, both forms of the URL, without a token and with one, media \
    types, and where the DAP URL leads that is told there. For that it makes an API token of the running server and \
    revokes it again. Nothing else is changed.\n\n\
    From another machine, with nothing of this server's, it sees what others see: give --api-url, and the token in a \
    file.\n\n\
    Exit code 1 if something is wrong, 0 if there are warnings at most.\n\n\
    Examples:\n  \
    dapbox partner check\n  \
    dapbox partner check --config /etc/dapbox/appliance.toml -o json\n  \
    dapbox partner check --api-url https://helper.example/api \\\n      --token-file token.txt"
)]
pub struct Args {
    #[command(flatten)]
    probe: ProbeArgs,
    /// A file with a token to ask with, in place of one that is made for this.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What was seen, for machines.
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
            let text = pasted::read_file(path, MAX_TOKEN)?;
            Some(Secret::token(text.trim()).map_err(|why| Failure::new(why).context(path.display()))?)
        }
    };
    let api_url = args.probe.url(&config)?;
    let findings = args.probe.run(config, token).await?;
    match args.output {
        Format::Json => {
            let report = Report { api_url, findings: &findings, not_checked: &NOT_CHECKED };
            say(serde_json::to_string_pretty(&report)?)?;
        }
        Format::Text => {
            say(format!("{}\n{}", findings::show(&findings, Style::stdout()), not_checked(Style::stdout())))?
        }
    }
    findings::outcome(&findings)
}

/// What nobody has looked at, for people.
pub fn not_checked(style: Style) -> String {
    let mut text = "Not to be seen from here:\n".to_owned();
    for what in NOT_CHECKED {
        text.push_str(&format!("  {}\n", wrap(what, style.width() - 4).join("\n    ")));
    }
    text.push_str("'dapbox partner check --api-url URL' on another machine sees more.");
    text
}
