//! Memory that is shared out: what finds none left is refused or waits, and everything else goes on.

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
    self, Node, PATIENCE, Pair, Parties,
    calls::{assert_taken, assert_upload_refused, problem},
    forge::Forge,
    raw::{ask, begin, status},
    relay::Relay,
};

/// Vectors of so many flags.
fn vectors(length: usize) -> VdafConfig {
    VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(1), length, chunk_length: optimal_chunk_length(length) }
}

fn counted(status: &TaskStatus, name: &str) -> u64 {
    status.counters.get(name).copied().unwrap_or(0)
}

/// A slow client that holds all the memory for uploads keeps other long ones out, and nothing else: not keys, nor short
/// uploads, nor the jobs of a leader.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn uploads_have_their_own_memory_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        (config.limits.max_report_bytes, config.limits.upload_memory_bytes) = (64 << 10, 64 << 10);
    };
    let mode = BatchMode::TimeInterval;
    let pair = Pair::start_with(revision, vectors(3000), mode, tight, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let ones = |length| Measurement::Vector(vec![1; length]);
    let long = || parties.wire().encode_upload(parties.task(), &[forge.report(&ones(3000), clock::now())]);
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let (slow, headers) = (long(), [("content-type", upload.content_type.unwrap())]);
    let length = slow.len().to_string();
    let mut stream = begin(method, &url, &[headers[0], ("content-length", &length)]).await;
    stream.write_all(&slow[..slow.len() - 1]).await.unwrap();
    let (deadline, mut taken) = (std::time::Instant::now() + PATIENCE, 1);
    let refused = loop {
        let said = ask(method, &url, &headers, long()).await;
        if said.status >= 300 {
            break said;
        }
        taken += 1;
        assert!(std::time::Instant::now() < deadline, "the slow upload takes no memory");
    };
    assert_eq!(refused.problem(503)["taskid"], parties.id().to_string());
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));

    let keys = ask("GET", &parties.at_leader("hpke_config"), &[], Vec::new()).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    let short = Parties::between(revision, VdafConfig::Prio3Count, mode, [&pair.leader, &pair.helper]).await;
    assert_taken(&short.upload(&Forge::new(&short).await.report(&Measurement::Flag(true), clock::now())).await);
    let reversed = Parties::between(revision, vectors(3000), mode, [&pair.helper, &pair.leader]).await;
    let theirs = Forge::new(&reversed).await;
    let drafts = [(); 8].map(|()| theirs.draft(&ones(3000), clock::now()));
    assert_eq!(reversed.run_job(&theirs.job(PartialBatchSelector::TimeInterval, &drafts)).await.len(), 8);

    // What was begun is finished, and gives its memory back.
    stream.write_all(&slow[slow.len() - 1..]).await.unwrap();
    assert_eq!(status(&mut stream).await, Some(200));
    assert_taken(&parties.upload_bytes(long()).await);
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, taken + 1);
    pair.stop().await;
}

/// Clients that hold all the memory for uploads and send nothing lose it to one that sends its report.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn reclaims_memory_of_silent_uploads(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        (config.limits.max_report_bytes, config.limits.upload_memory_bytes) = (64 << 10, 128 << 10);
        config.limits.request_timeout = dapbox::config::Seconds(10 * PATIENCE);
        config.limits.max_body_silence = dapbox::config::Seconds::millis(100);
    };
    let pair = Pair::start_with(revision, vectors(3000), BatchMode::TimeInterval, tight, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let long = parties
        .wire()
        .encode_upload(parties.task(), &[forge.report(&Measurement::Vector(vec![1; 3000]), clock::now())]);
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let (length, headers) = (long.len().to_string(), [("content-type", upload.content_type.unwrap())]);
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut stream = begin(method, &url, &[headers[0], ("content-length", &length)]).await;
        stream.write_all(&long[..long.len() - 1]).await.unwrap();
        silent.push(stream);
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    while ask(method, &url, &headers, long.clone()).await.status == 503 {
        assert!(std::time::Instant::now() < deadline, "silent uploads shut others out");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 1);
    // Those that have lost it are told so.
    let mut ended = tokio::task::JoinSet::new();
    silent.into_iter().for_each(|mut stream| drop(ended.spawn(async move { status(&mut stream).await })));
    assert_eq!(ended.join_next().await.unwrap().unwrap(), Some(503));
    drop(ended);
    pair.stop().await;
}

/// A leader whose memory holds a few reports aggregates all of them in small jobs. What clients make longer than it
/// should be, the share that only the helper can open, makes jobs shorter still, and costs no other report.
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
    let forge = Forge::new(&parties).await;
    let one = Measurement::Vector([1, 0].repeat(5));
    let mut reports: Vec<Report> = (0..2 * HALF).map(|_| forge.report(&one, clock::now())).collect();
    for padded in reports.iter_mut().skip(1).step_by(2) {
        padded.helper_share.payload = Bytes::from(vec![0; PADDING]);
    }
    parties.upload_all(&reports).await;
    let is_over = |status: &TaskStatus| status.waiting + status.jobs == 0;
    let status = leader.until(&parties.id(), is_over).await;
    assert_eq!(counted(&status, "aggregate_success"), HALF as u64, "{status:#?}");
    assert_eq!(counted(&status, "helper_hpke_decrypt_error"), HALF as u64, "{status:#?}");
    let longest = relay.made(ResourceKind::AggregationJob).iter().map(|asked| asked.body.len()).max();
    assert!(longest.is_some_and(|longest| longest < (1 << 20) + 2 * PADDING), "a job of {longest:?} bytes");
    let collected = parties.collector().collect(parties.query_now(), Some(PATIENCE), |_| {}).await.unwrap();
    let sums = AggregateResult::Vector([HALF as u128, 0].repeat(5));
    assert_eq!((collected.report_count, collected.result), (HALF as u64, sums));
    Pair { leader, helper, parties }.stop().await;
}

/// Jobs whose helper is away do not keep the memory to themselves; when it is back they go on where they were.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn absent_helper_delays_only_its_task(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    const REPORTS: u64 = 24;
    let tight = |config: &mut Config| {
        // The first job takes all of it.
        (config.leader.max_memory_bytes, config.leader.min_job_size) = (128 << 10, 1);
    };
    let mode = BatchMode::TimeInterval;
    let (leader, mut absent, helper) = (Node::start_with(tight).await, Node::start().await, Node::start().await);
    let stuck = Parties::between(revision, vectors(1000), mode, [&leader, &absent]).await;
    let other = Parties::between(revision, VdafConfig::Prio3Count, mode, [&leader, &helper]).await;
    let forge = Forge::new(&stuck).await;
    absent.stop().await;
    let one = Measurement::Vector(vec![1; 1000]);
    let reports: Vec<Report> = (0..REPORTS).map(|_| forge.report(&one, clock::now())).collect();
    stuck.upload_all(&reports).await;
    leader.until(&stuck.id(), |status| status.last_error.is_some() && status.jobs > 1).await;
    let theirs = Forge::new(&other).await;
    let reports: Vec<Report> = (0..REPORTS).map(|_| theirs.report(&Measurement::Flag(true), clock::now())).collect();
    other.upload_all(&reports).await;
    leader.until(&other.id(), |status| status.aggregated == REPORTS).await;
    assert_eq!(leader.status(&stuck.id()).await.aggregated, 0);
    absent.resume().await;
    let collected = stuck.collector().collect(stuck.query_now(), Some(PATIENCE), |_| {}).await.unwrap();
    let sums = AggregateResult::Vector(vec![REPORTS.into(); 1000]);
    assert_eq!((collected.report_count, collected.result), (REPORTS, sums));
    absent.stop().await;
    Pair { leader, helper, parties: other }.stop().await;
}

const HOUR: u64 = 3600;

/// The middle of an hour, so many hours ago.
fn ago(hours: u64) -> Time {
    Time((clock::now().0 / HOUR - hours) * HOUR + HOUR / 2)
}

/// The hour of a time, to collect.
fn hour_of(time: Time) -> Query {
    Query::TimeInterval(Interval::new(time.truncate(Duration(HOUR)), Duration(HOUR)).unwrap())
}

/// A task has a limit of open batch buckets. Reports that wait count, after a restart too; reports of known times are
/// taken, and a collection makes room for a new time.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn limits_open_batch_buckets(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        config.limits.max_open_buckets = 3;
        // Reports wait until they are collected.
        config.leader.max_job_delay = dapbox::config::Seconds::new(1000);
    };
    let one = |task: &mut dapbox::model::Task| task.public.min_batch_size = 1;
    let mut pair = Pair::start_with(revision, vectors(10), BatchMode::TimeInterval, tight, one).await;
    let (parties, id) = (&pair.parties, pair.parties.id());
    let forge = Forge::new(parties).await;
    let ones = Measurement::Vector(vec![1; 10]);
    let of = |hours| forge.report(&ones, ago(hours));
    for hours in [1, 2, 3, 2] {
        assert_taken(&parties.upload(&of(hours)).await);
    }
    let late = of(4);
    assert_upload_refused(&parties.upload(&late).await, parties, &late, ReportError::ReportDropped);
    pair.leader.restart().await;
    assert_upload_refused(&parties.upload(&late).await, parties, &late, ReportError::ReportDropped);
    assert_taken(&parties.upload(&of(3)).await);
    assert_eq!(pair.leader.counter(&id, "upload_bucket_limit").await, 2);

    let collector = parties.collector();
    let collect = |hours| collector.collect(hour_of(ago(hours)), Some(PATIENCE), |_| {});
    assert_eq!(collect(2).await.unwrap().result, AggregateResult::Vector(vec![2; 10]));
    assert_taken(&parties.upload(&late).await);
    for (hours, count) in [(4, 1), (1, 1), (3, 2)] {
        assert_eq!(collect(hours).await.unwrap().report_count, count, "{hours} hours ago");
    }
    pair.stop().await;
}

/// A helper that refuses reports, because their times would open too many batch buckets, does so for each of them, and the
/// leader drops the same ones: what is collected is exact.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn drops_same_reports_when_helper_reaches_bucket_limit(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let eager = |config: &mut Config| config.leader.min_job_size = 1;
    let (leader, helper) = (
        Node::start_with(eager).await,
        // Twice as many, at a helper.
        Node::start_with(|config| config.limits.max_open_buckets = 1).await,
    );
    let parties = Parties::between(revision, vectors(10), BatchMode::TimeInterval, [&leader, &helper]).await;
    let forge = Forge::new(&parties).await;
    let ones = Measurement::Vector(vec![1; 10]);
    let reports: Vec<_> = (1..=4).flat_map(|hours| [(); 3].map(|()| forge.report(&ones, ago(hours)))).collect();
    parties.upload_all(&reports).await;
    let status = leader.until(&parties.id(), |status| status.waiting + status.jobs == 0).await;
    assert_eq!(counted(&status, "aggregate_success"), 6, "{status:#?}");
    assert_eq!(counted(&status, "helper_report_dropped"), 6, "{status:#?}");
    let whole = Interval::new(ago(4).truncate(Duration(HOUR)), Duration(4 * HOUR)).unwrap();
    let collected = parties.collector().collect(Query::TimeInterval(whole), Some(PATIENCE), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (6, AggregateResult::Vector(vec![6; 10])));
    Pair { leader, helper, parties }.stop().await;
}

/// The bytes of a sum of so many numbers: 16 for each in VDAF-08 and VDAF-18.
fn sum_of(length: usize) -> usize {
    16 * length
}

/// Reports of one hour each.
fn a_report_an_hour(forge: &Forge, length: usize, hours: std::ops::Range<u64>) -> Vec<common::forge::Draft> {
    hours.map(|hours| forge.draft(&Measurement::Vector(vec![1; length]), ago(hours))).collect()
}

/// A job whose sums do not fit into the helper's memory is refused before any of it is prepared. Its reports are not
/// reserved, and shorter jobs of them are taken, in passes where that is needed.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn refuses_job_whose_sums_exceed_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    const LENGTH: usize = 1000;
    let (leader, mut helper) = (
        Node::start().await,
        // Five sums three times, and 1 KiB for each of 20 reports.
        Node::start_with(|config| config.helper.max_memory_bytes = 15 * sum_of(LENGTH) + (20 << 10)).await,
    );
    let parties = Parties::between(revision, vectors(LENGTH), BatchMode::TimeInterval, [&leader, &helper]).await;
    let forge = Forge::new(&parties).await;
    let batch = PartialBatchSelector::TimeInterval;
    let mut drafts = a_report_an_hour(&forge, LENGTH, 1..11);
    let answer = parties.ask_job(&forge.job(batch, &drafts)).await.answer;
    let refused = problem(&answer);
    assert_eq!(refused.status, 413, "{refused}");
    assert!(refused.to_string().contains("helper.max_memory_bytes"), "{refused}");
    assert_eq!(counted(&helper.status(&parties.id()).await, "aggregate_success"), 0);

    // Four of each hour: they are prepared in two passes.
    drafts.truncate(5);
    drafts.extend([(); 3].map(|()| a_report_an_hour(&forge, LENGTH, 1..6)).concat());
    let job = forge.job(batch, &drafts);
    let id = [7; 16];
    let first = parties.put_job(&id, &job).await.answer;
    let resps = parties.wire().decode_job_resp(&first.body, job.prepare_inits.len()).unwrap();
    let holds = |resp: &PrepareResp| matches!(resp.outcome, PrepareOutcome::Continue(_));
    assert!(resps.len() == 20 && resps.iter().all(holds), "{resps:?}");
    // It was answered, and is so whatever memory there is since.
    helper.stop().await;
    helper.config.helper.max_memory_bytes = 1024;
    helper.resume().await;
    let again = parties.put_job(&id, &job).await.answer;
    assert_eq!((again.status, again.body), (first.status, first.body));
    assert_eq!(counted(&helper.status(&parties.id()).await, "aggregate_success"), 20);
    Pair { leader, helper, parties }.stop().await;
}

/// A leader makes jobs of no more batch buckets than its own memory holds, and shorter ones when a helper has less:
/// everything is aggregated.
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
    // Two buckets at once.
    let narrow = |config: &mut Config| config.helper.max_memory_bytes = 2 * 3 * sum_of(LENGTH) + (6 << 10);
    let (leader, helper, relay) = (Node::start_with(tight).await, Node::start_with(narrow).await, Relay::start().await);
    let urls = (leader.url(revision), relay.before(&helper.url(revision)));
    let parties = Parties::new(revision, vectors(LENGTH), BatchMode::TimeInterval, urls.0, urls.1);
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    let forge = Forge::new(&parties).await;
    let drafts = [(); 2].map(|()| a_report_an_hour(&forge, LENGTH, 1..1 + HOURS)).concat();
    let reports: Vec<_> = drafts.iter().map(|draft| forge.seal(draft)).collect();
    parties.upload_all(&reports).await;
    leader.until(&parties.id(), |status| status.waiting + status.jobs == 0).await;
    let whole = Interval::new(ago(HOURS).truncate(Duration(HOUR)), Duration(HOURS * HOUR)).unwrap();
    let collected = parties.collector().collect(Query::TimeInterval(whole), Some(PATIENCE), |_| {}).await.unwrap();
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
    let asked = relay.made(ResourceKind::AggregationJob);
    let most = asked.iter().map(|asked| buckets_of(&asked.body)).max().unwrap();
    // Half of the memory is one job's, and half of that is for loading.
    assert!((3..=8).contains(&most), "a job of {most} batch buckets");
    Pair { leader, helper, parties }.stop().await;
}
