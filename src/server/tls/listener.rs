//! A listener for HTTPS.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Certificates, certificates::ACME_TLS_ALPN, server_config};
use crate::server::{
    listen::{Accept, Opened, Opening},
    origin::Origin,
};

/// What somebody is told who speaks plain HTTP.
const PLAIN: &str = "This address speaks HTTPS. Ask again with https:// in place of http://.\n";

/// A listener for HTTPS.
pub struct Https {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshake_timeout: Duration,
}

impl Https {
    /// Speaks HTTPS on what `listener` accepts.
    pub fn new(
        listener: TcpListener,
        certificates: Arc<Certificates>,
        handshake_timeout: Duration,
    ) -> Result<Self, rustls::Error> {
        let acceptor = TlsAcceptor::from(server_config(certificates)?);
        Ok(Self { listener, acceptor, handshake_timeout })
    }
}

impl Accept for Https {
    type Stream = TlsStream<TcpStream>;

    async fn next(&self) -> io::Result<Opening<Self::Stream>> {
        let (stream, address) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, timeout) = (self.acceptor.clone(), self.handshake_timeout);
        Ok(Box::pin(async move {
            match tokio::time::timeout(timeout, shake_hands(acceptor, stream, address)).await {
                Ok(opened) => opened,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")),
            }
        }))
    }
}

/// The TLS handshake.
async fn shake_hands(
    acceptor: TlsAcceptor,
    mut stream: TcpStream,
    address: SocketAddr,
) -> io::Result<Opened<TlsStream<TcpStream>>> {
    // TLS begins with a byte below the letters (RFC 8446 section 5.1), HTTP with the name of a method.
    let mut first = [0];
    if stream.peek(&mut first).await? > 0 && first[0].is_ascii_uppercase() {
        send_away(&mut stream).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{address} speaks plain HTTP")));
    }
    let mut stream = acceptor.accept(stream).await?;
    if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_ALPN) {
        // The handshake was all that the authority wanted (RFC 8737 section 3).
        stream.shutdown().await?;
        return Err(io::Error::other("an authority has looked at the challenge's certificate"));
    }
    Ok(Opened { stream, origin: Origin::of(address, true) })
}

/// Answers a request in plain HTTP, whatever it is. What it says is not acted upon; it has been read by everybody on the
/// way.
async fn send_away(stream: &mut TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{PLAIN}",
        PLAIN.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // If we closed the connection with something of the request unread, the answer would be lost.
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
