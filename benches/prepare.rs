//! How long clients, leaders and helpers compute for one report, by VDAF.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dapbox::{
    model::{ReportId, Revision, VdafConfig},
    vdaf::{InputShare, Measurement, Verification, preparer, table::optimal_chunk_length},
};

fn cases() -> Vec<(&'static str, VdafConfig, Measurement)> {
    let histogram = |length| VdafConfig::Prio3Histogram { length, chunk_length: optimal_chunk_length(length) };
    let (bits, length) = (1, 1000);
    let chunk_length = optimal_chunk_length(bits * length);
    let flags = Measurement::Vector((0..length).map(|at| (at % 3 == 0).into()).collect());
    vec![
        ("count", VdafConfig::Prio3Count, Measurement::Flag(true)),
        ("sum of 32 bits", VdafConfig::Prio3Sum { max: Max::of_bits(32) }, Measurement::Number(12_345)),
        ("histogram of 100", histogram(100), Measurement::Number(42)),
        ("histogram of 1000", histogram(1000), Measurement::Number(42)),
        ("sumvec of 1000 bits", VdafConfig::Prio3SumVec { bits, length, chunk_length }, flags.clone()),
        (
            "sumvec of 1000 bits, field64",
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs: 3 },
            flags,
        ),
    ]
}

fn prepare(criterion: &mut Criterion) {
    for (name, config, measurement) in cases() {
        let vdaf = preparer(Revision::Dap09, &config).expect("the parameters are in range");
        let id = ReportId::random();
        let sharded = vdaf.shard(&[], &measurement, &id).expect("the measurement is in range");
        let key = vec![1; vdaf.verify_key_length()];
        let verify = Verification { key: &key, context: &[] };
        let share = |input_share| InputShare { report_id: &id, public_share: &sharded.public_share, input_share };
        let start = || vdaf.leader_start(verify, share(&sharded.leader_share)).expect("the shares are honest");
        let message = start().1;
        let answer =
            || vdaf.helper_answer(verify, share(&sharded.helper_share), &message).expect("the shares are honest");
        let response = answer().1;

        let mut group = criterion.benchmark_group(name);
        group.bench_function("shard", |b| b.iter(|| vdaf.shard(&[], black_box(&measurement), &id)));
        group.bench_function("leader start", |b| b.iter(start));
        group.bench_function("helper answer", |b| b.iter(answer));
        group.bench_function("leader finish", |b| {
            b.iter_batched(|| start().0, |pending| pending.finish(&response), criterion::BatchSize::SmallInput)
        });
        group.finish();
    }
}

criterion_group!(benches, prepare);
criterion_main!(benches);
