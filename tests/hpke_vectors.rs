//! HPKE against the test vectors of RFC 9180, and against itself.

use dapbox::{
    hpke::{HpkeError, Keypair, Suite, is_supported, seal},
    model::{HpkeCiphertext, HpkeConfig, Secret},
};
use proptest::prelude::*;
use serde::Deserialize;

/// A test vector, as far as the recipient of a single message needs it.
#[derive(Deserialize)]
#[allow(non_snake_case)]
struct Vector {
    mode: u8,
    kem_id: u16,
    kdf_id: u16,
    aead_id: u16,
    info: String,
    skRm: String,
    pkRm: String,
    enc: String,
    encryptions: Vec<Encryption>,
}

#[derive(Deserialize)]
struct Encryption {
    aad: String,
    ct: String,
    pt: String,
}

fn hex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0);
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../fixtures/hpke/rfc9180-base.json")).unwrap()
}

impl Vector {
    fn config(&self) -> HpkeConfig {
        let &Self { kem_id, kdf_id, aead_id, .. } = self;
        HpkeConfig { id: 1, kem_id, kdf_id, aead_id, public_key: hex(&self.pkRm) }
    }

    fn private_key(&self) -> Secret {
        Secret::new(hex(&self.skRm))
    }
}

#[test]
fn the_vectors_open() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 12);
    for vector in vectors {
        assert_eq!(vector.mode, 0, "base mode");
        let keypair = Keypair::from_parts(vector.config(), vector.private_key()).unwrap();
        // The first encryption has sequence number 0, as every single-shot message.
        let Encryption { aad, ct, pt } = &vector.encryptions[0];
        let ciphertext = HpkeCiphertext { config_id: 1, enc: hex(&vector.enc).into(), payload: hex(ct).into() };
        assert_eq!(keypair.open(&hex(&vector.info), &hex(aad), &ciphertext), Ok(hex(pt)));
        // The second one belongs to another sequence number.
        let Encryption { aad, ct, .. } = &vector.encryptions[1];
        let later = HpkeCiphertext { payload: hex(ct).into(), ..ciphertext };
        assert_eq!(keypair.open(&hex(&vector.info), &hex(aad), &later), Err(HpkeError::Open));
    }
}

#[test]
fn keys_that_do_not_belong_together_are_refused() {
    let vectors = vectors();
    for vector in &vectors {
        let same_kem = |other: &&Vector| other.kem_id == vector.kem_id && other.skRm != vector.skRm;
        let other = vectors.iter().find(same_kem).unwrap();
        let config = vector.config();
        let error = |config, key| Keypair::from_parts(config, key).unwrap_err();
        assert_eq!(error(config.clone(), other.private_key()), HpkeError::KeyMismatch);

        for bytes in [vec![], vec![1; 31], vec![1; 33]] {
            assert_eq!(error(config.clone(), Secret::new(bytes)), HpkeError::BadPrivateKey);
        }
        for public_key in [vec![], config.public_key[1..].to_vec(), [&config.public_key[..], &[0]].concat()] {
            let bad = HpkeConfig { public_key, ..config.clone() };
            assert!(!is_supported(&bad));
            assert_eq!(seal(&bad, b"", b"", b""), Err(HpkeError::BadPublicKey));
            assert_eq!(error(bad, vector.private_key()), HpkeError::BadPublicKey);
        }
        let unknown = HpkeConfig { aead_id: 0xffff, ..config };
        assert!(!is_supported(&unknown));
        assert!(matches!(seal(&unknown, b"", b"", b""), Err(HpkeError::UnsupportedSuite(_))));
        assert!(matches!(error(unknown, vector.private_key()), HpkeError::UnsupportedSuite(_)));
    }
}

#[test]
fn degenerate_public_keys_are_not_sealed_to() {
    let zero = HpkeConfig { public_key: vec![0; 32], ..Keypair::generate(1, Suite::DEFAULT).unwrap().config().clone() };
    assert_eq!(seal(&zero, b"", b"", b""), Err(HpkeError::Seal));
    let not_on_the_curve = HpkeConfig { kem_id: 0x10, public_key: [&[4][..], &[1; 64]].concat(), ..zero };
    assert!(!is_supported(&not_on_the_curve));
    assert_eq!(seal(&not_on_the_curve, b"", b"", b""), Err(HpkeError::BadPublicKey));
}

#[test]
fn every_suite_opens_what_it_sealed_and_nothing_else() {
    let (info, aad, plaintext) = (b"info".as_slice(), b"associated data".as_slice(), b"plaintext".as_slice());
    for suite in Suite::all() {
        let made = Keypair::generate(9, suite).unwrap();
        let keypair = Keypair::from_parts(made.config().clone(), made.private_key().clone()).unwrap();
        assert!(is_supported(keypair.config()));
        let sealed = seal(keypair.config(), info, aad, plaintext).unwrap();
        assert_eq!(sealed.config_id, 9);
        assert_eq!(keypair.open(info, aad, &sealed).unwrap(), plaintext, "{suite}");
        assert_ne!(seal(keypair.config(), info, aad, plaintext).unwrap(), sealed);

        let refused = |info: &[u8], aad: &[u8], sealed: &HpkeCiphertext| {
            assert_eq!(keypair.open(info, aad, sealed), Err(HpkeError::Open), "{suite}");
        };
        refused(b"Info", aad, &sealed);
        refused(info, b"associated date", &sealed);
        refused(info, b"", &sealed);
        for at in 0..sealed.payload.len() {
            refused(info, aad, &HpkeCiphertext { payload: flip(&sealed.payload, at).into(), ..sealed.clone() });
            refused(info, aad, &HpkeCiphertext { payload: sealed.payload.slice(..at), ..sealed.clone() });
        }
        for at in 0..sealed.enc.len() {
            refused(info, aad, &HpkeCiphertext { enc: flip(&sealed.enc, at).into(), ..sealed.clone() });
            refused(info, aad, &HpkeCiphertext { enc: sealed.enc.slice(..at), ..sealed.clone() });
        }
        let other = Keypair::generate(9, suite).unwrap();
        assert_eq!(other.open(info, aad, &sealed), Err(HpkeError::Open));
        assert_eq!(keypair.open(&[0; 1 << 16], aad, &sealed), Err(HpkeError::InfoTooLong));
        assert_eq!(seal(keypair.config(), &[0; 1 << 16], aad, plaintext), Err(HpkeError::InfoTooLong));
    }
}

fn flip(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// Bytes that look like an encapsulated key of some KEM, or like nothing.
fn hostile_enc() -> impl Strategy<Value = Vec<u8>> {
    let uncompressed = |mut bytes: Vec<u8>| {
        bytes[0] = 4;
        bytes
    };
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        prop::collection::vec(any::<u8>(), 32),
        prop::collection::vec(any::<u8>(), 65).prop_map(uncompressed),
        Just(vec![0; 32]),
        Just(vec![0xff; 32]),
        Just(vec![0]),
        Just(vec![0; 65]),
    ]
}

#[test]
fn hostile_ciphertexts_do_not_open_and_do_not_panic() {
    let keypairs: Vec<Keypair> = Suite::all().map(|suite| Keypair::generate(1, suite).unwrap()).collect();
    let hostile = (0..keypairs.len(), hostile_enc(), prop::collection::vec(any::<u8>(), 0..64));
    proptest!(ProptestConfig::with_cases(2000), |((which, enc, payload) in hostile)| {
        let ciphertext = HpkeCiphertext { config_id: 1, enc: enc.into(), payload: payload.into() };
        prop_assert_eq!(keypairs[which].open(b"info", b"aad", &ciphertext), Err(HpkeError::Open));
    });
}
