//! Memory budgets. Work that exceeds a budget is refused or waits, and other work continues.

use bytes::Bytes;
use dapbox::{
    config::Config,
    model::{
        BatchMode, Bucket, Duration, Interval, MaxMeasurement, PartialBatchSelector, PrepareOutcome, PrepareResp,
        Query, Report, ReportError, Revision, Time, VdafConfig,
    },
    support::clock,
    vdaf::{AggregateResult, Measurement, table::optimal_chunk_length},
    views::status::TaskStatus,
    wire::ResourceKind,
};
use rstest::rstest;
use tokio::io::AsyncWriteExt;

use crate::common::{
    self, Node, Pair, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, assert_report_rejected, problem},
    raw::{begin_request, send_raw, status},
    relay::Relay,
    report_builder::ReportBuilder,
};

/// Vectors of this many flags.
fn vectors(length: usize) -> VdafConfig {
    VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(1), length, chunk_length: optimal_chunk_length(length) }
}

fn counted(status: &TaskStatus, name: &str) -> u64 {
    status.counters.get(name).copied().unwrap_or(0)
}

/// A slow client that occupies all upload memory blocks only other long uploads, but not keys, short uploads or the
/// leader's jobs.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn uploads_have_their_own_memory_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        (config.limits.max_report_bytes, config.limits.upload_memory_bytes) = (64 << 10, 64 << 10);
    };
    let mode = BatchMode::TimeInterval;
    let pair = Pair::start_with(revision, vectors(3000), mode, tight, |_| {}).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let ones = |length| Measurement::Vector(vec![1; length]);
    let long = || parties.wire().encode_upload(parties.task(), &[builder.report(&ones(3000), clock::now())]);
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let (slow, headers) = (long(), [("content-type", upload.content_type.unwrap())]);
    let length = slow.len().to_string();
    let mut stream = begin_request(method, &url, &[headers[0], ("content-length", &length)]).await;
    stream.write_all(&slow[..slow.len() - 1]).await.unwrap();
    let (deadline, mut taken) = (std::time::Instant::now() + TEST_TIMEOUT, 1);
    let refused = loop {
        let said = send_raw(method, &url, &headers, long()).await;
        if said.status >= 300 {
            break said;
        }
        taken += 1;
        assert!(std::time::Instant::now() < deadline, "the slow upload takes no memory");
    };
    assert_eq!(refused.problem(503)["taskid"], parties.id().to_string());
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));

    let keys = send_raw("GET", &parties.at_leader("hpke_config"), &[], Vec::new()).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    let short = Parties::between(revision, VdafConfig::Prio3Count, mode, [&pair.leader, &pair.helper]).await;
    assert_accepted(
        &short.upload(&ReportBuilder::new(&short).await.report(&Measurement::Flag(true), clock::now())).await,
    );
    let reversed = Parties::between(revision, vectors(3000), mode, [&pair.helper, &pair.leader]).await;
    let theirs = ReportBuilder::new(&reversed).await;
    let drafts = [(); 8].map(|()| theirs.draft(&ones(3000), clock::now()));
    assert_eq!(reversed.run_job(&theirs.job(PartialBatchSelector::TimeInterval, &drafts)).await.len(), 8);

    // The slow upload completes and releases its memory.
    stream.write_all(&slow[slow.len() - 1..]).await.unwrap();
    assert_eq!(status(&mut stream).await, Some(200));
    assert_accepted(&parties.upload_bytes(long()).await);
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, taken + 1);
    pair.stop().await;
}

/// Clients that occupy all upload memory without sending lose it to a client that sends its report.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn reclaims_memory_of_silent_uploads(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        (config.limits.max_report_bytes, config.limits.upload_memory_bytes) = (64 << 10, 128 << 10);
        config.limits.request_timeout = dapbox::config::Seconds(10 * TEST_TIMEOUT);
        config.limits.max_body_silence = dapbox::config::Seconds::millis(100);
    };
    let pair = Pair::start_with(revision, vectors(3000), BatchMode::TimeInterval, tight, |_| {}).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let long = parties
        .wire()
        .encode_upload(parties.task(), &[builder.report(&Measurement::Vector(vec![1; 3000]), clock::now())]);
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let (length, headers) = (long.len().to_string(), [("content-type", upload.content_type.unwrap())]);
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut stream = begin_request(method, &url, &[headers[0], ("content-length", &length)]).await;
        stream.write_all(&long[..long.len() - 1]).await.unwrap();
        silent.push(stream);
    }
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while send_raw(method, &url, &headers, long.clone()).await.status == 503 {
        assert!(std::time::Instant::now() < deadline, "silent uploads shut others out");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 1);
    // Clients that lost their memory get an answer.
    let mut ended = tokio::task::JoinSet::new();
    silent.into_iter().for_each(|mut stream| drop(ended.spawn(async move { status(&mut stream).await })));
    assert_eq!(ended.join_next().await.unwrap().unwrap(), Some(503));
    drop(ended);
    pair.stop().await;
}

/// A leader whose memory holds only a few reports aggregates all of them in small jobs. Helper shares that clients
/// padded make jobs even smaller and cost no other report.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn shortens_jobs_to_memory_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    const HALF: usize = 20;
    const PADDING: usize = 100_000;
    let tight = |config: &mut Config| {
        config.leader.max_memory_bytes = 1 << 20;
        config.leader.min_job_size = 2 * HALF;
        config.leader.max_job_delay = dapbox::config::Seconds::new(1);
    };
    let (leader, helper, relay) = (Node::start_with(tight).await, Node::start().await, Relay::start().await);
    let urls = (leader.url(revision), relay.before(&helper.url(revision)));
    let parties = Parties::new(revision, vectors(10), BatchMode::TimeInterval, urls.0, urls.1);
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    let builder = ReportBuilder::new(&parties).await;
    let one = Measurement::Vector([1, 0].repeat(5));
    let mut reports: Vec<Report> = (0..2 * HALF).map(|_| builder.report(&one, clock::now())).collect();
    for padded in reports.iter_mut().skip(1).step_by(2) {
        padded.helper_share.payload = Bytes::from(vec![0; PADDING]);
    }
    parties.upload_all(&reports).await;
    let is_over = |status: &TaskStatus| status.waiting + status.jobs == 0;
    let status = leader.until(&parties.id(), is_over).await;
    assert_eq!(counted(&status, "aggregate_success"), HALF as u64, "{status:#?}");
    assert_eq!(counted(&status, "helper_hpke_decrypt_error"), HALF as u64, "{status:#?}");
    let longest = relay.creations(ResourceKind::AggregationJob).iter().map(|asked| asked.body.len()).max();
    assert!(longest.is_some_and(|longest| longest < (1 << 20) + 2 * PADDING), "a job of {longest:?} bytes");
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    let sums = AggregateResult::Vector([HALF as u128, 0].repeat(5));
    assert_eq!((collected.report_count, collected.result), (HALF as u64, sums));
    Pair { leader, helper, parties }.stop().await;
}

/// Jobs of an unreachable helper do not keep the memory. They continue when the helper returns.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn absent_helper_delays_only_its_task(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    const REPORTS: u64 = 24;
    let tight = |config: &mut Config| {
        // The first job occupies the whole budget.
        (config.leader.max_memory_bytes, config.leader.min_job_size) = (128 << 10, 1);
    };
    let mode = BatchMode::TimeInterval;
    let (leader, mut absent, helper) = (Node::start_with(tight).await, Node::start().await, Node::start().await);
    let stuck = Parties::between(revision, vectors(1000), mode, [&leader, &absent]).await;
    let other = Parties::between(revision, VdafConfig::Prio3Count, mode, [&leader, &helper]).await;
    let builder = ReportBuilder::new(&stuck).await;
    absent.stop().await;
    let one = Measurement::Vector(vec![1; 1000]);
    let reports: Vec<Report> = (0..REPORTS).map(|_| builder.report(&one, clock::now())).collect();
    stuck.upload_all(&reports).await;
    leader.until(&stuck.id(), |status| status.last_error.is_some() && status.jobs > 1).await;
    let theirs = ReportBuilder::new(&other).await;
    let reports: Vec<Report> = (0..REPORTS).map(|_| theirs.report(&Measurement::Flag(true), clock::now())).collect();
    other.upload_all(&reports).await;
    leader.until(&other.id(), |status| status.aggregated == REPORTS).await;
    assert_eq!(leader.status(&stuck.id()).await.aggregated, 0);
    absent.resume().await;
    let collected = stuck.collector().collect(stuck.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    let sums = AggregateResult::Vector(vec![REPORTS.into(); 1000]);
    assert_eq!((collected.report_count, collected.result), (REPORTS, sums));
    absent.stop().await;
    Pair { leader, helper, parties: other }.stop().await;
}

const HOUR: u64 = 3600;

/// The middle of the hour this many hours ago.
fn ago(hours: u64) -> Time {
    Time((clock::now().0 / HOUR - hours) * HOUR + HOUR / 2)
}

/// A query for the hour of a time.
fn hour_of(time: Time) -> Query {
    Query::TimeInterval(Interval::new(time.truncate(Duration(HOUR)), Duration(HOUR)).unwrap())
}

/// The number of a task's open batch buckets is limited. Pending reports count, also after a restart. Reports of open
/// buckets are accepted, and a collection makes room for new ones.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn limits_open_batch_buckets(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        config.limits.max_open_buckets = 3;
        // Reports stay pending until they are collected.
        config.leader.max_job_delay = dapbox::config::Seconds::new(1000);
    };
    let one = |task: &mut dapbox::model::Task| task.public.min_batch_size = 1;
    let mut pair = Pair::start_with(revision, vectors(10), BatchMode::TimeInterval, tight, one).await;
    let (parties, id) = (&pair.parties, pair.parties.id());
    let builder = ReportBuilder::new(parties).await;
    let ones = Measurement::Vector(vec![1; 10]);
    let of = |hours| builder.report(&ones, ago(hours));
    for hours in [1, 2, 3, 2] {
        assert_accepted(&parties.upload(&of(hours)).await);
    }
    let late = of(4);
    assert_report_rejected(&parties.upload(&late).await, parties, &late, ReportError::ReportDropped);
    pair.leader.restart().await;
    assert_report_rejected(&parties.upload(&late).await, parties, &late, ReportError::ReportDropped);
    assert_accepted(&parties.upload(&of(3)).await);
    assert_eq!(pair.leader.counter(&id, "upload_bucket_limit").await, 2);

    let collector = parties.collector();
    let collect = |hours| collector.collect(hour_of(ago(hours)), Some(TEST_TIMEOUT), |_| {});
    assert_eq!(collect(2).await.unwrap().result, AggregateResult::Vector(vec![2; 10]));
    assert_accepted(&parties.upload(&late).await);
    for (hours, count) in [(4, 1), (1, 1), (3, 2)] {
        assert_eq!(collect(hours).await.unwrap().report_count, count, "{hours} hours ago");
    }
    pair.stop().await;
}

/// A helper rejects each report that would exceed its bucket limit, and the leader drops the same reports. The
/// collected sum is exact.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn drops_same_reports_when_helper_reaches_bucket_limit(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let eager = |config: &mut Config| config.leader.min_job_size = 1;
    let (leader, helper) = (
        Node::start_with(eager).await,
        // A helper permits twice as many.
        Node::start_with(|config| config.limits.max_open_buckets = 1).await,
    );
    let parties = Parties::between(revision, vectors(10), BatchMode::TimeInterval, [&leader, &helper]).await;
    let builder = ReportBuilder::new(&parties).await;
    let ones = Measurement::Vector(vec![1; 10]);
    let reports: Vec<_> = (1..=4).flat_map(|hours| [(); 3].map(|()| builder.report(&ones, ago(hours)))).collect();
    parties.upload_all(&reports).await;
    let status = leader.until(&parties.id(), |status| status.waiting + status.jobs == 0).await;
    assert_eq!(counted(&status, "aggregate_success"), 6, "{status:#?}");
    assert_eq!(counted(&status, "helper_report_dropped"), 6, "{status:#?}");
    let whole = Interval::new(ago(4).truncate(Duration(HOUR)), Duration(4 * HOUR)).unwrap();
    let collected = parties.collector().collect(Query::TimeInterval(whole), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (6, AggregateResult::Vector(vec![6; 10])));
    Pair { leader, helper, parties }.stop().await;
}

/// The bytes of a sum of this many numbers: 16 for each in VDAF-08 and VDAF-18.
fn sum_of(length: usize) -> usize {
    16 * length
}

/// One report in each of these hours.
fn a_report_an_hour(
    builder: &ReportBuilder,
    length: usize,
    hours: std::ops::Range<u64>,
) -> Vec<common::report_builder::Draft> {
    hours.map(|hours| builder.draft(&Measurement::Vector(vec![1; length]), ago(hours))).collect()
}

/// A job whose sums exceed the helper's memory is refused before any of it is prepared. Its reports are not reserved,
/// and shorter jobs of them are accepted, in several passes where needed.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn refuses_job_whose_sums_exceed_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    const LENGTH: usize = 1000;
    let (leader, mut helper) = (
        Node::start().await,
        // Three times five sums, and 1 KiB for each of 20 reports.
        Node::start_with(|config| config.helper.max_memory_bytes = 15 * sum_of(LENGTH) + (20 << 10)).await,
    );
    let parties = Parties::between(revision, vectors(LENGTH), BatchMode::TimeInterval, [&leader, &helper]).await;
    let builder = ReportBuilder::new(&parties).await;
    let batch = PartialBatchSelector::TimeInterval;
    let mut drafts = a_report_an_hour(&builder, LENGTH, 1..11);
    let answer = parties.send_new_job(&builder.job(batch, &drafts)).await.answer;
    let refused = problem(&answer);
    assert_eq!(refused.status, 413, "{refused}");
    assert!(refused.to_string().contains("helper.max_memory_bytes"), "{refused}");
    assert_eq!(counted(&helper.status(&parties.id()).await, "aggregate_success"), 0);

    // Four reports of each hour: they are prepared in two passes.
    drafts.truncate(5);
    drafts.extend([(); 3].map(|()| a_report_an_hour(&builder, LENGTH, 1..6)).concat());
    let job = builder.job(batch, &drafts);
    let id = [7; 16];
    let first = parties.send_job(&id, &job).await.answer;
    let resps = parties.wire().decode_job_resp(&first.body, job.prepare_inits.len()).unwrap();
    let holds = |resp: &PrepareResp| matches!(resp.outcome, PrepareOutcome::Continue(_));
    assert!(resps.len() == 20 && resps.iter().all(holds), "{resps:?}");
    // An answered job is answered again with any memory limit.
    helper.stop().await;
    helper.config.helper.max_memory_bytes = 1024;
    helper.resume().await;
    let again = parties.send_job(&id, &job).await.answer;
    assert_eq!((again.status, again.body), (first.status, first.body));
    assert_eq!(counted(&helper.status(&parties.id()).await, "aggregate_success"), 20);
    Pair { leader, helper, parties }.stop().await;
}

/// A leader limits the batch buckets of a job to its own memory, and sends shorter jobs if the helper has less. All
/// reports are aggregated.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn sends_jobs_whose_sums_fit_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    const LENGTH: usize = 1000;
    const HOURS: u64 = 24;
    let tight = |config: &mut Config| {
        config.leader.max_memory_bytes = 32 * 3 * sum_of(LENGTH);
        config.leader.min_job_size = 2 * HOURS as usize;
        config.leader.max_job_delay = dapbox::config::Seconds::new(1);
    };
    // Two buckets in memory.
    let narrow = |config: &mut Config| config.helper.max_memory_bytes = 2 * 3 * sum_of(LENGTH) + (6 << 10);
    let (leader, helper, relay) = (Node::start_with(tight).await, Node::start_with(narrow).await, Relay::start().await);
    let urls = (leader.url(revision), relay.before(&helper.url(revision)));
    let parties = Parties::new(revision, vectors(LENGTH), BatchMode::TimeInterval, urls.0, urls.1);
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    let builder = ReportBuilder::new(&parties).await;
    let drafts = [(); 2].map(|()| a_report_an_hour(&builder, LENGTH, 1..1 + HOURS)).concat();
    let reports: Vec<_> = drafts.iter().map(|draft| builder.seal(draft)).collect();
    parties.upload_all(&reports).await;
    leader.until(&parties.id(), |status| status.waiting + status.jobs == 0).await;
    let whole = Interval::new(ago(HOURS).truncate(Duration(HOUR)), Duration(HOURS * HOUR)).unwrap();
    let collected = parties.collector().collect(Query::TimeInterval(whole), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    let sums = AggregateResult::Vector(vec![2 * u128::from(HOURS); LENGTH]);
    assert_eq!((collected.report_count, collected.result), (2 * HOURS, sums));
    let buckets_of = |body: &[u8]| {
        let init = parties.wire().decode_job_init(parties.task(), &Bytes::copy_from_slice(body), usize::MAX).unwrap();
        let bucket = |time: Time| Bucket::Time(time.truncate(Duration(HOUR)));
        init.prepare_inits
            .iter()
            .map(|init| bucket(init.share.metadata.time))
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    let asked = relay.creations(ResourceKind::AggregationJob);
    let most = asked.iter().map(|asked| buckets_of(&asked.body)).max().unwrap();
    // A job gets half of the memory, and half of that is for loading.
    assert!((3..=8).contains(&most), "a job of {most} batch buckets");
    Pair { leader, helper, parties }.stop().await;
}
