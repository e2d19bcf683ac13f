//! An issued certificate, and the check against the request.

use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::super::{certificates::describe, provider};
use dapbox_protocol::model::{Duration, Time};

/// Maximum length of the certificate chain.
const MAX_CHAIN: usize = 10;

/// A certificate with its key.
pub struct IssuedCertificate {
    /// For the handshake.
    pub certified: CertifiedKey,
    /// The validity.
    pub validity: Validity,
}

/// The validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The beginning.
    pub not_before: Time,
    /// The end.
    pub not_after: Time,
}

impl IssuedCertificate {
    /// Parses the key and the certificate chain from PEM, the certificate first. It must match the key and all domains.
    pub fn parse(pem: &str, domains: &[String]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("no private key: {error}"))?;
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN + 1).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("not PEM: {error}"))?;
        let Some(first) = chain.first() else { return Err("no certificate".to_owned()) };
        if chain.len() > MAX_CHAIN {
            return Err(format!("a chain of more than {MAX_CHAIN} certificates"));
        }
        check_names(first, domains)?;
        let validity = Validity::of(first).ok_or("an invalid certificate")?;
        let certified = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| format!("a certificate for another key: {error}"))?;
        Ok(Self { certified, validity })
    }
}

fn check_names(certificate: &CertificateDer<'_>, domains: &[String]) -> Result<(), String> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(|error| format!("no certificate: {error}"))?;
    for domain in domains {
        let name = ServerName::try_from(domain.as_str()).map_err(|error| format!("'{domain}': {error}"))?;
        verify_server_name(&parsed, &name).map_err(|_| format!("a certificate that is not for '{domain}'"))?;
    }
    Ok(())
}

impl Validity {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let described = describe(certificate)?;
        Some(Self { not_before: described.not_before, not_after: described.not_after })
    }

    /// Rejects an expired certificate. A certificate that is not valid yet is accepted: our clock may be slow, and
    /// clients check the validity themselves.
    pub fn check(&self, now: Time) -> Result<(), String> {
        if self.not_after <= now {
            return Err("an expired certificate (hint: check the clock)".to_owned());
        }
        Ok(())
    }

    /// The time of renewal: when a third of the lifetime is left, and up to a thirtieth earlier by `chance` (0 to 1),
    /// to spread the load of servers that started together.
    pub fn renewal(&self, chance: f64) -> Time {
        let life = self.not_after.0.saturating_sub(self.not_before.0);
        let early = (life as f64 / 30.0 * chance.clamp(0.0, 1.0)) as u64;
        self.not_after.saturating_sub(Duration(life / 3)).saturating_sub(Duration(early))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const DAY: u64 = 86_400;

    fn pem(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (key.serialize_pem(), params.self_signed(&key).unwrap().pem())
    }

    fn parse(pem: &str, domains: &[&str]) -> Result<IssuedCertificate, String> {
        IssuedCertificate::parse(pem, &domains.iter().map(|domain| (*domain).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn rejects_wrong_certificate() {
        let (key, certificate) = pem(&["a.example", "b.example"]);
        let refused = |pem: &str, domains: &[&str]| parse(pem, domains).err().unwrap_or_default();
        assert!(parse(&format!("{key}{certificate}"), &["a.example", "B.example"]).is_ok());

        let (other_key, other) = pem(&["a.example", "b.example"]);
        assert!(refused(&format!("{key}{other}"), &["a.example"]).contains("another key"));
        // A matching key in the response does not help.
        assert!(refused(&format!("{key}{other_key}{other}"), &["a.example"]).contains("another key"));
        assert!(refused(&format!("{key}{certificate}"), &["a.example", "c.example"]).contains("not for 'c.example'"));
        assert!(refused(&key, &["a.example"]).contains("no certificate"));
        assert!(refused(&certificate, &["a.example"]).contains("no private key"));
        assert!(refused("", &["a.example"]).contains("no private key"));
        let long = format!("{key}{}", certificate.repeat(11));
        assert!(refused(&long, &["a.example"]).contains("more than 10"));
        let broken = format!("{key}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(refused(&broken, &["a.example"]).contains("no certificate"));
    }

    #[test]
    fn renews_at_two_thirds_of_lifetime() {
        for days in [6, 45, 90] {
            let validity = Validity { not_before: Time(1000), not_after: Time(1000 + days * DAY) };
            assert_eq!(validity.renewal(0.0), Time(1000 + days * DAY * 2 / 3));
            assert_eq!(validity.renewal(1.0), Time(1000 + days * DAY * 2 / 3 - days * DAY / 30));
        }
        // Invalid data does not overflow.
        assert_eq!(Validity { not_before: Time(9), not_after: Time(5) }.renewal(1.0), Time(5));
        let endless = Validity { not_before: Time(0), not_after: Time(u64::MAX) };
        assert!(endless.renewal(1.0) < endless.not_after);
    }

    #[test]
    fn rejects_expired_certificate() {
        let validity = Validity { not_before: Time(1000), not_after: Time(2000) };
        assert!(validity.check(Time(1000)).is_ok());
        assert!(validity.check(Time(10)).is_ok());
        assert!(validity.check(Time(2000)).unwrap_err().contains("clock"));
    }
}
