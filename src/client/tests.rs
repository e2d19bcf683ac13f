use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use warp::{Filter, http::Response};

use super::*;
use crate::{
    hpke::{Keypair, Suite},
    model::{BatchMode, Duration, Max, Revision, TaskId, VdafConfig},
    peer::PeerOptions,
    wire::Problem,
};

/// An aggregator that hands out keys and takes uploads, as a test wants it to.
struct Aggregator {
    address: SocketAddr,
    key_requests: Arc<AtomicUsize>,
    uploads: Arc<Mutex<Vec<Report>>>,
}

impl Aggregator {
    /// Hands out the n-th list of `keys` at the n-th request, and answers the n-th upload with the n-th of `answers`
    /// (201 after those).
    async fn start(keys: Vec<Vec<HpkeConfig>>, cache_control: &'static str, answers: Vec<Problem>) -> Self {
        let wire = wire::of(Revision::Dap09);
        let task = parameters(String::new());
        let key_requests = Arc::new(AtomicUsize::new(0));
        let uploads = Arc::new(Mutex::new(Vec::new()));
        let (counter, received) = (Arc::clone(&key_requests), Arc::clone(&uploads));
        let get = warp::get().and(warp::path!("dap-09" / "hpke_config")).map(move || {
            let n = counter.fetch_add(1, Ordering::SeqCst);
            let body = wire.encode_hpke_configs(&keys[n.min(keys.len() - 1)]);
            Response::builder()
                .header("content-type", "application/dap-hpke-config-list")
                .header("cache-control", cache_control)
                .body(body)
        });
        let put = warp::put().and(warp::path!("dap-09" / "tasks" / String / "reports")).and(warp::body::bytes()).map(
            move |_task, body: Bytes| {
                let mut received = received.lock().unwrap();
                received.extend(wire.decode_upload(&task, &body).unwrap());
                match answers.get(received.len() - 1) {
                    Some(problem) => Response::builder()
                        .status(problem.status)
                        .header("content-type", "application/problem+json")
                        .body(problem.to_json().into_bytes()),
                    None => Response::builder().status(201).body(Vec::new()),
                }
            },
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(warp::serve(get.or(put)).incoming(listener).run());
        Self { address, key_requests, uploads }
    }

    fn client(&self) -> Client {
        let url = format!("http://{}/dap-09/", self.address);
        let task = TaskParameters { id: TaskId::random(), ..parameters(url) };
        let retries =
            Retries { initial: Span::from_millis(1), max: Span::from_millis(1), give_up_after: Span::from_secs(5) };
        Client::new(task, Peer::new(&PeerOptions::default()).unwrap(), retries).unwrap()
    }

    fn key_requests(&self) -> usize {
        self.key_requests.load(Ordering::SeqCst)
    }
}

fn parameters(url: String) -> TaskParameters {
    TaskParameters {
        id: TaskId::new([7; 32]),
        revision: Revision::Dap09,
        info: String::new(),
        leader_url: url.clone(),
        helper_url: url,
        batch_mode: BatchMode::TimeInterval,
        vdaf: VdafConfig::Prio3Sum { max: Max::of_bits(8) },
        min_batch_size: 1,
        time_precision: Duration(60),
        task_expiration: None,
        task_interval: None,
    }
}

fn keypair(id: u8) -> Keypair {
    Keypair::generate(id, Suite::DEFAULT).unwrap()
}

#[tokio::test]
async fn a_report_opens_at_each_aggregator_and_its_time_is_rounded_down() {
    let key = keypair(3);
    let aggregator = Aggregator::start(vec![vec![key.config().clone()]], "max-age=60", vec![]).await;
    let client = aggregator.client();
    let id = client.upload(Measurement::Number(7), Some(Time(119))).await.unwrap();
    client.upload(Measurement::Number(8), None).await.unwrap();
    assert_eq!(aggregator.key_requests(), 2, "one for each aggregator, then from the cache");

    let report = aggregator.uploads.lock().unwrap()[0].clone();
    assert_eq!((report.metadata.id, report.metadata.time), (id, Time(60)));
    let wire = wire::of(Revision::Dap09);
    let aad = wire.input_share_aad(&client.task, &report.metadata, &[], &report.public_share);
    for (role, share) in [(Role::Leader, &report.leader_share), (Role::Helper, &report.helper_share)] {
        assert_eq!(share.config_id, 3);
        let plaintext = key.open(&wire.input_share_info(role), &aad, share).unwrap();
        assert!(wire.decode_plaintext(&Bytes::from(plaintext)).unwrap().extensions.is_empty());
    }
}

#[tokio::test]
async fn an_outdated_key_is_fetched_anew_once_and_the_report_made_anew() {
    let (old, new) = (keypair(1), keypair(2));
    let lists = vec![vec![old.config().clone()], vec![old.config().clone()], vec![new.config().clone()]];
    let outdated = || Problem::new(ProblemType::OutdatedConfig);
    let aggregator = Aggregator::start(lists.clone(), "max-age=60", vec![outdated()]).await;
    aggregator.client().upload(Measurement::Number(1), None).await.unwrap();
    let uploads = aggregator.uploads.lock().unwrap().clone();
    assert_eq!(uploads.iter().map(|r| r.leader_share.config_id).collect::<Vec<_>>(), [1, 2]);
    assert_ne!(uploads[0].metadata.id, uploads[1].metadata.id);

    let aggregator = Aggregator::start(lists, "max-age=60", vec![outdated(), outdated()]).await;
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert_eq!(error.reason(), "outdatedConfig");
    assert_eq!(aggregator.uploads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_busy_leader_gets_the_same_report_again_and_a_refusal_is_final() {
    let list = vec![vec![keypair(1).config().clone()]];
    let aggregator = Aggregator::start(list.clone(), "no-store", vec![Problem::about(503), Problem::about(429)]).await;
    let client = aggregator.client();
    client.upload(Measurement::Number(1), None).await.unwrap();
    let uploads = aggregator.uploads.lock().unwrap().clone();
    assert_eq!(uploads.len(), 3);
    assert!(uploads.iter().all(|report| *report == uploads[0]));
    client.upload(Measurement::Number(1), None).await.unwrap();
    assert_eq!(aggregator.key_requests(), 4, "keys that must not be stored are fetched each time");

    let aggregator = Aggregator::start(list, "no-store", vec![Problem::new(ProblemType::ReportTooEarly)]).await;
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert!(error.is_about_the_report() && error.reason() == "reportTooEarly", "{error}");
}

#[tokio::test]
async fn the_first_key_that_can_be_used_is_taken_and_none_is_an_error() {
    let unknown = HpkeConfig { id: 9, kem_id: 0x7777, ..keypair(9).config().clone() };
    let lists = vec![vec![unknown.clone(), keypair(4).config().clone(), keypair(5).config().clone()]];
    let aggregator = Aggregator::start(lists, "max-age=60", vec![]).await;
    assert_eq!(aggregator.client().keys().await.unwrap().leader.id, 4);

    let aggregator = Aggregator::start(vec![vec![unknown]], "max-age=60", vec![]).await;
    let error = aggregator.client().upload(Measurement::Number(1), None).await.unwrap_err();
    assert!(matches!(&error, ClientError::NoUsableKey { role: Role::Leader, .. }), "{error}");
}

#[tokio::test]
async fn many_uploads_are_counted_by_what_became_of_them() {
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
async fn many_uploads_stop_when_there_is_no_point() {
    let list = vec![vec![keypair(1).config().clone()]];
    let unknown = || Problem::new(ProblemType::UnrecognizedTask);
    let aggregator = Aggregator::start(list, "max-age=60", vec![unknown(), unknown()]).await;
    let numbers = std::iter::repeat_n(Measurement::Number(1), 1000);
    let summary = aggregator.client().upload_many(numbers, None, 1, |_| ()).await;
    assert_eq!(summary.accepted, 0);
    assert_eq!(summary.failure.map(|e| e.reason()).as_deref(), Some("unrecognizedTask"));
    assert_eq!(aggregator.uploads.lock().unwrap().len(), 1);
}
