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
    findings::{CheckResult, failed, passed, warning},
    style::counted,
    timestamp,
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
pub enum CertOwner {
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
fn is_due_for_renewal(facts: &CertificateStatus, now: Time, owner: CertOwner) -> bool {
    let life = facts.not_after.0.saturating_sub(facts.not_before.0);
    let part = match owner {
        CertOwner::Files | CertOwner::Acme => 3,
        // It is theirs to renew, and they may do so a little later.
        CertOwner::Proxy | CertOwner::Peer => 10,
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
pub fn evaluate_chain(
    chain: &[CertificateDer<'_>],
    host: Option<&str>,
    roots: Option<&RootCertStore>,
    owner: CertOwner,
    now: Time,
) -> CheckResult {
    let Some((leaf, others)) = chain.split_first() else {
        return failed("there is none", "Look into the server's log.");
    };
    let Some(facts) = describe_certificate(leaf) else {
        return failed("it cannot be understood", renewal_remedy(owner));
    };
    let (from, until) = (timestamp::show(facts.not_before), timestamp::show(facts.not_after));
    if now < facts.not_before {
        return failed(format!("it is valid from {from} on only"), "Check the clock of this machine, or wait.");
    }
    if now >= facts.not_after {
        return failed(format!("it expired at {until}"), renewal_remedy(owner));
    }
    if let Some(host) = host.filter(|host| !covers(leaf, host)) {
        let names = if facts.names.is_empty() { "nothing".to_owned() } else { facts.names.join(", ") };
        return failed(format!("it is for {names} and not for {host}"), name_remedy(owner));
    }
    if let Some(why) = roots.and_then(|roots| untrusted_reason(leaf, others, roots, now)) {
        return failed(why, chain_remedy(owner, chain.len()));
    }
    let days = counted(facts.not_after.0.saturating_sub(now.0) / DAY, "day");
    if is_due_for_renewal(&facts, now, owner) {
        return warning(format!("it expires in {days}, at {until}"), renewal_remedy(owner));
    }
    passed(format!("for {}, until {until} ({days})", facts.names.join(", ")))
}

/// Why nobody whom clients trust has signed a certificate, if so.
fn untrusted_reason(
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

fn renewal_remedy(owner: CertOwner) -> &'static str {
    match owner {
        CertOwner::Files => "Renew it and put it into the files of [tls]: a running server takes it over by itself.",
        CertOwner::Acme => {
            "The server renews it by itself: look into its log for why that fails. Port 443 must be open."
        }
        CertOwner::Proxy => "Renew it at the proxy in front.",
        CertOwner::Peer => "Tell the operator there.",
    }
}

fn name_remedy(owner: CertOwner) -> &'static str {
    match owner {
        CertOwner::Files => "Get one for that name, or correct public_url.",
        CertOwner::Acme => "Add the name to acme.domains, or correct public_url.",
        CertOwner::Proxy => "Give the proxy one for that name, or correct public_url.",
        CertOwner::Peer => "Tell the operator there; or the task's URL has the wrong name.",
    }
}

fn chain_remedy(owner: CertOwner, length: usize) -> &'static str {
    match (owner, length) {
        (CertOwner::Peer, _) => {
            "Tell the operator there; if the two of you have an authority of your own, add its root."
        }
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
    fn evaluates_validity_name_and_issuer() {
        let der = certificate(&["a.example", "*.b.example", "192.0.2.1"]);
        let at = |date: &str| timestamp::parse(date).unwrap();
        let chain = [der.clone()];
        let mut own = RootCertStore::empty();
        own.add(der).unwrap();
        let none = RootCertStore::empty();
        let judged = |host, roots, owner, date| match evaluate_chain(&chain, Some(host), roots, owner, at(date)) {
            Ok(detail) => (Severity::Ok, detail),
            Err(trouble) => (trouble.severity, trouble.detail),
        };
        let (outcome, detail) = judged("x.b.example", Some(&own), CertOwner::Files, "2027-01-10");
        assert!(outcome == Severity::Ok && detail.contains("81 days"), "{detail}");
        for (host, roots, owner, date, expected, says) in [
            ("a.example", Some(&own), CertOwner::Files, "2027-03-20", Severity::Warning, "expires in 12 days"),
            ("a.example", Some(&own), CertOwner::Peer, "2027-03-20", Severity::Ok, "until"),
            ("a.example", Some(&own), CertOwner::Peer, "2027-03-31", Severity::Warning, "expires in 1 day,"),
            ("a.example", Some(&own), CertOwner::Acme, "2027-04-02", Severity::Failed, "expired"),
            ("a.example", None, CertOwner::Files, "2026-12-31", Severity::Failed, "valid from"),
            ("c.example", None, CertOwner::Files, "2027-01-10", Severity::Failed, "not for c.example"),
            ("a.example", Some(&none), CertOwner::Files, "2027-01-10", Severity::Failed, "not signed"),
            ("192.0.2.1", None, CertOwner::Files, "2027-01-10", Severity::Ok, "192.0.2.1"),
        ] {
            let (outcome, detail) = judged(host, roots, owner, date);
            assert!(outcome == expected && detail.contains(says), "{host} {date}: {detail}");
        }
    }
}
