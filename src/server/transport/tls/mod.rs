//! HTTPS: the certificate that is shown, where it comes from, and the listener that shows it.

pub mod acme;
mod certificates;
mod files;
mod listener;

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

pub use certificates::{Certificates, describe};
pub use files::{CertificateError, Files};
pub use listener::Https;

/// The cryptography of TLS. There is no other in the process, and still it is named wherever it is used: one that is
/// chosen for the whole process may be chosen by anybody in it.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What HTTPS connections are made with.
fn server_config(certificates: Arc<Certificates>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    // An authority comes first: it is shown a certificate of its own, which must not be used for anything else.
    let names = [certificates::ACME_TLS_ALPN, b"h2", b"http/1.1"];
    config.alpn_protocols = names.map(<[u8]>::to_vec).into();
    Ok(Arc::new(config))
}
