//! The part of a browser in the W3C's Attribution API, as far as the protocol has code points: see docs/attribution.md.

use dapbox::{
    config::Config,
    model::{BatchMode, Duration, Revision, Secret, TaskId, TaskParameters, VdafConfig},
    support::clock,
    vdaf::{self, AggregateResult, Measurement},
    wire::current::{DAP_18, DAP_19},
};
use rstest::rstest;
use sha2::{Digest, Sha256};

use crate::common::{Node, Parties, TEST_TIMEOUT};

/// Positions of a histogram.
const LENGTH: usize = 4;
/// The largest sum of a histogram.
const MAX: u64 = 10;

/// The credit of purchases for the impressions before them: divided evenly, by recency, and none.
const HISTOGRAMS: [[u128; LENGTH]; 5] = [[2, 2, 4, 0], [0, 0, 8, 0], [0, 10, 0, 0], [0, 0, 0, 0], [1, 0, 0, 3]];

/// The square root of the number of bits and one, for each position, rounded to the nearest number.
fn chunk_length() -> usize {
    let bits = f64::from(u32::try_from(MAX + 1).unwrap()).log2().ceil();
    ((bits + 1.0) * LENGTH as f64).sqrt().round() as usize
}

/// The task that the browser derives from its options. Its id is the hash of its configuration.
fn derived(revision: Revision, leader_url: String, helper_url: String) -> TaskParameters {
    let draft = if revision == Revision::Dap18 { &DAP_18 } else { &DAP_19 };
    let task = TaskParameters {
        id: TaskId::new([0; 32]),
        revision,
        // The API leaves it empty, which DAP-18 does not allow.
        info: if revision == Revision::Dap18 { "attribution".to_owned() } else { String::new() },
        leader_url,
        helper_url,
        batch_mode: BatchMode::TimeInterval,
        vdaf: VdafConfig::Prio3L1BoundSum { max_value: MAX, length: LENGTH, chunk_length: chunk_length() },
        min_batch_size: 20,
        time_precision: Duration(5),
        task_expiration: None,
        task_interval: None,
        noise: None,
    };
    let hash = Sha256::new()
        .chain_update(Sha256::digest("dap-taskprov task id"))
        .chain_update(draft.task_configuration(&task));
    TaskParameters { id: TaskId::new(hash.finalize().into()), ..task }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn sums_histograms_of_browsers(#[values(Revision::Dap18, Revision::Dap19)] revision: Revision) {
    assert_eq!(chunk_length(), 4);
    let quick = |config: &mut Config| config.leader.min_job_size = 1;
    let (mut leader, mut helper) = (Node::start_with(quick).await, Node::start_with(quick).await);
    let task = derived(revision, leader.url(revision), helper.url(revision));
    let key_length = vdaf::preparer_for_task(&task).unwrap().verify_key_length();
    let vdaf = task.vdaf.clone();
    let parties = Parties::new(revision, vdaf, task.batch_mode, task.leader_url.clone(), task.helper_url.clone());
    let key = Secret::random(key_length);
    let parties = parties.with(|known| {
        known.public = task.clone();
        known.verify_key = key.clone();
    });
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;

    let (client, now) = (parties.client(), clock::now());
    let too_much = client.prepare(Measurement::Vector(vec![5, 5, 1, 0]), now).await;
    assert!(too_much.is_err(), "the sum of a histogram has a bound");
    for histogram in HISTOGRAMS.into_iter().cycle().take(20) {
        client.upload(Measurement::Vector(histogram.to_vec()), Some(now)).await.unwrap();
    }
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    let mut expected = [0; LENGTH];
    for histogram in HISTOGRAMS {
        expected.iter_mut().zip(histogram).for_each(|(sum, credit)| *sum += 4 * credit);
    }
    assert_eq!((collected.report_count, collected.result), (20, AggregateResult::Vector(expected.to_vec())));
    leader.stop().await;
    helper.stop().await;
}
