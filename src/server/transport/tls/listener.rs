//! A listener for HTTPS.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Certificates, certificates::ACME_TLS_ALPN, server_config};
use crate::transport::{
    listen::{Accept, Opened, Opening},
    origin::Origin,
};

/// What somebody is told who speaks plain HTTP.
const PLAIN: &str = "This address speaks HTTPS. Ask again with https:// in place of http://.\n";

/// A listener for HTTPS.
pub struct Https<T> {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshake_timeout: T,
}

impl<T: Fn() -> Duration> Https<T> {
    /// Speaks HTTPS on what `listener` accepts. How long a handshake may take is asked for each time.
    pub fn new(
        listener: TcpListener,
        certificates: Arc<Certificates>,
        handshake_timeout: T,
    ) -> Result<Self, rustls::Error> {
        let acceptor = TlsAcceptor::from(server_config(certificates)?);
        Ok(Self { listener, acceptor, handshake_timeout })
    }
}

impl<T: Fn() -> Duration + Send + Sync + 'static> Accept for Https<T> {
    type Stream = TlsStream<TcpStream>;

    async fn next(&self) -> io::Result<Opening<Self::Stream>> {
        let (stream, address) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, timeout) = (self.acceptor.clone(), (self.handshake_timeout)());
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{
        ClientConfig, RootCertStore,
        pki_types::{PrivateKeyDer, ServerName},
        sign::CertifiedKey,
    };
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::transport::tls::provider;

    fn certified(name: &str) -> CertifiedKey {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        CertifiedKey::from_der(chain, key, &provider()).unwrap()
    }

    /// RFC 8737 section 3: an authority is shown the challenge's certificate, and nothing comes after the handshake.
    #[tokio::test]
    async fn an_authority_sees_the_challenge_and_nothing_else() {
        let certificates = Arc::new(Certificates::default());
        certificates.replace(certified("helper.test"));
        let challenge = certified("helper.test");
        certificates.set_challenge("Helper.Test", challenge.clone());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let https = Https::new(socket, certificates.clone(), || Duration::from_secs(60)).unwrap();
        let connect = async |protocols: &[&[u8]]| {
            let mut store = RootCertStore::empty();
            store.add(challenge.cert[0].clone()).unwrap();
            store.add(certificates.current().unwrap().cert[0].clone()).unwrap();
            let builder = ClientConfig::builder_with_provider(provider());
            let builder = builder.with_safe_default_protocol_versions().unwrap();
            let mut config = builder.with_root_certificates(store).with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("helper.test").unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, stream).await
        };
        let accept = async || https.next().await.unwrap().await.map(|_| ());
        for protocols in [&[ACME_TLS_ALPN][..], &[b"h2", ACME_TLS_ALPN]] {
            let (stream, accepted) = tokio::join!(connect(protocols), accept());
            let mut stream = stream.unwrap();
            assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], challenge.cert[0]);
            assert!(accepted.is_err(), "nobody is served");
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it is closed, and says so");
        }
        certificates.clear_challenges();
        let (stream, accepted) = tokio::join!(connect(&[ACME_TLS_ALPN]), accept());
        assert!(stream.is_err() && accepted.is_err());
        let (stream, accepted) = tokio::join!(connect(&[b"h2"]), accept());
        assert_ne!(stream.unwrap().get_ref().1.peer_certificates().unwrap()[0], challenge.cert[0]);
        accepted.unwrap();
    }
}
