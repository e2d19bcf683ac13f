//! URLs as places on the network, and our own among them.

use std::net::IpAddr;

use url::{Host, Url};

use super::show;
use crate::{
    config::Config,
    model::{Role, TaskParameters},
    peer,
};

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The name or address, as the URL has it.
    pub host: String,
    /// The address, if it is one.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Whether it is spoken to by TLS.
    pub is_secure: bool,
}

impl Place {
    /// Where a URL leads, if it is one of HTTP.
    pub fn of(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let (host, address) = match url.host()? {
            Host::Domain(name) => (name.to_owned(), None),
            Host::Ipv4(address) => (address.to_string(), Some(address.into())),
            Host::Ipv6(address) => (address.to_string(), Some(address.into())),
        };
        Some(Self { host, address, port: url.port_or_known_default()?, is_secure: url.scheme() == "https" })
    }

    /// The host, and the port if it is not the usual one.
    pub fn label(&self) -> String {
        match self.port {
            443 if self.is_secure => self.host.clone(),
            80 if !self.is_secure => self.host.clone(),
            port if self.host.contains(':') => format!("[{}]:{port}", self.host),
            port => format!("{}:{port}", self.host),
        }
    }

    /// Its URL, without a path.
    pub fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        match self.host.contains(':') {
            true => format!("{scheme}://[{}]:{}/", self.host, self.port),
            false => format!("{scheme}://{}:{}/", self.host, self.port),
        }
    }

    /// Whether it is on this machine by its very name.
    pub fn is_loopback(&self) -> bool {
        match self.address {
            Some(address) => address.is_loopback(),
            None => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }
}

/// What to warn of if a task has another URL for us than our configuration has.
pub fn mismatch(config: &Config, task: &TaskParameters, role: Role) -> Option<String> {
    let (ours, named) = (&config.public_url, if role == Role::Leader { &task.leader_url } else { &task.helper_url });
    if ours.is_empty() || is_below(named, ours) {
        return None;
    }
    Some(format!(
        "the task says that its {} is at {named}, and our public_url is {ours}. If that URL does not lead here, the other \
         parties will not find us: have the task made anew with the right one, or set public_url",
        show::role(role)
    ))
}

/// Whether one URL is the other or below it.
fn is_below(url: &str, base: &str) -> bool {
    let parsed = |text: &str| Url::parse(&peer::join(text, "")).ok();
    let (Some(url), Some(base)) = (parsed(url), parsed(base)) else { return false };
    url.origin() == base.origin() && url.path().starts_with(base.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_place() {
        let place = Place::of("https://dap.example.org/x").unwrap();
        assert_eq!((place.host.as_str(), place.port, place.is_secure), ("dap.example.org", 443, true));
        assert!(!place.is_loopback());
        let place = Place::of("http://[::1]:8080").unwrap();
        assert!(place.is_loopback() && place.port == 8080 && place.address.is_some());
        assert_eq!(place.label(), "[::1]:8080");
        assert!(Place::of("http://localhost/").unwrap().is_loopback());
        assert_eq!(Place::of("nowhere"), None);
    }

    #[test]
    fn our_url_is_ours_however_it_is_written() {
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
