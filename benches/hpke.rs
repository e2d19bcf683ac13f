//! How long it takes to seal and to open one input share, by cipher suite; and with the `hpke` crate's own X25519, which
//! ours takes the place of.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dapbox::{
    hpke::{Keypair, Suite, seal},
    model::HpkeCiphertext,
};
use hpke::{
    Deserializable, Kem, OpModeR, Serializable, aead::AesGcm128, kdf::HkdfSha256, kem::X25519HkdfSha256,
    single_shot_open,
};

const INFO: &[u8] = b"dap-09 input share\x01\x03";
/// About what an input share of a histogram, its metadata and its public share take.
const AAD: [u8; 100] = [3; 100];
const PLAINTEXT: [u8; 60] = [7; 60];
/// About what a leader's input share of a vector of 10,000 flags takes.
const LONG: usize = 165_000;

fn seal_and_open(criterion: &mut Criterion) {
    for suite in Suite::all() {
        let keypair = Keypair::generate(1, suite).expect("the suite is supported");
        let config = keypair.config();
        let sealed = seal(config, INFO, &AAD, &PLAINTEXT).expect("the key is valid");
        let mut group = criterion.benchmark_group(suite.to_string());
        group.bench_function("seal", |b| b.iter(|| seal(config, INFO, &AAD, black_box(&PLAINTEXT))));
        group.bench_function("open", |b| b.iter(|| keypair.open(INFO, &AAD, black_box(&sealed))));
        if suite == Suite::DEFAULT {
            let other = OfTheCrate::new(&keypair);
            assert_eq!(other.open(&sealed), PLAINTEXT);
            group.bench_function("open with the crate's KEM", |b| b.iter(|| other.open(black_box(&sealed))));
        }
        group.finish();
    }
}

fn open_long(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("long");
    group.throughput(Throughput::Bytes(LONG as u64));
    for suite in Suite::all().take(3) {
        let keypair = Keypair::generate(1, suite).expect("the suite is supported");
        let sealed = seal(keypair.config(), INFO, &AAD, &[7; LONG]).expect("the key is valid");
        group.bench_function(format!("open, {suite}"), |b| b.iter(|| keypair.open(INFO, &AAD, black_box(&sealed))));
    }
    group.finish();
}

/// The same key for the `hpke` crate alone.
struct OfTheCrate(<X25519HkdfSha256 as Kem>::PrivateKey);

impl OfTheCrate {
    fn new(keypair: &Keypair) -> Self {
        let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(keypair.private_key().expose());
        let private = private.expect("it is a private key");
        assert_eq!(X25519HkdfSha256::sk_to_pk(&private).to_bytes()[..], keypair.config().public_key);
        Self(private)
    }

    fn open(&self, sealed: &HpkeCiphertext) -> Vec<u8> {
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&sealed.enc).expect("it is a public key");
        single_shot_open::<AesGcm128, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.0,
            &enc,
            INFO,
            &sealed.payload,
            &AAD,
        )
        .expect("it was sealed to this key")
    }
}

criterion_group!(benches, seal_and_open, open_long);
criterion_main!(benches);
