//! Overloaded servers, clients that disconnect early, and removed tasks.

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
    self, Node, Pair, Parties, TEST_TIMEOUT,
    calls::problem,
    raw::{begin_request, send_raw, status},
    report_builder::ReportBuilder,
    resources::resources,
};

/// An overloaded server answers 503 with `Retry-After` and still serves its keys.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_retry_after_when_overloaded(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let tight = |config: &mut Config| {
        (config.limits.pool_queue, config.limits.workers, config.limits.max_requests) = (1, 1, 40);
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, tight, |_| {}).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let draft = || builder.draft(&Measurement::Flag(true), Time(1_600_000_000));
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let request = builder.job(PartialBatchSelector::TimeInterval, &[(); 8].map(|()| draft()));
        let parties = parties.clone();
        jobs.spawn(async move {
            let (id, mut busy) = (ReportId::random(), 0);
            loop {
                let answer = parties.send_job(id.as_bytes(), &request).await.answer;
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

/// Uploads beyond the slots get 503. Keys are served, and uploads without a body occupy no slot.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn refuses_uploads_beyond_slots(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let single = |config: &mut Config| config.limits.max_requests = 1;
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, single, |_| {}).await;
    // An upload blocks in the store.
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
    let builder = ReportBuilder::new(parties).await;
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let report =
        || parties.wire().encode_upload(parties.task(), &[builder.report(&Measurement::Flag(true), clock::now())]);
    let headers = [("content-type", upload.content_type.unwrap())];
    let slow = report();
    let length = slow.len().to_string();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(begin_request(method, &url, &[headers[0], ("content-length", &length)]).await);
    }
    let first = tokio::spawn({
        let (url, report, media_type) = (url.clone(), report(), headers[0].1);
        async move { send_raw(method, &url, &[("content-type", media_type)], report).await }
    });
    held.recv().await.unwrap();
    let refused = send_raw(method, &url, &headers, report()).await;
    assert_eq!(refused.problem(503)["taskid"], parties.id().to_string());
    assert_eq!(refused.header("access-control-allow-origin"), "*");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    let keys = send_raw("GET", &parties.at_leader("hpke_config"), &[], Vec::new()).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    drop(release);
    assert_eq!(first.await.unwrap().status, 200);
    // The blocked upload completes.
    let mut stream = streams.pop().unwrap();
    stream.write_all(&slow).await.unwrap();
    assert_eq!(status(&mut stream).await, Some(200));
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 2);
    drop(streams);
    pair.stop().await;
}

/// HTTP/2 requests of which only the heads are sent. Dropping this ends them.
struct Flood {
    connections: tokio::task::JoinSet<()>,
    _streams: Vec<SendStream<Bytes>>,
}

impl Flood {
    /// The same number on each of several connections.
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

/// The sender of requests without a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// Any client: uploads.
    Client,
    /// A leader with a wrong token: jobs.
    Stranger,
    /// A leader with the right token: jobs.
    Peer,
    /// A browser: preflight requests.
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

    /// Whether the server waits for the bodies.
    fn is_awaited(self) -> bool {
        matches!(self, Self::Client | Self::Peer)
    }
}

/// Waits until a gauge of a node satisfies a condition.
async fn until_gauge(node: &Node, name: &str, is_right: impl Fn(u64) -> bool) {
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    loop {
        let metrics = common::get(node.monitor() + "metrics").await.unwrap().text().await.unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: u64 = value.unwrap().parse().unwrap();
        if is_right(value) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{name} is {value}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A configuration with a private listener, for the gauges, and short jobs.
fn watched(config: &mut Config) {
    config.monitor.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    config.leader.min_job_size = 1;
}

/// Requests whose bodies never arrive do not block others, even if they exceed the limits of requests and of pending
/// bodies.
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
    let limited = |config: &mut Config| {
        watched(config);
        config.limits.max_pending_bodies = max_pending_bodies;
    };
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let pair = Pair::start_with(revision, vdaf.clone(), mode, limited, |_| {}).await;
    assert!(CONNECTIONS * STREAMS > pair.leader.config.limits.max_requests);
    let parties = &pair.parties;
    // A task in which the flooded server is the helper.
    let other = Parties::between(revision, vdaf, mode, [&pair.helper, &pair.leader]).await;
    let flood = Flood::start(|| sender.request(parties, &other), CONNECTIONS, STREAMS).await;
    if sender.is_awaited() {
        let bodies = max_pending_bodies.min(CONNECTIONS * STREAMS) as u64;
        until_gauge(&pair.leader, "dapbox_request_bodies_pending", |pending| pending >= bodies).await;
    }

    let keys = send_raw("GET", &parties.at_leader("hpke_config"), &[], Vec::new()).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    assert_eq!(common::get(pair.leader.monitor() + "readyz").await.unwrap().status(), 200);
    let builder = ReportBuilder::new(&other).await;
    let drafts = [builder.draft(&Measurement::Flag(true), clock::now())];
    let answers = other.run_job(&builder.job(PartialBatchSelector::TimeInterval, &drafts)).await;
    assert!(matches!(answers[0].outcome, PrepareOutcome::Continue(_)), "{answers:?}");
    let report = ReportBuilder::new(parties).await.report(&Measurement::Flag(true), clock::now());
    parties.upload_all([&report]).await;
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (1, AggregateResult::Number(1)));
    drop(flood);
    pair.stop().await;
}

/// A stored report whose client disconnects before the answer is aggregated like any other, although no other event
/// wakes the leader.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_report_whose_client_hangs_up(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, watched, |_| {}).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let connections = async |count: u64| until_gauge(&pair.leader, "dapbox_connections", |open| open == count).await;
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let count = |status: &TaskStatus, name: &str| status.counters.get(name).copied().unwrap_or(0);
    let mut stored = 0;
    for _ in 0..20 {
        let report = builder.report(&Measurement::Flag(true), clock::now());
        let report = parties.wire().encode_upload(parties.task(), &[report]);
        let length = report.len().to_string();
        let headers = [("content-type", upload.content_type.unwrap()), ("content-length", &length)];
        connections(0).await;
        let mut stream = begin_request(method, &url, &headers).await;
        connections(1).await;
        stream.write_all(&report).await.unwrap();
        drop(stream);
        // The report may or may not be stored when the server notices.
        connections(0).await;
        let is_settled = |status: &TaskStatus| count(status, "report_success") == count(status, "aggregate_success");
        stored = count(&pair.leader.until(&parties.id(), is_settled).await, "report_success");
    }
    assert!(stored > 0, "no report was stored before its client was gone");
    pair.stop().await;
}

/// A removed task is gone together with its id. Reports and keys of the old task must not count for a new one.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn never_reuses_id_of_removed_task(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let mut pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let gone = pair.parties.clone();
    let nodes = [&pair.leader, &pair.helper];
    let other = Parties::between(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
    let builder = ReportBuilder::new(&gone).await;
    gone.upload_all([&builder.report(&Measurement::Flag(true), clock::now())]).await;
    assert_eq!(pair.leader.try_add(&gone.leader).await, 201, "the same task again is no harm");
    // One request to each aggregator, even a refused one, is a use: both keep a tombstone.
    for resource in resources(&gone, gone.id()) {
        resource.send_authorized(vec![0]).await;
    }
    pair.leader.remove(&gone.id()).await;
    pair.helper.remove(&gone.id()).await;
    for restarted in [false, true] {
        for resource in resources(&gone, gone.id()) {
            let said = resource.send_authorized(vec![0]).await;
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
    let collected = other.collector().collect(other.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (2, AggregateResult::Number(2)));
    pair.stop().await;
}
