//! A broken authority.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::authority::Means;

/// How it is broken.
#[derive(Clone, Copy)]
pub enum Kind {
    /// An endless answer.
    Endless,
    /// An HTML page.
    Page,
    /// A redirect to another host.
    Elsewhere,
    /// An error without a problem document.
    Broken,
    /// An error with an excessive `Retry-After`.
    Busy,
}

/// The number of requests.
pub struct Broken(Arc<AtomicUsize>);

impl Broken {
    /// Answers each request in another broken way.
    pub async fn start(means: &Means, kinds: &[Kind]) -> Self {
        let certificate = CertificateDer::from_pem_slice(means.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(means.key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate], key).unwrap()));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(means.acme.address).unwrap();
        let (listener, kinds, asked) = (socket.listen(16).unwrap(), kinds.to_vec(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let kind = kinds[count.fetch_add(1, Ordering::SeqCst) % kinds.len()];
                tokio::spawn(answer(stream, kind));
            }
        });
        Self(asked)
    }

    pub fn asked(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

async fn answer(mut stream: TlsStream<TcpStream>, kind: Kind) -> io::Result<()> {
    let _ = stream.read(&mut [0; 4096]).await?;
    let head = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n{more}\r\n");
    let text = match kind {
        Kind::Endless => head("200 OK", ""),
        Kind::Page => head("200 OK", "content-type: text/html\r\n") + "<html></html>",
        Kind::Elsewhere => head("302 Found", "location: /elsewhere\r\ncontent-length: 0\r\n"),
        Kind::Broken => head("500 Internal Server Error", "") + "<html></html>",
        Kind::Busy => head("503 Service Unavailable", "retry-after: 18446744073709551615\r\n") + "later",
    };
    stream.write_all(text.as_bytes()).await?;
    if matches!(kind, Kind::Endless) {
        loop {
            stream.write_all(&[b' '; 4096]).await?;
        }
    }
    stream.shutdown().await
}
