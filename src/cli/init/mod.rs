//! `dapbox init`: decides the few things that must be decided, and writes them down.

mod ask;
mod decide;
mod next;
mod write;

use std::{net::SocketAddr, path::PathBuf};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{DEFAULT_FILE, Format},
    style::{Style, say},
};
use ask::Prompter;
use next::Summary;

/// Arguments of `dapbox init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Asks on a terminal for what no flag says. Elsewhere it asks nothing, and says which flags are \
    missing. The file has only what was decided: all other options keep their defaults, also those of later \
    releases.\n\n\
    Examples:\n  \
    dapbox init\n  \
    dapbox init --role both --tls off\n  \
    dapbox init --role helper --public-url https://dap.example.org --tls acme \\\n      \
    --contact-email ops@example.org --data-dir /var/lib/dapbox \\\n      \
    --config /etc/dapbox/appliance.toml --yes\n  \
    dapbox init --role leader --public-url https://dap.example.org --tls proxy\n  \
    dapbox init --role leader --public-url https://dap.example.org --tls files \\\n      \
    --certificate-file /etc/ssl/dap.pem --key-file /etc/ssl/private/dap.key"
)]
pub struct Args {
    /// What this server will be. It changes what is explained and nothing else: each task says what its servers are.
    #[arg(long, value_enum)]
    role: Option<ServerRole>,
    /// The https URL that the other parties reach this server under.
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Where TLS comes from.
    #[arg(long, value_enum, value_name = "HOW")]
    tls: Option<TlsChoice>,
    /// A name for the certificate (--tls acme); may be repeated. The host of the public URL by default.
    #[arg(long, value_name = "NAME")]
    domain: Vec<String>,
    /// Where the authority may write to (--tls acme).
    #[arg(long, value_name = "ADDRESS")]
    contact_email: Option<String>,
    /// The certificate with those between it and the root, PEM (--tls files).
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// Its private key, PEM (--tls files).
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The network of a proxy in front (--tls proxy); may be repeated. This machine by default.
    #[arg(long, value_name = "NETWORK")]
    trusted_proxy: Vec<IpNet>,
    /// Directory for everything that must survive a restart.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", value_parser = crate::config::address::parse)]
    listen: Option<SocketAddr>,
    /// The file to write.
    #[arg(long, value_name = "FILE", env = "DAPBOX_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Ask nothing: what no flag says is as by default.
    #[arg(short, long)]
    yes: bool,
    /// Replace a file that is there. It is kept beside it, with .bak at its end.
    #[arg(long)]
    force: bool,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What a server is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerRole {
    /// Answers the leaders of others.
    Helper,
    /// Takes uploads and drives the protocol.
    Leader,
    /// Each in some task.
    Both,
}

/// Where TLS comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsChoice {
    /// Certificates from Let's Encrypt, by itself. Port 443 must be reachable.
    Acme,
    /// Certificates in files, which somebody else renews.
    Files,
    /// A proxy in front, such as nginx or Caddy.
    Proxy,
    /// None: plain HTTP, to try things on this machine.
    Off,
}

/// Runs `dapbox init`.
pub fn run(args: Args) -> Outcome {
    write::check_overwrite(&args.config, args.force)?;
    let (path, force, output) = (args.config.clone(), args.force, args.output);
    let mut prompter = Prompter::new(args.yes);
    let decisions = decide::decide(args, &mut prompter)?;
    prompter.check_complete()?;
    let file = write::ConfigFile::new(&decisions)?;
    if !prompter.confirm(&file, &path)? {
        return Err(Failure::new("nothing was written"));
    }
    file.check()?;
    write::make_data_dir(&decisions.config.data_dir)?;
    let kept = file.write(&path, force)?;
    let summary = Summary::new(&decisions, &path, kept.as_deref());
    Ok(say(match output {
        Format::Json => serde_json::to_string_pretty(&summary)?,
        Format::Text => next::show(&summary, Style::stdout()),
    })?)
}
