//! X-Wing (draft-connolly-cfrg-xwing-kem-10): ML-KEM-768 combined with X25519. A message stays sealed while one of the
//! two is secure.
//!
//! # Decision: a post-quantum key is published after the classical key
//!
//! Clients that select the first key of a list that they support keep using the classical key. Clients that know X-Wing
//! prefer it, wherever it is in the list.
//!
//! This module re-exports the implementation of the `hpke` crate. It derives the ML-KEM key from its seed for every
//! message, which is much of the cost of opening. X-Wing is therefore slower than X25519 and off by default.

pub(super) use hpke::kem::XWing;

#[cfg(all(test, feature = "aws-lc"))]
mod tests {
    use std::convert::Infallible;

    use aws_lc_rs::{
        agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
        digest,
        kem::{EncapsulationKey, ML_KEM_768},
        rand::SystemRandom,
    };
    use hpke::{
        Deserializable, Kem, Serializable,
        rand_core::{TryCryptoRng, TryRng},
    };
    use serde_json::Value;

    use super::*;

    /// Length of an ML-KEM-768 encapsulation key in bytes (FIPS 203 section 8, table 3).
    const ML_KEM_KEY: usize = 1184;

    fn hex(text: &Value) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_str().unwrap().as_bytes()).unwrap()
    }

    fn opened(seed: &[u8], enc: &[u8]) -> Vec<u8> {
        let private = <XWing as Kem>::PrivateKey::from_bytes(seed).unwrap();
        let enc = <XWing as Kem>::EncappedKey::from_bytes(enc).unwrap();
        XWing::decap(&private, None, &enc).unwrap().0.to_vec()
    }

    /// A random number generator that returns the encapsulation randomness of a test vector, once.
    struct FixedRandom(Vec<u8>);

    impl TryRng for FixedRandom {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("it is drawn as bytes")
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("it is drawn as bytes")
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            bytes.copy_from_slice(&std::mem::take(&mut self.0));
            Ok(())
        }
    }

    impl TryCryptoRng for FixedRandom {}

    /// Appendix C of the draft.
    #[test]
    fn matches_test_vectors() {
        let vectors: Vec<Value> = serde_json::from_str(include_str!("../../../fixtures/hpke/xwing.json")).unwrap();
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let private = <XWing as Kem>::PrivateKey::from_bytes(&hex(&vector["sk"])).unwrap();
            let public = XWing::sk_to_pk(&private);
            assert_eq!(public.to_bytes().to_vec(), hex(&vector["pk"]));
            let (secret, enc) = XWing::encap_with_rng(&public, None, &mut FixedRandom(hex(&vector["eseed"]))).unwrap();
            assert_eq!((secret.0.to_vec(), enc.to_bytes().to_vec()), (hex(&vector["ss"]), hex(&vector["ct"])));
            assert_eq!(opened(&hex(&vector["sk"]), &hex(&vector["ct"])), hex(&vector["ss"]));
        }
    }

    /// Section 5.4 of the draft, with ML-KEM, X25519 and SHA3-256 of aws-lc.
    #[test]
    fn opens_ciphertext_of_another_implementation() {
        let (private, public) = XWing::gen_keypair();
        let public = public.to_bytes();
        assert_eq!((public.len(), private.to_bytes().len()), (1216, 32));
        let (ml_kem, x25519) = public.split_at(ML_KEM_KEY);
        let (ct_m, ss_m) = EncapsulationKey::new(&ML_KEM_768, ml_kem).unwrap().encapsulate().unwrap();
        let ephemeral = EphemeralPrivateKey::generate(&agreement::X25519, &SystemRandom::new()).unwrap();
        let ct_x = ephemeral.compute_public_key().unwrap();
        let peer = UnparsedPublicKey::new(&agreement::X25519, x25519);
        let ss_x = agree_ephemeral(ephemeral, peer, (), |shared| Ok(shared.to_vec())).unwrap();

        let label = br"\.//^\";
        let combined = [ss_m.as_ref(), &ss_x, ct_x.as_ref(), x25519, label].concat();
        let enc = [ct_m.as_ref(), ct_x.as_ref()].concat();
        assert_eq!(enc.len(), 1120);
        assert_eq!(opened(&private.to_bytes(), &enc), digest::digest(&digest::SHA3_256, &combined).as_ref());
    }
}
