//! Servers with more to do than they can, clients that do not wait for their answers, and tasks that are removed.

mod common;

use std::time::Duration;

use common::{
    PATIENCE, Pair, Parties,
    calls::problem,
    forge::Forge,
    places::places,
    raw::{ask, begin, status},
};
use dapbox::{
    config::Config,
    model::{BatchMode, PartialBatch, ReportId, Revision, Time, VdafConfig, status::TaskStatus},
    vdaf::{AggregateResult, Measurement},
};
use rstest::rstest;
use tokio::io::AsyncWriteExt;

/// A server that has as much to do as it may says so, and goes on giving out its keys.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_says_when_to_come_back(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        (config.limits.pool_queue, config.limits.workers, config.limits.max_requests) = (1, 1, 40);
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, tight, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let draft = || forge.draft(&Measurement::Flag(true), Time(1_600_000_000));
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let request = forge.job(PartialBatch::TimeInterval, &[(); 8].map(|()| draft()));
        let parties = parties.clone();
        jobs.spawn(async move {
            let (id, mut busy) = (ReportId::random(), 0);
            loop {
                let answer = parties.put_job(id.as_bytes(), &request).await.answer;
                if answer.is_success() {
                    return busy;
                }
                let problem = problem(&answer);
                assert_eq!((problem.status, problem.task_id), (503, Some(parties.id())), "{problem}");
                assert!(answer.retry_after.is_some());
                busy += 1;
                tokio::task::yield_now().await;
            }
        });
    }
    let busy: u64 = jobs.join_all().await.into_iter().sum();
    assert!(busy > 0, "sixteen jobs at once never met each other");
    assert_eq!(pair.helper.counter(&parties.id(), "aggregate_success").await, 16 * 8);
    pair.stop().await;
}

/// Keys are given out even when every request that may be in progress is.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn all_slots_may_be_taken(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let single = |config: &mut Config| config.limits.max_requests = 1;
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, single, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let upload = parties.wire().upload_call(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let report =
        || parties.wire().encode_upload(parties.task(), &[forge.report(&Measurement::Flag(true), Time::now())]);
    let (slow, headers) = (report(), [("content-type", upload.content_type.unwrap())]);
    let length = slow.len().to_string();
    let mut stream = begin(method, &url, &[headers[0], ("content-length", &length)]).await;
    let (deadline, mut taken) = (std::time::Instant::now() + PATIENCE, 1);
    let refused = loop {
        let said = ask(method, &url, &headers, report()).await;
        if said.status >= 300 {
            break said;
        }
        taken += 1;
        assert!(std::time::Instant::now() < deadline, "the slow upload takes no slot");
    };
    assert_eq!(refused.problem(503)["taskid"], parties.id().to_string());
    assert_eq!(refused.header("access-control-allow-origin"), "*");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    let keys = ask("GET", &parties.at_leader("hpke_config"), &[], Vec::new()).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    // What was begun is finished.
    stream.write_all(&slow).await.unwrap();
    assert!(matches!(status(&mut stream).await, Some(200 | 201)));
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, taken);
    pair.stop().await;
}

/// Clients that hang up before they are answered: what was stored is aggregated like any other report, though nothing
/// else happens that would wake the leader.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_report_whose_client_hangs_up_is_aggregated(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let eager = |config: &mut Config| config.leader.min_job_size = 1;
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, eager, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let upload = parties.wire().upload_call(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let count = |status: &TaskStatus, name: &str| status.counters.get(name).copied().unwrap_or(0);
    let mut stored = 0;
    for _ in 0..20 {
        let report = forge.report(&Measurement::Flag(true), Time::now());
        let report = parties.wire().encode_upload(parties.task(), &[report]);
        let length = report.len().to_string();
        let headers = [("content-type", upload.content_type.unwrap()), ("content-length", &length)];
        let mut stream = begin(method, &url, &headers).await;
        stream.write_all(&report).await.unwrap();
        drop(stream);
        // Whether it is still stored is a matter of luck.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let is_settled = |status: &TaskStatus| count(status, "report_success") == count(status, "aggregate_success");
        stored = count(&pair.leader.until(&parties.id(), is_settled).await, "report_success");
    }
    assert!(stored > 0, "no report was stored before its client was gone");
    pair.stop().await;
}

/// A removed task is gone, and its id with it: reports and keys of the old one must not count for a new one.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_task_never_comes_back(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let mut pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let gone = pair.parties.clone();
    let nodes = [&pair.leader, &pair.helper];
    let other = Parties::between(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
    let forge = Forge::new(&gone).await;
    gone.upload_all([&forge.report(&Measurement::Flag(true), Time::now())]).await;
    assert_eq!(pair.leader.try_add(&gone.leader).await, 201, "the same task again is no harm");
    pair.leader.remove(&gone.id()).await;
    pair.helper.remove(&gone.id()).await;
    for restarted in [false, true] {
        for place in places(&gone, gone.id()) {
            let said = place.tell(vec![0]).await;
            assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], gone.id().to_string());
        }
        for (node, task) in [(&pair.leader, &gone.leader), (&pair.helper, &gone.helper)] {
            assert_eq!(node.try_add(task).await, 409, "restarted: {restarted}");
        }
        let client = other.client();
        client.upload(Measurement::Flag(true), None).await.unwrap();
        pair.leader.restart().await;
        pair.helper.restart().await;
    }
    let collected = other.collector().collect(other.query_now(), Some(PATIENCE), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (2, AggregateResult::Number(2)));
    pair.stop().await;
}
