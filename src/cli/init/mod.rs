//! `dapbox init`: creates `appliance.toml` interactively or from flags.
//!
//! # Decision: the file contains differences only
//!
//! The file contains the options that differ from the defaults, and nothing else. A later release can then improve a
//! default, and the improvement reaches existing installations. `appliance.toml` in the source documents all options.

mod decide;
mod next;
mod prompt;
mod write;

use std::{net::SocketAddr, path::PathBuf};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{DEFAULT_FILE, Format, OutputArgs},
    style::{Style, print},
};
use next::Summary;
use prompt::Prompter;

/// Arguments of `dapbox init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "On a terminal, asks for the settings that no flag sets. Otherwise fails and lists the missing flags. The \
    file contains only the chosen settings; all other options keep their defaults, including those of later releases.\n\n\
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
    /// Intended role; affects the explanations only, because each task defines the roles of its servers.
    #[arg(long, value_enum)]
    role: Option<ServerRole>,
    /// The https URL of this server for the other parties.
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Source of TLS.
    #[arg(long, value_enum, value_name = "HOW")]
    tls: Option<TlsChoice>,
    /// Name in the certificate (--tls acme); repeatable. By default the host of the public URL.
    #[arg(long, value_name = "NAME")]
    domain: Vec<String>,
    /// Contact email address for the authority (--tls acme).
    #[arg(long, value_name = "ADDRESS")]
    contact_email: Option<String>,
    /// Certificate file with the full chain, PEM (--tls files).
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// Private key file, PEM (--tls files).
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Address range of a proxy in front (--tls proxy), in CIDR notation; repeatable. Loopback by default.
    #[arg(long, value_name = "NETWORK")]
    trusted_proxy: Vec<IpNet>,
    /// Directory for all persistent data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", value_parser = crate::config::address::parse)]
    listen: Option<SocketAddr>,
    /// File to write.
    #[arg(long, value_name = "FILE", env = "DAPBOX_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Ask no questions; use the defaults for missing flags.
    #[arg(short, long)]
    yes: bool,
    /// Replace an existing file and keep a copy with the suffix .bak.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// The intended role of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerRole {
    /// Answers other leaders' requests.
    Helper,
    /// Receives uploads and drives aggregation.
    Leader,
    /// Depends on the task.
    Both,
}

/// The source of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsChoice {
    /// Automatic certificates from Let's Encrypt; needs port 443.
    Acme,
    /// Existing certificate files.
    Files,
    /// A proxy in front, such as nginx or Caddy.
    Proxy,
    /// No TLS: plain HTTP, for tests on this machine.
    Off,
}

/// Runs `dapbox init`.
pub fn run(args: Args) -> Outcome {
    write::check_overwrite(&args.config, args.force)?;
    let (path, force, output) = (args.config.clone(), args.force, args.output.format);
    let mut prompter = Prompter::new(args.yes);
    let decisions = decide::decide(args, &mut prompter)?;
    prompter.check_complete()?;
    let file = write::ConfigFile::new(&decisions)?;
    if !prompter.confirm(file.text(), &path)? {
        return Err(Failure::new("no file was written"));
    }
    file.check()?;
    write::make_data_dir(&decisions.config.data_dir)?;
    let previous_file = file.write(&path, force)?;
    let summary = Summary::new(&decisions, &path, previous_file.as_deref());
    Ok(print(match output {
        Format::Json => serde_json::to_string_pretty(&summary)?,
        Format::Text => next::show(&summary, Style::stdout()),
    })?)
}
