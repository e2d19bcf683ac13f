//! Our ports: whether somebody answers there, or whether we could.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use tokio::net::TcpStream;

use super::world::World;
use crate::cli::findings::{Finding, Verdict, failed, good, warning};

/// What there is to say of an address that somebody wants to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// It is free.
    Free,
    /// Somebody listens there.
    Taken,
    /// This user may not listen there.
    Forbidden,
    /// It is no address of this machine.
    Foreign,
    /// Something else is wrong, and listening will say what.
    Strange,
}

/// Tries to listen on an address, for a moment.
pub fn port(address: SocketAddr) -> Port {
    match TcpListener::bind(address) {
        Ok(_) => Port::Free,
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => Port::Taken,
            io::ErrorKind::PermissionDenied => Port::Forbidden,
            io::ErrorKind::AddrNotAvailable => Port::Foreign,
            _ => Port::Strange,
        },
    }
}

/// Looks at the address for the other parties, and at the private one.
pub async fn examine(world: &World) -> Vec<Finding> {
    let listen = world.listen();
    let public = if world.is_served() { answers(world, listen).await } else { could_listen(listen) };
    let mut findings = vec![Finding::new("listen address", public)];
    if let Some(monitor) = world.monitor() {
        let private = if world.is_served() { is_watched(world, monitor).await } else { could_watch(monitor) };
        findings.push(Finding::new("monitor", private));
    }
    findings
}

/// An address to connect to where somebody listens on another.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whether somebody listens on an address.
async fn connects(world: &World, listen: SocketAddr) -> Result<(), String> {
    match tokio::time::timeout(world.timeout, TcpStream::connect(reachable(listen))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("not in time".to_owned()),
    }
}

async fn answers(world: &World, listen: SocketAddr) -> Verdict {
    match connects(world, listen).await {
        Ok(()) => good(format!("{listen} takes connections")),
        Err(error) => failed(
            format!("the server runs, and {listen} does not take connections: {error}"),
            "Look into its log: it may be short of open files, or a firewall of this machine is in the way.",
        ),
    }
}

fn could_listen(listen: SocketAddr) -> Verdict {
    match port(listen) {
        Port::Free => good(format!("{listen} is free")),
        Port::Taken => failed(
            format!("another program listens on {listen}"),
            "Stop it, or set `listen` to another address. 'ss -ltnp' says which program it is.",
        ),
        Port::Forbidden => failed(
            format!("this user may not listen on {listen}: ports below 1024 need a right"),
            "Run the server as a service: the systemd unit has AmbientCapabilities=CAP_NET_BIND_SERVICE. Or use a higher \
             port and forward to it.",
        ),
        Port::Foreign => failed(
            format!("{} is no address of this machine", listen.ip()),
            "Set `listen` to one that is ('ip address' lists them), or to [::] or 0.0.0.0 for all.",
        ),
        Port::Strange => warning(format!("{listen} cannot be listened on"), "Start the server, which says why."),
    }
}

async fn is_watched(world: &World, monitor: SocketAddr) -> Verdict {
    match connects(world, monitor).await {
        Ok(()) => exposed(monitor).unwrap_or_else(|| good(format!("{monitor} takes connections"))),
        Err(error) => warning(
            format!("the server runs, and {monitor} does not take connections: {error}"),
            "Look into its log: it may be short of open files.",
        ),
    }
}

fn could_watch(monitor: SocketAddr) -> Verdict {
    match port(monitor) {
        Port::Free => exposed(monitor).unwrap_or_else(|| good(format!("{monitor} is free"))),
        Port::Taken => failed(
            format!("another program listens on {monitor}"),
            "Set monitor.listen to another address, or to nothing for none.",
        ),
        Port::Forbidden | Port::Foreign | Port::Strange => failed(
            format!("{monitor} cannot be listened on"),
            "Set monitor.listen to a port above 1023 of an address of this machine.",
        ),
    }
}

/// Says so if anybody may look at what the private listener has: it asks nobody who he is.
pub fn exposed(monitor: SocketAddr) -> Option<Verdict> {
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
    fn an_address_is_free_taken_or_not_ours() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        assert_eq!(port(address), Port::Taken);
        assert!(could_listen(address).is_err() && could_watch(address).is_err());
        drop(held);
        assert_eq!(port(address), Port::Free);
        // RFC 5737: nobody has it.
        assert_eq!(port("192.0.2.1:8080".parse().unwrap()), Port::Foreign);
        assert_eq!(reachable("[::]:443".parse().unwrap()), "[::1]:443".parse().unwrap());
        assert_eq!(reachable("0.0.0.0:443".parse().unwrap()), "127.0.0.1:443".parse().unwrap());
    }

    #[test]
    fn what_anybody_may_look_at_is_warned_of() {
        for (address, is_exposed) in [
            ("127.0.0.1:1", false),
            ("10.0.0.1:1", false),
            ("[fd00::1]:1", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
        ] {
            assert_eq!(exposed(address.parse().unwrap()).is_some(), is_exposed, "{address}");
        }
    }
}
