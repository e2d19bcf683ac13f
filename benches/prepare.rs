//! Computation of clients, leaders and helpers for one report, by VDAF and draft.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dapbox::{
    model::{MaxMeasurement, ReportId, Revision, VdafConfig},
    vdaf::{InputShare, Measurement, Preparer, VerifyParams, preparer, table::optimal_chunk_length},
};

fn cases(revision: Revision) -> Vec<(&'static str, VdafConfig, Measurement)> {
    let histogram = |length| VdafConfig::Prio3Histogram { length, chunk_length: optimal_chunk_length(length) };
    let (bits, length) = (1, 1000);
    let chunk_length = optimal_chunk_length(bits * length);
    let flags = |every: usize| Measurement::Vector((0..length).map(|at| (at % every == 0).into()).collect());
    let (max, max_weight) = (MaxMeasurement::of_bits(bits as u32), 10);
    let multihot_chunk = optimal_chunk_length(length + 4);
    let mut cases = vec![
        ("count", VdafConfig::Prio3Count, Measurement::Flag(true)),
        ("sum of 32 bits", VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(32) }, Measurement::Number(12_345)),
        ("histogram of 100", histogram(100), Measurement::Number(42)),
        ("histogram of 1000", histogram(1000), Measurement::Number(42)),
        ("sumvec of 1000 bits", VdafConfig::Prio3SumVec { max, length, chunk_length }, flags(3)),
        (
            "multihot of 1000",
            VdafConfig::Prio3MultihotCountVec { length, max_weight, chunk_length: multihot_chunk },
            flags(100),
        ),
    ];
    if revision == Revision::Dap09 {
        let config = VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs: 3 };
        cases.push(("sumvec of 1000 bits, field64", config, flags(3)));
    }
    cases
}

fn prepare(criterion: &mut Criterion) {
    for (revision, draft) in [(Revision::Dap09, "VDAF-08"), (Revision::Dap18, "VDAF-18")] {
        for (name, config, measurement) in cases(revision) {
            let vdaf = preparer(revision, &config).expect("the parameters are in range");
            prepare_one(criterion, &format!("{name}, {draft}"), &*vdaf, &measurement);
        }
    }
}

fn prepare_one(criterion: &mut Criterion, name: &str, vdaf: &dyn Preparer, measurement: &Measurement) {
    let context = b"some application";
    let id = ReportId::random();
    let sharded = vdaf.shard(context, measurement, &id).expect("the measurement is in range");
    let key = vec![1; vdaf.verify_key_length()];
    let verify = VerifyParams { key: &key, context };
    let share = |input_share| InputShare { report_id: &id, public_share: &sharded.public_share, input_share };
    let start = || vdaf.leader_start(verify, share(&sharded.leader_share)).expect("the shares are honest");
    let message = start().1;
    let answer = || vdaf.helper_answer(verify, share(&sharded.helper_share), &message).expect("the shares are honest");
    let response = answer().1;

    let mut group = criterion.benchmark_group(name);
    group.bench_function("shard", |b| b.iter(|| vdaf.shard(context, black_box(measurement), &id)));
    group.bench_function("leader start", |b| b.iter(start));
    group.bench_function("helper answer", |b| b.iter(answer));
    group.bench_function("leader finish", |b| {
        b.iter_batched(|| start().0, |pending| pending.finish(&response), criterion::BatchSize::SmallInput)
    });
    group.finish();
}

criterion_group!(benches, prepare);
criterion_main!(benches);
