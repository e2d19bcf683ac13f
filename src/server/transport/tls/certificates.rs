//! The current certificate, and the challenge certificates for the CA.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate, time::ASN1Time};

use dapbox_aggregator::views::overview::{CertificateStatus, TlsStatus};
use dapbox_protocol::model::Time;

/// The protocol name by which a CA requests a challenge certificate (RFC 8737 section 4).
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// The current certificate, which can be replaced at any time, and the challenge certificates.
#[derive(Debug, Default)]
pub struct Certificates {
    current: RwLock<Option<Arc<CertifiedKey>>>,
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
    error: RwLock<Option<String>>,
}

impl Certificates {
    /// Installs a certificate, and clears the error.
    pub fn replace(&self, certificate: CertifiedKey) {
        self.set_error(None);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
    }

    /// The current certificate, if there is one.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or clears the error of the last attempt to obtain a certificate.
    pub fn set_error(&self, error: Option<String>) {
        *self.error.write().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// The status of the certificate and of the last attempt to obtain one.
    pub fn status(&self) -> TlsStatus {
        let current = self.current();
        TlsStatus {
            certificate: current.and_then(|current| describe(current.end_entity_cert().ok()?)),
            last_error: self.error.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Installs a challenge certificate (RFC 8737 section 3).
    pub fn set_challenge(&self, domain: &str, certificate: CertifiedKey) {
        let mut challenges = self.challenges.write().unwrap_or_else(PoisonError::into_inner);
        challenges.insert(domain.to_ascii_lowercase(), Arc::new(certificate));
    }

    /// Removes all challenge certificates.
    pub fn clear_challenges(&self) {
        self.challenges.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_challenge = hello.alpn().is_some_and(|mut names| names.any(|name| name == ACME_TLS_ALPN));
        if is_challenge {
            let challenges = self.challenges.read().unwrap_or_else(PoisonError::into_inner);
            return challenges.get(&hello.server_name()?.to_ascii_lowercase()).cloned();
        }
        self.current()
    }
}

/// Parses the names and the validity of a certificate.
pub fn describe(certificate: &CertificateDer<'_>) -> Option<CertificateStatus> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()?.map(|names| &names.value.general_names);
    let time = |time: ASN1Time| Time(time.timestamp().try_into().unwrap_or(0));
    Some(CertificateStatus {
        names: names.into_iter().flatten().filter_map(name).collect(),
        not_before: time(parsed.validity().not_before),
        not_after: time(parsed.validity().not_after),
    })
}

/// A DNS name or an address.
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            ref bytes => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        },
        _ => None,
    }
}
