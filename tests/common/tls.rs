//! A certificate authority for tests, servers with its certificates, and clients that trust it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use dapbox::{
    config::{Config, TlsMode},
    peer::{Peer, PeerOptions, RootCertificates},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    dir: TempDir,
}

/// A certificate for this machine with its key, as PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca.pem"), root.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), root: root.der().clone(), dir }
    }

    /// The file with the authority's certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn issue(&self) -> Issued {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Gives a server a certificate beside its data directory, and lets it trust this authority.
    pub fn equip(&self, config: &mut Config) {
        let dir = config.data_dir.parent().unwrap();
        config.tls.mode = TlsMode::Files;
        config.tls.certificate_file = dir.join("certificate.pem");
        config.tls.key_file = dir.join("key.pem");
        config.peer.ca_file = self.file();
        self.issue().write(config);
    }

    /// Our HTTP client with this authority as its only root.
    pub fn peer(&self) -> Peer {
        Peer::new(&PeerOptions { roots: RootCertificates::read(&self.file()).unwrap(), ..PeerOptions::default() })
            .unwrap()
    }

    /// An independent HTTP client with this authority as its only root.
    pub fn http(&self) -> reqwest::ClientBuilder {
        let root = reqwest::Certificate::from_der(&self.root).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([root])
    }

    /// Connects with the offered protocols and returns the negotiated connection.
    pub async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
        let mut store = RootCertStore::empty();
        store.add(self.root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(store).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::from(address.ip());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// The TLS configuration of a server that is not ours.
    pub fn server_config(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let Issued { certificate, key } = self.issue();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Issued {
    /// Writes both files to their configured paths.
    pub fn write(&self, config: &Config) {
        replace(&config.tls.key_file, &self.key);
        replace(&config.tls.certificate_file, &self.certificate);
    }

    /// The certificate in the form in which the server presents it.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

/// Replaces a file atomically.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

/// The certificate that the server presents on a connection.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
