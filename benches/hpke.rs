//! Seals and opens one input share: by cipher suite, and compared with the `hpke` crate.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dapbox::hpke::{Keypair, Suite, seal};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::AesGcm128, kdf::HkdfSha256, kem::X25519HkdfSha256,
    single_shot_open, single_shot_seal,
};

const INFO: &[u8] = b"dap-09 input share\x01\x03";

/// Approximate size of the metadata and public share of a histogram.
const AAD: &[u8] = &[3; 100];

fn seal_and_open(criterion: &mut Criterion) {
    // Approximate size of an input share of a histogram.
    let plaintext = [7; 60];
    for suite in Suite::all() {
        let keypair = Keypair::generate(1, suite).expect("the suite is supported");
        let config = keypair.config();
        let sealed = seal(config, INFO, AAD, &plaintext).expect("the key is valid");
        let mut group = criterion.benchmark_group(suite.to_string());
        group.bench_function("seal", |b| b.iter(|| seal(config, INFO, AAD, black_box(&plaintext))));
        group.bench_function("open", |b| b.iter(|| keypair.open(INFO, AAD, black_box(&sealed))));
        group.finish();
    }
}

/// The default suite, with the same keys and messages for both.
fn compare_with_hpke_crate(criterion: &mut Criterion) {
    // A helper's share, and a leader's share of a vector of 10,000 bits.
    for (name, len) in [("60 bytes", 60), ("165 kB", 165_000)] {
        let plaintext = vec![7; len];
        let keypair = Keypair::generate(1, Suite::DEFAULT).expect("the suite is supported");
        let config = keypair.config();
        let sealed = seal(config, INFO, AAD, &plaintext).expect("the key is valid");
        let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(keypair.private_key().expose())
            .expect("the key is valid");
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&config.public_key).expect("the key is valid");
        let crate_opens = |payload: &[u8]| {
            let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&sealed.enc)?;
            single_shot_open::<AesGcm128, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &private,
                &enc,
                INFO,
                payload,
                AAD,
            )
        };
        let crate_seals = |plaintext: &[u8]| {
            single_shot_seal::<AesGcm128, HkdfSha256, X25519HkdfSha256>(&OpModeS::Base, &public, INFO, plaintext, AAD)
                .map(|(enc, payload)| (enc.to_bytes().to_vec(), payload))
        };
        assert_eq!(crate_opens(&sealed.payload).as_ref(), Ok(&plaintext), "both open the same message");

        let mut group = criterion.benchmark_group(format!("compared, {name}"));
        group.bench_function("open", |b| b.iter(|| keypair.open(INFO, AAD, black_box(&sealed))));
        group.bench_function("open, hpke crate alone", |b| b.iter(|| crate_opens(black_box(&sealed.payload))));
        group.bench_function("seal", |b| b.iter(|| seal(config, INFO, AAD, black_box(&plaintext))));
        group.bench_function("seal, hpke crate alone", |b| b.iter(|| crate_seals(black_box(&plaintext))));
        group.finish();
    }
}

criterion_group!(benches, seal_and_open, compare_with_hpke_crate);
criterion_main!(benches);
