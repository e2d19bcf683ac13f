//! How the world reaches an aggregator: HTTPS, proxies in front, and the private listener for those who watch it.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use url::Url;

use super::{Seconds, address};
use dapbox_protocol::model::{
    BaseUrl,
    base_url::{self, BaseUrlError},
};

/// HTTPS on the address that peers, clients and collectors reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Where the certificate comes from, or that there is none.
    pub mode: TlsMode,
    /// The certificate and those between it and the root, PEM, for `files`.
    pub certificate_file: PathBuf,
    /// Its private key, PEM (PKCS#8, PKCS#1 or SEC1), for `files`.
    pub key_file: PathBuf,
    /// How often the files are looked at; changed ones are taken over without a restart.
    pub check_interval: Seconds,
    /// How long a client may take over the TLS handshake.
    pub handshake_timeout: Seconds,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Plain HTTP, for loopback or a proxy in front.
    Off,
    /// Files that somebody else renews.
    Files,
    /// A certification authority, asked by ACME (RFC 8555).
    Acme,
}

/// Certificates by ACME (RFC 8555), where `tls.mode` is `acme`. The authority connects to port 443 of each domain
/// (TLS-ALPN-01, RFC 8737).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Acme {
    /// The names in the certificate.
    pub domains: Vec<String>,
    /// Where the authority may write to; empty for nowhere.
    pub contact_email: String,
    /// The authority's directory.
    #[serde(deserialize_with = "base_url::deserialize")]
    pub directory: String,
    /// Root certificates, PEM, that the authority's own server's certificate may come from, besides the system's (or the
    /// web's, where the system has none). Empty for none.
    pub directory_ca_file: PathBuf,
    /// The shortest pause after an attempt that failed; each further one is longer. Authorities count attempts and lock
    /// out who makes too many: not less than a minute, unless the authority is on this machine.
    pub retry_initial: Seconds,
    /// The longest pause after an attempt that failed, unless the authority asks for more.
    pub retry_max: Seconds,
}

/// Proxies in front.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    /// Networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed; nobody's by default.
    pub trusted: Vec<IpNet>,
}

/// How we reach others: a leader its helpers.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbound {
    /// Root certificates, PEM, that other servers' certificates may come from, besides the system's (or the web's, where
    /// the system has none): for private authorities. Empty for none.
    pub ca_file: PathBuf,
    /// Whether tokens are sent in `DAP-Auth-Token` and not in `Authorization`. No file can say so: it is for tests of interop.
    #[serde(skip)]
    pub dap_auth_token: bool,
}

/// The private listener: metrics, health, and the status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Monitor {
    /// Its address, plain HTTP without any authentication; `127.0.0.1:9464` by default, empty for none.
    pub listen: OptionalAddress,
}

/// An address, or none. In text none is the empty string.
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
        let expected = |why| D::Error::custom(format!("{why}, or nothing for none"));
        address::parse(&text).map(|address| Self(Some(address))).map_err(expected)
    }
}

/// What is wrong with a public URL, if anything. Task files have it with the path of a revision below, and a peer takes
/// nothing else of it.
pub fn check_public_url(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let parsed: BaseUrl = text.parse().map_err(|why: BaseUrlError| why.to_string())?;
    if parsed.as_str() != text {
        return Err(format!("'{}' must not have blanks around it", text.escape_debug()));
    }
    let url = Url::parse(text).map_err(|why| format!("'{text}': {why}"))?;
    let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match last.strip_prefix("dap-") {
        Some(_) => Err(format!("'{text}' must end before /{last}: it is the same for all revisions")),
        None => Ok(()),
    }
}

impl Tls {
    /// What makes no sense, if anything.
    pub(super) fn invalid_reason(&self) -> Option<String> {
        let files = [("tls.certificate_file", &self.certificate_file), ("tls.key_file", &self.key_file)];
        let is_empty = |path: &PathBuf| path.as_os_str().is_empty();
        if self.mode == TlsMode::Files {
            let (missing, _) = files.iter().find(|(_, path)| is_empty(path))?;
            return Some(format!("{missing} must name a file when tls.mode is \"files\""));
        }
        let (given, _) = files.iter().find(|(_, path)| !is_empty(path))?;
        Some(format!("{given} is of no use unless tls.mode is \"files\""))
    }
}

impl Proxy {
    /// What makes no sense, if anything.
    pub(super) fn invalid_reason(&self) -> Option<String> {
        let everybody = self.trusted.iter().find(|network| network.prefix_len() == 0)?;
        Some(format!("proxy.trusted has {everybody}: anybody could claim any address; name the proxies' own networks"))
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
