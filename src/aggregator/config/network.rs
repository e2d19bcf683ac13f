//! Network options: HTTPS, reverse proxies, outgoing connections, and the private listener for monitoring.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use url::Url;

use super::{Seconds, address};
use dapbox_protocol::model::{
    BaseUrl,
    base_url::{self, BaseUrlError},
};

/// HTTPS on the public address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The source of the certificate; default `off`.
    pub mode: TlsMode,
    /// The certificate chain, PEM, for `files`.
    pub certificate_file: PathBuf,
    /// The private key of the certificate, PEM (PKCS#8, PKCS#1 or SEC1), for `files`.
    pub key_file: PathBuf,
    /// How often the files are checked for changes, which apply without a restart; default 60 s.
    pub check_interval: Seconds,
    /// How long a client may take for the TLS handshake; default 10 s.
    pub handshake_timeout: Seconds,
}

/// The source of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Plain HTTP, for loopback or a proxy in front.
    Off,
    /// Files that another program renews.
    Files,
    /// An ACME authority (RFC 8555).
    Acme,
}

/// Certificates by ACME (RFC 8555), if `tls.mode` is `acme`. The authority connects to port 443 of each domain
/// (TLS-ALPN-01, RFC 8737).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Acme {
    /// The names in the certificate.
    pub domains: Vec<String>,
    /// The contact address for the authority; empty (default) for none.
    pub contact_email: String,
    /// The directory URL of the authority; default Let's Encrypt.
    #[serde(deserialize_with = "base_url::deserialize")]
    pub directory: String,
    /// Additional root certificates, PEM, for the connection to the authority, besides those of the system (or of the
    /// web, if the system has none). Empty (default) for none.
    pub directory_ca_file: PathBuf,
    /// The shortest delay after a failed attempt; default 60 s. Delays grow. Authorities limit attempts, so it is at
    /// least a minute unless the authority is on this machine.
    pub retry_initial: Seconds,
    /// The longest delay after a failed attempt, unless the authority asks for more; default 1 h.
    pub retry_max: Seconds,
}

/// Reverse proxies.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    /// Networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted; default none.
    pub trusted: Vec<IpNet>,
}

/// Outgoing connections of a leader to its helpers.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbound {
    /// Additional root certificates, PEM, for the certificates of other servers, besides those of the system (or of the
    /// web, if the system has none). For private authorities. Empty (default) for none.
    pub ca_file: PathBuf,
    /// Sends tokens in `DAP-Auth-Token` instead of `Authorization`. Only interoperability tests set it.
    #[serde(skip)]
    pub dap_auth_token: bool,
}

/// The private listener: metrics, health, and the status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Monitor {
    /// Its address, plain HTTP without authentication; default `127.0.0.1:9464`; empty for none.
    pub listen: OptionalAddress,
}

/// An optional address. The empty string means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<SocketAddr>);

impl Serialize for OptionalAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.map(|address| address.to_string()).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for OptionalAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        let expected = |why| D::Error::custom(format!("{why}, or leave it empty for none"));
        address::parse(&text).map(|address| Self(Some(address))).map_err(expected)
    }
}

/// Validates a public URL. It must end before the path of a revision, which task files add.
pub fn check_public_url(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let parsed: BaseUrl = text.parse().map_err(|why: BaseUrlError| why.to_string())?;
    if parsed.as_str() != text {
        return Err(format!("'{}' must not have surrounding blanks", text.escape_debug()));
    }
    let url = Url::parse(text).map_err(|why| format!("'{text}': {why}"))?;
    let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match last.strip_prefix("dap-") {
        Some(_) => Err(format!("'{text}' must not contain /{last}: the URL is the same for all revisions")),
        None => Ok(()),
    }
}

impl Tls {
    /// Returns why the options are invalid.
    pub(super) fn invalid_reason(&self) -> Option<String> {
        let files = [("tls.certificate_file", &self.certificate_file), ("tls.key_file", &self.key_file)];
        let is_empty = |path: &PathBuf| path.as_os_str().is_empty();
        if self.mode == TlsMode::Files {
            let (missing, _) = files.iter().find(|(_, path)| is_empty(path))?;
            return Some(format!("{missing} must name a file when tls.mode is \"files\""));
        }
        let (given, _) = files.iter().find(|(_, path)| !is_empty(path))?;
        Some(format!("{given} has no effect unless tls.mode is \"files\""))
    }
}

impl Proxy {
    /// Returns why the options are invalid.
    pub(super) fn invalid_reason(&self) -> Option<String> {
        let everybody = self.trusted.iter().find(|network| network.prefix_len() == 0)?;
        Some(format!(
            "proxy.trusted contains {everybody}, which lets any client forge its address; list the networks \
                      of the proxies"
        ))
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            mode: TlsMode::Off,
            certificate_file: PathBuf::new(),
            key_file: PathBuf::new(),
            check_interval: Seconds::new(60),
            handshake_timeout: Seconds::new(10),
        }
    }
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            contact_email: String::new(),
            directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            directory_ca_file: PathBuf::new(),
            retry_initial: Seconds::new(60),
            retry_max: Seconds::new(3600),
        }
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self { listen: OptionalAddress(Some(SocketAddr::from(([127, 0, 0, 1], 9464)))) }
    }
}
