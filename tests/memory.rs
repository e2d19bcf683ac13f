//! Memory that is shared out: what finds none left is refused or waits, and everything else goes on.

mod common;

use bytes::Bytes;
use common::{
    Node, PATIENCE, Pair, Parties,
    calls::assert_taken,
    forge::Forge,
    raw::{ask, begin, status},
    relay::Relay,
};
use dapbox::{
    config::Config,
    model::{BatchMode, Max, PartialBatch, Report, Revision, Time, VdafConfig, status::TaskStatus},
    vdaf::{AggregateResult, Measurement, table::optimal_chunk_length},
    wire::Interaction,
};
use rstest::rstest;
use tokio::io::AsyncWriteExt;

/// Vectors of so many flags.
fn vectors(length: usize) -> VdafConfig {
    VdafConfig::Prio3SumVec { max: Max::of_bits(1), length, chunk_length: optimal_chunk_length(length) }
}

fn counted(status: &TaskStatus, name: &str) -> u64 {
    status.counters.get(name).copied().unwrap_or(0)
}

/// A slow client that holds all the memory for uploads keeps other long ones out, and nothing else: not keys, nor short
/// uploads, nor the jobs of a leader.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn uploads_have_memory_of_their_own(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        (config.limits.max_report_bytes, config.limits.upload_memory_bytes) = (64 << 10, 64 << 10);
    };
    let mode = BatchMode::TimeInterval;
    let pair = Pair::start_with(revision, vectors(3000), mode, tight, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let ones = |length| Measurement::Vector(vec![1; length]);
    let long = || parties.wire().encode_upload(parties.task(), &[forge.report(&ones(3000), Time::now())]);
    let upload = parties.wire().upload_call(&parties.id());
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
    assert_taken(&short.upload(&Forge::new(&short).await.report(&Measurement::Flag(true), Time::now())).await);
    let reversed = Parties::between(revision, vectors(3000), mode, [&pair.helper, &pair.leader]).await;
    let theirs = Forge::new(&reversed).await;
    let drafts = [(); 8].map(|()| theirs.draft(&ones(3000), Time::now()));
    assert_eq!(reversed.run_job(&theirs.job(PartialBatch::TimeInterval, &drafts)).await.len(), 8);

    // What was begun is finished, and gives its memory back.
    stream.write_all(&slow[slow.len() - 1..]).await.unwrap();
    assert!(matches!(status(&mut stream).await, Some(200 | 201)));
    assert_taken(&parties.upload_bytes(long()).await);
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, taken + 1);
    pair.stop().await;
}

/// A leader whose memory holds a few reports aggregates all of them in small jobs. What clients make longer than it
/// should be, the share that only the helper can open, makes jobs shorter still, and costs no other report.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_as_short_as_the_memory(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
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
    let mut reports: Vec<Report> = (0..2 * HALF).map(|_| forge.report(&one, Time::now())).collect();
    for padded in reports.iter_mut().skip(1).step_by(2) {
        padded.helper_share.payload = Bytes::from(vec![0; PADDING]);
    }
    parties.upload_all(&reports).await;
    let is_over = |status: &TaskStatus| status.waiting + status.jobs == 0;
    let status = leader.until(&parties.id(), is_over).await;
    assert_eq!(counted(&status, "aggregate_success"), HALF as u64, "{status:#?}");
    assert_eq!(counted(&status, "helper_hpke_decrypt_error"), HALF as u64, "{status:#?}");
    let longest = relay.made(Interaction::AggregationJob).iter().map(|asked| asked.body.len()).max();
    assert!(longest.is_some_and(|longest| longest < (1 << 20) + 2 * PADDING), "a job of {longest:?} bytes");
    let collected = parties.collector().collect(parties.query_now(), Some(PATIENCE), |_| {}).await.unwrap();
    let sums = AggregateResult::Vector([HALF as u128, 0].repeat(5));
    assert_eq!((collected.report_count, collected.result), (HALF as u64, sums));
    Pair { leader, helper, parties }.stop().await;
}

/// Jobs whose helper is away do not keep the memory to themselves; when it is back they go on where they were.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_helper_holds_up_its_own_task_only(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
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
    let reports: Vec<Report> = (0..REPORTS).map(|_| forge.report(&one, Time::now())).collect();
    stuck.upload_all(&reports).await;
    leader.until(&stuck.id(), |status| status.last_trouble.is_some() && status.jobs > 1).await;
    let theirs = Forge::new(&other).await;
    let reports: Vec<Report> = (0..REPORTS).map(|_| theirs.report(&Measurement::Flag(true), Time::now())).collect();
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
