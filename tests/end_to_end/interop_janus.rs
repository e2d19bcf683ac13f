//! Independent implementations against a real leader and helper: the published Janus client uploads and the published
//! Janus
//! collector collects, for every VDAF and both batch modes that they support.
//!
//! Janus's client and ours fill one batch each; both collectors get both.

use std::time::Duration as Span;

use dapbox::{
    config::Config,
    model::{
        BatchId, BatchMode, Duration, FixedSizeQuery, Interval, MaxMeasurement, Query, Revision, Task, Time, VdafConfig,
    },
    support::clock,
    vdaf::{AggregateResult, Measurement},
};
use janus_collector::{AuthenticationToken, ExponentialBackoff};
use janus_core::{
    hpke::{HpkeKeypair, HpkePrivateKey},
    vdaf::new_prio3_sum_vec_field64_multiproof_hmacsha256_aes128,
};
use janus_messages::{self as janus, problem_type::DapProblemType};
use prio16::{
    field::Field64,
    flp::gadgets::{Mul, ParallelSum},
    vdaf::{self, prio3::Prio3},
};
use serde::Serialize;

use crate::common::{Pair, Parties, TEST_TIMEOUT};

const HOUR: Duration = Duration(3600);

/// A task in the types of Janus and ours, with reports and the expected aggregate.
struct Case<V: vdaf::Vdaf> {
    config: VdafConfig,
    vdaf: V,
    measurements: Vec<(V::Measurement, Measurement)>,
    expected: AggregateResult,
}

/// Common interface of Janus's VDAFs.
trait Vdaf: vdaf::Client<16> + vdaf::Collector<AggregationParam = (), AggregateResult: Serialize> {}
impl<V: vdaf::Client<16> + vdaf::Collector<AggregationParam = (), AggregateResult: Serialize>> Vdaf for V {}

impl<V: Vdaf> Case<V> {
    /// Collects a batch of each client with each collector, in both batch modes.
    async fn check(self) {
        tokio::join!(self.time_interval(), self.fixed_size());
    }

    /// Janus's client reports for the last hour, ours for the hour before (DAP-09 section 4.6.1, time interval).
    async fn time_interval(&self) {
        let pair = Pair::start(Revision::Dap09, self.config.clone(), BatchMode::TimeInterval).await;
        let end = clock::now().truncate(HOUR);
        let hours = [1, 2].map(|ago| Interval::new(end.saturating_sub(Duration(ago * HOUR.0)), HOUR).unwrap());
        self.upload_with_janus(&pair.parties, Some(hours[0].start().saturating_add(Duration(1800)))).await;
        self.upload_with_ours(&pair.parties, Some(hours[1].start().saturating_add(Duration(1799)))).await;

        for (hour, token) in hours.iter().zip([bearer(&pair.parties), dap_auth(&pair.parties)]) {
            let theirs = janus::Interval::new(
                janus::Time::from_seconds_since_epoch(hour.start().0),
                janus::Duration::from_seconds(HOUR.0),
            );
            let query = janus::Query::new_time_interval(theirs.unwrap());
            let collected = self.janus_collector(&pair.parties, token).collect(query, &()).await.unwrap();
            self.expect(collected.report_count(), collected.aggregate_result());
            let (start, duration) = collected.interval();
            assert_eq!((start.timestamp() as u64, duration.num_seconds() as u64), (hour.start().0, HOUR.0));
            // A repeated collection returns the same batch (4.6.5), to our collector too.
            let ours = pair.parties.collector().collect(Query::TimeInterval(*hour), Some(TEST_TIMEOUT), |_| {}).await;
            let ours = ours.unwrap();
            self.expect(ours.report_count, &ours.result);
            assert_eq!(ours.interval, *hour);
        }
        pair.stop().await;
    }

    /// Janus's client fills the first batch, ours the second (DAP-09 section 4.6.1, fixed size).
    async fn fixed_size(&self) {
        let size = self.measurements.len() as u64;
        let mode = BatchMode::fixed_size(Some(size));
        let of_size = |task: &mut Task| task.public.min_batch_size = size;
        let pair = Pair::start_with(Revision::Dap09, self.config.clone(), mode, |_| {}, of_size).await;
        let mut seen = Vec::new();
        for turn in 0..2 {
            let token = if turn == 0 {
                self.upload_with_janus(&pair.parties, None).await;
                dap_auth(&pair.parties)
            } else {
                self.upload_with_ours(&pair.parties, None).await;
                bearer(&pair.parties)
            };
            let query = janus::Query::new_fixed_size(janus::FixedSizeQuery::CurrentBatch);
            let collected = self.janus_collector(&pair.parties, token).collect(query, &()).await.unwrap();
            self.expect(collected.report_count(), collected.aggregate_result());

            let id = BatchId::new(*collected.partial_batch_selector().batch_id().as_ref());
            assert!(!seen.contains(&id), "the current batch is another one each time");
            seen.push(id);
            let query = Query::FixedSize(FixedSizeQuery::ByBatchId(id));
            let ours = pair.parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
            self.expect(ours.report_count, &ours.result);
        }
        pair.stop().await;
    }

    async fn upload_with_janus(&self, parties: &Parties, time: Option<Time>) {
        let client = janus_client(parties, self.vdaf.clone()).await;
        for (measurement, _) in &self.measurements {
            match time {
                None => client.upload(measurement).await.unwrap(),
                Some(Time(time)) => {
                    let time = janus::Time::from_seconds_since_epoch(time);
                    client.upload_with_time(measurement, time).await.unwrap();
                }
            }
        }
    }

    async fn upload_with_ours(&self, parties: &Parties, time: Option<Time>) {
        let client = parties.client();
        for (_, measurement) in &self.measurements {
            client.upload(measurement.clone(), time).await.unwrap();
        }
    }

    fn janus_collector(&self, parties: &Parties, token: AuthenticationToken) -> janus_collector::Collector<V> {
        let config = parties.keypair.config();
        let config = janus::HpkeConfig::new(
            config.id.into(),
            config.kem_id.into(),
            config.kdf_id.into(),
            config.aead_id.into(),
            config.public_key.clone().into(),
        );
        let private_key = HpkePrivateKey::new(parties.keypair.private_key().expose().to_vec());
        let keypair = HpkeKeypair::new(config, private_key);
        let url = parties.task().leader_url.parse().unwrap();
        janus_collector::Collector::builder(task_id(parties), url, token, keypair, self.vdaf.clone())
            .with_http_client(reqwest::Client::builder().no_proxy().build().unwrap())
            .with_collect_poll_backoff(ExponentialBackoff {
                initial_interval: Span::from_millis(50),
                max_elapsed_time: Some(TEST_TIMEOUT),
                ..ExponentialBackoff::default()
            })
            .build()
            .unwrap()
    }

    /// Counts and results are the same numbers in the types of both collectors.
    fn expect(&self, count: u64, result: &impl Serialize) {
        assert_eq!(count, self.measurements.len() as u64);
        assert_eq!(serde_json::to_value(result).unwrap(), serde_json::to_value(&self.expected).unwrap());
    }
}

async fn janus_client<V: vdaf::Client<16>>(parties: &Parties, vdaf: V) -> janus_client::Client<V> {
    let (leader, helper) = (parties.task().leader_url.parse().unwrap(), parties.task().helper_url.parse().unwrap());
    let precision = janus::Duration::from_seconds(HOUR.0);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let builder = janus_client::Client::builder(task_id(parties), leader, helper, precision, vdaf);
    builder.with_http_client(http).build().await.unwrap()
}

fn task_id(parties: &Parties) -> janus::TaskId {
    parties.id().to_string().parse().unwrap()
}

fn bearer(parties: &Parties) -> AuthenticationToken {
    AuthenticationToken::new_bearer_token_from_bytes(parties.collector_token.expose()).unwrap()
}

fn dap_auth(parties: &Parties) -> AuthenticationToken {
    AuthenticationToken::new_dap_auth_token_from_bytes(parties.collector_token.expose()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn interoperates_with_count() {
    let measurements = [true, false, true].map(|flag| (flag, Measurement::Flag(flag))).to_vec();
    let (config, vdaf) = (VdafConfig::Prio3Count, Prio3::new_count(2).unwrap());
    Case { config, vdaf, measurements, expected: AggregateResult::Number(2) }.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interoperates_with_sum() {
    let measurements = [255, 0, 77].map(|number| (number, Measurement::Number(number))).to_vec();
    let (config, vdaf) = (VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) }, Prio3::new_sum(2, 8).unwrap());
    Case { config, vdaf, measurements, expected: AggregateResult::Number(332) }.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interoperates_with_sum_vec() {
    let measurements = [vec![15, 0, 1], vec![1, 2, 3]].map(|v| (v.clone(), Measurement::Vector(v))).to_vec();
    let config = VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(4), length: 3, chunk_length: 5 };
    let vdaf = Prio3::new_sum_vec(2, 4, 3, 5).unwrap();
    Case { config, vdaf, measurements, expected: AggregateResult::Vector(vec![16, 2, 4]) }.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interoperates_with_histogram() {
    let measurements = [0, 4, 4].map(|bin| (bin, Measurement::Number(bin as u128))).to_vec();
    let config = VdafConfig::Prio3Histogram { length: 5, chunk_length: 2 };
    let vdaf = Prio3::new_histogram(2, 5, 2).unwrap();
    Case { config, vdaf, measurements, expected: AggregateResult::Vector(vec![1, 0, 0, 0, 2]) }.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interoperates_with_multihot_count_vec() {
    let flags = [vec![true, false, true, false], vec![false; 4], vec![false, false, true, false]];
    let numbers = |flags: &[bool]| Measurement::Vector(flags.iter().map(|flag| u128::from(*flag)).collect());
    let measurements = flags.map(|flags| (flags.clone(), numbers(&flags))).to_vec();
    let config = VdafConfig::Prio3MultihotCountVec { length: 4, max_weight: 2, chunk_length: 3 };
    let vdaf = Prio3::new_multihot_count_vec(2, 4, 2, 3).unwrap();
    Case { config, vdaf, measurements, expected: AggregateResult::Vector(vec![1, 0, 2, 0]) }.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interoperates_with_sum_vec_of_several_proofs() {
    let both = |v: Vec<u64>| (v.clone(), Measurement::Vector(v.into_iter().map(u128::from).collect()));
    let measurements = [vec![3, 0, 1, 2], vec![1, 1, 1, 1]].map(both).to_vec();
    let config =
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits: 2, length: 4, chunk_length: 3, proofs: 3 };
    type Gadget = ParallelSum<Field64, Mul<Field64>>;
    let vdaf = new_prio3_sum_vec_field64_multiproof_hmacsha256_aes128::<Gadget>(3, 2, 4, 3).unwrap();
    Case { config, vdaf, measurements, expected: AggregateResult::Vector(vec![4, 1, 2, 3]) }.check().await;
}

/// A client that takes the first known key ignores further keys.
#[tokio::test(flavor = "multi_thread")]
async fn janus_client_uploads_with_post_quantum_keys_offered() {
    let strong = |config: &mut Config| config.hpke.post_quantum = true;
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(Revision::Dap09, vdaf, BatchMode::TimeInterval, strong, |_| {}).await;
    let client = janus_client(&pair.parties, Prio3::new_count(2).unwrap()).await;
    client.upload(&true).await.unwrap();
    // Our client uses them, in the same batch.
    let report = pair.parties.client().prepare(Measurement::Flag(true), clock::now()).await.unwrap();
    assert_eq!([report.leader_share.enc.len(), report.helper_share.enc.len()], [1120, 1120]);
    assert!(pair.parties.client().send(&[report]).await.unwrap().is_empty());
    let collected =
        pair.parties.collector().collect(pair.parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (2, AggregateResult::Number(2)));
    pair.stop().await;
}

/// Janus's client and collector recognize our problem types (DAP-09 section 3.2).
#[tokio::test(flavor = "multi_thread")]
async fn janus_parses_problem_documents() {
    let pair = Pair::start(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let vdaf = Prio3::new_count(2).unwrap();
    let client = janus_client(&pair.parties, vdaf.clone()).await;

    let tomorrow = janus::Time::from_seconds_since_epoch(clock::now().0 + 86_400);
    let refused = client.upload_with_time(&true, tomorrow).await.unwrap_err();
    let janus_client::Error::Http(problem) = refused else { panic!("{refused}") };
    assert_eq!(problem.dap_problem_type(), Some(&DapProblemType::ReportTooEarly));
    assert_eq!(problem.status().as_u16(), 400);
    assert_eq!(pair.leader.counter(&pair.parties.id(), "upload_too_early").await, 1);

    let case =
        Case { config: VdafConfig::Prio3Count, vdaf, measurements: Vec::new(), expected: AggregateResult::Number(0) };
    let now = clock::now().truncate(HOUR).0;
    let query = |start| {
        let start = janus::Time::from_seconds_since_epoch(start);
        janus::Query::new_time_interval(janus::Interval::new(start, janus::Duration::from_seconds(HOUR.0)).unwrap())
    };
    let stranger = AuthenticationToken::new_bearer_token_from_string("c3RyYW5nZXI").unwrap();
    for (token, start, expected) in [
        (stranger, now, DapProblemType::UnauthorizedRequest),
        (bearer(&pair.parties), now + 1, DapProblemType::BatchInvalid),
    ] {
        let refused = case.janus_collector(&pair.parties, token).start_collection(query(start), &()).await;
        let Err(janus_collector::Error::Http(problem)) = refused else { panic!("expected {expected:?}") };
        assert_eq!(problem.dap_problem_type(), Some(&expected));
    }
    pair.stop().await;
}
