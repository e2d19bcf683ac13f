//! Hybrid public-key encryption (RFC 9180): key pairs, seal and open, with the cipher suite chosen at run time.
//!
//! Only single-shot base mode is used (RFC 9180 section 6.1), as DAP asks.

use std::{
    fmt::{self, Debug, Display},
    str::FromStr,
};

use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable,
    aead::{Aead, AesGcm128, AesGcm256, ChaCha20Poly1305},
    kdf::{HkdfSha256, HkdfSha384, HkdfSha512, Kdf},
    kem::{DhP256HkdfSha256, X25519HkdfSha256},
    single_shot_open, single_shot_seal,
};

use crate::model::{HpkeCiphertext, HpkeConfig, Secret};

/// DHKEM(P-256, HKDF-SHA256), RFC 9180 section 7.1.
pub(crate) const P256: u16 = 0x0010;
/// DHKEM(X25519, HKDF-SHA256), RFC 9180 section 7.1.
pub(crate) const X25519: u16 = 0x0020;
/// HKDF-SHA256, RFC 9180 section 7.2.
pub(crate) const SHA256: u16 = 0x0001;
/// HKDF-SHA384, RFC 9180 section 7.2.
pub(crate) const SHA384: u16 = 0x0002;
/// HKDF-SHA512, RFC 9180 section 7.2.
pub(crate) const SHA512: u16 = 0x0003;
/// AES-128-GCM, RFC 9180 section 7.3.
pub(crate) const AES128: u16 = 0x0001;
/// AES-256-GCM, RFC 9180 section 7.3.
pub(crate) const AES256: u16 = 0x0002;
/// ChaCha20Poly1305, RFC 9180 section 7.3.
pub(crate) const CHACHA20: u16 = 0x0003;

/// The longest application info in bytes. DAP's have about twenty; the `hpke` crate panics near 2^16.
const MAX_INFO: usize = 1 << 15;

/// An algorithm's number, our name for it, and other names that peers' configuration files have.
type Algorithm = (u16, &'static str, &'static [&'static str]);

/// The key encapsulation mechanisms that we have.
const KEMS: &[Algorithm] = &[
    (X25519, "x25519", &["X25519HkdfSha256", "X25519-HKDF-SHA256"]),
    (P256, "p256", &["P256HkdfSha256", "P256-HKDF-SHA256"]),
];

/// The key derivation functions that we have.
const KDFS: &[Algorithm] = &[
    (SHA256, "sha256", &["HkdfSha256", "HKDF-SHA256"]),
    (SHA384, "sha384", &["HkdfSha384", "HKDF-SHA384"]),
    (SHA512, "sha512", &["HkdfSha512", "HKDF-SHA512"]),
];

/// The ciphers that we have.
const AEADS: &[Algorithm] = &[
    (AES128, "aes128gcm", &["AesGcm128", "AES-128-GCM"]),
    (AES256, "aes256gcm", &["AesGcm256", "AES-256-GCM"]),
    (CHACHA20, "chacha20poly1305", &["ChaCha20-Poly1305"]),
];

/// Why something that has to do with HPKE failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpkeError {
    /// An algorithm that we do not have.
    #[error("unsupported HPKE cipher suite {0}")]
    UnsupportedSuite(Suite),
    /// A name that means no algorithm.
    #[error("unknown HPKE {kind} {name:?}; known are {known}")]
    UnknownName {
        /// What kind of algorithm was wanted.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The names that would have been understood.
        known: String,
    },
    /// Bytes that are no public key of the KEM.
    #[error("not a valid HPKE public key")]
    BadPublicKey,
    /// Bytes that are no private key of the KEM.
    #[error("not a valid HPKE private key")]
    BadPrivateKey,
    /// The public key is not the one of the private key.
    #[error("the HPKE public key does not belong to the private key")]
    KeyMismatch,
    /// The application info is longer than any that the protocol has.
    #[error("HPKE application info is too long")]
    InfoTooLong,
    /// The message was not sealed to this key, or not with this info and associated data, or was changed.
    #[error("cannot open an HPKE ciphertext")]
    Open,
    /// The message could not be sealed; the recipient's public key is degenerate.
    #[error("cannot seal to an HPKE public key")]
    Seal,
}

/// A choice of algorithms, by their numbers in RFC 9180 section 7. Not every suite is one that we have.
///
/// As text a suite is three names joined with dashes, such as `x25519-sha256-aes128gcm`.
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
    /// X25519, HKDF-SHA256 and AES-128-GCM: what every deployed peer has.
    pub const DEFAULT: Self = Self { kem_id: X25519, kdf_id: SHA256, aead_id: AES128 };

    /// The suite that a configuration names.
    pub fn of(config: &HpkeConfig) -> Self {
        Self { kem_id: config.kem_id, kdf_id: config.kdf_id, aead_id: config.aead_id }
    }

    /// All suites that we have, the default one first.
    pub fn all() -> impl Iterator<Item = Self> {
        KEMS.iter().flat_map(|&(kem_id, ..)| {
            KDFS.iter()
                .flat_map(move |&(kdf_id, ..)| AEADS.iter().map(move |&(aead_id, ..)| Self { kem_id, kdf_id, aead_id }))
        })
    }

    /// The suite of three algorithms that are named one by one, in any of the spellings that peers use.
    pub fn from_names(kem: &str, kdf: &str, aead: &str) -> Result<Self, HpkeError> {
        Ok(Self {
            kem_id: by_name("KEM", KEMS, kem)?,
            kdf_id: by_name("KDF", KDFS, kdf)?,
            aead_id: by_name("AEAD", AEADS, aead)?,
        })
    }

    /// Whether we have all three algorithms.
    pub fn is_supported(self) -> bool {
        name_of(KEMS, self.kem_id).is_some()
            && name_of(KDFS, self.kdf_id).is_some()
            && name_of(AEADS, self.aead_id).is_some()
    }

    fn check(self) -> Result<(), HpkeError> {
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

/// Whether we can seal to a configuration: we have its algorithms, and its public key is one and not degenerate.
pub fn is_supported(config: &HpkeConfig) -> bool {
    // Some keys of small order are well-formed, and only sealing shows what they are.
    seal(config, &[], &[], &[]).is_ok()
}

/// Seals a message to a configuration's public key.
pub fn seal(config: &HpkeConfig, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<HpkeCiphertext, HpkeError> {
    match config.kem_id {
        X25519 => Seal::<X25519HkdfSha256>::to(config, info, aad, plaintext),
        P256 => Seal::<DhP256HkdfSha256>::to(config, info, aad, plaintext),
        _ => Err(HpkeError::UnsupportedSuite(Suite::of(config))),
    }
}

/// A configuration with its private key.
#[derive(Clone)]
pub struct Keypair {
    config: HpkeConfig,
    private_key: Secret,
    parsed: PrivateKey,
}

/// A private key that needs not be parsed again for every message. Wiped from memory when it is dropped.
#[derive(Clone)]
enum PrivateKey {
    X25519(<X25519HkdfSha256 as Kem>::PrivateKey),
    P256(<DhP256HkdfSha256 as Kem>::PrivateKey),
}

impl Keypair {
    /// Draws a key pair from the operating system's generator.
    pub fn generate(id: u8, suite: Suite) -> Result<Self, HpkeError> {
        suite.check()?;
        let (parsed, private_key, public_key) = match suite.kem_id {
            P256 => {
                let (private, public) = DhP256HkdfSha256::gen_keypair();
                let bytes = private.to_bytes().to_vec();
                (PrivateKey::P256(private), bytes, public.to_bytes().to_vec())
            }
            _ => {
                let (private, public) = X25519HkdfSha256::gen_keypair();
                let bytes = private.to_bytes().to_vec();
                (PrivateKey::X25519(private), bytes, public.to_bytes().to_vec())
            }
        };
        let Suite { kem_id, kdf_id, aead_id } = suite;
        let config = HpkeConfig { id, kem_id, kdf_id, aead_id, public_key };
        Ok(Self { config, private_key: Secret::new(private_key), parsed })
    }

    /// Puts a key pair together, and checks that both keys are well-formed and belong to each other.
    pub fn from_parts(config: HpkeConfig, private_key: Secret) -> Result<Self, HpkeError> {
        Suite::of(&config).check()?;
        let parsed = match config.kem_id {
            P256 => PrivateKey::P256(parse_private::<DhP256HkdfSha256>(&config, &private_key)?),
            _ => PrivateKey::X25519(parse_private::<X25519HkdfSha256>(&config, &private_key)?),
        };
        Ok(Self { config, private_key, parsed })
    }

    /// What others need to seal to this key.
    pub fn config(&self) -> &HpkeConfig {
        &self.config
    }

    /// The private key as the KEM serialises it.
    pub fn private_key(&self) -> &Secret {
        &self.private_key
    }

    /// Opens a message that was sealed to this key with the same info and associated data.
    ///
    /// The ciphertext's configuration id is not looked at: it was used to find this key.
    pub fn open(&self, info: &[u8], aad: &[u8], ciphertext: &HpkeCiphertext) -> Result<Vec<u8>, HpkeError> {
        match &self.parsed {
            PrivateKey::X25519(key) => Open::<X25519HkdfSha256>::with(key, &self.config, info, aad, ciphertext),
            PrivateKey::P256(key) => Open::<DhP256HkdfSha256>::with(key, &self.config, info, aad, ciphertext),
        }
    }
}

impl Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair").field("config", &self.config).finish_non_exhaustive()
    }
}

fn parse_private<K: Kem>(config: &HpkeConfig, private_key: &Secret) -> Result<K::PrivateKey, HpkeError> {
    let public = K::PublicKey::from_bytes(&config.public_key).map_err(|_| HpkeError::BadPublicKey)?;
    let private = K::PrivateKey::from_bytes(private_key.expose()).map_err(|_| HpkeError::BadPrivateKey)?;
    if K::sk_to_pk(&private) == public { Ok(private) } else { Err(HpkeError::KeyMismatch) }
}

/// Something to do for one KEM with any KDF and AEAD.
trait Operation {
    type Output;

    fn run<D: Kdf, A: Aead>(self) -> Result<Self::Output, HpkeError>;
}

/// Does it with the KDF and the AEAD of a suite.
fn run<O: Operation>(suite: Suite, operation: O) -> Result<O::Output, HpkeError> {
    match suite.kdf_id {
        SHA256 => run_with_kdf::<HkdfSha256, O>(suite, operation),
        SHA384 => run_with_kdf::<HkdfSha384, O>(suite, operation),
        SHA512 => run_with_kdf::<HkdfSha512, O>(suite, operation),
        _ => Err(HpkeError::UnsupportedSuite(suite)),
    }
}

fn run_with_kdf<D: Kdf, O: Operation>(suite: Suite, operation: O) -> Result<O::Output, HpkeError> {
    match suite.aead_id {
        AES128 => operation.run::<D, AesGcm128>(),
        AES256 => operation.run::<D, AesGcm256>(),
        CHACHA20 => operation.run::<D, ChaCha20Poly1305>(),
        _ => Err(HpkeError::UnsupportedSuite(suite)),
    }
}

/// What there is to seal.
struct Seal<'a, K: Kem> {
    config_id: u8,
    public_key: K::PublicKey,
    info: &'a [u8],
    aad: &'a [u8],
    plaintext: &'a [u8],
}

impl<'a, K: Kem> Seal<'a, K> {
    fn to(
        config: &HpkeConfig,
        info: &'a [u8],
        aad: &'a [u8],
        plaintext: &'a [u8],
    ) -> Result<HpkeCiphertext, HpkeError> {
        check_info(info)?;
        let public_key = K::PublicKey::from_bytes(&config.public_key).map_err(|_| HpkeError::BadPublicKey)?;
        run(Suite::of(config), Self { config_id: config.id, public_key, info, aad, plaintext })
    }
}

impl<K: Kem> Operation for Seal<'_, K> {
    type Output = HpkeCiphertext;

    fn run<D: Kdf, A: Aead>(self) -> Result<HpkeCiphertext, HpkeError> {
        let (enc, payload) =
            single_shot_seal::<A, D, K>(&OpModeS::Base, &self.public_key, self.info, self.plaintext, self.aad)
                .map_err(|_| HpkeError::Seal)?;
        Ok(HpkeCiphertext { config_id: self.config_id, enc: enc.to_bytes().to_vec().into(), payload: payload.into() })
    }
}

/// What there is to open.
struct Open<'a, K: Kem> {
    private_key: &'a K::PrivateKey,
    enc: K::EncappedKey,
    info: &'a [u8],
    aad: &'a [u8],
    payload: &'a [u8],
}

impl<'a, K: Kem> Open<'a, K> {
    fn with(
        private_key: &'a K::PrivateKey,
        config: &HpkeConfig,
        info: &'a [u8],
        aad: &'a [u8],
        ciphertext: &'a HpkeCiphertext,
    ) -> Result<Vec<u8>, HpkeError> {
        check_info(info)?;
        let enc = K::EncappedKey::from_bytes(&ciphertext.enc).map_err(|_| HpkeError::Open)?;
        run(Suite::of(config), Self { private_key, enc, info, aad, payload: &ciphertext.payload })
    }
}

impl<K: Kem> Operation for Open<'_, K> {
    type Output = Vec<u8>;

    fn run<D: Kdf, A: Aead>(self) -> Result<Vec<u8>, HpkeError> {
        single_shot_open::<A, D, K>(&OpModeR::Base, self.private_key, &self.enc, self.info, self.payload, self.aad)
            .map_err(|_| HpkeError::Open)
    }
}

fn check_info(info: &[u8]) -> Result<(), HpkeError> {
    if info.len() > MAX_INFO { Err(HpkeError::InfoTooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_a_name_and_is_found_by_it() {
        assert_eq!(Suite::all().count(), 18);
        assert_eq!(Suite::all().next(), Some(Suite::DEFAULT));
        for suite in Suite::all() {
            assert_eq!(suite.to_string().parse(), Ok(suite));
            assert!(suite.is_supported());
        }
        assert_eq!(Suite::DEFAULT.to_string(), "x25519-sha256-aes128gcm");
    }

    #[test]
    fn the_names_of_peers_are_understood() {
        assert_eq!(Suite::from_names("X25519HkdfSha256", "HkdfSha256", "Aes128Gcm"), Ok(Suite::DEFAULT));
        assert_eq!(Suite::from_names("X25519HkdfSha256", "Sha256", "AesGcm128"), Ok(Suite::DEFAULT));
        let other = Suite { kem_id: 0x10, kdf_id: 3, aead_id: 3 };
        assert_eq!(Suite::from_names("P256HkdfSha256", "HkdfSha512", "ChaCha20Poly1305"), Ok(other));
        assert_eq!("p256-sha512-chacha20-poly1305".parse(), Ok(other));
    }

    #[test]
    fn what_we_do_not_have_is_named() {
        let error = "x25519-sha1-aes128gcm".parse::<Suite>().unwrap_err();
        assert_eq!(error.to_string(), r#"unknown HPKE KDF "sha1"; known are sha256, sha384, sha512"#);
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

    #[test]
    fn a_private_key_is_never_shown() {
        let keypair = Keypair::generate(3, Suite::DEFAULT).unwrap();
        let shown = format!("{keypair:?}");
        assert!(shown.contains(&format!("{:?}", keypair.config().public_key)));
        assert!(!shown.contains(&format!("{:?}", keypair.private_key().expose())));
    }
}
