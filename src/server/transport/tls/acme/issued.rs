//! A certificate as it was issued, and whether it is what we asked for.

use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::super::{certificates::describe, provider};
use dapbox_protocol::model::{Duration, Time};

/// The most certificates between ours and the root that make sense.
const MAX_CHAIN: usize = 10;

/// A certificate with its key that can be shown.
pub struct Issued {
    /// For the handshake.
    pub certified: CertifiedKey,
    /// When it is valid.
    pub validity: Validity,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub not_before: Time,
    /// Until when.
    pub not_after: Time,
}

impl Issued {
    /// Reads the key and the certificate with those between it and the root, in this order, as PEM. The certificate must
    /// be for the key and for all of the domains.
    pub fn parse(pem: &str, domains: &[String]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("no private key: {error}"))?;
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN + 1).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("not PEM: {error}"))?;
        let Some(first) = chain.first() else { return Err("no certificate".to_owned()) };
        if chain.len() > MAX_CHAIN {
            return Err(format!("a chain of more than {MAX_CHAIN} certificates"));
        }
        check_names(first, domains)?;
        let validity = Validity::of(first).ok_or("a certificate that cannot be understood")?;
        let certified = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| format!("a certificate that does not belong to our key: {error}"))?;
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

    /// Whether a certificate that comes in at `now` is of any use. One that is not valid yet is: if our clock is behind,
    /// those who connect may still know what time it is.
    pub fn check(&self, now: Time) -> Result<(), String> {
        if self.not_after <= now {
            return Err("a certificate that is over already; is our clock right?".to_owned());
        }
        Ok(())
    }

    /// When the certificate is to be renewed: when a third of its time is left, whether it is valid for days or for months,
    /// and up to a thirtieth earlier by `chance` (0 to 1), so that those who began together do not ask together.
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

    fn parse(pem: &str, domains: &[&str]) -> Result<Issued, String> {
        Issued::parse(pem, &domains.iter().map(|domain| (*domain).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_answer_that_is_not_what_was_asked_for_is_refused() {
        let (key, certificate) = pem(&["a.example", "b.example"]);
        let refused = |pem: &str, domains: &[&str]| parse(pem, domains).err().unwrap_or_default();
        assert!(parse(&format!("{key}{certificate}"), &["a.example", "B.example"]).is_ok());

        let (other_key, other) = pem(&["a.example", "b.example"]);
        assert!(refused(&format!("{key}{other}"), &["a.example"]).contains("does not belong to our key"));
        // Nor does a key that comes with it make it ours.
        assert!(refused(&format!("{key}{other_key}{other}"), &["a.example"]).contains("does not belong to our key"));
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
    fn a_third_of_any_lifetime_is_left_when_it_is_renewed() {
        for days in [6, 45, 90] {
            let validity = Validity { not_before: Time(1000), not_after: Time(1000 + days * DAY) };
            assert_eq!(validity.renewal(0.0), Time(1000 + days * DAY * 2 / 3));
            assert_eq!(validity.renewal(1.0), Time(1000 + days * DAY * 2 / 3 - days * DAY / 30));
        }
        // Nonsense does not overflow.
        assert_eq!(Validity { not_before: Time(9), not_after: Time(5) }.renewal(1.0), Time(5));
        let endless = Validity { not_before: Time(0), not_after: Time(u64::MAX) };
        assert!(endless.renewal(1.0) < endless.not_after);
    }

    #[test]
    fn what_is_over_is_of_no_use() {
        let validity = Validity { not_before: Time(1000), not_after: Time(2000) };
        assert!(validity.check(Time(1000)).is_ok());
        assert!(validity.check(Time(10)).is_ok());
        assert!(validity.check(Time(2000)).unwrap_err().contains("clock"));
    }
}
