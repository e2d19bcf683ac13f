//! URLs as places on the network, and our own among them.

use std::net::{IpAddr, SocketAddr};

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

/// Whether a task's URL for us leads to this server, as far as that is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is below `public_url`, or where the server listens.
    Ours,
    /// It is another server's, and why.
    Foreign(String),
    /// Nothing tells.
    Unknown,
}

/// The URL that a task has for the aggregator of a role.
pub fn own_url(task: &TaskParameters, role: Role) -> &str {
    if role == Role::Leader { &task.leader_url } else { &task.helper_url }
}

/// Whether the task's URL for us, who have this role and listen at an address, leads here.
pub fn ownership(config: &Config, listen: SocketAddr, task: &TaskParameters, role: Role) -> Ownership {
    let (ours, named, other) = (&config.public_url, own_url(task, role), own_url(task, other(role)));
    let name = show::role(role);
    if is_below(named, ours) || ours.is_empty() && is_at(named, listen) {
        Ownership::Ours
    } else if !ours.is_empty() {
        Ownership::Foreign(format!("the task's {name} is at {named}, and our public_url is {ours}"))
    } else if is_at(other, listen) {
        Ownership::Foreign(format!("the task's {name} is at {named}, and this server listens at {listen}"))
    } else {
        Ownership::Unknown
    }
}

fn other(role: Role) -> Role {
    if role == Role::Leader { Role::Helper } else { Role::Leader }
}

/// Whether a URL leads to an address of this machine that a server listens at.
fn is_at(url: &str, listen: SocketAddr) -> bool {
    let Some(place) = Place::of(url).filter(|place| place.port == listen.port()) else { return false };
    let is_everywhere = listen.ip().is_unspecified() || listen.ip().is_loopback();
    place.is_loopback() && is_everywhere || place.address == Some(listen.ip())
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
    use crate::{aggregator::testing, model::Revision};

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
    fn the_other_aggregators_file_is_recognized() {
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
