//! Root certificates and TLS settings of outgoing connections.
//!
//! Uses the system's root certificates if there are any, for example not in a container without files. Otherwise uses
//! the web's root certificates, which are compiled in. Does not depend on process-wide TLS settings.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, Error as TlsError, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
    version::{TLS12, TLS13},
};

use dapbox_support::files;

/// Additional root certificates, for private certificate authorities.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RootCertificates(Arc<[CertificateDer<'static>]>);

/// Invalid root certificates. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RootCertificatesError {
    /// The file cannot be read.
    #[error("cannot read the root certificates in {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        error: io::Error,
    },
    /// The file has no valid root certificate.
    #[error("no root certificates in {}{why} (hint: the file must be PEM, with -----BEGIN CERTIFICATE-----)", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The problem, if known.
        why: String,
    },
}

impl RootCertificates {
    /// Reads a PEM file. An empty path yields no certificates.
    pub fn read(path: &Path) -> Result<Self, RootCertificatesError> {
        if path.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let text = files::read(path).map_err(|error| RootCertificatesError::Read { path: path.to_owned(), error })?;
        let unusable = |why| RootCertificatesError::Unusable { path: path.to_owned(), why };
        let roots = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|error| unusable(format!(": {error}")))?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(|error| unusable(format!(": {error}")))?;
        }
        if roots.is_empty() { Err(unusable(String::new())) } else { Ok(Self(roots.into())) }
    }

    /// These and the web's root certificates, regardless of the system: predicts whether other parties trust a
    /// certificate.
    pub fn webpki_store(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in &*self.0 {
            store.add(root.clone())?;
        }
        Ok(store)
    }

    /// These and the system's root certificates, or the web's if the system has none.
    pub fn store(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(system.certs);
        if store.is_empty() {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for root in &*self.0 {
            store.add(root.clone())?;
        }
        Ok(store)
    }
}

/// The TLS settings of a client.
pub fn client_config(extra: &RootCertificates) -> Result<ClientConfig, TlsError> {
    let store = extra.store()?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).into();
    Ok(config)
}

/// Describes why a server's certificate was rejected; `None` if the error has another cause.
pub fn certificate_error(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(TlsError::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(explain(why));
        }
        // The error inside an `io::Error` is not among its sources.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Describes the error with a remedy; the names of the library do not suffice.
fn explain(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "unknown certificate authority (hint: for a private authority, configure its root \
            certificate with --ca-file, or ca_file in [peer] of the configuration)"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired (hint: its operator must renew it; check the local clock)".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet (hint: check the local clock)".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name than the URL".to_owned()
        }
        why => format!("the certificate was rejected: {why}"),
    }
}
