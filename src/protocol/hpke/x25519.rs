//! DHKEM(X25519, HKDF-SHA256) (RFC 9180 section 4.1), implemented with aws-lc for the key schedule of the `hpke` crate.
//!
//! The KEM of the `hpke` crate recomputes the recipient's public key for every message, and its X25519 takes twice as
//! long. Here a private key is parsed once and stores its public key, so a decapsulation is one X25519 and a few
//! hashes. aws-lc selects its implementation at run time by the features of the processor.
//!
//! Supports base and PSK modes. Authenticated modes are rejected.

use std::{fmt::Debug, sync::Arc};

use aws_lc_rs::agreement::{self, UnparsedPublicKey, agree};
use hpke::{
    Deserializable, HpkeError, Kem, Serializable,
    hybrid_array::typenum::U32,
    kdf::{HkdfSha256, Kdf},
    kem::SharedSecret,
    rand_core::CryptoRng,
};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

/// Length of a private key, a public key, an encapsulated key and a shared point (RFC 9180 section 7.1, table 2).
const LEN: usize = 32;

/// `suite_id` in the KEM's labels: "KEM" and its identifier (RFC 9180 section 4.1).
const SUITE_ID: [u8; 5] = *b"KEM\x00\x20";

/// DHKEM(X25519, HKDF-SHA256).
pub(super) struct X25519HkdfSha256;

/// A public key or an encapsulated key. Any 32 bytes are a valid point (RFC 7748 section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicKey([u8; LEN]);

/// A parsed private key. Its bytes are wiped when the last clone is dropped; aws-lc wipes its own copy.
#[derive(Clone)]
pub(super) struct PrivateKey(Arc<KeyMaterial>);

struct KeyMaterial {
    key: agreement::PrivateKey,
    public_key: PublicKey,
    /// The scalar, clamped as RFC 9180 section 7.1.2 requires of a serialised key.
    bytes: Zeroizing<[u8; LEN]>,
}

fn array(bytes: &[u8]) -> Result<[u8; LEN], HpkeError> {
    bytes.try_into().map_err(|_| HpkeError::IncorrectInputLength(LEN, bytes.len()))
}

impl Serializable for PublicKey {
    type OutputSize = U32;

    fn write_exact(&self, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0);
    }
}

impl Deserializable for PublicKey {
    fn from_bytes(encoded: &[u8]) -> Result<Self, HpkeError> {
        array(encoded).map(Self)
    }
}

impl Serializable for PrivateKey {
    type OutputSize = U32;

    fn write_exact(&self, buf: &mut [u8]) {
        buf.copy_from_slice(&*self.0.bytes);
    }
}

impl Deserializable for PrivateKey {
    fn from_bytes(encoded: &[u8]) -> Result<Self, HpkeError> {
        let mut bytes = Zeroizing::new(array(encoded)?);
        // decodeScalar25519 in RFC 7748 section 5.
        bytes[0] &= 0b1111_1000;
        bytes[31] &= 0b0111_1111;
        bytes[31] |= 0b0100_0000;
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, &*bytes)
            .map_err(|_| HpkeError::ValidationError)?;
        let public_key = key.compute_public_key().map_err(|_| HpkeError::ValidationError)?;
        let public_key = PublicKey::from_bytes(public_key.as_ref())?;
        Ok(Self(Arc::new(KeyMaterial { key, public_key, bytes })))
    }
}

impl ConstantTimeEq for PrivateKey {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.bytes.ct_eq(&*other.0.bytes)
    }
}

impl Kem for X25519HkdfSha256 {
    type PublicKey = PublicKey;
    type PrivateKey = PrivateKey;
    type EncappedKey = PublicKey;
    type NSecret = U32;

    const KEM_ID: u16 = super::X25519;

    fn sk_to_pk(sk: &PrivateKey) -> PublicKey {
        sk.0.public_key.clone()
    }

    /// `DeriveKeyPair` in RFC 9180 section 7.1.3.
    fn derive_keypair(ikm: &[u8]) -> (PrivateKey, PublicKey) {
        let bytes = Zeroizing::new(HkdfSha256::derive_x25519_sk_eph_bytes(&SUITE_ID, ikm));
        let private_key = PrivateKey::from_bytes(&*bytes).expect("any 32 bytes are a private key");
        let public_key = Self::sk_to_pk(&private_key);
        (private_key, public_key)
    }

    fn decap(
        sk_recip: &PrivateKey,
        pk_sender_id: Option<&PublicKey>,
        encapped_key: &PublicKey,
    ) -> Result<SharedSecret<Self>, HpkeError> {
        match pk_sender_id {
            None => shared_secret(sk_recip, encapped_key, encapped_key, &sk_recip.0.public_key),
            Some(_) => None,
        }
        .ok_or(HpkeError::DecapError)
    }

    fn encap_with_rng(
        pk_recip: &PublicKey,
        sender_id_keypair: Option<(&PrivateKey, &PublicKey)>,
        csprng: &mut impl CryptoRng,
    ) -> Result<(SharedSecret<Self>, PublicKey), HpkeError> {
        let (ephemeral, encapped_key) = Self::gen_keypair_with_rng(csprng);
        let secret = match sender_id_keypair {
            None => shared_secret(&ephemeral, pk_recip, &encapped_key, pk_recip),
            Some(_) => None,
        };
        secret.map(|secret| (secret, encapped_key)).ok_or(HpkeError::EncapError)
    }
}

/// Derives the shared secret: the common end of `Encap` and `Decap` in RFC 9180 section 4.1.
///
/// Returns `None` if the shared point is zero (section 7.1.4). aws-lc checks that in constant time.
fn shared_secret(
    own: &PrivateKey,
    peer: &PublicKey,
    encapped_key: &PublicKey,
    recipient: &PublicKey,
) -> Option<SharedSecret<X25519HkdfSha256>> {
    let mut context = [0; 2 * LEN];
    context[..LEN].copy_from_slice(&encapped_key.0);
    context[LEN..].copy_from_slice(&recipient.0);
    let mut secret = SharedSecret::default();
    let peer = UnparsedPublicKey::new(&agreement::X25519, &peer.0);
    agree(&own.0.key, peer, (), |dh| {
        HkdfSha256::extract_and_expand(dh, &SUITE_ID, &context, &mut secret.0).map_err(|_| ())
    })
    .ok()
    .map(|()| secret)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hpke::rand_core::{TryCryptoRng, TryRng};
    use serde_json::Value;

    use super::*;

    /// A random number generator that returns the input keying material of a test vector's ephemeral key, once.
    struct FixedRandom(Vec<u8>);

    impl TryRng for FixedRandom {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("keys are drawn as bytes")
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("keys are drawn as bytes")
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            bytes.copy_from_slice(&std::mem::take(&mut self.0));
            Ok(())
        }
    }

    impl TryCryptoRng for FixedRandom {}

    fn hex(text: &Value) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_str().unwrap().as_bytes()).unwrap()
    }

    /// Covers the KEM part of RFC 9180 appendix A: the randomness of a whole seal operation cannot be chosen.
    #[test]
    fn matches_test_vectors() {
        let vectors: Vec<Value> =
            serde_json::from_str(include_str!("../../../fixtures/hpke/rfc9180-base.json")).unwrap();
        let ours: Vec<_> = vectors.iter().filter(|vector| vector["kem_id"] == X25519HkdfSha256::KEM_ID).collect();
        assert_eq!(ours.len(), 6);
        for vector in ours {
            let (private, public) = X25519HkdfSha256::derive_keypair(&hex(&vector["ikmR"]));
            // The key of the vector is not clamped; serialised keys are.
            assert!(bool::from(private.ct_eq(&PrivateKey::from_bytes(&hex(&vector["skRm"])).unwrap())));
            assert_eq!(public.to_bytes().to_vec(), hex(&vector["pkRm"]));

            let mut material = FixedRandom(hex(&vector["ikmE"]));
            let (secret, enc) = X25519HkdfSha256::encap_with_rng(&public, None, &mut material).unwrap();
            assert_eq!(enc.to_bytes().to_vec(), hex(&vector["enc"]));
            assert_eq!(secret.0.to_vec(), hex(&vector["shared_secret"]));
            let opened = X25519HkdfSha256::decap(&private, None, &enc).unwrap();
            assert_eq!(opened.0.to_vec(), hex(&vector["shared_secret"]));
        }
    }

    /// Authenticated modes must not silently fall back to base mode: their caller relies on the sender's identity.
    #[test]
    fn rejects_authenticated_modes() {
        let (private, public) = X25519HkdfSha256::gen_keypair();
        let sender = Some((&private, &public));
        assert_eq!(X25519HkdfSha256::encap(&public, sender).err(), Some(HpkeError::EncapError));
        assert_eq!(X25519HkdfSha256::decap(&private, Some(&public), &public).err(), Some(HpkeError::DecapError));
    }

    #[test]
    fn compares_clamped_private_keys() {
        let key = |bytes: [u8; LEN]| PrivateKey::from_bytes(&bytes).unwrap();
        let mut unclamped = [7; LEN];
        unclamped[0] ^= 0b111;
        unclamped[31] ^= 0b1000_0000;
        assert!(bool::from(key([7; LEN]).ct_eq(&key(unclamped))));
        assert!(!bool::from(key([7; LEN]).ct_eq(&key([8; LEN]))));
    }
}
