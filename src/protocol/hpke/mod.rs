//! Hybrid public-key encryption (RFC 9180): key pairs, seal and open, with the cipher suite chosen at run time.
//!
//! DAP uses single-shot base mode only (RFC 9180 section 6.1).
//!
//! # Decision: key schedule of the `hpke` crate, primitives of aws-lc
//!
//! The `hpke` crate implements the key schedule. X25519 and the AEADs are aws-lc's, plugged into the crate's traits;
//! tests compare them with the crate's own. A private key is parsed once and stores its public key. Opening therefore
//! costs one scalar multiplication, which dominates its total cost.
//!
//! Without the feature `aws-lc`, the crate's own portable primitives take their place, so that clients can be built for
//! platforms without a C compiler. Both builds open the same test vectors.

use std::fmt::{self, Debug};

use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable,
    aead::Aead,
    kdf::{HkdfSha256, HkdfSha384, HkdfSha512, Kdf},
    kem::DhP256HkdfSha256,
    single_shot_open, single_shot_seal,
};

use self::xwing::XWing;
#[cfg(feature = "aws-lc")]
use self::{
    cipher::{Aes128Gcm, Aes256Gcm, ChaCha20Poly1305},
    x25519::X25519HkdfSha256,
};
use crate::model::{HpkeCiphertext, HpkeConfig, Secret};
#[cfg(not(feature = "aws-lc"))]
use hpke::{
    aead::{AesGcm128 as Aes128Gcm, AesGcm256 as Aes256Gcm, ChaCha20Poly1305},
    kem::X25519HkdfSha256,
};

#[cfg(feature = "aws-lc")]
mod cipher;
mod suite;
#[cfg(feature = "aws-lc")]
mod x25519;
mod xwing;

pub use self::suite::Suite;
pub use self::suite::{AES128, AES256, CHACHA20, P256, SHA256, SHA384, SHA512, X25519, XWING};

/// Maximum length of the application info in bytes. DAP uses about twenty; the `hpke` crate panics near 2^16.
const MAX_INFO: usize = 1 << 15;

/// An error of HPKE keys, sealing or opening.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpkeError {
    /// The suite has an algorithm that is not supported.
    #[error("unsupported HPKE cipher suite {0}")]
    UnsupportedSuite(Suite),
    /// The name is not that of a supported algorithm.
    #[error("unknown HPKE {kind} {name:?} (known: {known})")]
    UnknownName {
        /// Kind of the algorithm: KEM, KDF or AEAD.
        kind: &'static str,
        /// The given name.
        name: String,
        /// The supported names.
        known: String,
    },
    /// The bytes are not a public key of the KEM.
    #[error("invalid HPKE public key")]
    InvalidPublicKey,
    /// The bytes are not a private key of the KEM.
    #[error("invalid HPKE private key")]
    InvalidPrivateKey,
    /// The public key does not belong to the private key.
    #[error("the HPKE public key does not belong to the private key")]
    KeyMismatch,
    /// The application info is longer than the limit.
    #[error("HPKE application info too long")]
    InfoTooLong,
    /// The ciphertext was sealed to another key, info or associated data, or was modified.
    #[error("cannot open HPKE ciphertext")]
    OpenFailed,
    /// Sealing failed because the recipient's public key is degenerate.
    #[error("cannot seal to HPKE public key")]
    SealFailed,
}

/// Whether messages can be sealed to a configuration: its algorithms are supported and its public key is valid.
pub fn is_supported(config: &HpkeConfig) -> bool {
    // Some keys of small order are well-formed; only sealing detects them.
    seal(config, &[], &[], &[]).is_ok()
}

/// Seals a message to a configuration's public key.
pub fn seal(config: &HpkeConfig, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<HpkeCiphertext, HpkeError> {
    match config.kem_id {
        X25519 => Seal::<X25519HkdfSha256>::to(config, info, aad, plaintext),
        P256 => Seal::<DhP256HkdfSha256>::to(config, info, aad, plaintext),
        XWING => Seal::<XWing>::to(config, info, aad, plaintext),
        _ => Err(HpkeError::UnsupportedSuite(Suite::of(config))),
    }
}

/// An HPKE configuration with its private key.
#[derive(Clone)]
pub struct Keypair {
    config: HpkeConfig,
    private_key: Secret,
    parsed: PrivateKey,
}

/// A parsed private key, kept so that no message parses it again. Its memory is wiped on drop.
#[derive(Clone)]
enum PrivateKey {
    X25519(<X25519HkdfSha256 as Kem>::PrivateKey),
    P256(<DhP256HkdfSha256 as Kem>::PrivateKey),
    /// Boxed: fifty times as large as the other keys.
    XWing(Box<<XWing as Kem>::PrivateKey>),
}

impl Keypair {
    /// Generates a key pair with the operating system's random number generator.
    pub fn generate(id: u8, suite: Suite) -> Result<Self, HpkeError> {
        suite.check()?;
        let (parsed, private_key, public_key) = match suite.kem_id {
            P256 => {
                let (private, public) = DhP256HkdfSha256::gen_keypair();
                let bytes = private.to_bytes().to_vec();
                (PrivateKey::P256(private), bytes, public.to_bytes().to_vec())
            }
            XWING => {
                let (private, public) = XWing::gen_keypair();
                let bytes = private.to_bytes().to_vec();
                (PrivateKey::XWing(Box::new(private)), bytes, public.to_bytes().to_vec())
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

    /// Combines a configuration with its private key. Checks that both keys are well-formed and belong together.
    pub fn from_parts(config: HpkeConfig, private_key: Secret) -> Result<Self, HpkeError> {
        Suite::of(&config).check()?;
        let parsed = match config.kem_id {
            P256 => PrivateKey::P256(parse_private::<DhP256HkdfSha256>(&config, &private_key)?),
            XWING => PrivateKey::XWing(Box::new(parse_private::<XWing>(&config, &private_key)?)),
            _ => PrivateKey::X25519(parse_private::<X25519HkdfSha256>(&config, &private_key)?),
        };
        Ok(Self { config, private_key, parsed })
    }

    /// The public configuration.
    pub fn config(&self) -> &HpkeConfig {
        &self.config
    }

    /// The private key as the KEM serialises it.
    pub fn private_key(&self) -> &Secret {
        &self.private_key
    }

    /// Opens a message that was sealed to this key with the same info and associated data.
    ///
    /// Ignores the configuration id of the ciphertext: the caller selected this key by it.
    pub fn open(&self, info: &[u8], aad: &[u8], ciphertext: &HpkeCiphertext) -> Result<Vec<u8>, HpkeError> {
        match &self.parsed {
            PrivateKey::X25519(key) => Open::<X25519HkdfSha256>::with(key, &self.config, info, aad, ciphertext),
            PrivateKey::P256(key) => Open::<DhP256HkdfSha256>::with(key, &self.config, info, aad, ciphertext),
            PrivateKey::XWing(key) => Open::<XWing>::with(key, &self.config, info, aad, ciphertext),
        }
    }
}

impl Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair").field("config", &self.config).finish_non_exhaustive()
    }
}

fn parse_private<K: Kem>(config: &HpkeConfig, private_key: &Secret) -> Result<K::PrivateKey, HpkeError> {
    let public = K::PublicKey::from_bytes(&config.public_key).map_err(|_| HpkeError::InvalidPublicKey)?;
    let private = K::PrivateKey::from_bytes(private_key.expose()).map_err(|_| HpkeError::InvalidPrivateKey)?;
    if K::sk_to_pk(&private) == public { Ok(private) } else { Err(HpkeError::KeyMismatch) }
}

/// An HPKE operation for one KEM, generic over KDF and AEAD.
trait Operation {
    type Output;

    fn run<D: Kdf, A: Aead>(self) -> Result<Self::Output, HpkeError>;
}

/// Runs an operation with the KDF and the AEAD of a suite.
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
        AES128 => operation.run::<D, Aes128Gcm>(),
        AES256 => operation.run::<D, Aes256Gcm>(),
        CHACHA20 => operation.run::<D, ChaCha20Poly1305>(),
        _ => Err(HpkeError::UnsupportedSuite(suite)),
    }
}

/// A message to seal, with its recipient and binding.
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
        let public_key = K::PublicKey::from_bytes(&config.public_key).map_err(|_| HpkeError::InvalidPublicKey)?;
        run(Suite::of(config), Self { config_id: config.id, public_key, info, aad, plaintext })
    }
}

impl<K: Kem> Operation for Seal<'_, K> {
    type Output = HpkeCiphertext;

    fn run<D: Kdf, A: Aead>(self) -> Result<HpkeCiphertext, HpkeError> {
        let (enc, payload) =
            single_shot_seal::<A, D, K>(&OpModeS::Base, &self.public_key, self.info, self.plaintext, self.aad)
                .map_err(|_| HpkeError::SealFailed)?;
        Ok(HpkeCiphertext { config_id: self.config_id, enc: enc.to_bytes().to_vec().into(), payload: payload.into() })
    }
}

/// A ciphertext to open, with its private key and binding.
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
        let enc = K::EncappedKey::from_bytes(&ciphertext.enc).map_err(|_| HpkeError::OpenFailed)?;
        run(Suite::of(config), Self { private_key, enc, info, aad, payload: &ciphertext.payload })
    }
}

impl<K: Kem> Operation for Open<'_, K> {
    type Output = Vec<u8>;

    fn run<D: Kdf, A: Aead>(self) -> Result<Vec<u8>, HpkeError> {
        single_shot_open::<A, D, K>(&OpModeR::Base, self.private_key, &self.enc, self.info, self.payload, self.aad)
            .map_err(|_| HpkeError::OpenFailed)
    }
}

fn check_info(info: &[u8]) -> Result<(), HpkeError> {
    if info.len() > MAX_INFO { Err(HpkeError::InfoTooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn hex(text: &Value) -> Vec<u8> {
        let text = text.as_str().unwrap();
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// Runs with and without aws-lc (RFC 9180 appendix A).
    #[test]
    fn opens_official_vectors() {
        let vectors: Vec<Value> =
            serde_json::from_str(include_str!("../../../fixtures/hpke/rfc9180-base.json")).unwrap();
        for vector in vectors {
            let id = |name: &str| u16::try_from(vector[name].as_u64().unwrap()).unwrap();
            let (kem_id, kdf_id, aead_id) = (id("kem_id"), id("kdf_id"), id("aead_id"));
            let config = HpkeConfig { id: 1, kem_id, kdf_id, aead_id, public_key: hex(&vector["pkRm"]) };
            let keypair = Keypair::from_parts(config, Secret::new(hex(&vector["skRm"]))).unwrap();
            let message = &vector["encryptions"][0];
            let ciphertext =
                HpkeCiphertext { config_id: 1, enc: hex(&vector["enc"]).into(), payload: hex(&message["ct"]).into() };
            let opened = keypair.open(&hex(&vector["info"]), &hex(&message["aad"]), &ciphertext);
            assert_eq!(opened, Ok(hex(&message["pt"])));
        }
    }

    #[test]
    fn seals_with_every_suite() {
        for kem_id in [X25519, P256, XWING] {
            for aead_id in [AES128, AES256, CHACHA20] {
                let keypair = Keypair::generate(1, Suite { kem_id, aead_id, ..Suite::DEFAULT }).unwrap();
                let ciphertext = seal(keypair.config(), b"info", b"aad", b"message").unwrap();
                assert_eq!(keypair.open(b"info", b"aad", &ciphertext), Ok(b"message".to_vec()));
                assert_eq!(keypair.open(b"info", b"other", &ciphertext), Err(HpkeError::OpenFailed));
            }
        }
    }

    #[test]
    fn debug_hides_private_key() {
        let keypair = Keypair::generate(3, Suite::DEFAULT).unwrap();
        let shown = format!("{keypair:?}");
        assert!(shown.contains(&format!("{:?}", keypair.config().public_key)));
        assert!(!shown.contains(&format!("{:?}", keypair.private_key().expose())));
    }
}
