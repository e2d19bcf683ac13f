use std::sync::Mutex;

use warp::{
    Filter,
    http::{Method, Response},
    path::FullPath,
};

use super::*;
use crate::peer::PeerOptions;
use dapbox_protocol::{
    hpke::{self, Suite},
    model::{
        BatchMode, CollectionReq, Duration, MaxMeasurement, PartialBatchSelector, ReportId, Revision, TaskId, Time,
        VdafConfig,
    },
    vdaf::{InputShare, Measurement, VerifyParams},
    wire::{Problem, ProblemType, ResourceKind},
};

const PRECISION: Duration = Duration(60);
/// Location of the collection job, if the leader chooses it.
const JOB: &str = "/below/dap/tasks/x/collection_jobs/1";

fn interval(start: u64, duration: u64) -> Interval {
    Interval::new(Time(start), Duration(duration)).unwrap()
}

fn task(revision: Revision, leader_url: String, batch_mode: BatchMode) -> CollectorTask {
    CollectorTask {
        public: TaskParameters {
            id: TaskId::new([7; 32]),
            revision,
            info: "a test".to_owned(),
            leader_url,
            helper_url: "http://helper.example/".to_owned(),
            batch_mode,
            vdaf: VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) },
            min_batch_size: 1,
            time_precision: PRECISION,
            task_expiration: None,
            task_interval: None,
            noise: None,
        },
        token: Secret::new(b"let-me-in".to_vec()),
        previous_token: None,
    }
}

/// The encoded aggregate shares of 11 and 31.
fn shares(task: &TaskParameters) -> (Vec<u8>, Vec<u8>) {
    let preparer = vdaf::preparer(task.revision, &task.vdaf).unwrap();
    let (key, context) =
        (vec![1; preparer.verify_key_length()], wire::for_revision(task.revision).vdaf_context(&task.id));
    let verify = VerifyParams { key: &key, context: &context };
    let (mut leader, mut helper) = (preparer.zero(), preparer.zero());
    for number in [11, 31] {
        let report_id = ReportId::random();
        let sharded = preparer.shard(&context, &Measurement::Number(number), &report_id).unwrap();
        let share =
            |input_share| InputShare { report_id: &report_id, public_share: &sharded.public_share, input_share };
        let (pending, message) = preparer.leader_start(verify, share(&sharded.leader_share)).unwrap();
        let (output, answer) = preparer.helper_answer(verify, share(&sharded.helper_share), &message).unwrap();
        preparer.add(&mut helper, output);
        preparer.add(&mut leader, pending.finish(&answer).unwrap());
    }
    (preparer.encode(&leader), preparer.encode(&helper))
}

/// The behaviour of a leader.
#[derive(Clone)]
struct Script {
    revision: Revision,
    /// Number of 202 responses, including the one to the first request.
    deferrals: usize,
    /// The `Location` header; empty for none.
    location: &'static str,
    /// The key that the leader seals to.
    config: dapbox_protocol::model::HpkeConfig,
    /// The query of the result.
    query: Query,
    /// Modifies the result.
    change: fn(&mut Collection),
    /// The response instead of a result.
    problem: Option<Problem>,
}

impl Script {
    /// The behaviour of an honest leader.
    fn new(keypair: &Keypair, query: Query) -> Self {
        let config = keypair.config().clone();
        let (revision, location) = (Revision::Dap09, JOB);
        Self { revision, deferrals: 3, location, config, query, change: |_| (), problem: None }
    }

    /// The body of the result.
    fn result(&self, task: &TaskParameters) -> Vec<u8> {
        let wire = wire::for_revision(task.revision);
        let (leader, helper) = shares(task);
        let batch = match self.query {
            Query::TimeInterval(interval) => BatchSelector::TimeInterval(interval),
            Query::FixedSize(_) => BatchSelector::FixedSize(BatchId::new([5; 32])),
        };
        let request = CollectionReq { query: self.query, aggregation_parameter: Bytes::new(), extensions: Vec::new() };
        let aad = wire.aggregate_share_aad(task, &wire.encode_collection_req(task, &request).unwrap(), &batch);
        let seal =
            |role, share: &[u8]| hpke::seal(&self.config, &wire.aggregate_share_info(role), &aad, share).unwrap();
        let mut collection = Collection {
            batch: Some(batch.partial()),
            report_count: 2,
            interval: interval(120, 60),
            leader_share: seal(Role::Leader, &leader),
            helper_share: seal(Role::Helper, &helper),
        };
        (self.change)(&mut collection);
        wire.encode_collection(task, &collection)
    }

    /// The response to the n-th request, from 1.
    fn answer(&self, n: usize, task: &TaskParameters) -> Response<Vec<u8>> {
        let media_type =
            wire::for_revision(task.revision).poll_request(ResourceKind::CollectionJob, JOB).unwrap().accept.unwrap();
        let response = Response::builder();
        let response = if self.location.is_empty() { response } else { response.header("location", self.location) };
        match &self.problem {
            _ if n <= self.deferrals => response.status(202).header("retry-after", "0").body(Vec::new()),
            Some(problem) => response
                .status(problem.status)
                .header("content-type", "application/problem+json")
                .body(problem.to_json().into_bytes()),
            None => response.header("content-type", media_type).body(self.result(task)),
        }
        .unwrap()
    }
}

/// The outcome of a collection.
struct Outcome {
    result: Result<CollectedAggregate, CollectError>,
    progress: Vec<Progress>,
    /// Method, path and token of each request.
    requests: Vec<String>,
}

/// Starts a scripted leader. Returns the task of its collector, and the requests that the leader receives.
async fn leader(query: Query, script: Script) -> (CollectorTask, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mode = match query {
        Query::TimeInterval(_) => BatchMode::TimeInterval,
        Query::FixedSize(_) => BatchMode::fixed_size(None),
    };
    let task = task(script.revision, format!("http://{}/below/dap/", listener.local_addr().unwrap()), mode);
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (log, parameters) = (Arc::clone(&requests), task.public.clone());
    let routes = warp::method().and(warp::path::full()).and(warp::header::<String>("authorization")).map(
        move |method: Method, path: FullPath, token: String| {
            let mut log = log.lock().unwrap();
            log.push(format!("{method} {} {token}", path.as_str()));
            match method {
                Method::DELETE => Response::builder().status(204).body(Vec::new()).unwrap(),
                _ => script.answer(log.len(), &parameters),
            }
        },
    );
    tokio::spawn(warp::serve(routes).incoming(listener).run());
    (task, requests)
}

/// Collects `query` from a scripted leader and releases the result.
async fn collect(keypair: Keypair, query: Query, timeout: Option<Span>, script: Script) -> Outcome {
    let (task, requests) = leader(query, script).await;
    let peer = Peer::new(&PeerOptions::default()).unwrap();
    let collector = Collector::new(task, keypair, peer, RetryPolicy::default()).unwrap();
    let mut progress = Vec::new();
    let result = collector.collect(query, timeout, |step| progress.push(step)).await;
    if let Ok(collected) = &result {
        collector.release(collected).await.unwrap();
    }
    let requests = requests.lock().unwrap().clone();
    Outcome { result, progress, requests }
}

fn keypair() -> Keypair {
    Keypair::generate(1, Suite::DEFAULT).unwrap()
}

#[tokio::test]
async fn collects_and_releases_an_aggregate() {
    for (revision, methods) in [
        (Revision::Dap09, ["PUT", "POST", "POST", "POST", "DELETE"]),
        (Revision::Dap18, ["POST", "GET", "GET", "GET", "DELETE"]),
    ] {
        let keypair = keypair();
        let query = Query::TimeInterval(interval(0, 600));
        let script = Script { revision, ..Script::new(&keypair, query) };
        let outcome = collect(keypair, query, None, script).await;
        let collected = outcome.result.unwrap();
        let place = collected.location.clone().unwrap();
        let expected = CollectedAggregate {
            report_count: 2,
            interval: interval(120, 60),
            batch_id: None,
            location: Some(place.clone()),
            result: AggregateResult::Number(42),
        };
        assert_eq!(collected, expected);
        assert_eq!(outcome.progress, [Progress::Accepted, Progress::Waiting(1), Progress::Waiting(2)]);
        let found: Vec<_> = outcome.requests.iter().map(|r| r.split(' ').next().unwrap()).collect();
        assert_eq!(found, methods);
        assert!(outcome.requests.iter().all(|r| r.ends_with(" Bearer let-me-in")));
        assert!(outcome.requests[0].contains(&TaskId::new([7; 32]).to_string()));
        let at_place = |r: &String| r.contains(&format!(" /below/dap/{place} "));
        assert!(outcome.requests[1..].iter().all(at_place), "{place}: {:?}", outcome.requests);
    }
}

#[tokio::test]
async fn accepts_immediate_results_and_follows_locations_below_the_base() {
    let query = Query::TimeInterval(interval(0, 600));
    for (location, deferrals, place) in [
        ("collection_jobs/1", 0, Some("tasks/BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc/collection_jobs/1")),
        ("/below/dap/elsewhere/1?x=y", 0, Some("elsewhere/1?x=y")),
        ("/below/dap/elsewhere/1", 1, Some("elsewhere/1")),
        ("/below/1", 0, None),
        ("http://evil.example/below/dap/1", 1, None),
    ] {
        let keypair = keypair();
        let script = Script { revision: Revision::Dap18, deferrals, location, ..Script::new(&keypair, query) };
        let outcome = collect(keypair, query, None, script).await;
        match place {
            Some(place) => {
                assert_eq!(outcome.result.unwrap().location.as_deref(), Some(place));
                assert_eq!(outcome.requests.len(), deferrals + 2);
                let path = place.split('?').next().unwrap();
                assert!(outcome.requests.last().unwrap().starts_with(&format!("DELETE /below/dap/{path} ")));
            }
            None => {
                let error = outcome.result.unwrap_err();
                assert!(matches!(&error, CollectError::Request(RequestError::Unexpected(_))), "{error}");
                assert_eq!(outcome.requests.len(), 1, "the token is not sent elsewhere");
            }
        }
    }
}

#[tokio::test]
async fn checks_batch_id_of_the_result() {
    let current = Query::FixedSize(FixedSizeQuery::CurrentBatch);
    for (revision, id) in [(Revision::Dap09, Some(BatchId::new([5; 32]))), (Revision::Dap18, None)] {
        let pair = keypair();
        let script = Script { revision, ..Script::new(&pair, current) };
        let collected = collect(pair, current, None, script).await.result.unwrap();
        assert_eq!((collected.batch_id, collected.result), (id, AggregateResult::Number(42)));
    }

    let named = Query::FixedSize(FixedSizeQuery::ByBatchId(BatchId::new([6; 32])));
    let pair = keypair();
    let script = Script::new(&pair, named);
    let outcome = collect(pair, named, None, script).await;
    assert!(matches!(outcome.result, Err(CollectError::AnswerMismatch("another batch"))));

    let pair = keypair();
    let script = Script { revision: Revision::Dap18, ..Script::new(&pair, current) };
    let outcome = collect(pair, named, None, script).await;
    assert!(matches!(outcome.result, Err(CollectError::UnsupportedQuery(_))), "DAP-18 has no such query");
    assert!(outcome.requests.is_empty());
}

#[tokio::test]
async fn rejects_mismatched_answers() {
    type Change = fn(&mut Collection);
    let cases: [(Revision, Change, &str); 7] = [
        (Revision::Dap09, |c| c.report_count = 0, "no reports"),
        (Revision::Dap09, |c| c.interval = interval(0, 120), "outside"),
        (Revision::Dap09, |c| c.interval = interval(120, 120), "outside"),
        (Revision::Dap09, |c| c.interval = interval(121, 30), "aligned"),
        (Revision::Dap09, |c| c.batch = Some(PartialBatchSelector::FixedSize(BatchId::new([5; 32]))), "kind"),
        (Revision::Dap18, |c| c.report_count = 0, "no reports"),
        (Revision::Dap18, |c| c.interval = interval(120, 120), "outside"),
    ];
    let query = Query::TimeInterval(interval(60, 120));
    for (revision, change, word) in cases {
        let keypair = keypair();
        let script = Script { revision, change, ..Script::new(&keypair, query) };
        let error = collect(keypair, query, None, script).await.result.unwrap_err();
        assert!(matches!(error, CollectError::AnswerMismatch(why) if why.contains(word)), "{word}: {error}");
    }
}

#[tokio::test]
async fn rejects_shares_for_another_key_or_query() {
    let query = Query::TimeInterval(interval(0, 600));
    let longer = Query::TimeInterval(interval(0, 1200));
    for revision in Revision::ALL {
        let (mine, other) = (keypair(), keypair());
        let script = Script { revision, ..Script::new(&other, query) };
        let result = collect(mine, query, None, script).await.result;
        assert!(matches!(result, Err(CollectError::Open(Role::Leader, _))));

        let pair = keypair();
        let script = Script { revision, ..Script::new(&pair, longer) };
        let result = collect(pair, query, None, script).await.result;
        assert!(matches!(result, Err(CollectError::Open(Role::Leader, _))));

        let pair = keypair();
        let change: fn(&mut Collection) = |c| c.helper_share = c.leader_share.clone();
        let script = Script { revision, change, ..Script::new(&pair, query) };
        let result = collect(pair, query, None, script).await.result;
        assert!(matches!(result, Err(CollectError::Open(Role::Helper, _))));
    }
}

#[tokio::test]
async fn distinguishes_refusals_from_timeouts() {
    let query = Query::TimeInterval(interval(0, 600));
    for revision in Revision::ALL {
        let pair = keypair();
        let problem = Some(Problem::new(ProblemType::InvalidBatchSize));
        let script = Script { revision, problem, ..Script::new(&pair, query) };
        let error = collect(pair, query, None, script).await.result.unwrap_err();
        assert!(
            matches!(&error, CollectError::Request(e) if e.problem().unwrap().kind == ProblemType::InvalidBatchSize)
        );

        let pair = keypair();
        let script = Script { revision, problem: Some(Problem::from_status(500)), ..Script::new(&pair, query) };
        let outcome = collect(pair, query, Some(Span::ZERO), script).await;
        assert!(matches!(outcome.result, Err(CollectError::TimedOut(_))));
    }
}

#[tokio::test]
async fn rejects_empty_answer_without_location() {
    let (pair, query) = (keypair(), Query::TimeInterval(interval(0, 600)));
    let script = Script { revision: Revision::Dap18, location: "", ..Script::new(&pair, query) };
    let outcome = collect(pair, query, None, script).await;
    assert!(matches!(outcome.result, Err(CollectError::AnswerMismatch(why)) if why.contains("location")));
}

/// A collector that does not retry, and its empty journal.
fn recorded(task: CollectorTask, keypair: Keypair, dir: &std::path::Path) -> (Collector, CollectionJournal) {
    let journal = CollectionJournal::open(&dir.join("jobs.json"), task.public.id, task.public.revision).unwrap();
    let once = RetryPolicy { initial: Span::ZERO, max: Span::ZERO, give_up_after: Span::ZERO };
    let peer = Peer::new(&PeerOptions::default()).unwrap();
    (Collector::new(task, keypair, peer, once).unwrap(), journal)
}

fn methods(requests: &Mutex<Vec<String>>) -> Vec<String> {
    requests.lock().unwrap().iter().map(|request| request.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn keeps_job_if_the_leader_may_have_it() {
    let query = Query::TimeInterval(interval(0, 600));
    for revision in Revision::ALL {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (collector, mut journal) = recorded(task(revision, url, BatchMode::TimeInterval), keypair(), dir.path());
        // The leader receives the request and does not respond.
        let (path, id) = (dir.path().join("jobs.json"), journal.record().task);
        let silent = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::io::AsyncReadExt::read_u8(&mut connection).await.unwrap();
            CollectionRecord::read(&path, id, revision).unwrap().jobs.len()
        });
        let id = collector.begin(&mut journal, query, Time(1)).unwrap();
        collector.run(&mut journal, &id, None, |_| ()).await.unwrap_err();
        assert_eq!(journal.record().jobs.len(), 1, "{revision:?}: the leader may have the job");
        assert_eq!(silent.await.unwrap(), 1, "{revision:?}: the job was stored before the request");

        // The listener is closed: the second job was never sent, the first one may exist.
        let second = collector.begin(&mut journal, query, Time(2)).unwrap();
        collector.run(&mut journal, &second, None, |_| ()).await.unwrap_err();
        collector.run(&mut journal, &id, None, |_| ()).await.unwrap_err();
        let left: Vec<_> = journal.record().jobs.iter().map(|job| job.id).collect();
        assert_eq!(left, [id], "{revision:?}");
    }
}

#[tokio::test]
async fn resumes_recorded_job_at_its_location() {
    let current = Query::FixedSize(FixedSizeQuery::CurrentBatch);
    for (revision, expected) in [(Revision::Dap09, &["PUT", "POST"][..]), (Revision::Dap18, &["POST", "GET", "DELETE"])]
    {
        let (pair, dir) = (keypair(), tempfile::tempdir().unwrap());
        let script = Script { revision, deferrals: 2, ..Script::new(&pair, current) };
        let (task, requests) = leader(current, script).await;
        let (collector, mut journal) = recorded(task.clone(), pair.clone(), dir.path());
        let id = collector.begin(&mut journal, current, Time(1)).unwrap();
        assert_eq!(collector.poll_once(&mut journal, &id, None).await.unwrap(), None);
        drop(journal);
        let (collector, mut journal) = recorded(task, pair, dir.path());
        let collected = collector.run(&mut journal, &id, None, |_| ()).await.unwrap();
        assert_eq!(collected.result, AggregateResult::Number(42));
        let before = methods(&requests);
        assert_eq!(collector.run(&mut journal, &id, None, |_| ()).await.unwrap(), collected, "from the journal");
        assert_eq!(methods(&requests), before, "{revision:?}: a stored result needs no request");
        collector.complete(&mut journal, &id, &collected).await.unwrap();
        assert!(journal.record().jobs.is_empty());
        let mut found = methods(&requests);
        found.dedup();
        assert_eq!(found, expected, "{revision:?}");
    }
}

#[tokio::test]
async fn deletes_finally_failed_job() {
    let query = Query::TimeInterval(interval(0, 600));
    for revision in Revision::ALL {
        let (pair, dir) = (keypair(), tempfile::tempdir().unwrap());
        let problem = Some(Problem::new(ProblemType::BatchMismatch));
        let script = Script { revision, deferrals: 1, problem, ..Script::new(&pair, query) };
        let (task, requests) = leader(query, script).await;
        let (collector, mut journal) = recorded(task, pair, dir.path());
        let id = collector.begin(&mut journal, query, Time(1)).unwrap();
        let error = collector.run(&mut journal, &id, None, |_| ()).await.unwrap_err();
        assert!(matches!(error, CollectError::Request(RequestError::Refused(_))), "{error}");
        assert_eq!(methods(&requests).last().unwrap(), "DELETE");
        assert!(journal.record().jobs.is_empty());
    }
}

#[tokio::test]
async fn takes_single_steps() {
    let query = Query::TimeInterval(interval(0, 600));
    for revision in Revision::ALL {
        let (pair, dir) = (keypair(), tempfile::tempdir().unwrap());
        let script = Script { revision, deferrals: 2, ..Script::new(&pair, query) };
        let (task, requests) = leader(query, script).await;
        let (collector, _) = recorded(task, pair, dir.path());
        let (id, body, may_exist) =
            (CollectionJobId::random(), collector.encode(query).unwrap(), AtomicBool::new(false));
        let created = collector.request(&id, body.clone(), &may_exist).await.unwrap();
        assert!(created.ready.is_none() && may_exist.into_inner());
        assert!(created.leader_time.is_some(), "{revision:?}: warp sends its date");
        let (location, may_exist) = (created.location.unwrap(), AtomicBool::new(true));
        assert_eq!(collector.poll(&location, &may_exist).await.unwrap().ready, None);
        let result = collector.poll(&location, &may_exist).await.unwrap().ready.unwrap();
        let collected = collector.open_result(&query, &body, &result).unwrap();
        assert_eq!((collected.result, collected.report_count), (AggregateResult::Number(42), 2));
        collector.delete(&location).await.unwrap();
        assert_eq!(methods(&requests).last().unwrap(), "DELETE");
    }
}

#[test]
fn tells_final_failures_from_those_of_the_collector() {
    let refused = |problem| CollectError::Request(RequestError::Refused(Box::new(problem)));
    for (error, is_final_at_leader, is_final_if_unsent, concerns_collector) in [
        (refused(Problem::new(ProblemType::BatchMismatch)), true, true, false),
        (refused(Problem::new(ProblemType::UnauthorizedRequest)), false, true, true),
        (refused(Problem::from_status(404)), false, true, true),
        (refused(Problem::from_status(503)), false, false, false),
        (CollectError::Deleted, true, true, false),
        (CollectError::AnswerMismatch("no reports"), false, false, false),
    ] {
        let found = (error.is_final(true), error.is_final(false), error.concerns_collector());
        assert_eq!(found, (is_final_at_leader, is_final_if_unsent, concerns_collector), "{error}");
    }
}
