//! Certificates presented by servers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{context::DoctorContext, names, ports::connectable_address};
use crate::{
    cli::{
        certificate::{self, CertOwner, provider},
        endpoint::Endpoint,
        findings::{CheckResult, Finding, failed, split_hint},
    },
    config::{Config, TlsMode},
    server::certificate_in_files,
    support::clock,
};

/// Checks the server's own certificate: the presented one if the server runs, else the one in its files.
pub async fn examine(context: &DoctorContext) -> Vec<Finding> {
    let owner = match context.config.tls.mode {
        TlsMode::Off => return Vec::new(),
        TlsMode::Files => CertOwner::Files,
        TlsMode::Acme => CertOwner::Acme,
    };
    let host = expected_host(&context.config);
    let verdict = if context.is_running() {
        let name = host.clone().unwrap_or_else(|| "localhost".to_owned());
        match fetch_chain(context, connectable_address(context.listen_address()), &name).await {
            Ok(chain) => {
                certificate::evaluate_chain(&chain, host.as_deref(), Some(&context.roots), owner, clock::now())
            }
            Err(CertProbeError::Unreachable) => return Vec::new(),
            Err(CertProbeError::Refused(why)) => failed(
                format!("the server presents no certificate: {why}"),
                "Check its log. With tls.mode = \"acme\" there is none until the first order is complete.",
            ),
        }
    } else if owner == CertOwner::Files {
        check_certificate_files(&context.config)
    } else {
        return Vec::new();
    };
    vec![Finding::new("certificate", verdict)]
}

/// Checks the certificate in the configured files, except for its issuer.
pub fn check_certificate_files(config: &Config) -> CheckResult {
    match certificate_in_files(&config.tls) {
        Ok(chain) => {
            certificate::evaluate_chain(&chain, expected_host(config).as_deref(), None, CertOwner::Files, clock::now())
        }
        Err(error) => {
            let text = error.to_string();
            let (detail, remedy) = split_hint(&text);
            failed(detail, remedy.unwrap_or_else(|| "Correct the files.".to_owned()))
        }
    }
}

/// The host name that clients expect in the server's certificate.
fn expected_host(config: &Config) -> Option<String> {
    let public = Endpoint::of(&config.public_url).map(|endpoint| endpoint.host);
    public.or_else(|| config.acme.domains.first().filter(|_| config.tls.mode == TlsMode::Acme).cloned())
}

/// Checks the certificate presented at a URL, with the trusted roots. `None` if there is no connection.
pub async fn check_at(context: &DoctorContext, endpoint: &Endpoint, owner: CertOwner) -> Option<CheckResult> {
    check_with_roots(context, endpoint, owner, &context.roots).await
}

/// Checks the certificate presented at a URL, with these roots. `None` if there is no connection.
pub async fn check_with_roots(
    context: &DoctorContext,
    endpoint: &Endpoint,
    owner: CertOwner,
    roots: &RootCertStore,
) -> Option<CheckResult> {
    let shown = match names::resolve(context, &endpoint.host).await {
        Ok(addresses) => fetch_chain_from_any(context, &addresses, endpoint).await,
        Err(_) => Err(CertProbeError::Unreachable),
    };
    match shown {
        Ok(chain) => Some(certificate::evaluate_chain(&chain, Some(&endpoint.host), Some(roots), owner, clock::now())),
        Err(CertProbeError::Unreachable) => None,
        Err(CertProbeError::Refused(why)) => Some(failed(
            format!("no TLS on port {}: {why}", endpoint.port),
            "Correct the URL, or the program that listens there.",
        )),
    }
}

/// Why no certificate was received.
enum CertProbeError {
    /// There is no connection.
    Unreachable,
    /// The TLS handshake failed.
    Refused(String),
}

/// The certificate chain presented at the first address that accepts connections.
async fn fetch_chain_from_any(
    context: &DoctorContext,
    addresses: &[IpAddr],
    endpoint: &Endpoint,
) -> Result<Vec<CertificateDer<'static>>, CertProbeError> {
    for address in addresses {
        match fetch_chain(context, SocketAddr::new(*address, endpoint.port), &endpoint.host).await {
            Err(CertProbeError::Unreachable) => {}
            seen => return seen,
        }
    }
    Err(CertProbeError::Unreachable)
}

/// The certificate chain presented for a name, without any validation.
async fn fetch_chain(
    context: &DoctorContext,
    address: SocketAddr,
    name: &str,
) -> Result<Vec<CertificateDer<'static>>, CertProbeError> {
    let refused = |why: String| CertProbeError::Refused(why);
    let name = ServerName::try_from(name.to_owned()).map_err(|e| refused(e.to_string()))?;
    let provider = provider();
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = config.map_err(|e| refused(e.to_string()))?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCert(provider)));
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let stream = match tokio::time::timeout(context.timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        _ => return Err(CertProbeError::Unreachable),
    };
    match tokio::time::timeout(context.timeout, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec()),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused("timed out".to_owned())),
    }
}

/// Accepts any certificate, because the chain is only inspected and nothing is sent.
#[derive(Debug)]
struct AcceptAnyCert(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCert {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
