//! Whose certificates are believed when we connect.
//!
//! The system's roots, where there are some; in a container without any file but ours there are none, and the web's
//! roots, which are compiled in, take their place. Nothing here depends on what else is in the process.

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

/// Root certificates besides those that everybody believes: for private authorities.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RootCertificates(Arc<[CertificateDer<'static>]>);

/// Why root certificates cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RootCertificatesError {
    /// The file cannot be read.
    #[error("cannot read the root certificates in {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// There is none in it.
    #[error("there are no root certificates in {}{why}; it must hold them as PEM (-----BEGIN CERTIFICATE-----)", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong, if it is known.
        why: String,
    },
}

impl RootCertificates {
    /// Reads a PEM file. An empty path stands for no file and no roots.
    pub fn read(path: &Path) -> Result<Self, RootCertificatesError> {
        if path.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let text = files::read(path).map_err(|error| RootCertificatesError::Read { path: path.to_owned(), error })?;
        let unusable = |why| RootCertificatesError::Unusable { path: path.to_owned(), why };
        let roots = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|error| unusable(format!(" ({error})")))?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(|error| unusable(format!(" that can be understood ({error})")))?;
        }
        if roots.is_empty() { Err(unusable(String::new())) } else { Ok(Self(roots.into())) }
    }

    /// These, and those that the web believes, whatever this system does: what others will make of a certificate of ours.
    pub fn webpki_store(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in &*self.0 {
            store.add(root.clone())?;
        }
        Ok(store)
    }

    /// These, and those that everybody believes.
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

/// How we speak TLS as a client.
pub fn client_config(extra: &RootCertificates) -> Result<ClientConfig, TlsError> {
    let store = extra.store()?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).into();
    Ok(config)
}

/// Why a server's certificate was not believed, if that is why there was no connection.
pub fn certificate_error(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(TlsError::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(explain(why));
        }
        // What an I/O error was made of is none of its sources.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The name of the error as the library has it means nothing to most.
fn explain(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "its certificate comes from no authority that is trusted here; if that is one of \
            your own, name the file with its root certificate (--ca-file, or ca_file in [peer] of the configuration)"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired; its operator must renew it, unless the clock here is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; is the clock here right?".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name than that in the URL".to_owned()
        }
        why => format!("its certificate is not accepted: {why}"),
    }
}
