//! Leader-selected batches within time windows (`batch_time_window_size`).

use std::collections::BTreeMap;

use dapbox::{
    config::{Config, Seconds},
    model::{BatchMode, Duration, FixedSizeQuery, MaxMeasurement, Query, Report, Revision, Task, Time, VdafConfig},
    support::clock,
    vdaf::{AggregateResult, Measurement},
    views::status::TaskStatus,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rstest::rstest;

use crate::common::{Pair, Parties, TEST_TIMEOUT, calls::is_pending, report_builder::ReportBuilder};

const HOUR: u64 = 3600;
const WINDOW: Duration = Duration(3 * HOUR);
const CURRENT: Query = Query::FixedSize(FixedSizeQuery::CurrentBatch);
/// One report for each bit of the sum, so that it tells which reports it includes.
const REPORTS: usize = 31;
const LEAST: u64 = 3;

fn windows(most: Option<u64>) -> BatchMode {
    BatchMode::FixedSize { max_batch_size: most, batch_time_window_size: Some(WINDOW) }
}

fn of_three(task: &mut Task) {
    task.public.min_batch_size = LEAST;
}

/// Jobs are shorter than batches, so that several jobs fill a batch.
fn short_jobs(config: &mut Config) {
    (config.leader.max_job_size, config.leader.min_job_size) = (2, 1);
}

/// Reports are aggregated only for a waiting collection.
fn lazy(config: &mut Config) {
    config.leader.min_job_size = 1000;
    config.leader.max_job_delay = Seconds::new(HOUR);
}

async fn pair(revision: Revision, config: impl Fn(&mut Config)) -> Pair {
    let most = (revision == Revision::Dap09).then_some(LEAST + 1);
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(32) };
    Pair::start_with(revision, vdaf, windows(most), config, of_three).await
}

/// A time in the last twelve hours: four or five windows.
fn some_time(rng: &mut StdRng) -> Time {
    clock::now().saturating_sub(Duration(rng.random_range(0..12 * HOUR)))
}

/// Reports at these times, the nth with the nth bit.
async fn reports(parties: &Parties, times: &[Time]) -> Vec<Report> {
    let builder = ReportBuilder::new(parties).await;
    let report = |(n, time): (usize, &Time)| {
        builder.report(&Measurement::Number(1 << n), time.truncate(parties.task().time_precision))
    };
    times.iter().enumerate().map(report).collect()
}

/// The number of reports in each window.
fn by_window(times: &[Time]) -> BTreeMap<Time, u64> {
    let mut counts = BTreeMap::new();
    times.iter().for_each(|time| *counts.entry(time.truncate(WINDOW)).or_default() += 1);
    counts
}

/// Collects all possible batches. All reports of a batch are of one window, and its interval says so.
async fn collect_all(pair: &Pair, times: &[Time]) {
    let (parties, collector) = (&pair.parties, pair.parties.collector());
    let expected: BTreeMap<Time, u64> = by_window(times).into_iter().map(|(start, n)| (start, n / LEAST)).collect();
    let (mut found, mut seen) = (BTreeMap::new(), 0);
    for _ in 0..expected.values().sum::<u64>() {
        let batch = collector.collect(CURRENT, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        collector.release(&batch).await.unwrap();
        let AggregateResult::Number(sum) = batch.result else { panic!("{batch:?}") };
        assert_eq!((batch.report_count, u64::from(sum.count_ones()), seen & sum), (LEAST, LEAST, 0));
        seen |= sum;
        let members: Vec<_> = (0..times.len()).filter(|n| sum & (1 << n) != 0).map(|n| times[n]).collect();
        let start = batch.interval.start().truncate(WINDOW);
        assert!(members.iter().all(|time| time.truncate(WINDOW) == start && batch.interval.contains(*time)));
        assert!(batch.interval.end() <= start.saturating_add(WINDOW), "{batch:?}");
        *found.entry(start).or_default() += 1;
    }
    assert_eq!(found, expected.into_iter().filter(|(_, n)| *n > 0).collect());
    // The remaining reports of each window are too few for a batch.
    let left = times.len() as u64 - LEAST * found.values().sum::<u64>();
    let job = parties.start_collection(CURRENT).await;
    let is_quiet = |status: &TaskStatus| (status.aggregated, status.waiting, status.jobs) == (left, 0, 0);
    pair.leader.until(&parties.id(), is_quiet).await;
    assert!(is_pending(&parties.poll(&job).await, parties));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn no_batch_spans_two_windows(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(1, 2)] seed: u64,
    #[values(true, false)] is_eager: bool,
) {
    let pair = pair(revision, if is_eager { short_jobs } else { lazy }).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let times: Vec<_> = (0..REPORTS).map(|_| some_time(&mut rng)).collect();
    pair.parties.upload_all(&reports(&pair.parties, &times).await).await;
    collect_all(&pair, &times).await;
    pair.stop().await;
}

/// A leader that stops with half-full batches continues them, including those that only jobs in progress know of.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn keeps_windows_over_restart(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let mut pair = pair(revision, short_jobs).await;
    let (parties, mut rng) = (pair.parties.clone(), StdRng::seed_from_u64(3));
    let times: Vec<_> = (0..REPORTS).map(|_| some_time(&mut rng)).collect();
    let reports = reports(&parties, &times).await;
    parties.upload_all(&reports[..7]).await;
    pair.leader.until(&parties.id(), |status| status.aggregated == 7).await;
    pair.helper.stop().await;
    parties.upload_all(&reports[7..14]).await;
    pair.leader.until(&parties.id(), |status| status.jobs > 0).await;
    pair.leader.restart().await;
    parties.upload_all(&reports[14..20]).await;
    pair.helper.resume().await;
    parties.upload_all(&reports[20..]).await;
    collect_all(&pair, &times).await;
    pair.stop().await;
}

/// A helper stores the windows and ignores them: the leader assigns reports to batches.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn helper_without_windows_works_with_leader_that_has_them(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let pair = pair(revision, lazy).await;
    let (leader, helper) = (pair.leader.url(revision), pair.helper.url(revision));
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(32) };
    let mut parties = Parties::new(revision, vdaf, windows(None), leader, helper).with(of_three);
    parties.helper.public.batch_mode = BatchMode::fixed_size(None);
    pair.leader.add(&parties.leader).await;
    pair.helper.add(&parties.helper).await;
    let now = clock::now();
    let earlier = now.saturating_sub(WINDOW);
    let times = [now, earlier, now, earlier, now];
    parties.upload_all(&reports(&parties, &times).await).await;
    let batch = parties.collector().collect(CURRENT, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((batch.report_count, batch.result), (3, AggregateResult::Number(0b10101)));
    pair.stop().await;
}
