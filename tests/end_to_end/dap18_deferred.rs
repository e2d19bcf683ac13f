//! Deferred answers (DAP-18 section 3.1): our leader with deferring helpers, our deferring helper, and the permitted
//! targets of a `Location` (section 3.2).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use dapbox::{
    collector::CollectError,
    config::{Config, Seconds},
    model::{
        AggregationJobInitReq, BatchMode, MaxMeasurement, PartialBatchSelector, PrepareOutcome, ReportError, ReportId,
        Revision, Time, VdafConfig,
    },
    peer::RequestError,
    vdaf::Measurement,
    wire::{
        ProblemType,
        ResourceKind::{AggregateShare, AggregationJob},
    },
};
use rstest::rstest;

use crate::common::{
    Node, Pair, Parties, TEST_TIMEOUT,
    calls::{Created, assert_rejected, is_pending},
    relay::{
        MEASUREMENTS, Relay, RelayAction, RelayedAnswer, RelayedRequest, assert_whole, modes, pair_through_relay,
        query, upload_all,
    },
    report_builder::ReportBuilder,
};

/// A helper that defers every answer.
fn later(config: &mut Config) {
    config.helper.synchronous_reports = 0;
}

/// Our leader with our helper, which defers every answer.
#[tokio::test(flavor = "multi_thread")]
async fn completes_lifecycle_with_deferring_helper() {
    for mode in modes(Revision::Dap18) {
        let (pair, relay) = pair_through_relay(Revision::Dap18, mode, later).await;
        upload_all(&pair.parties.client(), None).await;
        let collected = pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await;
        assert_whole("deferred", collected);
        relay.check_repeats(&pair.parties);
        let jobs = relay.creations(AggregationJob);
        assert_eq!(jobs.len(), 3, "five reports make three jobs of two, each asked for once");
        let polls: Vec<_> =
            relay.requests("/aggregation_jobs/").into_iter().filter(|asked| asked.method == "GET").collect();
        assert!(polls.len() >= 3 && polls.iter().all(|poll| poll.path.ends_with("?step=0")), "{polls:?}");
        assert!(polls.iter().all(|poll| has_token(poll, &pair.parties)));
        assert_eq!(pair.helper.counter(&pair.parties.id(), "aggregate_success").await, 5);
        pair.stop().await;
    }
}

fn has_token(asked: &RelayedRequest, parties: &Parties) -> bool {
    let bearer = format!("Bearer {}", parties.helper_token.expose_text().unwrap());
    asked.headers.iter().any(|(name, value)| name == "authorization" && *value == bearer)
}

async fn deferring_pair() -> (Pair, ReportBuilder) {
    let mode = BatchMode::TimeInterval;
    let pair = Pair::start_with(Revision::Dap18, VdafConfig::Prio3Count, mode, later, |_| {}).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    (pair, builder)
}

fn some_job(builder: &ReportBuilder, reports: usize) -> AggregationJobInitReq {
    let draft = || builder.draft(&Measurement::Flag(true), Time(1_600_000_000));
    builder.job(PartialBatchSelector::TimeInterval, &(0..reports).map(|_| draft()).collect::<Vec<_>>())
}

/// A pending job has a location with its step, and polls name the step (section 4.5.3.2).
#[tokio::test(flavor = "multi_thread")]
async fn polls_job_with_step() {
    let (pair, builder) = deferring_pair().await;
    let parties = &pair.parties;
    let request = some_job(&builder, 3);
    let made = parties.send_new_job(&request).await;
    assert!(is_pending(&made.answer, parties) && made.answer.retry_after.is_some(), "{made:?}");
    let place = made.resource_path().to_owned();
    let job = place.strip_suffix("?step=0").unwrap_or_else(|| panic!("{place}"));
    let answer = parties.poll_until_ready(AggregationJob, made).await;
    assert!(answer.is_success(), "{answer:?}");
    let get = async |path: &str| {
        let call = parties.wire().poll_request(AggregationJob, "").unwrap();
        parties.send(AggregationJob, &dapbox::wire::RequestSpec { path: path.to_owned(), ..call }, "").await
    };
    assert_eq!(get(&place).await.body, answer.body);
    assert_rejected(&get(job).await, parties, ProblemType::InvalidMessage);
    for (step, kind) in [
        ("1", ProblemType::StepMismatch),
        ("65535", ProblemType::StepMismatch),
        ("65536", ProblemType::InvalidMessage),
        ("-1", ProblemType::InvalidMessage),
        ("", ProblemType::InvalidMessage),
    ] {
        assert_rejected(&get(&format!("{job}?step={step}")).await, parties, kind);
    }
    let nowhere = get(&format!("{}?step=0", parties.missing_path(AggregationJob))).await;
    assert_rejected(&nowhere, parties, ProblemType::UnrecognizedAggregationJob);

    // The same request finds the job, which is ready now.
    let again = parties.send_new_job(&request).await;
    assert_eq!((again.resource_path(), &again.answer.body), (job, &answer.body));
    // An invalid request is rejected immediately.
    let twice = AggregationJobInitReq {
        prepare_inits: vec![request.prepare_inits[0].clone(), request.prepare_inits[0].clone()],
        ..request
    };
    assert_rejected(&parties.send_new_job(&twice).await.answer, parties, ProblemType::InvalidMessage);
    pair.stop().await;
}

const JOBS: usize = 20;
const REPORTS: usize = 10;

/// Sends several jobs; some are still pending when the last one is sent.
async fn ask_all(parties: &Parties, requests: &[AggregationJobInitReq]) -> Vec<Created> {
    let mut made = Vec::new();
    for request in requests {
        made.push(parties.send_new_job(request).await);
        assert!(is_pending(&made.last().unwrap().answer, parties));
    }
    made
}

/// Jobs that are pending when the helper stops are answered after its start.
#[tokio::test(flavor = "multi_thread")]
async fn answers_deferred_jobs_after_restart() {
    let (mut pair, builder) = deferring_pair().await;
    let parties = pair.parties.clone();
    let requests: Vec<_> = (0..JOBS).map(|_| some_job(&builder, REPORTS)).collect();
    let made = ask_all(&parties, &requests).await;
    pair.helper.restart().await;
    for (made, request) in made.into_iter().zip(&requests) {
        let place = made.resource_path().to_owned();
        let answer = parties.poll_until_ready(AggregationJob, made).await;
        let resps = parties.wire().decode_job_resp(&answer.body, REPORTS).unwrap();
        assert!(resps.iter().all(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))), "{resps:?}");
        assert!(
            resps.iter().map(|resp| resp.report_id).eq(request.prepare_inits.iter().map(|init| init.share.metadata.id))
        );
        let again = parties.send_new_job(request).await;
        assert_eq!((again.resource_path(), &again.answer.body), (place.trim_end_matches("?step=0"), &answer.body));
    }
    assert_eq!(pair.helper.counter(&parties.id(), "aggregate_success").await, (JOBS * REPORTS) as u64);
    pair.stop().await;
}

/// A job deleted while pending is no longer answered. Its reports count at most once.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_deferred_jobs() {
    let (pair, builder) = deferring_pair().await;
    let parties = &pair.parties;
    let requests: Vec<_> = (0..JOBS).map(|_| some_job(&builder, REPORTS)).collect();
    let made = ask_all(parties, &requests).await;
    for made in made.iter().rev() {
        assert!(parties.delete_job(made.resource_path()).await.is_success());
    }
    for (made, request) in made.iter().zip(&requests) {
        let gone = parties.poll_at(AggregationJob, made.resource_path()).await;
        assert_rejected(&gone, parties, ProblemType::UnrecognizedAggregationJob);
        let again = parties.send_new_job(request).await;
        assert_ne!(again.resource_path(), made.resource_path());
        let answer = parties.poll_until_ready(AggregationJob, again).await;
        let resps = parties.wire().decode_job_resp(&answer.body, REPORTS).unwrap();
        let replayed =
            |resp: &dapbox::model::PrepareResp| resp.outcome == PrepareOutcome::Reject(ReportError::ReportReplayed);
        let count = resps.iter().filter(|resp| replayed(resp)).count();
        assert!(count == 0 || count == REPORTS, "a job is answered as a whole or not at all: {resps:?}");
    }
    assert_eq!(pair.helper.counter(&parties.id(), "aggregate_success").await, (JOBS * REPORTS) as u64);
    pair.stop().await;
}

/// Forms of a location that another implementation may use (RFC 9110 section 10.2.2), below the URL of a task's jobs or
/// shares.
const SPELLINGS: [fn(&RelayedAnswer, &str) -> String; 3] = [
    // An absolute path, as our helper writes it.
    |told, _| location(told).to_owned(),
    // A full URL.
    |told, origin| format!("{origin}{}", location(told)),
    // Relative to the requested URL.
    |told, _| location(told).rsplit('/').take(2).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("/"),
];

fn location(told: &RelayedAnswer) -> &str {
    told.headers.iter().find(|(name, _)| name == "location").map(|(_, value)| value.as_str()).unwrap()
}

/// Turns our helper into another implementation that defers every answer until the third poll.
fn defer(relay: &Relay, spelling: usize) {
    let origin = relay.before("http://127.0.0.1:9/");
    let origin = origin.trim_end_matches('/').to_owned();
    let ready: Arc<Mutex<HashMap<String, RelayedAnswer>>> = Arc::default();
    relay.plan(move |asked, before| {
        let (origin, shared) = (origin.clone(), ready.clone());
        if asked.creates(AggregationJob) || asked.creates(AggregateShare) {
            let step = if asked.creates(AggregationJob) { "?step=0" } else { "" };
            return RelayAction::Edit(Box::new(move |told| {
                let place = SPELLINGS[spelling](&told, &origin);
                shared.lock().unwrap().insert(location(&told).to_owned(), told);
                pending(202).with("location", &format!("{place}{step}"))
            }));
        }
        let path = asked.path.trim_end_matches("?step=0");
        let told = shared.lock().unwrap().get(path).cloned();
        match told {
            Some(_) if asked.method == "GET" && before < 2 => RelayAction::Answer(pending(200)),
            Some(told) if asked.method == "GET" => RelayAction::Answer(without_location(told)),
            _ => RelayAction::Pass,
        }
    });
}

fn pending(status: u16) -> RelayedAnswer {
    RelayedAnswer { status, headers: Vec::new(), body: Vec::new() }.with("retry-after", "0")
}

fn without_location(mut told: RelayedAnswer) -> RelayedAnswer {
    told.headers.retain(|(name, _)| name != "location");
    told
}

/// Other helpers may defer jobs and shares, with any form of location.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn polls_any_deferring_helper(#[values(0, 1, 2)] spelling: usize) {
    for mode in modes(Revision::Dap18) {
        let (pair, relay) = pair_through_relay(Revision::Dap18, mode, |_| {}).await;
        defer(&relay, spelling);
        relay.before(&pair.helper.url(Revision::Dap18));
        upload_all(&pair.parties.client(), None).await;
        let collected = pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await;
        assert_whole("foreign", collected);
        relay.check_repeats(&pair.parties);
        assert_eq!((relay.creations(AggregationJob).len(), relay.creations(AggregateShare).len()), (3, 1));
        let polls = |part| relay.requests(part).into_iter().filter(|asked| asked.method == "GET").collect::<Vec<_>>();
        let (jobs, shares) = (polls("/aggregation_jobs/"), polls("/aggregate_shares/"));
        assert_eq!((jobs.len(), shares.len()), (9, 3));
        assert!(jobs.iter().all(|poll| poll.path.ends_with("?step=0")), "{jobs:?}");
        assert!(shares.iter().all(|poll| !poll.path.contains('?')), "{shares:?}");
        let status = pair.leader.status(&pair.parties.id()).await;
        assert_eq!((status.jobs, status.waiting, status.last_error), (0, 0, None));
        pair.stop().await;
    }
}

/// A helper that has lost a deferred job gets the same request again. One that cannot complete it reports the error at
/// a poll.
#[tokio::test(flavor = "multi_thread")]
async fn answers_poll_with_error_of_failed_request() {
    let (pair, relay) = pair_through_relay(Revision::Dap18, BatchMode::TimeInterval, |_| {}).await;
    let parties = &pair.parties;
    relay.plan(|asked, before| match before {
        // The helper keeps nothing of the first request.
        0 if asked.creates(AggregationJob) => {
            let place = format!("{}/AAAAAAAAAAAAAAAAAAAAAA?step=0", asked.path);
            RelayAction::Answer(pending(200).with("location", &place))
        }
        _ if asked.creates(AggregateShare) => {
            let place = format!("{}/AAAAAAAAAAAAAAAAAAAAAA", asked.path);
            RelayAction::Answer(pending(200).with("location", &place))
        }
        _ if asked.is_about(AggregateShare) => RelayAction::Answer(RelayedAnswer::problem(400, "batchMismatch")),
        _ => RelayAction::Pass,
    });
    upload_all(&parties.client(), None).await;
    let outcome = parties.outcome_of(query(parties)).await;
    assert_rejected(&outcome, parties, ProblemType::BatchMismatch);
    relay.check_repeats(parties);
    let jobs = relay.creations(AggregationJob);
    for job in &jobs {
        assert!(jobs.iter().filter(|other| other.body == job.body).count() == 2, "each is asked for once more");
    }
    assert_eq!(pair.leader.counter(&parties.id(), "aggregate_success").await, 5);
    pair.stop().await;
}

/// Locations outside of the helper's resources: other hosts, and other paths of the helper.
fn elsewhere(trap: &Relay) -> Vec<String> {
    let trap = trap.before("http://127.0.0.1:9/");
    let host = trap.strip_prefix("http:").unwrap().to_owned();
    let mut places = vec![format!("{trap}dap-18/x"), format!("{host}dap-18/x")];
    places.extend(
        ["/elsewhere/x", "/dap-18/../x", "../../../../x", "/dap-09/x", "mailto:x@example.com", "http://["]
            .map(str::to_owned),
    );
    places
}

/// A leader does not follow such a location, because its token is for the helper only. It sends the request to the
/// helper again.
#[tokio::test(flavor = "multi_thread")]
async fn leader_ignores_location_of_another_origin() {
    let trap = Relay::start().await;
    for place in elsewhere(&trap) {
        let (pair, relay) = pair_through_relay(Revision::Dap18, BatchMode::TimeInterval, |_| {}).await;
        let told = place.clone();
        relay.plan(move |asked, before| match before {
            0 if asked.method == "POST" => RelayAction::Answer(pending(200).with("location", &told)),
            _ => RelayAction::Pass,
        });
        upload_all(&pair.parties.client(), None).await;
        let collected = pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await;
        assert_whole(&place, collected);
        relay.check_repeats(&pair.parties);
        let strays = relay.requests("").into_iter().filter(|asked| !asked.path.starts_with("/dap-18/"));
        assert_eq!(strays.collect::<Vec<_>>(), [], "{place}");
        pair.stop().await;
    }
    assert_eq!(trap.requests(""), [], "a token never goes elsewhere");
}

/// The same for a collector.
#[tokio::test(flavor = "multi_thread")]
async fn collector_ignores_location_of_another_origin() {
    let (mut leader, mut helper) = (Node::start().await, Node::start().await);
    let (trap, relay) = (Relay::start().await, Relay::start().await);
    let leader_url = relay.before(&leader.url(Revision::Dap18));
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
    let mode = BatchMode::TimeInterval;
    let parties = Parties::new(Revision::Dap18, vdaf, mode, leader_url, helper.url(Revision::Dap18));
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    for place in elsewhere(&trap) {
        let told = place.clone();
        relay.plan(move |_, _| RelayAction::Answer(pending(200).with("location", &told)));
        let collected = parties.collector().collect(query(&parties), Some(TEST_TIMEOUT), |_| {}).await;
        assert!(matches!(collected, Err(CollectError::Request(RequestError::Unexpected(_)))), "{place}: {collected:?}");
    }
    let strays = relay.requests("").into_iter().filter(|asked| !asked.path.ends_with("/collection_jobs"));
    assert_eq!((strays.collect::<Vec<_>>(), trap.requests("")), (Vec::new(), Vec::new()));
    relay.plan(|_, _| RelayAction::Pass);
    upload_all(&parties.client(), None).await;
    assert_eq!(MEASUREMENTS.len(), 5);
    assert_whole("at last", parties.collector().collect(query(&parties), Some(TEST_TIMEOUT), |_| {}).await);
    leader.stop().await;
    helper.stop().await;
}

/// The number of deferred jobs is limited. A further job gets 503 with `Retry-After`, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn limits_deferred_jobs() {
    let tight = |config: &mut Config| {
        later(config);
        (config.helper.max_deferred_jobs, config.limits.workers) = (1, 1);
    };
    let mode = BatchMode::TimeInterval;
    let pair = Pair::start_with(Revision::Dap18, VdafConfig::Prio3Count, mode, tight, |_| {}).await;
    let parties = pair.parties.clone();
    let builder = ReportBuilder::new(&parties).await;
    let mut jobs = tokio::task::JoinSet::new();
    for request in (0..JOBS).map(|_| some_job(&builder, REPORTS)).collect::<Vec<_>>() {
        let parties = parties.clone();
        jobs.spawn(async move {
            let mut busy = 0;
            loop {
                let made = parties.send_job(ReportId::random().as_bytes(), &request).await;
                if made.answer.is_success() {
                    assert!(parties.poll_until_ready(AggregationJob, made).await.is_success());
                    return busy;
                }
                assert_eq!((made.answer.status, made.answer.retry_after.is_some()), (503, true), "{made:?}");
                busy += 1;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
    }
    let busy: u64 = jobs.join_all().await.into_iter().sum();
    assert!(busy > 0, "twenty jobs at once never met each other");
    assert_eq!(pair.helper.counter(&parties.id(), "aggregate_success").await, (JOBS * REPORTS) as u64);
    pair.stop().await;
}

/// A deferring helper stops and starts at any point of our leader's requests.
#[tokio::test(flavor = "multi_thread")]
async fn leader_survives_restarts_of_deferring_helper() {
    let (mut pair, relay) = pair_through_relay(Revision::Dap18, BatchMode::TimeInterval, |config| {
        later(config);
        config.leader.min_job_size = 1;
        config.leader.retry_max = Seconds::millis(50);
    })
    .await;
    let client = pair.parties.client();
    client.keys().await.unwrap();
    for number in MEASUREMENTS {
        client.upload(Measurement::Number(number), None).await.unwrap();
        pair.helper.restart().await;
    }
    assert_whole("restarts", pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await);
    relay.check_repeats(&pair.parties);
    pair.stop().await;
}
