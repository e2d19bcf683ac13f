//! Hosts and ports of URLs, and which URLs lead to this server.

use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

use super::show;
use crate::{
    config::Config,
    model::{Role, TaskParameters},
    peer,
};

/// The endpoint of an HTTP URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address, as in the URL.
    pub host: String,
    /// The address, if the host is one.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Whether the scheme is `https`.
    pub is_secure: bool,
}

impl Endpoint {
    /// Parses a URL.
    pub fn of(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let (host, address) = match url.host()? {
            Host::Domain(name) => (name.to_owned(), None),
            Host::Ipv4(address) => (address.to_string(), Some(address.into())),
            Host::Ipv6(address) => (address.to_string(), Some(address.into())),
        };
        Some(Self { host, address, port: url.port_or_known_default()?, is_secure: url.scheme() == "https" })
    }

    /// The host, with the port unless it is the default.
    pub fn label(&self) -> String {
        match self.port {
            443 if self.is_secure => self.host.clone(),
            80 if !self.is_secure => self.host.clone(),
            port if self.host.contains(':') => format!("[{}]:{port}", self.host),
            port => format!("{}:{port}", self.host),
        }
    }

    /// The URL without a path.
    pub fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        match self.host.contains(':') {
            true => format!("{scheme}://[{}]:{}/", self.host, self.port),
            false => format!("{scheme}://{}:{}/", self.host, self.port),
        }
    }

    /// Returns whether the host is a loopback name or address.
    pub fn is_loopback(&self) -> bool {
        match self.address {
            Some(address) => address.is_loopback(),
            None => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }
}

/// Whether the URL of this aggregator in a task leads to this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is below `public_url`, or matches the listen address.
    Ours,
    /// It leads to another server, with the reason.
    Foreign(String),
    /// Undecidable.
    Unknown,
}

/// Returns the URL of the aggregator with a role.
pub fn own_url(task: &TaskParameters, role: Role) -> &str {
    if role == Role::Leader { &task.leader_url } else { &task.helper_url }
}

/// Decides whether the URL of this aggregator, with this role and listen address, leads to this server.
pub fn ownership(config: &Config, listen: SocketAddr, task: &TaskParameters, role: Role) -> Ownership {
    let (ours, named, other) = (&config.public_url, own_url(task, role), own_url(task, other(role)));
    let name = show::role(role);
    if is_below(named, ours) || ours.is_empty() && is_at(named, listen) {
        Ownership::Ours
    } else if !ours.is_empty() {
        Ownership::Foreign(format!("the task's {name} is {named}, but public_url is {ours}"))
    } else if is_at(other, listen) {
        Ownership::Foreign(format!("the task's {name} is {named}, but this server listens on {listen}"))
    } else {
        Ownership::Unknown
    }
}

fn other(role: Role) -> Role {
    if role == Role::Leader { Role::Helper } else { Role::Leader }
}

/// Returns whether a URL leads to a listen address of this machine.
fn is_at(url: &str, listen: SocketAddr) -> bool {
    let Some(endpoint) = Endpoint::of(url).filter(|endpoint| endpoint.port == listen.port()) else { return false };
    let is_everywhere = listen.ip().is_unspecified() || listen.ip().is_loopback();
    endpoint.is_loopback() && is_everywhere || endpoint.address == Some(listen.ip())
}

/// Returns whether `url` is `base` or below it.
fn is_below(url: &str, base: &str) -> bool {
    let parsed = |text: &str| Url::parse(&peer::join(text, "")).ok();
    let (Some(url), Some(base)) = (parsed(url), parsed(base)) else { return false };
    url.origin() == base.origin() && url.path().starts_with(base.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aggregator::testing, model::Revision};

    #[test]
    fn parses_url_into_endpoint() {
        let endpoint = Endpoint::of("https://dap.example.org/x").unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port, endpoint.is_secure), ("dap.example.org", 443, true));
        assert!(!endpoint.is_loopback());
        let endpoint = Endpoint::of("http://[::1]:8080").unwrap();
        assert!(endpoint.is_loopback() && endpoint.port == 8080 && endpoint.address.is_some());
        assert_eq!(endpoint.label(), "[::1]:8080");
        assert!(Endpoint::of("http://localhost/").unwrap().is_loopback());
        assert_eq!(Endpoint::of("nowhere"), None);
    }

    #[test]
    fn recognizes_file_of_other_aggregator() {
        let of = |public_url: &str, listen: &str, role| {
            let mut task = testing::task(Revision::Dap09).public;
            task.leader_url = "http://127.0.0.1:9001/dap-09/".to_owned();
            task.helper_url = "https://helper.example/dap-09/".to_owned();
            let config = Config { public_url: public_url.to_owned(), ..Config::default() };
            match ownership(&config, listen.parse().unwrap(), &task, role) {
                Ownership::Foreign(_) => "foreign",
                Ownership::Ours => "ours",
                Ownership::Unknown => "unknown",
            }
        };
        for (public_url, listen, leader, helper) in [
            ("https://helper.example", "0.0.0.0:80", "foreign", "ours"),
            ("https://else.example", "127.0.0.1:9001", "foreign", "foreign"),
            ("", "127.0.0.1:9001", "ours", "foreign"),
            ("", "[::]:9001", "ours", "foreign"),
            ("", "192.0.2.1:9001", "unknown", "unknown"),
            ("", "127.0.0.1:9002", "unknown", "unknown"),
        ] {
            let found = (of(public_url, listen, Role::Leader), of(public_url, listen, Role::Helper));
            assert_eq!(found, (leader, helper), "{public_url} {listen}");
        }
    }

    #[test]
    fn compares_urls_by_origin_and_path() {
        for (url, base) in [
            ("https://a.example/dap-09/", "https://a.example"),
            ("https://A.example:443/dap-09", "https://a.example/"),
            ("https://a.example/x/dap-18/", "https://a.example/x"),
        ] {
            assert!(is_below(url, base), "{url} {base}");
        }
        for (url, base) in [
            ("https://b.example/dap-09/", "https://a.example"),
            ("http://a.example/dap-09/", "https://a.example"),
            ("https://a.example/xy/dap-09/", "https://a.example/x"),
        ] {
            assert!(!is_below(url, base), "{url} {base}");
        }
    }
}
