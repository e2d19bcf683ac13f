//! A certificate and its key from files, which somebody else renews.
//!
//! The files are compared by what is in them: times of change are coarse on some file systems, and whoever renews by
//! turning a symbolic link changes none. A pair that cannot be used, such as a new certificate whose key is not written
//! yet, changes nothing; the next look may find it whole.

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
    certificates::{Certificates, describe},
    provider,
};
use crate::app::App;
use dapbox_aggregator::{config::Tls, views::overview::CertificateStatus};
use dapbox_protocol::model::Time;
use dapbox_support::{Fault, Part, clock, files};

/// Why a certificate and its key cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}; tls.certificate_file and tls.key_file must name files that this user may read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// There is no certificate in the file.
    #[error("there is no certificate that can be understood in {}{why}; it must hold the server's certificate as PEM \
        (-----BEGIN CERTIFICATE-----), and after it those between it and the root", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong, if it is known.
        why: String,
    },
    /// There is no key in the file that we can use.
    #[error("there is no private key that can be used in {}: {why}; it must hold one as PEM, without a passphrase \
        (-----BEGIN PRIVATE KEY-----, RSA or ECDSA or Ed25519)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key is another certificate's.
    #[error("the private key in {} is not that of the first certificate in {}; write both files anew from the same \
        renewal, with the server's own certificate first", key.display(), certificate.display())]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
}

/// A certificate and its key in files.
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
    last: Mutex<Look>,
}

/// What the last look at the files came to.
#[derive(Clone, Debug, PartialEq)]
struct Look {
    /// What was in them, if they could be read.
    digest: Option<[u8; 32]>,
    /// Why that could not be used.
    trouble: Option<String>,
    /// Whether it was said that the certificate is not valid now.
    invalid: bool,
}

/// What is in the files.
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Files {
    /// Loads the certificate for the first time.
    pub fn open(tls: &Tls) -> Result<(Self, CertifiedKey), CertificateError> {
        let (certificate, key) = (tls.certificate_file.clone(), tls.key_file.clone());
        let last = Mutex::new(Look { digest: None, trouble: None, invalid: false });
        let files = Self { certificate, key, last };
        let contents = files.read()?;
        let (certified, status) = files.parse(&contents)?;
        let invalid = complain_if_invalid(&status, clock::now(), false);
        *files.last.lock().unwrap_or_else(PoisonError::into_inner) =
            Look { digest: Some(contents.digest()), trouble: None, invalid };
        Ok((files, certified))
    }

    /// Looks at the files, and takes over what changed. A pair that cannot be used leaves the old one in use.
    pub fn look(&self, certificates: &Certificates) -> Result<(), CertificateError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = self.read();
        let digest = contents.as_ref().ok().map(Contents::digest);
        if digest.is_some() && digest == last.digest && last.trouble.is_none() {
            if let Some(status) = certificates.status().certificate {
                last.invalid = complain_if_invalid(&status, clock::now(), last.invalid);
            }
            return Ok(());
        }
        let loaded = contents.and_then(|contents| self.parse(&contents));
        let (trouble, result) = match loaded {
            Ok((certified, status)) => {
                certificates.replace(certified);
                tracing::info!(names = ?status.names, not_after = status.not_after.0, "certificate reloaded");
                last.invalid = complain_if_invalid(&status, clock::now(), false);
                (None, Ok(()))
            }
            Err(error) => (Some(error.to_string()), Err(error)),
        };
        if let Some(trouble) = trouble.as_ref().filter(|_| trouble != last.trouble) {
            tracing::error!(error = trouble, "certificate reload failed");
            certificates.set_trouble(Some(trouble.clone()));
        }
        (last.digest, last.trouble) = (digest, trouble);
        result
    }

    /// Looks at the files every so often until the server stops.
    pub async fn drive(self: Arc<Self>, app: Arc<App>) -> Result<(), Fault> {
        loop {
            app.failpoints.turn(Part::CertificateFiles);
            tokio::select! {
                () = tokio::time::sleep(*app.config.tls.check_interval) => {}
                () = app.stopped() => return Ok(()),
            }
            let (files, certificates) = (self.clone(), app.certificates.clone());
            // Files may be slow. What is wrong with them has been logged, and changes nothing here.
            let looked = tokio::task::spawn_blocking(move || files.look(&certificates)).await;
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
            // Some keys do not tell their public half.
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

/// Says once that a certificate is not valid now. Whether it was said.
fn complain_if_invalid(status: &CertificateStatus, now: Time, said: bool) -> bool {
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

    /// A certificate for a name that is valid until a year, and its key.
    fn pair(name: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned(), "2001:db8::7".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(until, 1, 1));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_is_wrong_with_the_files_is_shown_until_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate_file, key_file) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
        let tls = Tls { certificate_file: certificate_file.clone(), key_file: key_file.clone(), ..Tls::default() };
        let write = |certificate: &str, key: &str| {
            std::fs::write(&certificate_file, certificate).unwrap();
            std::fs::write(&key_file, key).unwrap();
        };
        let (first, second) = (pair("first.test", 2021), pair("second.test", 2100));
        // Expired, and still used: there may be somebody who does not mind, and what would be better?
        write(&first.0, &first.1);
        let (files, certified) = Files::open(&tls).unwrap();
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
            (&second.0, &first.1, "not that of the first certificate"),
            (&second.1, &second.1, "no certificate that can be understood"),
            (&second.0, &second.0, "no private key that can be used"),
            (&String::new(), &second.1, "no certificate that can be understood"),
        ] {
            write(certificate, key);
            let error = files.look(&certificates).unwrap_err().to_string();
            assert!(error.contains(trouble), "{error}");
            assert_eq!(status(), TlsStatus { last_error: Some(error), ..expected.clone() });
        }
        std::fs::remove_file(&key_file).unwrap();
        assert!(matches!(files.look(&certificates), Err(CertificateError::Read { path, .. }) if path == key_file));
        // As before, and then as it should be.
        write(&first.0, &first.1);
        files.look(&certificates).unwrap();
        assert_eq!(status(), expected);
        write(&second.0, &second.1);
        files.look(&certificates).unwrap();
        assert_eq!((&*status().certificate.unwrap().names[0], status().last_error), ("second.test", None));
    }
}
