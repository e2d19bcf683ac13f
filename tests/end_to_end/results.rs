//! A server that collects tasks of a real leader and helper.

use dapbox::{
    config::{Config, OptionalAddress, Seconds},
    hpke::{Keypair, Suite},
    model::{BatchMode, Duration, MaxMeasurement, Revision, Time, VdafConfig},
    support::clock,
    vdaf::{AggregateResult, Measurement},
    views::results::{CollectorTaskChange, WindowStatus},
};
use rstest::rstest;

use crate::common::{Node, Pair, batches_of, collecting::every};

const HOUR: u64 = 3600;

fn quick(config: &mut Config) {
    config.leader.min_job_size = 1;
    config.leader.collection_retry_after = Seconds::millis(20);
    config.leader.next_batch_after = Seconds::new(0);
}

async fn collecting_node() -> Node {
    Node::start_with(|config| {
        config.results.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
        config.results.retry_max = Seconds::millis(200);
    })
    .await
}

fn sums() -> VdafConfig {
    VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(32) }
}

/// The start of the hour, this many hours ago.
fn hours_ago(hours: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours * HOUR))
}

fn states(windows: &[WindowStatus]) -> Vec<&str> {
    windows.iter().map(|window| window.state.as_str()).collect()
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collects_each_window_once_across_restarts(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let pair = Pair::start_with(revision, sums(), BatchMode::TimeInterval, quick, |_| {}).await;
    let (parties, mut node) = (&pair.parties, collecting_node().await);
    let (id, start) = (parties.id(), hours_ago(4));
    for (hours, number) in [(4, 1), (4, 2), (3, 40), (1, 500), (1, 600)] {
        parties.client().upload(Measurement::Number(number), Some(hours_ago(hours))).await.unwrap();
    }
    let record = parties.collector_record(every(HOUR, start));
    let (status, added) = node.collect(&record).await;
    assert_eq!((status, added.unwrap().change), (201, CollectorTaskChange::Added));
    // The third hour has no reports: its request stays at the leader.
    let expected = ["collected", "collected", "pending", "collected", "upcoming"];
    let is_there = |windows: &[WindowStatus]| states(windows) == expected;
    node.until_windows(&id, is_there).await;
    let found = node.results(&id).await;
    let number = |count: u64, sum: u128| (count, AggregateResult::Number(sum));
    assert_eq!(found, [(0, number(2, 3)), (1, number(1, 40)), (3, number(2, 1100))].into());

    node.restart().await;
    let windows = node.until_windows(&id, is_there).await;
    assert_eq!(node.results(&id).await, found);
    for (hour, window) in (0..).zip(&windows) {
        let interval = window.interval.unwrap();
        let expected = (hours_ago(4).saturating_add(Duration(hour * HOUR)), Duration(HOUR));
        assert_eq!((interval.start(), interval.duration()), expected, "no gap and no overlap");
    }

    // The late report of the third hour completes the stored request, also after a restart of the leader.
    parties.client().upload(Measurement::Number(7000), Some(hours_ago(2))).await.unwrap();
    node.until_windows(&id, |windows| windows[2].state == "collected").await;
    assert_eq!(node.results(&id).await[&2], number(1, 7000));
    let status = node.collecting(&id).await;
    assert_eq!((status.windows["collected"], status.windows["upcoming"], status.last_error), (4, 1, None));
    assert_eq!(pair.leader.status(&id).await.batches_collected, 4);

    let (status, page) = node.results_page("/").await;
    assert!(status == 200 && page.contains(&id.to_string()), "{page}");
    node.stop().await;
    pair.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collects_batch_after_batch(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let of_three = |task: &mut dapbox::model::Task| task.public.min_batch_size = 3;
    let pair = Pair::start_with(revision, sums(), batches_of(revision, 3), quick, of_three).await;
    let (parties, mut node) = (&pair.parties, collecting_node().await);
    let id = parties.id();
    node.collect(&parties.collector_record(every(HOUR, hours_ago(1)))).await;
    let is_collected = |count: usize| {
        move |windows: &[WindowStatus]| windows.iter().filter(|window| window.state == "collected").count() == count
    };
    for bits in [0..6, 6..9] {
        for bit in bits.clone() {
            parties.client().upload(Measurement::Number(1 << bit), None).await.unwrap();
        }
        node.until_windows(&id, is_collected(bits.end / 3)).await;
        node.restart().await;
    }
    let found = node.results(&id).await;
    let mut seen = 0;
    for (count, result) in found.values() {
        let AggregateResult::Number(sum) = result else { panic!("{result:?}") };
        assert_eq!((*count, sum.count_ones(), seen & sum), (3, 3, 0), "{found:?}");
        seen |= sum;
    }
    assert_eq!(seen, (1 << 9) - 1, "each report is in one batch");
    let windows = node.until_windows(&id, |windows| windows.last().unwrap().state == "pending").await;
    assert_eq!(windows.len(), 4, "the next batch is requested");
    node.stop().await;
    pair.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn keeps_unreadable_result_until_the_key_is_replaced(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(true, false)] is_batch: bool,
) {
    let mode = if is_batch { batches_of(revision, 1) } else { BatchMode::TimeInterval };
    let pair = Pair::start_with(revision, sums(), mode, quick, |_| {}).await;
    let (parties, mut node) = (&pair.parties, collecting_node().await);
    let (id, mut record) = (parties.id(), parties.collector_record(every(HOUR, hours_ago(1))));
    let wrong = Keypair::generate(7, Suite::DEFAULT).unwrap();
    (record.key, record.private_key) = (wrong.config().clone(), wrong.private_key().clone());
    parties.client().upload(Measurement::Number(5), Some(hours_ago(1))).await.unwrap();
    node.collect(&record).await;
    let windows = node.until_windows(&id, |windows| windows.iter().any(|window| window.state == "lost")).await;
    assert!(windows[0].detail.as_ref().unwrap().contains("does not open"), "{windows:?}");
    assert_eq!(node.retry_window(id, 0).await, 409, "it is stored");
    node.restart().await;

    let right = parties.collector_record(every(HOUR, hours_ago(1)));
    let (status, added) = node.collect(&right).await;
    assert_eq!((status, added.unwrap().change), (200, CollectorTaskChange::Replaced));
    node.until_windows(&id, |windows| windows[0].state == "collected").await;
    assert_eq!(node.results(&id).await, [(0, (1, AggregateResult::Number(5)))].into());
    assert_eq!(node.windows(&id).await.iter().filter(|window| window.state == "lost").count(), 0);
    node.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_refused_windows_and_survives_an_unreachable_leader() {
    let revision = Revision::Dap18;
    let mut pair = Pair::start_with(revision, sums(), BatchMode::TimeInterval, quick, |_| {}).await;
    let mut node = collecting_node().await;
    let id = pair.parties.id();
    pair.parties.client().upload(Measurement::Number(9), Some(hours_ago(1))).await.unwrap();
    let right = pair.parties.collector_record(every(HOUR, hours_ago(1)));
    let mut record = right.clone();
    record.token = dapbox::model::Secret::random_token();
    node.collect(&record).await;
    let windows = node.until_windows(&id, |windows| windows[0].state == "refused").await;
    assert!(windows[0].is_recoverable && windows[0].detail.is_some());
    assert!(node.collecting(&id).await.last_error.is_some());

    pair.leader.stop().await;
    let (status, _) = node.collect(&right).await;
    assert_eq!(status, 200);
    node.restart().await;
    let mut other = right.clone();
    other.public.min_batch_size = 2;
    assert_eq!(node.collect(&other).await.0, 409, "parameters cannot change");
    pair.leader.resume().await;
    node.until_windows(&id, |windows| windows[0].state == "collected").await;
    assert_eq!(node.results(&id).await, [(0, (1, AggregateResult::Number(9)))].into());
    assert_eq!(node.collecting(&id).await.last_error, None);
    node.stop().await;
    pair.stop().await;
}
