//! An address that is bound and not listened on yet.
//!
//! Binding fails if another server listens on the address. Until it listens, connections are refused, as they should be
//! while the data directory is opened.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::StartError;

/// The most connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A bound address.
pub struct Reserved {
    socket: TcpSocket,
    address: SocketAddr,
    failed: fn(SocketAddr, io::Error) -> StartError,
}

impl Reserved {
    /// Binds an address. `failed` makes the error, now or when listening fails.
    pub fn at(address: SocketAddr, failed: fn(SocketAddr, io::Error) -> StartError) -> Result<Self, StartError> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A connection of an earlier server that is not quite over must not keep us from the address.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        bind().map(|socket| Self { socket, address, failed }).map_err(|error| failed(address, error))
    }

    /// Binds an address if there is one.
    pub fn maybe_at(
        address: Option<SocketAddr>,
        failed: fn(SocketAddr, io::Error) -> StartError,
    ) -> Result<Option<Self>, StartError> {
        address.map(|address| Self::at(address, failed)).transpose()
    }

    /// Listens. Returns the address with the port that the system has chosen if none was named.
    pub fn listen(self) -> Result<(TcpListener, SocketAddr), StartError> {
        let Self { socket, address, failed } = self;
        let listen = || {
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        listen().map_err(|error| failed(address, error))
    }
}
