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

/// The response to plain HTTP.
const PLAIN_HTTP_ANSWER: &str = "This address requires HTTPS. Use https:// instead of http://.\n";

/// A listener for HTTPS.
pub struct Https<T> {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshake_timeout: T,
}

impl<T: Fn() -> Duration> Https<T> {
    /// Wraps a listener. `handshake_timeout` is called for each connection.
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
            match tokio::time::timeout(timeout, handshake(acceptor, stream, address)).await {
                Ok(opened) => opened,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake timed out")),
            }
        }))
    }
}

/// Performs the TLS handshake.
async fn handshake(
    acceptor: TlsAcceptor,
    mut stream: TcpStream,
    address: SocketAddr,
) -> io::Result<Opened<TlsStream<TcpStream>>> {
    // TLS begins with a byte below the letters (RFC 8446 section 5.1), HTTP with the name of a method.
    let mut first = [0];
    if stream.peek(&mut first).await? > 0 && first[0].is_ascii_uppercase() {
        answer_plain_http(&mut stream).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("plain HTTP from {address}")));
    }
    let mut stream = acceptor.accept(stream).await?;
    if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_ALPN) {
        // The handshake is all that the CA needs (RFC 8737 section 3).
        stream.shutdown().await?;
        return Err(io::Error::other("a CA has validated a challenge"));
    }
    Ok(Opened { stream, origin: Origin::of(address, true) })
}

/// Responds to a request in plain HTTP. The request is not processed, because it was sent in the clear.
async fn answer_plain_http(stream: &mut TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{PLAIN_HTTP_ANSWER}",
        PLAIN_HTTP_ANSWER.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing the connection with unread data would lose the response.
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

    /// RFC 8737 section 3: the CA receives the challenge certificate, and the connection is closed after the handshake.
    #[tokio::test]
    async fn serves_challenge_then_closes() {
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
