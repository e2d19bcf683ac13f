//! A certificate and its key from files, which other software renews.
//!
//! Files are compared by content: modification times are coarse on some file systems and do not change with a symbolic
//! link. An invalid pair, such as a new certificate before its key is written, changes nothing. The next check may find
//! it complete.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    TlsContext,
    certificates::{Certificates, describe},
    provider,
};
use dapbox_aggregator::{config::Tls, views::overview::CertificateStatus};
use dapbox_protocol::model::Time;
use dapbox_support::{Fault, Part, files};

/// Why a certificate and its key are invalid, with a hint.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {error} (hint: tls.certificate_file and tls.key_file must be readable for this user)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The file contains no certificate.
    #[error("no valid certificate in {}{why} (hint: the file must contain the server's certificate as PEM, -----BEGIN CERTIFICATE-----, followed by the intermediate certificates)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// The cause, if it is known.
        why: String,
    },
    /// The file contains no usable key.
    #[error("no usable private key in {}: {why} (hint: the file must contain an RSA, ECDSA or Ed25519 key as PEM without a passphrase, -----BEGIN PRIVATE KEY-----)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// The key belongs to another certificate.
    #[error("the private key in {} does not match the first certificate in {} (hint: write both files from the same renewal, with the server's certificate first)", key.display(), certificate.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

/// The files of a certificate and its key.
pub struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    last: Mutex<LastCheck>,
}

/// The result of the last check.
#[derive(Clone, Debug, PartialEq)]
struct LastCheck {
    /// The digest of the contents, if they could be read.
    digest: Option<[u8; 32]>,
    /// The error.
    error: Option<String>,
    /// Whether a warning about the validity was logged.
    invalid: bool,
}

/// The contents of the files.
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl CertificateFiles {
    /// Loads the certificate at the start.
    pub fn open(tls: &Tls, now: Time) -> Result<(Self, CertifiedKey), CertificateError> {
        let (certificate, key) = (tls.certificate_file.clone(), tls.key_file.clone());
        let last = Mutex::new(LastCheck { digest: None, error: None, invalid: false });
        let files = Self { certificate, key, last };
        let contents = files.read()?;
        let (certified, status) = files.parse(&contents)?;
        let invalid = warn_if_invalid(&status, now, false);
        *files.last.lock().unwrap_or_else(PoisonError::into_inner) =
            LastCheck { digest: Some(contents.digest()), error: None, invalid };
        Ok((files, certified))
    }

    /// Checks the files, and installs a new pair. An invalid pair leaves the current certificate in use.
    pub fn look(&self, certificates: &Certificates, now: Time) -> Result<(), CertificateError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = self.read();
        let digest = contents.as_ref().ok().map(Contents::digest);
        if digest.is_some() && digest == last.digest && last.error.is_none() {
            if let Some(status) = certificates.status().certificate {
                last.invalid = warn_if_invalid(&status, now, last.invalid);
            }
            return Ok(());
        }
        let loaded = contents.and_then(|contents| self.parse(&contents));
        let (message, result) = match loaded {
            Ok((certified, status)) => {
                certificates.replace(certified);
                tracing::info!(names = ?status.names, not_after = status.not_after.0, "certificate reloaded");
                last.invalid = warn_if_invalid(&status, now, false);
                (None, Ok(()))
            }
            Err(error) => (Some(error.to_string()), Err(error)),
        };
        if let Some(message) = message.as_ref().filter(|_| message != last.error) {
            tracing::error!(error = message, "certificate reload failed");
            certificates.set_error(Some(message.clone()));
        }
        (last.digest, last.error) = (digest, message);
        result
    }

    /// Checks the files periodically until the server stops.
    pub async fn drive(self: Arc<Self>, ctx: TlsContext) -> Result<(), Fault> {
        loop {
            ctx.failpoints.turn(Part::CertificateFiles);
            tokio::select! {
                () = ctx.clock.sleep(*ctx.config.get().tls.check_interval) => {}
                () = ctx.stop.stopped() => return Ok(()),
            }
            let (files, certificates, now) = (self.clone(), ctx.certificates.clone(), ctx.clock.now());
            // On a blocking thread, because files may be slow. Errors have been logged.
            let looked = tokio::task::spawn_blocking(move || files.look(&certificates, now)).await;
            let _ = looked.map_err(|error| Fault::while_doing("looking at the certificate", error))?;
        }
    }

    fn read(&self) -> Result<Contents, CertificateError> {
        let read =
            |path: &Path| files::read(path).map_err(|error| CertificateError::Read { path: path.to_owned(), error });
        Ok(Contents { certificate: read(&self.certificate)?, key: Zeroizing::new(read(&self.key)?) })
    }

    fn parse(&self, contents: &Contents) -> Result<(CertifiedKey, CertificateStatus), CertificateError> {
        let no_certificate = |why| CertificateError::NoCertificate { path: self.certificate.clone(), why };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&contents.certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| no_certificate(format!(" ({error})")))?;
        let status = chain.first().and_then(describe).ok_or_else(|| no_certificate(String::new()))?;
        let no_key = |why: String| CertificateError::NoKey { path: self.key.clone(), why };
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| no_key(error.to_string()))?;
        let key = provider().key_provider.load_private_key(key).map_err(|error| no_key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // Some keys do not reveal their public half.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok((certified, status)),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(CertificateError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone() })
            }
            Err(error) => Err(no_certificate(format!(" ({error})"))),
        }
    }
}

impl Contents {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update((self.certificate.len() as u64).to_be_bytes());
        hash.update(&self.certificate);
        hash.update(&*self.key);
        hash.finalize().into()
    }
}

/// Warns once if a certificate is not valid now. Returns whether a warning was logged.
fn warn_if_invalid(status: &CertificateStatus, now: Time, said: bool) -> bool {
    let invalid = now < status.not_before || status.not_after < now;
    if invalid && !said {
        let (not_before, not_after) = (status.not_before.0, status.not_after.0);
        tracing::warn!(not_before, not_after, "certificate not valid now");
    }
    invalid
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use dapbox_aggregator::views::overview::TlsStatus;
    use dapbox_support::clock;

    /// A self-signed certificate that is valid until a year, and its key.
    fn pair(name: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned(), "2001:db8::7".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(until, 1, 1));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn reports_unusable_files_until_fixed() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate_file, key_file) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
        let tls = Tls { certificate_file: certificate_file.clone(), key_file: key_file.clone(), ..Tls::default() };
        let write = |certificate: &str, key: &str| {
            std::fs::write(&certificate_file, certificate).unwrap();
            std::fs::write(&key_file, key).unwrap();
        };
        let (first, second) = (pair("first.test", 2021), pair("second.test", 2100));
        // An expired certificate is used nevertheless: some clients accept it, and there is no better one.
        write(&first.0, &first.1);
        let (files, certified) = CertificateFiles::open(&tls, clock::now()).unwrap();
        let certificates = Certificates::default();
        assert_eq!(certificates.status(), TlsStatus::default());
        certificates.replace(certified);
        let status = || certificates.status();
        let certificate = CertificateStatus {
            names: vec!["first.test".to_owned(), "2001:db8::7".to_owned()],
            not_before: Time(1_577_836_800),
            not_after: Time(1_609_459_200),
        };
        let expected = TlsStatus { certificate: Some(certificate), last_error: None };
        assert_eq!(status(), expected);

        for (certificate, key, trouble) in [
            (&second.0, &first.1, "does not match the first certificate"),
            (&second.1, &second.1, "no valid certificate"),
            (&second.0, &second.0, "no usable private key"),
            (&String::new(), &second.1, "no valid certificate"),
        ] {
            write(certificate, key);
            let error = files.look(&certificates, clock::now()).unwrap_err().to_string();
            assert!(error.contains(trouble), "{error}");
            assert_eq!(status(), TlsStatus { last_error: Some(error), ..expected.clone() });
        }
        std::fs::remove_file(&key_file).unwrap();
        assert!(
            matches!(files.look(&certificates, clock::now()), Err(CertificateError::Read { path, .. }) if path == key_file)
        );
        // The old pair again, and then a valid new one.
        write(&first.0, &first.1);
        files.look(&certificates, clock::now()).unwrap();
        assert_eq!(status(), expected);
        write(&second.0, &second.1);
        files.look(&certificates, clock::now()).unwrap();
        assert_eq!((&*status().certificate.unwrap().names[0], status().last_error), ("second.test", None));
    }
}
