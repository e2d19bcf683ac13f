//! Certificates, looked at: what is in them, whether they belong to a key, and whether a client would take them.

use std::sync::Arc;

use rustls::{
    CertificateError, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{
    calendar,
    findings::{Verdict, failed, good, warning},
    style::counted,
};
use crate::{model::Time, server::describe_certificate, views::overview::CertificateStatus};

/// A day in seconds.
const DAY: u64 = 86_400;

/// The cryptography of TLS.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
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

/// Whether so little of its life is left that it should have been renewed: authorities expect that at a third.
fn is_old(facts: &CertificateStatus, now: Time, whose: Whose) -> bool {
    let life = facts.not_after.0.saturating_sub(facts.not_before.0);
    let part = match whose {
        Whose::Files | Whose::Acme => 3,
        // It is theirs to renew, and they may do so a little later.
        Whose::Proxy | Whose::Peer => 10,
    };
    facts.not_after.0.saturating_sub(now.0) < life / part
}

/// Whether a certificate is for a host.
fn covers(certificate: &CertificateDer<'_>, host: &str) -> bool {
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
    let Some(facts) = describe_certificate(leaf) else {
        return failed("it cannot be understood", renew(whose));
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
    let days = counted(facts.not_after.0.saturating_sub(now.0) / DAY, "day");
    if is_old(&facts, now, whose) {
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
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::cli::findings::Severity;

    /// A certificate that signs itself, of the first quarter of 2027.
    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = rcgen::date_time_ymd(2027, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 4, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_is_judged_by_time_name_and_issuer() {
        let der = certificate(&["a.example", "*.b.example", "192.0.2.1"]);
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
}
