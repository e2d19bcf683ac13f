//! HTTPS: certificates, their sources, and the listener.

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

use crate::shared::{clock::Clock, config_handle::ConfigHandle, stop::StopSignal};
use dapbox_support::Failpoints;

pub use certificates::{Certificates, describe};
pub use files::{CertificateError, CertificateFiles};
pub use listener::Https;

/// What the sources of certificates need.
#[derive(Clone)]
pub struct TlsContext {
    /// Schedules checks and renewals.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// Where a new certificate is installed.
    pub certificates: Arc<Certificates>,
    /// Ends the drivers.
    pub stop: StopSignal,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
}

/// The cryptography of TLS. It is passed explicitly, because any code in the process may install a default provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The TLS configuration of HTTPS.
fn server_config(certificates: Arc<Certificates>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    // The challenge protocol comes first: its certificate must not be used for anything else.
    let names = [certificates::ACME_TLS_ALPN, b"h2", b"http/1.1"];
    config.alpn_protocols = names.map(<[u8]>::to_vec).into();
    Ok(Arc::new(config))
}
