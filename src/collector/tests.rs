use std::sync::Mutex;

use warp::{Filter, http::Response};

use super::*;
use crate::{
    hpke::{self, Suite},
    model::{BatchMode, Duration, Max, PartialBatch, ReportId, Revision, TaskId, Time, VdafConfig},
    peer::PeerOptions,
    vdaf::{InputShare, Measurement, Verification},
    wire::{Problem, ProblemType},
};

const PRECISION: Duration = Duration(60);

fn interval(start: u64, duration: u64) -> Interval {
    Interval::new(Time(start), Duration(duration)).unwrap()
}

fn task(leader_url: String) -> CollectorTask {
    CollectorTask {
        public: TaskParameters {
            id: TaskId::new([7; 32]),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url,
            helper_url: String::new(),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Sum { max: Max::of_bits(8) },
            min_batch_size: 1,
            time_precision: PRECISION,
            task_expiration: None,
            task_interval: None,
        },
        token: Secret::new(b"let-me-in".to_vec()),
    }
}

/// The encoded aggregate shares of 11 and 31.
fn shares(preparer: &dyn Preparer) -> (Vec<u8>, Vec<u8>) {
    let key = vec![1; preparer.verify_key_length()];
    let verify = Verification { key: &key, context: &[] };
    let (mut leader, mut helper) = (preparer.zero(), preparer.zero());
    for number in [11, 31] {
        let report_id = ReportId::random();
        let sharded = preparer.shard(&[], &Measurement::Number(number), &report_id).unwrap();
        let share =
            |input_share| InputShare { report_id: &report_id, public_share: &sharded.public_share, input_share };
        let (pending, message) = preparer.leader_start(verify, share(&sharded.leader_share)).unwrap();
        let (output, answer) = preparer.helper_answer(verify, share(&sharded.helper_share), &message).unwrap();
        preparer.add(&mut helper, output);
        preparer.add(&mut leader, pending.finish(&answer).unwrap());
    }
    (preparer.encode(&leader), preparer.encode(&helper))
}

/// The collection that an honest leader answers to `query` with, changed by `change`.
fn collection(config: &crate::model::HpkeConfig, query: &Query, change: impl FnOnce(&mut Collection)) -> Collection {
    let task = task(String::new());
    let wire = wire::of(task.public.revision);
    let preparer = vdaf::preparer(task.public.revision, &task.public.vdaf).unwrap();
    let (leader, helper) = shares(&*preparer);
    let batch = match query {
        Query::TimeInterval(interval) => BatchSelector::TimeInterval(*interval),
        Query::FixedSize(_) => BatchSelector::FixedSize(BatchId::new([5; 32])),
    };
    let aad = wire.aggregate_share_aad(&task.public, &[], &batch);
    let seal = |role, share: &[u8]| hpke::seal(config, &wire.aggregate_share_info(role), &aad, share).unwrap();
    let mut collection = Collection {
        batch: Some(batch.partial()),
        report_count: 2,
        interval: interval(120, 60),
        leader_share: seal(Role::Leader, &leader),
        helper_share: seal(Role::Helper, &helper),
    };
    change(&mut collection);
    collection
}

/// Runs one collection against a leader that says "not yet" twice and then `answer`.
async fn collect(
    keypair: Keypair,
    query: Query,
    answer: Result<Collection, Problem>,
    patience: Option<Span>,
) -> (Result<Collected, CollectError>, Vec<Progress>, Vec<String>) {
    let parameters = task(String::new()).public;
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&requests);
    let routes = warp::method().and(warp::path::full()).and(warp::header::<String>("authorization")).map(
        move |method: warp::http::Method, path: warp::path::FullPath, token: String| {
            let mut log = log.lock().unwrap();
            log.push(format!("{method} {} {token}", path.as_str()));
            let response = Response::builder();
            match (log.len(), &answer) {
                (1, _) => response.status(201).body(Vec::new()),
                (2 | 3, _) => response.status(202).header("retry-after", "0").body(Vec::new()),
                (_, Ok(collection)) => response
                    .header("content-type", "application/dap-collection")
                    .body(wire::of(Revision::Dap09).encode_collection(&parameters, collection)),
                (_, Err(problem)) => response
                    .status(problem.status)
                    .header("content-type", "application/problem+json")
                    .body(problem.to_json().into_bytes()),
            }
        },
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/dap-09", listener.local_addr().unwrap());
    tokio::spawn(warp::serve(routes).incoming(listener).run());
    let peer = Peer::new(&PeerOptions::default()).unwrap();
    let collector = Collector::new(task(url), keypair, peer, Retries::default()).unwrap();
    let mut steps = Vec::new();
    let result = collector.collect(query, patience, |step| steps.push(step)).await;
    let requests = requests.lock().unwrap().clone();
    (result, steps, requests)
}

fn keypair() -> Keypair {
    Keypair::generate(1, Suite::DEFAULT).unwrap()
}

#[tokio::test]
async fn an_aggregate_is_asked_for_awaited_opened_and_summed() {
    let keypair = keypair();
    let query = Query::TimeInterval(interval(0, 600));
    let answer = collection(keypair.config(), &query, |_| ());
    let (result, steps, requests) = collect(keypair, query, Ok(answer), None).await;
    let collected = result.unwrap();
    assert!(collected.place.as_ref().is_some_and(|place| requests[0].contains(place)), "{collected:?}");
    let expected = Collected {
        report_count: 2,
        interval: interval(120, 60),
        batch_id: None,
        result: AggregateResult::Number(42),
        place: collected.place.clone(),
    };
    assert_eq!(collected, expected);
    assert_eq!(steps, [Progress::Accepted, Progress::Waiting(1), Progress::Waiting(2)]);
    let methods: Vec<_> = requests.iter().map(|r| r.split(' ').next().unwrap()).collect();
    assert_eq!(methods, ["PUT", "POST", "POST", "POST"]);
    assert!(requests.iter().all(|r| r.ends_with(" Bearer let-me-in") && r.contains(&TaskId::new([7; 32]).to_string())));
}

#[tokio::test]
async fn the_leader_names_the_current_batch_and_must_keep_to_a_named_one() {
    let current = Query::FixedSize(FixedSizeQuery::CurrentBatch);
    let pair = keypair();
    let answer = collection(pair.config(), &current, |_| ());
    let (result, ..) = collect(pair, current, Ok(answer), None).await;
    assert_eq!(result.unwrap().batch_id, Some(BatchId::new([5; 32])));

    let named = Query::FixedSize(FixedSizeQuery::ByBatchId(BatchId::new([6; 32])));
    let pair = keypair();
    let answer = collection(pair.config(), &named, |_| ());
    let (result, ..) = collect(pair, named, Ok(answer), None).await;
    assert!(matches!(result, Err(CollectError::Unfit("another batch"))));
}

#[tokio::test]
async fn answers_that_do_not_fit_the_query_are_refused() {
    let query = Query::TimeInterval(interval(60, 120));
    type Change = fn(&mut Collection);
    let cases: [(Change, &str); 5] = [
        (|c| c.report_count = 0, "no reports"),
        (|c| c.interval = interval(0, 120), "outside"),
        (|c| c.interval = interval(120, 120), "outside"),
        (|c| c.interval = interval(121, 30), "aligned"),
        (|c| c.batch = Some(PartialBatch::FixedSize(BatchId::new([5; 32]))), "kind"),
    ];
    for (change, word) in cases {
        let keypair = keypair();
        let answer = collection(keypair.config(), &query, change);
        let error = collect(keypair, query, Ok(answer), None).await.0.unwrap_err();
        assert!(matches!(error, CollectError::Unfit(why) if why.contains(word)), "{word}: {error}");
    }
}

#[tokio::test]
async fn shares_for_another_key_or_another_query_do_not_open() {
    let query = Query::TimeInterval(interval(0, 600));
    let answer = collection(keypair().config(), &query, |_| ());
    assert!(matches!(collect(keypair(), query, Ok(answer), None).await.0, Err(CollectError::Open(Role::Leader, _))));

    let pair = keypair();
    let answer = collection(pair.config(), &Query::TimeInterval(interval(0, 1200)), |_| ());
    assert!(matches!(collect(pair, query, Ok(answer), None).await.0, Err(CollectError::Open(Role::Leader, _))));

    let pair = keypair();
    let answer = collection(pair.config(), &query, |c| c.helper_share = c.leader_share.clone());
    assert!(matches!(collect(pair, query, Ok(answer), None).await.0, Err(CollectError::Open(Role::Helper, _))));
}

#[tokio::test]
async fn refusals_and_deadlines_are_told_apart() {
    let query = Query::TimeInterval(interval(0, 600));
    let problem = Problem::new(ProblemType::InvalidBatchSize);
    let error = collect(keypair(), query, Err(problem), None).await.0.unwrap_err();
    assert!(matches!(&error, CollectError::Call(e) if e.problem().unwrap().kind == ProblemType::InvalidBatchSize));

    let (result, ..) = collect(keypair(), query, Err(Problem::about(500)), Some(Span::ZERO)).await;
    assert!(matches!(result, Err(CollectError::Deadline(_))));
}
