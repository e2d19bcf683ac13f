//! Checks of the management API with a temporary token.

use std::{path::PathBuf, time::Duration};

use super::super::{
    Failure, Outcome,
    args::parse_duration,
    control::{Control, Socket},
    doctor::{ApiProbe, DoctorContext},
    findings::Finding,
    style, token,
};
use crate::{
    config::Config,
    model::{BaseUrl, Secret},
    peer::RootCertificates,
    support::clock,
};

/// Lifetime of the temporary token, in case it cannot be revoked.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// Prefix of the names of temporary tokens.
const TOKEN_NAME_PREFIX: &str = "dapbox-check-";

/// What the checks cannot cover from this machine.
pub const NOT_CHECKED: [&str; 3] = [
    "firewalls and routers: the checks ran on this machine",
    "DNS: name servers elsewhere may return other addresses",
    "the other side's connections to its peers, and its settings besides the API",
];

/// Arguments of the checks.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    /// URL of the API for the control plane; by default management.path below public_url.
    #[arg(long, value_name = "URL")]
    api_url: Option<BaseUrl>,
    /// Allow private addresses, for a control plane in your own network.
    #[arg(long)]
    private: bool,
    /// PEM file with root certificates that the control plane trusts besides the web's; by default peer.ca_file.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Time limit for each request.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    timeout: Duration,
}

impl ProbeArgs {
    /// The URL of the API, without a trailing slash.
    pub fn url(&self, config: &Config) -> Result<String, Failure> {
        let url = self.api_url.clone().map(BaseUrl::into_string).or_else(|| config.management.url(&config.public_url));
        let url = url.ok_or_else(|| {
            Failure::usage(match config.management.is_on() {
                true => {
                    "the management API has its own address, management.listen (hint: set --api-url to its URL for the \
                     control plane)"
                }
                false => {
                    "the management API is off (hint: set management.path = \"/api\" and public_url in the configuration, \
                     and restart the server)"
                }
            })
        })?;
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// Runs the checks with the given token, or with a temporary one if a server runs.
    pub async fn run(&self, config: Config, given: Option<Secret>) -> Result<Vec<Finding>, Failure> {
        let url = self.url(&config)?;
        let roots = RootCertificates::read(self.ca_file.as_deref().unwrap_or(&config.peer.ca_file))?;
        let spinner = style::spinner("checking the management API");
        let context = DoctorContext::gather(config, super::super::args::ConfigSources::default(), self.timeout).await?;
        let probe = match given {
            Some(_) => None,
            None => ProbeToken::create(&context).await?,
        };
        let token = given.as_ref().or(probe.as_ref().map(|probe| &probe.secret));
        let findings = ApiProbe { url: &url, token, is_private: self.private, roots: &roots }.examine(&context).await;
        if let Some(probe) = probe {
            probe.revoke().await?;
        }
        spinner.finish_and_clear();
        findings
    }
}

/// A temporary token.
struct ProbeToken {
    control: Control,
    name: String,
    secret: Secret,
}

impl ProbeToken {
    /// Creates a token, if a server runs.
    async fn create(context: &DoctorContext) -> Result<Option<Self>, Failure> {
        if !context.is_running() {
            return Ok(None);
        }
        let name = format!("{TOKEN_NAME_PREFIX}{}-{}", clock::now().0, std::process::id());
        let (secret, kept) = token::generate(&name, Some(TOKEN_LIFETIME));
        let control = Control::Server(Socket::new(context.config.control_socket())?);
        control.add_api_token(kept).await?;
        Ok(Some(Self { control, name, secret }))
    }

    /// Revokes the token.
    async fn revoke(self) -> Outcome {
        self.control.revoke_api_token(&self.name).await
    }
}
