use std::{net::SocketAddr, sync::atomic::AtomicUsize};

use warp::{
    Filter,
    http::{Method, Response},
    path::FullPath,
};

use super::*;
use crate::peer::PeerOptions;
use dapbox_protocol::{
    hpke::{Keypair, Suite},
    model::{BatchMode, Duration, MaxMeasurement, Revision, TaskId, VdafConfig},
    vdaf::VdafError,
    wire::{Problem, ProblemType, Wire, current},
};

/// An aggregator that publishes keys and accepts uploads as scripted.
struct Aggregator {
    revision: Revision,
    address: SocketAddr,
    key_requests: Arc<AtomicUsize>,
    /// The reports of each upload.
    uploads: Arc<Mutex<Vec<Vec<Report>>>>,
}

/// The response to the n-th upload, from 0.
type Responder = fn(usize, &[Report]) -> Response<Vec<u8>>;

fn accept() -> Response<Vec<u8>> {
    Response::builder().status(200).body(Vec::new()).unwrap()
}

fn problem_response(problem: &Problem) -> Response<Vec<u8>> {
    let response = Response::builder().status(problem.status).header("content-type", "application/problem+json");
    response.body(problem.to_json().into_bytes()).unwrap()
}

/// Accepts the request except for these reports.
fn reject<'a>(refused: impl IntoIterator<Item = (&'a Report, ReportError)>) -> Response<Vec<u8>> {
    let refused: Vec<_> = refused.into_iter().map(|(report, error)| (report.metadata.id, error)).collect();
    let response = Response::builder().header("content-type", "application/ppm-dap;message=upload-errors");
    response.body(current::DAP_18.encode_upload_answer(&refused)).unwrap()
}

impl Aggregator {
    /// Starts a DAP-09 aggregator. It responds to the n-th key request with the n-th list of `keys`, and to the n-th
    /// upload with the n-th of `answers`, then with 200.
    async fn start(keys: Vec<Vec<HpkeConfig>>, cache_control: &'static str, answers: Vec<Problem>) -> Self {
        let answer = move |n: usize, _: &[Report]| answers.get(n).map_or_else(accept, problem_response);
        Self::with(Revision::Dap09, keys, cache_control, answer).await
    }

    /// Starts a DAP-18 aggregator.
    async fn new(keys: Vec<Vec<HpkeConfig>>, answer: Responder) -> Self {
        Self::with(Revision::Dap18, keys, "max-age=60", answer).await
    }

    async fn with(
        revision: Revision,
        keys: Vec<Vec<HpkeConfig>>,
        cache_control: &'static str,
        answer: impl Fn(usize, &[Report]) -> Response<Vec<u8>> + Clone + Send + Sync + 'static,
    ) -> Self {
        let wire = wire::for_revision(revision);
        let task = parameters(revision, String::new());
        let key_requests = Arc::new(AtomicUsize::new(0));
        let uploads = Arc::new(Mutex::new(Vec::new()));
        let (counter, received) = (Arc::clone(&key_requests), Arc::clone(&uploads));
        let specs = [wire.hpke_config_request(Some(&task.id)), wire.upload_request(&task.id)];
        let routes = warp::method().and(warp::path::full()).and(warp::body::bytes()).map(
            move |method: Method, path: FullPath, body: Bytes| {
                if path.as_str().ends_with("/hpke_config") {
                    assert_eq!(method, specs[0].method);
                    let n = counter.fetch_add(1, Ordering::SeqCst);
                    return Response::builder()
                        .header("content-type", specs[0].accept.unwrap())
                        .header("cache-control", cache_control)
                        .body(wire.encode_hpke_configs(&keys[n.min(keys.len() - 1)]))
                        .unwrap();
                }
                assert_eq!((method.as_str(), path.as_str().ends_with("/reports")), (specs[1].method, true));
                let reports = wire.decode_upload(&task, &body).unwrap();
                let mut received = received.lock().unwrap();
                received.push(reports.clone());
                answer(received.len() - 1, &reports)
            },
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(warp::serve(routes).incoming(listener).run());
        Self { revision, address, key_requests, uploads }
    }

    fn client(&self) -> Client {
        let url = format!("http://{}/dap/", self.address);
        let task = TaskParameters { id: TaskId::random(), ..parameters(self.revision, url) };
        let retries =
            RetryPolicy { initial: Span::from_millis(1), max: Span::from_millis(1), give_up_after: Span::from_secs(5) };
        Client::new(task, Peer::new(&PeerOptions::default()).unwrap(), retries).unwrap()
    }

    fn key_requests(&self) -> usize {
        self.key_requests.load(Ordering::SeqCst)
    }

    /// The reports of all uploads.
    fn reports(&self) -> Vec<Report> {
        self.uploads.lock().unwrap().concat()
    }

    /// The number of reports of each upload.
    fn sizes(&self) -> Vec<usize> {
        self.uploads.lock().unwrap().iter().map(Vec::len).collect()
    }
}

fn parameters(revision: Revision, url: String) -> TaskParameters {
    TaskParameters {
        id: TaskId::new([7; 32]),
        revision,
        info: "a test".to_owned(),
        leader_url: url.clone(),
        helper_url: url,
        batch_mode: BatchMode::TimeInterval,
        vdaf: VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) },
        min_batch_size: 1,
        time_precision: Duration(60),
        task_expiration: None,
        task_interval: None,
        noise: None,
    }
}

fn keypair(id: u8) -> Keypair {
    Keypair::generate(id, Suite::DEFAULT).unwrap()
}

#[tokio::test]
async fn seals_to_each_aggregator_and_truncates_the_time() {
    for revision in Revision::ALL {
        let key = keypair(3);
        let list = vec![vec![key.config().clone()]];
        let aggregator = Aggregator::with(revision, list, "max-age=60", |_, _| accept()).await;
        let client = aggregator.client();
        let id = client.upload(Measurement::Number(7), Some(Time(119))).await.unwrap();
        client.upload(Measurement::Number(8), None).await.unwrap();
        assert_eq!(aggregator.key_requests(), 2, "one fetch per aggregator, then the cache");

        let report = aggregator.reports()[0].clone();
        assert_eq!((report.metadata.id, report.metadata.time), (id, Time(60)));
        let wire = wire::for_revision(revision);
        let aad = wire.input_share_aad(&client.task, &report.metadata, &[], &report.public_share);
        for (role, share) in [(Role::Leader, &report.leader_share), (Role::Helper, &report.helper_share)] {
            assert_eq!(share.config_id, 3);
            let plaintext = key.open(&wire.input_share_info(role), &aad, share).unwrap();
            assert!(wire.decode_plaintext(&Bytes::from(plaintext)).unwrap().extensions.is_empty());
        }
    }
}

#[tokio::test]
async fn refetches_outdated_key_once_and_remakes_the_report() {
    let (old, new) = (keypair(1), keypair(2));
    let lists = vec![vec![old.config().clone()], vec![old.config().clone()], vec![new.config().clone()]];
    let outdated = || Problem::new(ProblemType::OutdatedConfig);
    let aggregator = Aggregator::start(lists.clone(), "max-age=60", vec![outdated()]).await;
    aggregator.client().upload(Measurement::Number(1), None).await.unwrap();
    let uploads = aggregator.reports();
    assert_eq!(uploads.iter().map(|r| r.leader_share.config_id).collect::<Vec<_>>(), [1, 2]);
    assert_ne!(uploads[0].metadata.id, uploads[1].metadata.id);

    let aggregator = Aggregator::start(lists, "max-age=60", vec![outdated(), outdated()]).await;
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert_eq!(error.reason(), "outdatedConfig");
    assert_eq!(aggregator.reports().len(), 2);
}

#[tokio::test]
async fn prefers_post_quantum_keys() {
    let strong = Keypair::generate(6, Suite { kem_id: hpke::XWING, ..Suite::DEFAULT }).unwrap();
    let cut_off = HpkeConfig { id: 7, public_key: vec![1; 1215], ..strong.config().clone() };
    let lists =
        vec![vec![keypair(4).config().clone(), cut_off, strong.config().clone()], vec![keypair(5).config().clone()]];
    let aggregator = Aggregator::start(lists, "max-age=60", vec![]).await;
    let client = aggregator.client();
    let keys = client.keys().await.unwrap();
    assert_eq!((keys.leader.id, keys.helper.id), (6, 5), "each aggregator's key is selected independently");
    client.upload(Measurement::Number(7), None).await.unwrap();
    assert_eq!(aggregator.reports()[0].leader_share.enc.len(), 1120);
}

#[tokio::test]
async fn retries_same_report_when_busy_and_stops_at_a_refusal() {
    let list = vec![vec![keypair(1).config().clone()]];
    let aggregator =
        Aggregator::start(list.clone(), "no-store", vec![Problem::from_status(503), Problem::from_status(429)]).await;
    let client = aggregator.client();
    client.upload(Measurement::Number(1), None).await.unwrap();
    let uploads = aggregator.reports();
    assert_eq!(uploads.len(), 3);
    assert!(uploads.iter().all(|report| *report == uploads[0]));
    client.upload(Measurement::Number(1), None).await.unwrap();
    assert_eq!(aggregator.key_requests(), 4, "keys with no-store are fetched each time");

    let aggregator = Aggregator::start(list, "no-store", vec![Problem::new(ProblemType::ReportTooEarly)]).await;
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert!(error.is_report_specific() && error.reason() == "reportTooEarly", "{error}");
}

#[tokio::test]
async fn selects_first_usable_key() {
    let unknown = HpkeConfig { id: 9, kem_id: 0x7777, ..keypair(9).config().clone() };
    let lists = vec![vec![unknown.clone(), keypair(4).config().clone(), keypair(5).config().clone()]];
    let aggregator = Aggregator::start(lists, "max-age=60", vec![]).await;
    assert_eq!(aggregator.client().keys().await.unwrap().leader.id, 4);

    let aggregator = Aggregator::start(vec![vec![unknown]], "max-age=60", vec![]).await;
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert!(matches!(&error, ClientError::NoUsableKey { role: Role::Leader, .. }), "{error}");
}

#[tokio::test]
async fn counts_uploads_by_outcome() {
    let list = vec![vec![keypair(1).config().clone()]];
    let rejected = Problem::new(ProblemType::ReportRejected);
    let aggregator = Aggregator::start(list, "max-age=60", vec![rejected]).await;
    let client = aggregator.client();
    let mut steps = 0;
    let numbers = [1, 2, 3, 4, 256].map(Measurement::Number);
    let summary = client.upload_many(numbers, None, 2, |_| steps += 1).await;
    assert_eq!((summary.accepted, summary.rejected_total(), steps), (3, 2, 5));
    assert_eq!(summary.rejected["reportRejected"], 1);
    assert_eq!(summary.rejected["invalidMeasurement"], 1);
    assert!(summary.failure.is_none());
    assert_eq!(aggregator.key_requests(), 2);
}

#[tokio::test]
async fn stops_bulk_upload_at_a_fatal_error() {
    let list = vec![vec![keypair(1).config().clone()]];
    let unknown = || Problem::new(ProblemType::UnrecognizedTask);
    let aggregator = Aggregator::start(list, "max-age=60", vec![unknown(), unknown()]).await;
    let numbers = std::iter::repeat_n(Measurement::Number(1), 1000);
    let summary = aggregator.client().upload_many(numbers, None, 1, |_| ()).await;
    assert_eq!(summary.accepted, 0);
    assert_eq!(summary.failure.map(|e| e.reason()).as_deref(), Some("unrecognizedTask"));
    assert_eq!(aggregator.reports().len(), 1);
}

fn numbers(count: usize) -> impl Iterator<Item = Measurement> {
    std::iter::repeat_n(Measurement::Number(1), count)
}

fn lists() -> Vec<Vec<HpkeConfig>> {
    [1, 1, 2].map(|id| vec![keypair(id).config().clone()]).to_vec()
}

#[tokio::test]
async fn groups_many_reports_and_spreads_few() {
    let aggregator = Aggregator::new(lists(), |_, _| accept()).await;
    let client = aggregator.client();
    let mut counts = Vec::new();
    let summary = client.upload_many(numbers(150), None, 2, |summary| counts.push(summary.accepted)).await;
    assert_eq!((summary.accepted, summary.rejected_total()), (150, 0));
    assert_eq!(aggregator.sizes().into_iter().max(), Some(64));
    assert_eq!((aggregator.sizes().len(), counts.len(), counts.last()), (3, 3, Some(&150)));

    let aggregator = Aggregator::new(lists(), |_, _| accept()).await;
    let summary = aggregator.client().upload_many(numbers(5), None, 8, |_| ()).await;
    assert_eq!((summary.accepted, aggregator.sizes()), (5, vec![1; 5]));
}

#[tokio::test]
async fn counts_refused_reports_by_reason() {
    let aggregator = Aggregator::new(lists(), |_, reports| {
        let errors = [ReportError::ReportDropped, ReportError::ReportTooEarly, ReportError::ReportDropped];
        reject(reports.iter().step_by(2).zip(errors))
    })
    .await;
    let measurements = numbers(5).chain([Measurement::Number(256)]);
    let summary = aggregator.client().upload_many(measurements, None, 1, |_| ()).await;
    assert_eq!(aggregator.sizes(), [5]);
    assert_eq!((summary.accepted, summary.rejected_total()), (2, 4));
    let count = |reason: &str| summary.rejected.get(reason).copied();
    assert_eq!((count("report_dropped"), count("report_too_early")), (Some(2), Some(1)));
    assert_eq!(count("invalidMeasurement"), Some(1));
    assert!(summary.failure.is_none());

    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(ReportError::ReportDropped)), "{error}");
    assert!(error.is_report_specific() && error.reason() == "report_dropped");
}

#[tokio::test]
async fn remakes_only_reports_with_outdated_key_once() {
    fn outdated(report: &Report) -> (&Report, ReportError) {
        (report, ReportError::OutdatedConfig)
    }
    let aggregator = Aggregator::new(lists(), |n, reports| match n {
        0 => reject(reports.iter().skip(1).map(outdated)),
        _ => accept(),
    })
    .await;
    let summary = aggregator.client().upload_many(numbers(3), None, 1, |_| ()).await;
    assert_eq!((summary.accepted, summary.rejected_total()), (3, 0));
    assert_eq!(aggregator.sizes(), [3, 2]);
    let keys: Vec<_> = aggregator.reports().iter().map(|report| report.leader_share.config_id).collect();
    assert_eq!(keys, [1, 1, 1, 2, 2]);
    let mut ids: Vec<_> = aggregator.reports().iter().map(|report| report.metadata.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "a remade report has a new id");

    let aggregator = Aggregator::new(lists(), |_, reports| reject(reports.iter().map(outdated))).await;
    let summary = aggregator.client().upload_many(numbers(9), None, 3, |_| ()).await;
    assert_eq!(summary.failure.map(|e| e.reason()).as_deref(), Some("outdated_config"));
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert!(error.is_outdated() && !error.is_report_specific(), "{error}");
}

#[tokio::test]
async fn fetches_keys_again_after_hpke_unknown_config_id() {
    /// As [`reject`], with a code that dapbox's leader does not send.
    fn unknown_key(reports: &[Report]) -> Response<Vec<u8>> {
        let mut answer = reject([(&reports[0], ReportError::OutdatedConfig)]);
        *answer.body_mut().last_mut().unwrap() = 4;
        answer
    }
    let aggregator = Aggregator::new(lists(), |n, reports| if n == 0 { unknown_key(reports) } else { accept() }).await;
    let summary = aggregator.client().upload_many(numbers(3), None, 1, |_| ()).await;
    assert_eq!((summary.accepted, summary.rejected_total()), (3, 0));
    assert_eq!(aggregator.sizes(), [3, 1]);
    let keys: Vec<_> = aggregator.reports().iter().map(|report| report.leader_share.config_id).collect();
    assert_eq!(keys, [1, 1, 1, 2]);

    let aggregator = Aggregator::new(lists(), |_, reports| unknown_key(reports)).await;
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert_eq!((error.reason().as_str(), error.is_report_specific()), ("hpke_unknown_config_id", false));
    assert_eq!((aggregator.sizes().len(), aggregator.key_requests()), (2, 4), "one retry with refetched keys");
}

#[tokio::test]
async fn unknown_error_code_rejects_one_report() {
    let unknown: Responder = |_, reports| reject([(&reports[1], ReportError::Unknown(77))]);
    let aggregator = Aggregator::new(lists(), unknown).await;
    let summary = aggregator.client().upload_many(numbers(3), None, 1, |_| ()).await;
    assert_eq!((summary.accepted, summary.rejected["unknown_error_77"]), (2, 1));
    assert!(summary.failure.is_none());
    assert_eq!(aggregator.sizes(), [3], "no retry");
}

#[tokio::test]
async fn problem_fails_the_whole_request() {
    for (kind, reason) in [
        (ProblemType::InvalidMessage, "invalidMessage"),
        (ProblemType::UnsupportedExtension, "unsupportedExtension"),
        (ProblemType::UnrecognizedTask, "unrecognizedTask"),
    ] {
        let answer = move |_: usize, _: &[Report]| problem_response(&Problem::new(kind));
        let aggregator = Aggregator::with(Revision::Dap18, lists(), "max-age=60", answer).await;
        let summary = aggregator.client().upload_many(numbers(10), None, 1, |_| ()).await;
        assert_eq!((summary.accepted, summary.rejected_total()), (0, 0));
        assert_eq!(summary.failure.map(|e| e.reason()).as_deref(), Some(reason));
        assert_eq!(aggregator.sizes(), [10]);
    }
}

#[tokio::test]
async fn replay_after_a_lost_answer_counts_as_accepted() {
    let replayed: Responder = |n, reports| match n {
        0 => problem_response(&Problem::from_status(502)),
        _ => reject([(&reports[0], ReportError::ReportReplayed), (&reports[1], ReportError::ReportDropped)]),
    };
    let aggregator = Aggregator::new(lists(), replayed).await;
    let summary = aggregator.client().upload_many(numbers(2), None, 1, |_| ()).await;
    assert_eq!((summary.accepted, summary.rejected_total()), (1, 1));

    // Without an earlier attempt, the rejection stands: the leader has collected the batch.
    let aggregator = Aggregator::new(lists(), |_, reports| reject([(&reports[0], ReportError::ReportReplayed)])).await;
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert_eq!(error.reason(), "report_replayed");
}

#[tokio::test]
async fn rejects_unrelated_upload_answers() {
    let answers: [Responder; 3] = [
        |_, _| {
            let id = ReportId::random();
            let response = Response::builder().header("content-type", "application/ppm-dap;message=upload-errors");
            response.body(current::DAP_18.encode_upload_answer(&[(id, ReportError::ReportDropped)])).unwrap()
        },
        |_, _| Response::builder().header("content-type", "text/html").body(b"<p>thanks".to_vec()).unwrap(),
        |_, reports| {
            let mut answer = reject([(&reports[0], ReportError::ReportDropped)]);
            answer.body_mut().pop();
            answer
        },
    ];
    for answer in answers {
        let aggregator = Aggregator::new(lists(), answer).await;
        let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
        assert!(matches!(&error, ClientError::Upload(RequestError::Unexpected(_))), "{error}");
    }
}

#[tokio::test]
async fn limits_request_size() {
    let aggregator = Aggregator::new(lists(), |_, _| accept()).await;
    let task = aggregator.client().task;
    let vdaf = VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(1), length: 20_000, chunk_length: 141 };
    let peer = Peer::new(&PeerOptions::default()).unwrap();
    let client = Client::new(TaskParameters { vdaf, ..task }, peer, RetryPolicy::default()).unwrap();
    let measurements = std::iter::repeat_n(Measurement::Vector(vec![1; 20_000]), 8);
    let summary = client.upload_many(measurements, None, 1, |_| ()).await;
    assert_eq!((summary.accepted, summary.rejected_total()), (8, 0));
    assert_eq!(aggregator.sizes(), [4, 4], "reports of about 330 kB each");
}

#[test]
fn distinguishes_report_errors_from_request_errors() {
    let refused = |kind| ClientError::Upload(RequestError::Refused(Box::new(Problem::new(kind))));
    for (error, is_report_specific) in [
        (ClientError::Vdaf(VdafError("too large".to_owned())), true),
        (ClientError::Refused(ReportError::ReportTooEarly), true),
        (ClientError::Refused(ReportError::OutdatedConfig), false),
        (refused(ProblemType::ReportRejected), true),
        (refused(ProblemType::OutdatedConfig), false),
        (refused(ProblemType::UnrecognizedTask), false),
        (ClientError::Fault(Fault::new("x")), false),
    ] {
        assert_eq!(error.is_report_specific(), is_report_specific, "{error}");
    }
}
