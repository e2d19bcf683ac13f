//! HPKE against the test vectors of RFC 9180, against the `hpke` crate's own X25519 and ciphers, and against itself.

use std::process::{Command, Output};

use dapbox::{
    hpke::{HpkeError, Keypair, Suite, is_supported, seal},
    model::{HpkeCiphertext, HpkeConfig, Secret},
};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable,
    aead::{Aead, AeadCtxS, AesGcm128, AesGcm256, ChaCha20Poly1305},
    kdf::{HkdfSha256, HkdfSha384, HkdfSha512, Kdf},
    kem::{SharedSecret, X25519HkdfSha256},
    single_shot_open, single_shot_seal,
};
use proptest::prelude::*;
use serde::Deserialize;

use crate::skip;

/// The parts of a test vector that the recipient of a single message needs.
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
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../../fixtures/hpke/rfc9180-base.json")).unwrap()
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
fn opens_official_vectors() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 12);
    for vector in vectors {
        assert_eq!(vector.mode, 0, "base mode");
        let keypair = Keypair::from_parts(vector.config(), vector.private_key()).unwrap();
        // The first encryption has sequence number 0, as every single-shot message.
        let Encryption { aad, ct, pt } = &vector.encryptions[0];
        let ciphertext = HpkeCiphertext { config_id: 1, enc: hex(&vector.enc).into(), payload: hex(ct).into() };
        assert_eq!(keypair.open(&hex(&vector.info), &hex(aad), &ciphertext), Ok(hex(pt)));
        // The second one has another sequence number.
        let Encryption { aad, ct, .. } = &vector.encryptions[1];
        let later = HpkeCiphertext { payload: hex(ct).into(), ..ciphertext };
        assert_eq!(keypair.open(&hex(&vector.info), &hex(aad), &later), Err(HpkeError::OpenFailed));
    }
}

#[test]
fn rejects_mismatched_key_pair() {
    let vectors = vectors();
    for vector in &vectors {
        let same_kem = |other: &&Vector| other.kem_id == vector.kem_id && other.skRm != vector.skRm;
        let other = vectors.iter().find(same_kem).unwrap();
        let config = vector.config();
        let error = |config, key| Keypair::from_parts(config, key).unwrap_err();
        assert_eq!(error(config.clone(), other.private_key()), HpkeError::KeyMismatch);

        for bytes in [vec![], vec![1; 31], vec![1; 33]] {
            assert_eq!(error(config.clone(), Secret::new(bytes)), HpkeError::InvalidPrivateKey);
        }
        for public_key in [vec![], config.public_key[1..].to_vec(), [&config.public_key[..], &[0]].concat()] {
            let bad = HpkeConfig { public_key, ..config.clone() };
            assert!(!is_supported(&bad));
            assert_eq!(seal(&bad, b"", b"", b""), Err(HpkeError::InvalidPublicKey));
            assert_eq!(error(bad, vector.private_key()), HpkeError::InvalidPublicKey);
        }
        let unknown = HpkeConfig { aead_id: 0xffff, ..config };
        assert!(!is_supported(&unknown));
        assert!(matches!(seal(&unknown, b"", b"", b""), Err(HpkeError::UnsupportedSuite(_))));
        assert!(matches!(error(unknown, vector.private_key()), HpkeError::UnsupportedSuite(_)));
    }
}

/// Points of small order and their other encodings: their product with any private key is zero (RFC 7748 section 6.1).
fn points_of_small_order() -> Vec<Vec<u8>> {
    let canonical = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    let with_high_bit = |point: &Vec<u8>| {
        let mut point = point.clone();
        point[31] |= 0x80;
        point
    };
    canonical.iter().map(|text| hex(text)).flat_map(|point| [with_high_bit(&point), point]).collect()
}

#[test]
fn rejects_degenerate_public_keys() {
    let config = Keypair::generate(1, Suite::DEFAULT).unwrap().config().clone();
    for public_key in points_of_small_order() {
        assert_eq!(ORACLES[0].seal(&public_key, b"", b"", b""), None);
        let degenerate = HpkeConfig { public_key, ..config.clone() };
        assert!(!is_supported(&degenerate));
        assert_eq!(seal(&degenerate, b"", b"", b""), Err(HpkeError::SealFailed));
    }
    let not_on_the_curve = HpkeConfig { kem_id: 0x10, public_key: [&[4][..], &[1; 64]].concat(), ..config };
    assert!(!is_supported(&not_on_the_curve));
    assert_eq!(seal(&not_on_the_curve, b"", b"", b""), Err(HpkeError::InvalidPublicKey));
}

/// The sender of a small-order point knows the shared point, and could seal a message that many private keys open.
#[test]
fn rejects_zero_shared_point() {
    let keypair = Keypair::generate(1, Suite::DEFAULT).unwrap();
    let public_key = &keypair.config().public_key;
    for enc in points_of_small_order() {
        let mut secret = SharedSecret::<X25519HkdfSha256>::default();
        let context = [&enc[..], public_key].concat();
        HkdfSha256::extract_and_expand(&[0; 32], b"KEM\x00\x20", &context, &mut secret.0).unwrap();
        let forged = sealed_with(secret, enc);
        assert_eq!(ORACLES[0].open(keypair.private_key().expose(), b"info", b"aad", &forged), None);
        assert_eq!(keypair.open(b"info", b"aad", &forged), Err(HpkeError::OpenFailed));
    }
    // The control: a nonzero shared secret opens when sealed the same way.
    let public_key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public_key).unwrap();
    let (secret, enc) = X25519HkdfSha256::encap(&public_key, None).unwrap();
    let sealed = sealed_with(secret, enc.to_bytes().to_vec());
    assert_eq!(keypair.open(b"info", b"aad", &sealed), Ok(b"plaintext".to_vec()));
}

/// Seals with the default suite and a chosen shared secret.
fn sealed_with(secret: SharedSecret<X25519HkdfSha256>, enc: Vec<u8>) -> HpkeCiphertext {
    let context = HkdfSha256::combine_secrets(&OpModeS::<X25519HkdfSha256>::Base, secret, b"info");
    let payload = AeadCtxS::<AesGcm128, HkdfSha256, _>::from(context).seal(b"plaintext", b"aad").unwrap();
    HpkeCiphertext { config_id: 1, enc: enc.into(), payload: payload.into() }
}

/// Seals a plaintext to a public key, with info and associated data.
type Seal = fn(&[u8], &[u8], &[u8], &[u8]) -> Option<HpkeCiphertext>;

/// Opens a ciphertext with a private key, info and associated data.
type Open = fn(&[u8], &[u8], &[u8], &HpkeCiphertext) -> Option<Vec<u8>>;

/// The `hpke` crate with one of its own KDFs and AEADs.
struct Oracle {
    kdf_id: u16,
    aead_id: u16,
    seal: Seal,
    open: Open,
}

const ORACLES: [Oracle; 9] = [
    Oracle::of::<HkdfSha256, AesGcm128>(),
    Oracle::of::<HkdfSha256, AesGcm256>(),
    Oracle::of::<HkdfSha256, ChaCha20Poly1305>(),
    Oracle::of::<HkdfSha384, AesGcm128>(),
    Oracle::of::<HkdfSha384, AesGcm256>(),
    Oracle::of::<HkdfSha384, ChaCha20Poly1305>(),
    Oracle::of::<HkdfSha512, AesGcm128>(),
    Oracle::of::<HkdfSha512, AesGcm256>(),
    Oracle::of::<HkdfSha512, ChaCha20Poly1305>(),
];

impl Oracle {
    const fn of<D: Kdf, A: Aead>() -> Self {
        Self { kdf_id: D::KDF_ID, aead_id: A::AEAD_ID, seal: oracle_seals::<D, A>, open: oracle_opens::<D, A> }
    }

    fn seal(&self, public_key: &[u8], info: &[u8], aad: &[u8], plaintext: &[u8]) -> Option<HpkeCiphertext> {
        (self.seal)(public_key, info, aad, plaintext)
    }

    fn open(&self, private_key: &[u8], info: &[u8], aad: &[u8], sealed: &HpkeCiphertext) -> Option<Vec<u8>> {
        (self.open)(private_key, info, aad, sealed)
    }

    /// The key pair of a private key; the oracle derives the public key.
    fn keypair(&self, private_key: &[u8]) -> Keypair {
        let parsed = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(private_key).unwrap();
        let public_key = X25519HkdfSha256::sk_to_pk(&parsed).to_bytes().to_vec();
        let &Self { kdf_id, aead_id, .. } = self;
        let config = HpkeConfig { id: 1, kem_id: X25519HkdfSha256::KEM_ID, kdf_id, aead_id, public_key };
        Keypair::from_parts(config, Secret::new(private_key.to_vec())).unwrap()
    }
}

fn oracle_seals<D: Kdf, A: Aead>(
    public_key: &[u8],
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Option<HpkeCiphertext> {
    let public_key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public_key).ok()?;
    let (enc, payload) =
        single_shot_seal::<A, D, X25519HkdfSha256>(&OpModeS::Base, &public_key, info, plaintext, aad).ok()?;
    Some(HpkeCiphertext { config_id: 1, enc: enc.to_bytes().to_vec().into(), payload: payload.into() })
}

fn oracle_opens<D: Kdf, A: Aead>(
    private_key: &[u8],
    info: &[u8],
    aad: &[u8],
    sealed: &HpkeCiphertext,
) -> Option<Vec<u8>> {
    let private_key = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(private_key).ok()?;
    let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&sealed.enc).ok()?;
    single_shot_open::<A, D, X25519HkdfSha256>(&OpModeR::Base, &private_key, &enc, info, &sealed.payload, aad).ok()
}

#[test]
fn opens_what_other_implementation_seals() {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..=most);
    // Lengths are chosen independently of the bytes: some are those of long vectors.
    let plaintext = (prop_oneof![9 => 0..300_usize, 1 => 4_000..170_000_usize], any::<u8>());
    let message = (0..ORACLES.len(), any::<[u8; 32]>(), bytes(40), bytes(200), plaintext, any::<usize>());
    proptest!(ProptestConfig::with_cases(300), |((which, private_key, info, aad, (len, seed), at) in message)| {
        let plaintext: Vec<u8> = (0..len).map(|at| seed.wrapping_mul(at as u8).wrapping_add((at >> 8) as u8)).collect();
        let oracle = &ORACLES[which];
        let keypair = oracle.keypair(&private_key);
        let ours = seal(keypair.config(), &info, &aad, &plaintext).unwrap();
        let theirs = oracle.seal(&keypair.config().public_key, &info, &aad, &plaintext).unwrap();
        for sealed in [ours, theirs] {
            prop_assert_eq!(oracle.open(&private_key, &info, &aad, &sealed), Some(plaintext.clone()));
            prop_assert_eq!(keypair.open(&info, &aad, &sealed), Ok(plaintext.clone()));
            let at = at % (sealed.enc.len() + sealed.payload.len());
            let changed = match at.checked_sub(sealed.enc.len()) {
                None => HpkeCiphertext { enc: flip(&sealed.enc, at).into(), ..sealed },
                Some(at) => HpkeCiphertext { payload: flip(&sealed.payload, at).into(), ..sealed },
            };
            prop_assert_eq!(oracle.open(&private_key, &info, &aad, &changed), None);
            prop_assert_eq!(keypair.open(&info, &aad, &changed), Err(HpkeError::OpenFailed));
        }
    });
}

/// aws-lc detects the processor's extensions when the program starts. An environment variable masks them.
#[test]
fn works_without_processor_extensions() {
    if !cfg!(target_arch = "x86_64") {
        skip::skip("OPENSSL_ia32cap masks the extensions of x86-64 only");
        return;
    }
    let shows =
        |output: &Output, text| String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).contains(text);
    let run = |capabilities| {
        let tests =
            ["--exact", "hpke_vectors::opens_official_vectors", "hpke_vectors::opens_what_other_implementation_seals"];
        let program = std::env::current_exe().unwrap();
        Command::new(program).args(tests).env("OPENSSL_ia32cap", capabilities).output().unwrap()
    };
    // No processor has all extensions, and requesting a missing one is an error, which proves that the variable is
    // read.
    let impossible = run("~0x0:0xffffffffffffffff");
    assert!(!impossible.status.success() && shows(&impossible, "HW capability"), "{impossible:?}");
    let masked = run("~0xffffffffffffffff:~0xffffffffffffffff");
    assert!(masked.status.success() && shows(&masked, "2 passed"), "{masked:?}");
}

#[test]
fn each_suite_opens_only_what_it_sealed() {
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
            assert_eq!(keypair.open(info, aad, sealed), Err(HpkeError::OpenFailed), "{suite}");
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
        assert_eq!(other.open(info, aad, &sealed), Err(HpkeError::OpenFailed));
        assert_eq!(keypair.open(&[0; 1 << 16], aad, &sealed), Err(HpkeError::InfoTooLong));
        assert_eq!(seal(keypair.config(), &[0; 1 << 16], aad, plaintext), Err(HpkeError::InfoTooLong));
    }
}

fn flip(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// Bytes that resemble an encapsulated key of some KEM, or none.
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
fn rejects_hostile_ciphertexts() {
    let keypairs: Vec<Keypair> = Suite::all().map(|suite| Keypair::generate(1, suite).unwrap()).collect();
    let hostile = (0..keypairs.len(), hostile_enc(), prop::collection::vec(any::<u8>(), 0..64));
    proptest!(ProptestConfig::with_cases(2000), |((which, enc, payload) in hostile)| {
        let ciphertext = HpkeCiphertext { config_id: 1, enc: enc.into(), payload: payload.into() };
        prop_assert_eq!(keypairs[which].open(b"info", b"aad", &ciphertext), Err(HpkeError::OpenFailed));
    });
}
