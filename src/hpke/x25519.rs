//! DHKEM(X25519, HKDF-SHA256), RFC 9180 sections 4.1 and 7.1, over aws-lc.
//!
//! It is the `hpke` crate's own KEM to the byte, in less than half of its time: a private key keeps its public key, which
//! the crate derives again for each message, and aws-lc multiplies in half of dalek's time. aws-lc finds out at run time
//! which instructions there are, and has portable code for where there are none that it knows.
//!
//! Multiplication takes constant time in all of its implementations, and it refuses a shared secret of all zeros (section
//! 7.1.4).

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use ::hpke::{
    Deserializable, HpkeError, Kem, Serializable,
    hybrid_array::sizes::U32,
    kdf::{HkdfSha256, Kdf},
    kem::SharedSecret,
    rand_core::CryptoRng,
};
use aws_lc_rs::agreement::{self, UnparsedPublicKey};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

/// Bytes of a key, and of what two of them make.
const LENGTH: usize = 32;
/// What all derivations are bound to (section 4.1): "KEM" and the number of this one.
const SUITE_ID: [u8; 5] = *b"KEM\x00\x20";

/// The KEM.
pub struct X25519HkdfSha256;

/// A public key, or what encapsulates a secret for one: that is a public key as well.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; LENGTH]);

/// A private key with its public key.
#[derive(Clone)]
pub struct PrivateKey {
    bytes: Zeroizing<[u8; LENGTH]>,
    /// As aws-lc has it; it wipes it when it is dropped.
    parsed: Arc<agreement::PrivateKey>,
    public: PublicKey,
}

impl PrivateKey {
    /// What the two keys make together, which nobody knows without one of the private keys, with what both sides say about
    /// it (section 4.1, `ExtractAndExpand`).
    fn share(
        &self,
        other: &PublicKey,
        context: [&PublicKey; 2],
        failure: HpkeError,
    ) -> Result<SharedSecret<X25519HkdfSha256>, HpkeError> {
        let context = context.map(|key| key.0).concat();
        let other = UnparsedPublicKey::new(&agreement::X25519, &other.0);
        agreement::agree(&self.parsed, other, failure, |secret| {
            let mut shared = SharedSecret::default();
            HkdfSha256::extract_and_expand(secret, &SUITE_ID, &context, &mut shared.0)?;
            Ok(shared)
        })
    }
}

impl Kem for X25519HkdfSha256 {
    type PublicKey = PublicKey;
    type PrivateKey = PrivateKey;
    type EncappedKey = PublicKey;
    type NSecret = U32;

    const KEM_ID: u16 = super::X25519;

    fn sk_to_pk(private: &PrivateKey) -> PublicKey {
        private.public.clone()
    }

    fn derive_keypair(material: &[u8]) -> (PrivateKey, PublicKey) {
        let bytes = Zeroizing::new(HkdfSha256::derive_x25519_sk_eph_bytes(&SUITE_ID, material));
        let private = PrivateKey::from_bytes(&*bytes).expect("32 bytes are a private key of X25519");
        let public = private.public.clone();
        (private, public)
    }

    fn decap(
        private: &PrivateKey,
        sender: Option<&PublicKey>,
        encapped: &PublicKey,
    ) -> Result<SharedSecret<Self>, HpkeError> {
        match sender {
            None => private.share(encapped, [encapped, &private.public], HpkeError::DecapError),
            // DAP has no authenticated mode.
            Some(_) => Err(HpkeError::DecapError),
        }
    }

    fn encap_with_rng(
        recipient: &PublicKey,
        sender: Option<(&PrivateKey, &PublicKey)>,
        random: &mut impl CryptoRng,
    ) -> Result<(SharedSecret<Self>, PublicKey), HpkeError> {
        if sender.is_some() {
            return Err(HpkeError::EncapError);
        }
        let (ephemeral, encapped) = Self::gen_keypair_with_rng(random);
        let shared = ephemeral.share(recipient, [&encapped, recipient], HpkeError::EncapError)?;
        Ok((shared, encapped))
    }
}

impl Serializable for PublicKey {
    type OutputSize = U32;

    fn write_exact(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

impl Deserializable for PublicKey {
    fn from_bytes(bytes: &[u8]) -> Result<Self, HpkeError> {
        Ok(Self(sized(bytes)?))
    }
}

impl Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:02x?})", self.0)
    }
}

impl Serializable for PrivateKey {
    type OutputSize = U32;

    fn write_exact(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&*self.bytes);
    }
}

impl Deserializable for PrivateKey {
    fn from_bytes(bytes: &[u8]) -> Result<Self, HpkeError> {
        let bytes = Zeroizing::new(sized(bytes)?);
        let parsed = agreement::PrivateKey::from_private_key(&agreement::X25519, &*bytes)
            .map_err(|_| HpkeError::ValidationError)?;
        let public = parsed.compute_public_key().map_err(|_| HpkeError::ValidationError)?;
        let public = PublicKey::from_bytes(public.as_ref())?;
        Ok(Self { bytes, parsed: Arc::new(parsed), public })
    }
}

impl ConstantTimeEq for PrivateKey {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.bytes.ct_eq(&*other.bytes)
    }
}

fn sized(bytes: &[u8]) -> Result<[u8; LENGTH], HpkeError> {
    bytes.try_into().map_err(|_| HpkeError::IncorrectInputLength(LENGTH, bytes.len()))
}
