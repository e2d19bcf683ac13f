//! Evaluation of certificate chains: validity, host name, issuer and remaining lifetime.

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

/// The cryptography provider for TLS.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Who owns a certificate: decides when its expiry is worth a warning, and who has to renew it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertOwner {
    /// This server, in files that the operator renews.
    Files,
    /// This server, renewed through ACME.
    Acme,
    /// A proxy in front of this server.
    Proxy,
    /// Another party.
    Peer,
}

/// Whether the certificate should have been renewed: authorities expect a renewal when a third of its life is left.
fn is_due_for_renewal(facts: &CertificateStatus, now: Time, owner: CertOwner) -> bool {
    let life = facts.not_after.0.saturating_sub(facts.not_before.0);
    let part = match owner {
        CertOwner::Files | CertOwner::Acme => 3,
        // They may renew a little later.
        CertOwner::Proxy | CertOwner::Peer => 10,
    };
    facts.not_after.0.saturating_sub(now.0) < life / part
}

/// Whether a certificate covers a host.
fn covers(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let name = ServerName::try_from(host.to_owned());
    let parsed = ParsedCertificate::try_from(certificate);
    matches!((parsed, name), (Ok(parsed), Ok(name)) if verify_server_name(&parsed, &name).is_ok())
}

/// Evaluates a chain as a client of `host` does. Without `roots` the issuer is not checked.
pub fn evaluate_chain(
    chain: &[CertificateDer<'_>],
    host: Option<&str>,
    roots: Option<&RootCertStore>,
    owner: CertOwner,
    now: Time,
) -> CheckResult {
    let Some((leaf, others)) = chain.split_first() else {
        return failed("there is no certificate", "Check the server's log.");
    };
    let Some(facts) = describe_certificate(leaf) else {
        return failed("the certificate cannot be parsed", renewal_remedy(owner));
    };
    let (from, until) = (timestamp::show(facts.not_before), timestamp::show(facts.not_after));
    if now < facts.not_before {
        return failed(format!("it is not valid before {from}"), "Check the clock of this machine, or wait.");
    }
    if now >= facts.not_after {
        return failed(format!("it expired at {until}"), renewal_remedy(owner));
    }
    if let Some(host) = host.filter(|host| !covers(leaf, host)) {
        let names = if facts.names.is_empty() { "no name".to_owned() } else { facts.names.join(", ") };
        return failed(format!("it is for {names}, not for {host}"), name_remedy(owner));
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

/// Why clients do not trust the issuer, if so.
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
            Some("it is not signed by a trusted authority".to_owned())
        }
        Err(error) => Some(format!("clients would reject it: {error}")),
    }
}

fn renewal_remedy(owner: CertOwner) -> &'static str {
    match owner {
        CertOwner::Files => "Renew it and replace the files of [tls]; a running server reloads them.",
        CertOwner::Acme => "The server renews it automatically: check its log for errors, and that port 443 is open.",
        CertOwner::Proxy => "Renew it at the proxy in front.",
        CertOwner::Peer => "Ask its operator to renew it.",
    }
}

fn name_remedy(owner: CertOwner) -> &'static str {
    match owner {
        CertOwner::Files => "Get one for that name, or correct public_url.",
        CertOwner::Acme => "Add the name to acme.domains, or correct public_url.",
        CertOwner::Proxy => "Install one for that name in the proxy, or correct public_url.",
        CertOwner::Peer => "Ask its operator, or correct the name in the task's URL.",
    }
}

fn chain_remedy(owner: CertOwner, length: usize) -> &'static str {
    match (owner, length) {
        (CertOwner::Peer, _) => "Ask its operator; if it uses a private authority, add its root to peer.ca_file.",
        (_, 1) => "Add the intermediate certificates: the file must contain the full chain.",
        _ => "Use a public authority, unless all parties have added the root.",
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::cli::findings::Severity;

    /// A self-signed certificate for the first quarter of 2027.
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
            Err(issue) => (issue.severity, issue.detail),
        };
        let (outcome, detail) = judged("x.b.example", Some(&own), CertOwner::Files, "2027-01-10");
        assert!(outcome == Severity::Ok && detail.contains("81 days"), "{detail}");
        for (host, roots, owner, date, expected, says) in [
            ("a.example", Some(&own), CertOwner::Files, "2027-03-20", Severity::Warning, "expires in 12 days"),
            ("a.example", Some(&own), CertOwner::Peer, "2027-03-20", Severity::Ok, "until"),
            ("a.example", Some(&own), CertOwner::Peer, "2027-03-31", Severity::Warning, "expires in 1 day,"),
            ("a.example", Some(&own), CertOwner::Acme, "2027-04-02", Severity::Failed, "expired"),
            ("a.example", None, CertOwner::Files, "2026-12-31", Severity::Failed, "not valid before"),
            ("c.example", None, CertOwner::Files, "2027-01-10", Severity::Failed, "not for c.example"),
            ("a.example", Some(&none), CertOwner::Files, "2027-01-10", Severity::Failed, "not signed"),
            ("192.0.2.1", None, CertOwner::Files, "2027-01-10", Severity::Ok, "192.0.2.1"),
        ] {
            let (outcome, detail) = judged(host, roots, owner, date);
            assert!(outcome == expected && detail.contains(says), "{host} {date}: {detail}");
        }
    }
}
