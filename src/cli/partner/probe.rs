//! Asking the management API what a control plane will ask, with a token that is good for that alone.

use std::{path::PathBuf, time::Duration};

use super::super::{
    Failure, Outcome,
    args::duration,
    control::{Control, Socket},
    doctor::{ApiProbe, DoctorContext},
    findings::Finding,
    style, token,
};
use crate::{
    config::Config,
    model::{BaseUrl, Secret, Time},
    peer::RootCertificates,
};

/// How long the token of a check is good, should it not come to be revoked.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// What the names of such tokens begin with.
const TOKEN_NAME_PREFIX: &str = "dapbox-check-";

/// What cannot be seen from this machine.
pub const NOT_CHECKED: [&str; 3] = [
    "whether firewalls and routers let others in: this was asked from here",
    "whether name servers elsewhere give the same address",
    "whether the other side can reach its peers, and agrees with you about anything but the API",
];

/// How it is looked.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    /// The API's URL, as the control plane reaches it. Without this, it is management.path below public_url.
    #[arg(long, value_name = "URL")]
    api_url: Option<BaseUrl>,
    /// The control plane is on a network of your own: private addresses are fine.
    #[arg(long)]
    private: bool,
    /// Root certificates (PEM) that the control plane trusts besides the web's. Without this, those of peer.ca_file.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How long each request may take.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    timeout: Duration,
}

impl ProbeArgs {
    /// The API's URL, without a slash at its end.
    pub fn url(&self, config: &Config) -> Result<String, Failure> {
        let url = self.api_url.clone().map(BaseUrl::into_string).or_else(|| config.management.url(&config.public_url));
        let url = url.ok_or_else(|| {
            Failure::usage(match config.management.is_on() {
                true => {
                    "the management API has an address of its own (management.listen): give --api-url, as the control plane \
                     reaches it"
                }
                false => {
                    "the management API is off: set management.path = \"/api\" and public_url in the configuration, and \
                     restart the server"
                }
            })
        })?;
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// Looks with a token, or with one that is made for this if a server runs here and none is given.
    pub async fn run(&self, config: Config, given: Option<Secret>) -> Result<Vec<Finding>, Failure> {
        let url = self.url(&config)?;
        let roots = RootCertificates::read(self.ca_file.as_deref().unwrap_or(&config.peer.ca_file))?;
        let spinner = style::spinner("asking what a control plane will ask");
        let context = DoctorContext::gather(config, super::super::args::Sources::default(), self.timeout).await?;
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

/// A token for one check.
struct ProbeToken {
    control: Control,
    name: String,
    secret: Secret,
}

impl ProbeToken {
    /// Makes a token, if there is a server that takes it.
    async fn create(context: &DoctorContext) -> Result<Option<Self>, Failure> {
        if !context.is_running() {
            return Ok(None);
        }
        let name = format!("{TOKEN_NAME_PREFIX}{}-{}", Time::now().0, std::process::id());
        let (secret, kept) = token::draw(&name, Some(TOKEN_LIFETIME));
        let control = Control::Server(Socket::new(context.config.control_socket())?);
        control.add_api_token(kept).await?;
        Ok(Some(Self { control, name, secret }))
    }

    /// Revokes it.
    async fn revoke(self) -> Outcome {
        self.control.revoke_api_token(&self.name).await
    }
}
