//! Whose certificates are believed when we connect.
//!
//! The system's roots, where there are some; in a container without any file but ours there are none, and the web's
//! roots, which are compiled in, take their place. Nothing here depends on what else is in the process.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
    version::{TLS12, TLS13},
};

/// Root certificates besides those that everybody believes: for private authorities.
#[derive(Clone, Debug, Default)]
pub struct Roots(Vec<CertificateDer<'static>>);

/// Why root certificates cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
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

impl Roots {
    /// Reads a PEM file. An empty path stands for no file and no roots.
    pub fn read(path: &Path) -> Result<Self, RootsError> {
        if path.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let text = std::fs::read(path).map_err(|error| RootsError::Read { path: path.to_owned(), error })?;
        let unusable = |why| RootsError::Unusable { path: path.to_owned(), why };
        let roots = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|error| unusable(format!(" ({error})")))?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(|error| unusable(format!(" that can be understood ({error})")))?;
        }
        if roots.is_empty() { Err(unusable(String::new())) } else { Ok(Self(roots)) }
    }

    /// These, and those that everybody believes.
    pub fn store(&self) -> Result<RootCertStore, rustls::Error> {
        let mut store = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(system.certs);
        if store.is_empty() {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for root in &self.0 {
            store.add(root.clone())?;
        }
        Ok(store)
    }
}

/// How we speak TLS as a client.
pub fn client_config(extra: &Roots) -> Result<ClientConfig, rustls::Error> {
    let store = extra.store()?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).into();
    Ok(config)
}
