//! Our ports: whether somebody answers there, or whether we could.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use tokio::net::TcpStream;

use super::context::DoctorContext;
use crate::cli::findings::{CheckResult, Finding, failed, passed, warning};

/// What there is to say of an address that somebody wants to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// It is free.
    Free,
    /// Somebody listens there.
    InUse,
    /// This user may not listen there.
    PermissionDenied,
    /// It is no address of this machine.
    NotLocal,
    /// Something else is wrong, and listening will say what.
    Unknown,
}

/// Tries to listen on an address, for a moment.
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

/// Looks at the address for the other parties, and at the private one.
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

/// An address to connect to where somebody listens on another.
pub fn connectable_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whether somebody listens on an address.
async fn connects(context: &DoctorContext, listen: SocketAddr) -> Result<(), String> {
    match tokio::time::timeout(context.timeout, TcpStream::connect(connectable_address(listen))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("not in time".to_owned()),
    }
}

async fn check_listener(context: &DoctorContext, listen: SocketAddr) -> CheckResult {
    match connects(context, listen).await {
        Ok(()) => passed(format!("{listen} takes connections")),
        Err(error) => failed(
            format!("the server runs, and {listen} does not take connections: {error}"),
            "Look into its log: it may be short of open files, or a firewall of this machine is in the way.",
        ),
    }
}

fn check_bindable(listen: SocketAddr) -> CheckResult {
    match probe_port(listen) {
        PortState::Free => passed(format!("{listen} is free")),
        PortState::InUse => failed(
            format!("another program listens on {listen}"),
            "Stop it, or set `listen` to another address. 'ss -ltnp' says which program it is.",
        ),
        PortState::PermissionDenied => failed(
            format!("this user may not listen on {listen}: ports below 1024 need a right"),
            "Run the server as a service: the systemd unit has AmbientCapabilities=CAP_NET_BIND_SERVICE. Or use a higher \
             port and forward to it.",
        ),
        PortState::NotLocal => failed(
            format!("{} is no address of this machine", listen.ip()),
            "Set `listen` to one that is ('ip address' lists them), or to [::] or 0.0.0.0 for all.",
        ),
        PortState::Unknown => warning(format!("{listen} cannot be listened on"), "Start the server, which says why."),
    }
}

async fn check_monitor(context: &DoctorContext, monitor: SocketAddr) -> CheckResult {
    match connects(context, monitor).await {
        Ok(()) => warn_if_exposed(monitor).unwrap_or_else(|| passed(format!("{monitor} takes connections"))),
        Err(error) => warning(
            format!("the server runs, and {monitor} does not take connections: {error}"),
            "Look into its log: it may be short of open files.",
        ),
    }
}

fn check_monitor_bindable(monitor: SocketAddr) -> CheckResult {
    match probe_port(monitor) {
        PortState::Free => warn_if_exposed(monitor).unwrap_or_else(|| passed(format!("{monitor} is free"))),
        PortState::InUse => failed(
            format!("another program listens on {monitor}"),
            "Set monitor.listen to another address, or to nothing for none.",
        ),
        PortState::PermissionDenied | PortState::NotLocal | PortState::Unknown => failed(
            format!("{monitor} cannot be listened on"),
            "Set monitor.listen to a port above 1023 of an address of this machine.",
        ),
    }
}

/// Says so if anybody may look at what the private listener has: it asks nobody who he is.
pub fn warn_if_exposed(monitor: SocketAddr) -> Option<CheckResult> {
    let is_private = match monitor.ip() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    (!is_private).then(|| {
        warning(
            format!("{monitor} is not a private address, and whoever reaches it sees all tasks and their numbers"),
            "Set monitor.listen to a loopback address, and reach it through SSH or a proxy that asks for a password; or \
             make sure that a firewall protects it.",
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
        // RFC 5737: nobody has it.
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
