//! How long it takes to seal and to open one input share, by cipher suite.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dapbox::hpke::{Keypair, Suite, seal};

fn seal_and_open(criterion: &mut Criterion) {
    // About what an input share of a histogram, its metadata and its public share take.
    let (info, aad, plaintext) = (b"dap-09 input share\x01\x03", [3; 100], [7; 60]);
    for suite in Suite::all() {
        let keypair = Keypair::generate(1, suite).expect("the suite is supported");
        let config = keypair.config();
        let sealed = seal(config, info, &aad, &plaintext).expect("the key is valid");
        let mut group = criterion.benchmark_group(suite.to_string());
        group.bench_function("seal", |b| b.iter(|| seal(config, info, &aad, black_box(&plaintext))));
        group.bench_function("open", |b| b.iter(|| keypair.open(info, &aad, black_box(&sealed))));
        group.finish();
    }
}

criterion_group!(benches, seal_and_open);
criterion_main!(benches);
