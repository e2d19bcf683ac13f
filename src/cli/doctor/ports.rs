//! The listen addresses: whether they answer, or could be bound.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use tokio::net::TcpStream;

use super::context::DoctorContext;
use crate::cli::findings::{CheckResult, Finding, failed, passed, warning};

/// The state of an address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// The address is free.
    Free,
    /// Another program listens on it.
    InUse,
    /// This user may not listen on it.
    PermissionDenied,
    /// It does not belong to this machine.
    NotLocal,
    /// Another error.
    Unknown,
}

/// Tries to bind an address.
pub fn probe_port(address: SocketAddr) -> PortState {
    match TcpListener::bind(address) {
        Ok(_) => PortState::Free,
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => PortState::InUse,
            io::ErrorKind::PermissionDenied => PortState::PermissionDenied,
            io::ErrorKind::AddrNotAvailable => PortState::NotLocal,
            _ => PortState::Unknown,
        },
    }
}

/// Checks the public and the private listener.
pub async fn examine(context: &DoctorContext) -> Vec<Finding> {
    let listen = context.listen_address();
    let public = if context.is_running() { check_listener(context, listen).await } else { check_bindable(listen) };
    let mut findings = vec![Finding::new("listen address", public)];
    if let Some(monitor) = context.monitor_address() {
        let private =
            if context.is_running() { check_monitor(context, monitor).await } else { check_monitor_bindable(monitor) };
        findings.push(Finding::new("monitor", private));
    }
    findings
}

/// The address to connect to for a listener: loopback in place of all addresses.
pub fn connectable_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Connects to a listener.
async fn connects(context: &DoctorContext, listen: SocketAddr) -> Result<(), String> {
    match tokio::time::timeout(context.timeout, TcpStream::connect(connectable_address(listen))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("timed out".to_owned()),
    }
}

async fn check_listener(context: &DoctorContext, listen: SocketAddr) -> CheckResult {
    match connects(context, listen).await {
        Ok(()) => passed(format!("{listen} accepts connections")),
        Err(error) => failed(
            format!("the server runs but {listen} does not accept connections: {error}"),
            "Check its log for a lack of open files, and the firewall of this machine.",
        ),
    }
}

fn check_bindable(listen: SocketAddr) -> CheckResult {
    match probe_port(listen) {
        PortState::Free => passed(format!("{listen} is free")),
        PortState::InUse => failed(
            format!("another program listens on {listen}"),
            "Stop it, or set `listen` to another address. 'ss -ltnp' shows the program.",
        ),
        PortState::PermissionDenied => failed(
            format!("cannot bind {listen}: permission denied (ports below 1024 are privileged)"),
            "Run the server as a service: the systemd unit grants CAP_NET_BIND_SERVICE. Or use a \
             higher port and forward to it.",
        ),
        PortState::NotLocal => failed(
            format!("{} is not an address of this machine", listen.ip()),
            "Set `listen` to an address of this machine ('ip address' lists them), or to [::] or 0.0.0.0 for all.",
        ),
        PortState::Unknown => warning(format!("cannot bind {listen}"), "Start the server: its error has the reason."),
    }
}

async fn check_monitor(context: &DoctorContext, monitor: SocketAddr) -> CheckResult {
    match connects(context, monitor).await {
        Ok(()) => warn_if_exposed(monitor).unwrap_or_else(|| passed(format!("{monitor} accepts connections"))),
        Err(error) => warning(
            format!("the server runs but {monitor} does not accept connections: {error}"),
            "Check its log for a lack of open files.",
        ),
    }
}

fn check_monitor_bindable(monitor: SocketAddr) -> CheckResult {
    match probe_port(monitor) {
        PortState::Free => warn_if_exposed(monitor).unwrap_or_else(|| passed(format!("{monitor} is free"))),
        PortState::InUse => failed(
            format!("another program listens on {monitor}"),
            "Set monitor.listen to another address, or to an empty string to disable it.",
        ),
        PortState::PermissionDenied | PortState::NotLocal | PortState::Unknown => failed(
            format!("cannot bind {monitor}"),
            "Set monitor.listen to an address of this machine with a port above 1023.",
        ),
    }
}

/// Warns if the private listener, which has no authentication, has a public address.
pub fn warn_if_exposed(monitor: SocketAddr) -> Option<CheckResult> {
    let is_private = match monitor.ip() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    (!is_private).then(|| {
        warning(
            format!("{monitor} is not a private address: everyone who can reach it sees all tasks and their counts"),
            "Set monitor.listen to a loopback address, and access it through SSH or a proxy with authentication; or \
             protect it with a firewall.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_free_used_and_foreign_addresses() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        assert_eq!(probe_port(address), PortState::InUse);
        assert!(check_bindable(address).is_err() && check_monitor_bindable(address).is_err());
        drop(held);
        assert_eq!(probe_port(address), PortState::Free);
        // RFC 5737: never assigned.
        assert_eq!(probe_port("192.0.2.1:8080".parse().unwrap()), PortState::NotLocal);
        assert_eq!(connectable_address("[::]:443".parse().unwrap()), "[::1]:443".parse().unwrap());
        assert_eq!(connectable_address("0.0.0.0:443".parse().unwrap()), "127.0.0.1:443".parse().unwrap());
    }

    #[test]
    fn warns_of_exposed_monitor() {
        for (address, is_exposed) in [
            ("127.0.0.1:1", false),
            ("10.0.0.1:1", false),
            ("[fd00::1]:1", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
        ] {
            assert_eq!(warn_if_exposed(address.parse().unwrap()).is_some(), is_exposed, "{address}");
        }
    }
}
