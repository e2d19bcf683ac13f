//! Servers with more to do than they can, clients that do not wait for their answers, and tasks that are removed.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use dapbox::{
    config::{Config, OptionalAddress},
    model::{BatchMode, PartialBatchSelector, PrepareOutcome, ReportId, Revision, Time, VdafConfig},
    support::{Act, Failpoints, Phase, Point, clock},
    vdaf::{AggregateResult, Measurement},
    views::status::TaskStatus,
    wire::ResourceKind,
};
use h2::SendStream;
use rstest::rstest;
use tokio::io::AsyncWriteExt;
use warp::http::Request;

use crate::common::{
    self, Node, PATIENCE, Pair, Parties,
    calls::problem,
    forge::Forge,
    raw::{ask, begin, status},
    resources::places,
};

/// A server that has as much to do as it may says so, and goes on giving out its keys.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_retry_after_when_overloaded(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        (config.limits.pool_queue, config.limits.workers, config.limits.max_requests) = (1, 1, 40);
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, tight, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let draft = || forge.draft(&Measurement::Flag(true), Time(1_600_000_000));
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let request = forge.job(PartialBatchSelector::TimeInterval, &[(); 8].map(|()| draft()));
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

/// When as many uploads are in progress as may be, more are told to come back. Keys are given out, and uploads whose body
/// does not come take no place.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn refuses_uploads_beyond_slots(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let single = |config: &mut Config| config.limits.max_requests = 1;
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, single, |_| {}).await;
    // An upload is held in the store.
    let ((holds, mut held), (release, released)) = (tokio::sync::mpsc::unbounded_channel(), std::sync::mpsc::channel());
    let released: Mutex<std::sync::mpsc::Receiver<()>> = Mutex::new(released);
    let plan = move |point, phase| {
        if (point, phase) == (Point::Upload, Phase::Before) {
            let _ = holds.send(());
            let _ = released.lock().unwrap().recv();
        }
        Act::Go
    };
    pair.leader.restart_with(Failpoints::new(plan)).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let report =
        || parties.wire().encode_upload(parties.task(), &[forge.report(&Measurement::Flag(true), clock::now())]);
    let headers = [("content-type", upload.content_type.unwrap())];
    let slow = report();
    let length = slow.len().to_string();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(begin(method, &url, &[headers[0], ("content-length", &length)]).await);
    }
    let first = tokio::spawn({
        let (url, report, media_type) = (url.clone(), report(), headers[0].1);
        async move { ask(method, &url, &[("content-type", media_type)], report).await }
    });
    held.recv().await.unwrap();
    let refused = ask(method, &url, &headers, report()).await;
    assert_eq!(refused.problem(503)["taskid"], parties.id().to_string());
    assert_eq!(refused.header("access-control-allow-origin"), "*");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    let keys = ask("GET", &parties.at_leader("hpke_config"), &[], Vec::new()).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    drop(release);
    assert_eq!(first.await.unwrap().status, 200);
    // What was begun is finished.
    let mut stream = streams.pop().unwrap();
    stream.write_all(&slow).await.unwrap();
    assert_eq!(status(&mut stream).await, Some(200));
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 2);
    drop(streams);
    pair.stop().await;
}

/// Requests over HTTP/2 of which only the heads are sent, until this is dropped.
struct Flood {
    connections: tokio::task::JoinSet<()>,
    _streams: Vec<SendStream<Bytes>>,
}

impl Flood {
    /// As many on each of several connections.
    async fn start(request: impl Fn() -> Request<()>, connections: usize, streams: usize) -> Self {
        let mut flood = Self { connections: tokio::task::JoinSet::new(), _streams: Vec::new() };
        let address = request().uri().authority().unwrap().to_string();
        for _ in 0..connections {
            let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
            let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
            flood.connections.spawn(async move { drop(connection.await) });
            for _ in 0..streams {
                sender = sender.ready().await.unwrap();
                flood._streams.push(sender.send_request(request(), false).unwrap().1);
            }
        }
        flood
    }
}

/// Who sends requests without their bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// Anybody: uploads.
    Client,
    /// A leader with a wrong token: jobs.
    Stranger,
    /// A leader with the right token: jobs.
    Peer,
    /// A browser: questions of which requests it may send.
    Browser,
}

impl Sender {
    /// The head of a request to the leader of `parties`, which is the helper of `other`.
    fn request(self, parties: &Parties, other: &Parties) -> Request<()> {
        let (call, url, token) = match self {
            Self::Client | Self::Browser => {
                let call = parties.wire().upload_request(&parties.id());
                let url = parties.at_leader(&call.path);
                (call, url, "")
            }
            Self::Stranger | Self::Peer => {
                let id = ReportId::random();
                let call = other.wire().create_request(ResourceKind::AggregationJob, &other.id(), id.as_bytes());
                let url = other.at_helper(&call.path);
                let token = std::str::from_utf8(other.helper_token.expose()).unwrap();
                (call, url, if self == Self::Peer { token } else { "wrong" })
            }
        };
        let method = if self == Self::Browser { "OPTIONS" } else { call.method };
        let request = Request::builder().method(method).uri(url).header("authorization", format!("Bearer {token}"));
        request.header("content-type", call.content_type.unwrap()).body(()).unwrap()
    }

    /// Whether the server awaits the bodies.
    fn is_awaited(self) -> bool {
        matches!(self, Self::Client | Self::Peer)
    }
}

/// Waits until so many bodies are awaited.
async fn until_pending(node: &Node, bodies: u64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let metrics = common::get(node.monitor() + "metrics").await.unwrap().text().await.unwrap();
        let pending = metrics.lines().find_map(|line| line.strip_prefix("dapbox_request_bodies_pending "));
        let pending: u64 = pending.unwrap().parse().unwrap();
        if pending >= bodies {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "only {pending} of {bodies} bodies are awaited");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Requests whose bodies never come shut nobody out: neither with more of them than requests may be in progress, nor with
/// more than bodies may be awaited.
#[rstest]
#[case(Sender::Client, 4096)]
#[case(Sender::Client, 300)]
#[case(Sender::Peer, 4096)]
#[case(Sender::Peer, 300)]
#[case(Sender::Stranger, 4096)]
#[case(Sender::Browser, 4096)]
#[tokio::test(flavor = "multi_thread")]
async fn serves_others_during_flood_of_unfinished_requests(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[case] sender: Sender,
    #[case] max_pending_bodies: usize,
) {
    const CONNECTIONS: usize = 9;
    const STREAMS: usize = 115;
    let watched = |config: &mut Config| {
        config.monitor.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
        config.leader.min_job_size = 1;
        config.limits.max_pending_bodies = max_pending_bodies;
    };
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let pair = Pair::start_with(revision, vdaf.clone(), mode, watched, |_| {}).await;
    assert!(CONNECTIONS * STREAMS > pair.leader.config.limits.max_requests);
    let parties = &pair.parties;
    // A task in which the server that is flooded is the helper.
    let other = Parties::between(revision, vdaf, mode, [&pair.helper, &pair.leader]).await;
    let flood = Flood::start(|| sender.request(parties, &other), CONNECTIONS, STREAMS).await;
    if sender.is_awaited() {
        until_pending(&pair.leader, max_pending_bodies.min(CONNECTIONS * STREAMS) as u64).await;
    }

    let keys = ask("GET", &parties.at_leader("hpke_config"), &[], Vec::new()).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    assert_eq!(common::get(pair.leader.monitor() + "readyz").await.unwrap().status(), 200);
    let forge = Forge::new(&other).await;
    let drafts = [forge.draft(&Measurement::Flag(true), clock::now())];
    let answers = other.run_job(&forge.job(PartialBatchSelector::TimeInterval, &drafts)).await;
    assert!(matches!(answers[0].outcome, PrepareOutcome::Continue(_)), "{answers:?}");
    let report = Forge::new(parties).await.report(&Measurement::Flag(true), clock::now());
    parties.upload_all([&report]).await;
    let collected = parties.collector().collect(parties.query_now(), Some(PATIENCE), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (1, AggregateResult::Number(1)));
    drop(flood);
    pair.stop().await;
}

/// Clients that hang up before they are answered: what was stored is aggregated like any other report, though nothing
/// else happens that would wake the leader.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_report_whose_client_hangs_up(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let eager = |config: &mut Config| config.leader.min_job_size = 1;
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, eager, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let count = |status: &TaskStatus, name: &str| status.counters.get(name).copied().unwrap_or(0);
    let mut stored = 0;
    for _ in 0..20 {
        let report = forge.report(&Measurement::Flag(true), clock::now());
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
async fn never_reuses_id_of_removed_task(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let mut pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let gone = pair.parties.clone();
    let nodes = [&pair.leader, &pair.helper];
    let other = Parties::between(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
    let forge = Forge::new(&gone).await;
    gone.upload_all([&forge.report(&Measurement::Flag(true), clock::now())]).await;
    assert_eq!(pair.leader.try_add(&gone.leader).await, 201, "the same task again is no harm");
    // A request to each, even one that is refused, is a use: the task leaves a tombstone at both.
    for place in places(&gone, gone.id()) {
        place.tell(vec![0]).await;
    }
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
