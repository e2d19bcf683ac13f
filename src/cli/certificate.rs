//! Certificates, looked at: what is in them, whether they belong to a key, and whether a client would take them.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, prelude::*};

use super::{
    calendar,
    findings::{Verdict, failed, good, warning},
    style::counted,
};
use crate::{config::Config, model::Time};

/// A day in seconds.
const DAY: u64 = 86_400;

/// The cryptography of TLS.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The roots that a server with this configuration trusts.
pub fn roots(_: &Config) -> Result<RootCertStore, String> {
    Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
}

/// What is in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The names that it is for.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub not_before: Time,
    /// Until when it is valid.
    pub not_after: Time,
}

/// Whose certificate it is, which decides how early its end is worth a warning, and who is to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Ours, in files that somebody renews.
    Files,
    /// Ours, renewed by ourselves.
    Acme,
    /// Of a proxy in front of us.
    Proxy,
    /// Another party's.
    Peer,
}

impl Facts {
    /// Reads them.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| format!("it cannot be read: {e}"))?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect()).unwrap_or_default();
        let time = |time: ASN1Time| Time(u64::try_from(time.timestamp()).unwrap_or_default());
        let validity = parsed.validity();
        Ok(Self { names, not_before: time(validity.not_before), not_after: time(validity.not_after) })
    }

    /// How long it is valid from now on, in whole days.
    fn days_left(&self, now: Time) -> u64 {
        self.not_after.0.saturating_sub(now.0) / DAY
    }

    /// Whether so little of its life is left that it should have been renewed: authorities expect that at a third.
    fn is_old(&self, now: Time, whose: Whose) -> bool {
        let (life, left) = (self.not_after.0.saturating_sub(self.not_before.0), self.not_after.0.saturating_sub(now.0));
        let part = match whose {
            Whose::Files | Whose::Acme => 3,
            // It is theirs to renew, and they may do so a little later.
            Whose::Proxy | Whose::Peer => 10,
        };
        left < life / part
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
        GeneralName::IPAddress(bytes) => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        _ => None,
    }
}

/// Reads a chain and its key as a server does, and insists that they belong together.
pub fn read(certificate_file: &Path, key_file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |path: &Path, why: String| format!("{}: {why}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate_file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| wrong(certificate_file, e.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(certificate_file, "there is no certificate in it (PEM: BEGIN CERTIFICATE)".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| wrong(key_file, e.to_string()))?;
    CertifiedKey::from_der(chain.clone(), key, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            format!("{} is not the key of {}", key_file.display(), certificate_file.display())
        }
        e => wrong(key_file, e.to_string()),
    })?;
    Ok(chain)
}

/// Whether a certificate is for a host.
pub fn covers(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let name = ServerName::try_from(host.to_owned());
    let parsed = ParsedCertificate::try_from(certificate);
    matches!((parsed, name), (Ok(parsed), Ok(name)) if verify_server_name(&parsed, &name).is_ok())
}

/// Whether clients would take a chain for a host, and for how much longer. Without `roots` nobody asks who signed it.
pub fn judge(
    chain: &[CertificateDer<'_>],
    host: Option<&str>,
    roots: Option<&RootCertStore>,
    whose: Whose,
    now: Time,
) -> Verdict {
    let Some((leaf, others)) = chain.split_first() else {
        return failed("there is none", "Look into the server's log.");
    };
    let facts = match Facts::of(leaf) {
        Ok(facts) => facts,
        Err(why) => return failed(why, renew(whose)),
    };
    let (from, until) = (calendar::show(facts.not_before), calendar::show(facts.not_after));
    if now < facts.not_before {
        return failed(format!("it is valid from {from} on only"), "Check the clock of this machine, or wait.");
    }
    if now >= facts.not_after {
        return failed(format!("it expired at {until}"), renew(whose));
    }
    if let Some(host) = host.filter(|host| !covers(leaf, host)) {
        let names = if facts.names.is_empty() { "nothing".to_owned() } else { facts.names.join(", ") };
        return failed(format!("it is for {names} and not for {host}"), rename(whose));
    }
    if let Some(why) = roots.and_then(|roots| distrust(leaf, others, roots, now)) {
        return failed(why, rechain(whose, chain.len()));
    }
    let days = counted(facts.days_left(now), "day");
    if facts.is_old(now, whose) {
        return warning(format!("it expires in {days}, at {until}"), renew(whose));
    }
    good(format!("for {}, until {until} ({days})", facts.names.join(", ")))
}

/// Why nobody whom clients trust has signed a certificate, if so.
fn distrust(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: Time,
) -> Option<String> {
    let parsed = ParsedCertificate::try_from(leaf).ok()?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.0));
    let algorithms = provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, now, algorithms) {
        Ok(()) => None,
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Some("it is not signed by an authority that is trusted here".to_owned())
        }
        Err(error) => Some(format!("clients would refuse it: {error}")),
    }
}

fn renew(whose: Whose) -> &'static str {
    match whose {
        Whose::Files => "Renew it and put it into the files of [tls]: a running server takes it over by itself.",
        Whose::Acme => "The server renews it by itself: look into its log for why that fails. Port 443 must be open.",
        Whose::Proxy => "Renew it at the proxy in front.",
        Whose::Peer => "Tell the operator there.",
    }
}

fn rename(whose: Whose) -> &'static str {
    match whose {
        Whose::Files => "Get one for that name, or correct public_url.",
        Whose::Acme => "Add the name to acme.domains, or correct public_url.",
        Whose::Proxy => "Give the proxy one for that name, or correct public_url.",
        Whose::Peer => "Tell the operator there; or the task's URL has the wrong name.",
    }
}

fn rechain(whose: Whose, length: usize) -> &'static str {
    match (whose, length) {
        (Whose::Peer, _) => "Tell the operator there; if the two of you have an authority of your own, add its root.",
        (_, 1) => "Add the certificates between it and the root: the file must hold the full chain.",
        _ => "Use an authority that clients know, unless all parties have added its root.",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::cli::findings::Severity;

    /// A certificate that signs itself, valid for 90 days around `day`.
    fn certificate(names: &[&str]) -> (CertificateDer<'static>, KeyPair, String) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = rcgen::date_time_ymd(2027, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 4, 1);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        (made.der().clone(), key, made.pem())
    }

    #[test]
    fn a_certificate_is_judged_by_time_name_and_issuer() {
        let (der, ..) = certificate(&["a.example", "*.b.example", "192.0.2.1"]);
        let facts = Facts::of(&der).unwrap();
        assert_eq!(facts.names, ["a.example", "*.b.example", "192.0.2.1"]);
        let at = |date: &str| calendar::parse(date).unwrap();
        let chain = [der.clone()];
        let mut own = RootCertStore::empty();
        own.add(der).unwrap();
        let none = RootCertStore::empty();
        let judged = |host, roots, whose, date| match judge(&chain, Some(host), roots, whose, at(date)) {
            Ok(detail) => (Severity::Ok, detail),
            Err(trouble) => (trouble.severity, trouble.detail),
        };
        let (outcome, detail) = judged("x.b.example", Some(&own), Whose::Files, "2027-01-10");
        assert!(outcome == Severity::Ok && detail.contains("81 days"), "{detail}");
        for (host, roots, whose, date, expected, says) in [
            ("a.example", Some(&own), Whose::Files, "2027-03-20", Severity::Warning, "expires in 12 days"),
            ("a.example", Some(&own), Whose::Peer, "2027-03-20", Severity::Ok, "until"),
            ("a.example", Some(&own), Whose::Peer, "2027-03-31", Severity::Warning, "expires in 1 day,"),
            ("a.example", Some(&own), Whose::Acme, "2027-04-02", Severity::Failed, "expired"),
            ("a.example", None, Whose::Files, "2026-12-31", Severity::Failed, "valid from"),
            ("c.example", None, Whose::Files, "2027-01-10", Severity::Failed, "not for c.example"),
            ("a.example", Some(&none), Whose::Files, "2027-01-10", Severity::Failed, "not signed"),
            ("192.0.2.1", None, Whose::Files, "2027-01-10", Severity::Ok, "192.0.2.1"),
        ] {
            let (outcome, detail) = judged(host, roots, whose, date);
            assert!(outcome == expected && detail.contains(says), "{host} {date}: {detail}");
        }
    }

    #[test]
    fn files_must_be_a_certificate_and_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let ((_, key, pem), (_, other, _)) = (certificate(&["a.example"]), certificate(&["a.example"]));
        fs::write(path("cert.pem"), pem).unwrap();
        fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        fs::write(path("other.pem"), other.serialize_pem()).unwrap();
        fs::write(path("empty.pem"), "nothing").unwrap();
        assert_eq!(read(&path("cert.pem"), &path("key.pem")).unwrap().len(), 1);
        for (certificate, key, says) in [
            ("cert.pem", "other.pem", "is not the key of"),
            ("cert.pem", "empty.pem", "empty.pem"),
            ("empty.pem", "key.pem", "no certificate"),
            ("none.pem", "key.pem", "none.pem"),
        ] {
            let why = read(&path(certificate), &path(key)).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
