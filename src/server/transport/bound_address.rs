//! An address that is bound but does not listen yet.
//!
//! Binding fails if another server listens on the address. Until the socket listens, connections are refused. A server
//! opens its data directory in between.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A bound address.
pub struct BoundAddress<E> {
    socket: TcpSocket,
    address: SocketAddr,
    failed: fn(SocketAddr, io::Error) -> E,
}

impl<E> BoundAddress<E> {
    /// Binds an address. `failed` creates the error, now or when listening fails.
    pub fn at(address: SocketAddr, failed: fn(SocketAddr, io::Error) -> E) -> Result<Self, E> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Connections of an earlier server in TIME_WAIT do not block the address.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        bind().map(|socket| Self { socket, address, failed }).map_err(|error| failed(address, error))
    }

    /// Binds an address, if there is one.
    pub fn at_optional(address: Option<SocketAddr>, failed: fn(SocketAddr, io::Error) -> E) -> Result<Option<Self>, E> {
        address.map(|address| Self::at(address, failed)).transpose()
    }

    /// The address, with the port that the system has chosen for port 0.
    pub fn address(&self) -> Result<SocketAddr, E> {
        self.socket.local_addr().map_err(|error| (self.failed)(self.address, error))
    }

    /// Listens on the address.
    pub fn listen(self) -> Result<TcpListener, E> {
        let Self { socket, address, failed } = self;
        socket.listen(BACKLOG).map_err(|error| failed(address, error))
    }
}
