//! From measurement to aggregate over loopback, for every VDAF and both batch modes.

mod common;

use common::{PATIENCE, Pair};
use dapbox::{
    model::{BatchMode, FixedSizeQuery, Query, VdafConfig},
    vdaf::{AggregateResult, Measurement},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_count_comes_out_right() {
    let pair = Pair::start(VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let client = pair.parties.client();
    for flag in [true, false, true] {
        client.upload(Measurement::Flag(flag), None).await.unwrap();
    }
    let collected = pair.parties.collector().collect(pair.parties.query_now(), Some(PATIENCE), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (3, AggregateResult::Number(2)));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_size_batch_comes_out_right() {
    let mode = BatchMode::FixedSize { max_batch_size: Some(3) };
    let vdaf = VdafConfig::Prio3Histogram { length: 4, chunk_length: 2 };
    let pair = Pair::start_with(vdaf, mode, |_| {}, |task| task.min_batch_size = 3).await;
    let client = pair.parties.client();
    for bin in [0, 3, 3] {
        client.upload(Measurement::Number(bin), None).await.unwrap();
    }
    let query = Query::FixedSize(FixedSizeQuery::CurrentBatch);
    let collected = pair.parties.collector().collect(query, Some(PATIENCE), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (3, AggregateResult::Vector(vec![1, 0, 0, 2])));
    pair.stop().await;
}
