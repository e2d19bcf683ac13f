//! HPKE cipher suites: supported algorithms, their identifiers and their names.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use super::HpkeError;
use crate::model::HpkeConfig;

/// DHKEM(P-256, HKDF-SHA256), RFC 9180 section 7.1.
pub const P256: u16 = 0x0010;
/// DHKEM(X25519, HKDF-SHA256), RFC 9180 section 7.1.
pub const X25519: u16 = 0x0020;
/// X-Wing, draft-connolly-cfrg-xwing-kem section 5.8, which draft-ietf-hpke-pq calls MLKEM768-X25519.
pub const XWING: u16 = 0x647a;
/// HKDF-SHA256, RFC 9180 section 7.2.
pub const SHA256: u16 = 0x0001;
/// HKDF-SHA384, RFC 9180 section 7.2.
pub const SHA384: u16 = 0x0002;
/// HKDF-SHA512, RFC 9180 section 7.2.
pub const SHA512: u16 = 0x0003;
/// AES-128-GCM, RFC 9180 section 7.3.
pub const AES128: u16 = 0x0001;
/// AES-256-GCM, RFC 9180 section 7.3.
pub const AES256: u16 = 0x0002;
/// ChaCha20Poly1305, RFC 9180 section 7.3.
pub const CHACHA20: u16 = 0x0003;

/// An algorithm's identifier, its name, and the aliases that peers use in their configuration files.
type Algorithm = (u16, &'static str, &'static [&'static str]);

/// Supported key encapsulation mechanisms.
const KEMS: &[Algorithm] = &[
    (X25519, "x25519", &["X25519HkdfSha256", "X25519-HKDF-SHA256"]),
    (P256, "p256", &["P256HkdfSha256", "DhP256HkdfSha256", "P256-HKDF-SHA256"]),
    (XWING, "xwing", &["X-Wing", "MLKEM768-X25519"]),
];

/// Supported key derivation functions.
const KDFS: &[Algorithm] = &[
    (SHA256, "sha256", &["HkdfSha256", "HKDF-SHA256"]),
    (SHA384, "sha384", &["HkdfSha384", "HKDF-SHA384"]),
    (SHA512, "sha512", &["HkdfSha512", "HKDF-SHA512"]),
];

/// Supported ciphers.
const AEADS: &[Algorithm] = &[
    (AES128, "aes128gcm", &["AesGcm128", "AES-128-GCM"]),
    (AES256, "aes256gcm", &["AesGcm256", "AES-256-GCM"]),
    (CHACHA20, "chacha20poly1305", &["ChaCha20-Poly1305"]),
];

/// A KEM, a KDF and an AEAD, by their identifiers in RFC 9180 section 7. May be unsupported.
///
/// As text, a suite is three names joined with dashes, such as `x25519-sha256-aes128gcm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suite {
    /// Key encapsulation mechanism.
    pub kem_id: u16,
    /// Key derivation function.
    pub kdf_id: u16,
    /// Authenticated encryption.
    pub aead_id: u16,
}

impl Suite {
    /// X25519, HKDF-SHA256 and AES-128-GCM, supported by every deployed peer.
    pub const DEFAULT: Self = Self { kem_id: X25519, kdf_id: SHA256, aead_id: AES128 };

    /// The suite of a configuration.
    pub fn of(config: &HpkeConfig) -> Self {
        Self { kem_id: config.kem_id, kdf_id: config.kdf_id, aead_id: config.aead_id }
    }

    /// All supported suites, the default first.
    pub fn all() -> impl Iterator<Item = Self> {
        KEMS.iter().flat_map(|&(kem_id, ..)| {
            KDFS.iter()
                .flat_map(move |&(kdf_id, ..)| AEADS.iter().map(move |&(aead_id, ..)| Self { kem_id, kdf_id, aead_id }))
        })
    }

    /// Finds a suite by the names of its three algorithms, in any spelling that peers use.
    pub fn from_names(kem: &str, kdf: &str, aead: &str) -> Result<Self, HpkeError> {
        Ok(Self {
            kem_id: by_name("KEM", KEMS, kem)?,
            kdf_id: by_name("KDF", KDFS, kdf)?,
            aead_id: by_name("AEAD", AEADS, aead)?,
        })
    }

    /// Whether all three algorithms are supported.
    pub fn is_supported(self) -> bool {
        name_of(KEMS, self.kem_id).is_some()
            && name_of(KDFS, self.kdf_id).is_some()
            && name_of(AEADS, self.aead_id).is_some()
    }

    /// Lengths of public and private keys in bytes (RFC 9180 section 7.1); `None` if the KEM is not supported.
    pub fn key_lengths(self) -> Option<[usize; 2]> {
        match self.kem_id {
            X25519 => Some([32, 32]),
            P256 => Some([65, 32]),
            XWING => Some([1216, 32]),
            _ => None,
        }
    }

    /// Whether the KEM resists quantum computers, as far as is known.
    pub fn is_post_quantum(self) -> bool {
        self.kem_id == XWING
    }

    pub(super) fn check(self) -> Result<(), HpkeError> {
        if self.is_supported() { Ok(()) } else { Err(HpkeError::UnsupportedSuite(self)) }
    }
}

impl Default for Suite {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(KEMS, self.kem_id, ""), (KDFS, self.kdf_id, "-"), (AEADS, self.aead_id, "-")];
        parts.into_iter().try_for_each(|(table, id, before)| match name_of(table, id) {
            Some(name) => write!(f, "{before}{name}"),
            None => write!(f, "{before}{id:#06x}"),
        })
    }
}

impl FromStr for Suite {
    type Err = HpkeError;

    fn from_str(text: &str) -> Result<Self, HpkeError> {
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next().unwrap_or_default();
        Self::from_names(next(), next(), next())
    }
}

fn name_of(table: &[Algorithm], id: u16) -> Option<&'static str> {
    table.iter().find(|row| row.0 == id).map(|row| row.1)
}

fn by_name(kind: &'static str, table: &[Algorithm], name: &str) -> Result<u16, HpkeError> {
    let is_named = |known: &&str| known.eq_ignore_ascii_case(name);
    let row = table.iter().find(|(_, own, others)| is_named(own) || others.iter().any(is_named));
    row.map(|row| row.0).ok_or_else(|| HpkeError::UnknownName {
        kind,
        name: name.to_owned(),
        known: table.iter().map(|row| row.1).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpke::Keypair;

    #[test]
    fn parses_the_name_of_every_suite() {
        assert_eq!(Suite::all().count(), 27);
        assert_eq!(Suite::all().next(), Some(Suite::DEFAULT));
        for suite in Suite::all() {
            assert_eq!(suite.to_string().parse(), Ok(suite));
            assert!(suite.is_supported());
            let keypair = Keypair::generate(1, suite).unwrap();
            let lengths = [keypair.config().public_key.len(), keypair.private_key().expose().len()];
            assert_eq!(suite.key_lengths(), Some(lengths));
        }
        assert_eq!(Suite::DEFAULT.to_string(), "x25519-sha256-aes128gcm");
    }

    #[test]
    fn accepts_algorithm_names_of_peers() {
        assert_eq!(Suite::from_names("X25519HkdfSha256", "HkdfSha256", "Aes128Gcm"), Ok(Suite::DEFAULT));
        assert_eq!(Suite::from_names("X25519HkdfSha256", "Sha256", "AesGcm128"), Ok(Suite::DEFAULT));
        let other = Suite { kem_id: 0x10, kdf_id: 3, aead_id: 3 };
        assert_eq!(Suite::from_names("P256HkdfSha256", "HkdfSha512", "ChaCha20Poly1305"), Ok(other));
        assert_eq!("p256-sha512-chacha20-poly1305".parse(), Ok(other));
    }

    #[test]
    fn rejects_unknown_algorithms() {
        let error = "x25519-sha1-aes128gcm".parse::<Suite>().unwrap_err();
        assert_eq!(error.to_string(), r#"unknown HPKE KDF "sha1" (known: sha256, sha384, sha512)"#);
        assert!("".parse::<Suite>().is_err());
        assert!("x25519-sha256".parse::<Suite>().is_err());
        for suite in [
            Suite { kem_id: 0x12, ..Suite::DEFAULT },
            Suite { kdf_id: 4, ..Suite::DEFAULT },
            Suite { aead_id: 0xffff, ..Suite::DEFAULT },
        ] {
            assert!(!suite.is_supported());
            assert_eq!(Keypair::generate(1, suite).unwrap_err(), HpkeError::UnsupportedSuite(suite));
        }
    }
}
