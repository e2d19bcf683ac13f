//! Faults between leader and helper. Whatever the network or the helper does, the aggregate is exact or is not
//! released.

use std::time::Duration as Span;

use bytes::Bytes;
use dapbox::{
    client::make_report,
    config::{Config, Seconds},
    model::{
        BatchMode, Duration, Interval, MaxMeasurement, PrepareOutcome, PrepareResp, Query, ReportError, ReportId,
        Revision, TaskParameters, VdafConfig,
    },
    support::clock,
    vdaf::{self, Measurement},
    views::status::TaskStatus,
    wire::{self, ProblemType, ResourceKind},
};
use rstest::rstest;
use tokio::task::JoinSet;

use crate::common::{
    Node, Pair, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, assert_rejected, assert_report_rejected},
    relay::{
        MEASUREMENTS, Relay, RelayAction, RelayedAnswer, RelayedRequest, assert_whole, modes, pair_through_relay,
        query, upload_all,
    },
    report_builder::{ReportBuilder, flipped},
};

/// Requests of the leader to the helper. Clients request the helper's keys through the relay too.
fn is_leaders(asked: &RelayedRequest) -> bool {
    asked.is_about(ResourceKind::AggregationJob) || asked.is_about(ResourceKind::AggregateShare)
}

/// The expected media type of the answer to a request.
fn right_type(revision: Revision, asked: &RelayedRequest) -> &'static str {
    let is_job = asked.is_about(ResourceKind::AggregationJob);
    let kind = if is_job { ResourceKind::AggregationJob } else { ResourceKind::AggregateShare };
    let call = wire::for_revision(revision).create_request(kind, &dapbox::model::TaskId::random(), &[0; 16]);
    call.accept.unwrap()
}

type Mishap = Box<dyn Fn(&RelayedRequest) -> RelayAction + Send + Sync>;
type ProtocolViolation = fn(&mut Vec<PrepareResp>);

/// Transient faults; each replaces the first two answers to every request of the leader.
fn mishaps(revision: Revision, elsewhere: String) -> Vec<(&'static str, Mishap)> {
    vec![
        ("slow", Box::new(|_| RelayAction::Slow(Span::from_millis(1500)))),
        ("lost request", Box::new(|_| RelayAction::Lose)),
        ("lost answer", Box::new(|_| RelayAction::LoseAnswer)),
        ("answer cut short", Box::new(|_| RelayAction::CutAnswer)),
        ("answer cut short, by its own length", Box::new(|_| RelayAction::Edit(Box::new(halve)))),
        ("wrong token", Box::new(|_| RelayAction::Anonymous)),
        ("busy", Box::new(|_| RelayAction::Answer(RelayedAnswer::new(503, "text/plain", "").with("retry-after", "1")))),
        (
            "too many requests",
            Box::new(|_| RelayAction::Answer(RelayedAnswer::new(429, "text/plain", "").with("retry-after", "1"))),
        ),
        ("broken", Box::new(|_| RelayAction::Answer(RelayedAnswer::new(500, "text/html", "<h1>Oops</h1>")))),
        (
            "broken after it acted",
            Box::new(|_| RelayAction::Edit(Box::new(|_| RelayedAnswer::new(500, "text/html", "<h1>Oops</h1>")))),
        ),
        ("a proxy's page", Box::new(|_| RelayAction::Answer(RelayedAnswer::new(200, "text/html", "<h1>Welcome</h1>")))),
        (
            "garbage",
            Box::new(move |asked| {
                RelayAction::Answer(RelayedAnswer::new(200, right_type(revision, asked), "<h1>Welcome</h1>"))
            }),
        ),
        (
            "oversized",
            Box::new(move |asked| {
                RelayAction::Answer(RelayedAnswer::new(200, right_type(revision, asked), vec![0; 1 << 16]))
            }),
        ),
        (
            "empty",
            Box::new(|_| RelayAction::Answer(RelayedAnswer { status: 204, headers: Vec::new(), body: Vec::new() })),
        ),
        ("unknown task", Box::new(|_| RelayAction::Answer(RelayedAnswer::problem(404, "unrecognizedTask")))),
        (
            "elsewhere",
            Box::new(move |_| {
                RelayAction::Answer(RelayedAnswer::new(307, "text/plain", "").with("location", &elsewhere))
            }),
        ),
    ]
}

/// The cut is inside a report: between two reports of a DAP-18 answer it would read as an answer to a shorter job.
fn halve(mut told: RelayedAnswer) -> RelayedAnswer {
    told.body.truncate((told.body.len() / 2).saturating_sub(1));
    told
}

/// Runs each case in both batch modes, all concurrently, because they mostly wait.
async fn at_once<F>(cases: impl IntoIterator<Item = F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running: JoinSet<()> = cases.into_iter().collect();
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

/// The leader repeats the same bytes until it is answered, and the helper acts once (DAP-09 sections 4.5.1.1, 4.5.1.2
/// and 4.6.2, DAP-18 sections 4.5.3 and 4.6.4).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn recovers_from_transient_faults(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let trap = Relay::start().await;
    let elsewhere = trap.before("http://127.0.0.1:9/elsewhere");
    let mishaps = || mishaps(revision, elsewhere.clone()).into_iter();
    let cases = modes(revision).into_iter().flat_map(|mode| mishaps().map(move |case| (mode, case)));
    at_once(cases.map(|(mode, (name, mishap))| async move {
        let config = |config: &mut Config| {
            config.limits.max_answer_bytes = 1 << 14;
            if name == "slow" {
                config.leader.peer_timeout = Seconds::millis(500);
            }
        };
        let (pair, relay) = pair_through_relay(revision, mode, config).await;
        relay
            .plan(move |asked, before| if is_leaders(asked) && before < 2 { mishap(asked) } else { RelayAction::Pass });
        run_and_check(name, &pair, &relay, 3).await;
        pair.stop().await;
    }))
    .await;
    assert_eq!(trap.requests(""), [], "redirects are not followed: a token never goes elsewhere");
}

/// Networks and proxies duplicate requests. The duplicate waits for the first and gets the same answer (DAP-09 sections
/// 4.5.1.2 and 4.6.2, DAP-18 section 3.2).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn counts_repeated_requests_once(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let cases = modes(revision).into_iter().flat_map(|mode| [false, true].map(|at_once| (mode, at_once)));
    at_once(cases.map(|(mode, at_once)| async move {
        let (pair, relay) = pair_through_relay(revision, mode, |_| {}).await;
        relay.plan(move |_, _| if at_once { RelayAction::TwiceAtOnce } else { RelayAction::Twice });
        run_and_check("twice", &pair, &relay, 1).await;
        pair.stop().await;
    }))
    .await;
}

/// Uploads, collects, and checks the aggregate, the counters, and that repeated requests are identical.
async fn run_and_check(name: &str, pair: &Pair, relay: &Relay, attempts: usize) {
    let Pair { leader, helper, parties } = pair;
    upload_all(&parties.client(), None).await;
    let collected = parties.collector().collect(query(parties), Some(TEST_TIMEOUT), |_| {}).await;
    assert_whole(name, collected);

    relay.check_repeats(parties);
    for kind in [ResourceKind::AggregationJob, ResourceKind::AggregateShare] {
        let asked = relay.creations(kind);
        let first = asked.first().unwrap_or_else(|| panic!("{name}: nothing asked of {kind:?}"));
        let times = asked.iter().filter(|asked| is_same(asked, first)).count();
        assert!(times >= attempts, "{name}: {kind:?} asked {times} times only");
    }
    for node in [leader, helper] {
        let status = node.status(&parties.id()).await;
        assert_eq!(status.counters["aggregate_success"], 5, "{name}");
        let refused: Vec<_> = status.counters.keys().filter(|name| name.contains("replayed")).collect();
        assert!(refused.is_empty(), "{name}: {refused:?}");
        assert_eq!((status.waiting, status.jobs, status.batches_collected), (0, 0, 1), "{name}");
        assert_eq!(status.last_error, None, "{name}");
    }
}

/// Whether it repeats the same request.
fn is_same(asked: &RelayedRequest, other: &RelayedRequest) -> bool {
    (&asked.path, &asked.body) == (&other.path, &other.body)
}

/// Once a request may have arrived, a refusal does not prove that nothing was committed: the job stays.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn keeps_job_when_refused_after_lost_answer(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    // A proxy may answer that the helper is unavailable after the helper received the request.
    type Loss = fn() -> RelayAction;
    let losses: [Loss; 3] = [
        || RelayAction::LoseAnswer,
        || RelayAction::Edit(Box::new(|_| RelayedAnswer::new(503, "text/plain", "upstream connect error"))),
        || RelayAction::Edit(Box::new(|_| RelayedAnswer::new(502, "text/html", "<h1>Bad Gateway</h1>"))),
    ];
    at_once(modes(revision).into_iter().flat_map(|mode| losses.map(|lose| (mode, lose))).map(
        |(mode, lose)| async move {
            let (pair, relay) = pair_through_relay(revision, mode, |config| config.leader.max_job_size = 5).await;
            relay.plan(move |asked, before| match before {
                0 if is_leaders(asked) => lose(),
                1 if asked.creates(ResourceKind::AggregationJob) => {
                    RelayAction::Answer(RelayedAnswer::new(413, "text/plain", ""))
                }
                2 if asked.creates(ResourceKind::AggregationJob) => {
                    RelayAction::Answer(RelayedAnswer::problem(400, "invalidMessage"))
                }
                _ => RelayAction::Pass,
            });
            run_and_check("refused later", &pair, &relay, 2).await;
            let jobs = relay.creations(ResourceKind::AggregationJob);
            assert!(jobs.iter().filter(|asked| is_same(asked, &jobs[0])).count() >= 4);
            pair.stop().await;
        },
    ))
    .await;
}

/// A refusal that proves that nothing was committed stays a proof: a job that was deferred or unauthorized before is
/// still dissolved.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn dissolves_job_refused_after_deferrals(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let put_off = || {
        [
            RelayedAnswer::new(429, "text/plain", ""),
            RelayedAnswer::new(503, "text/plain", "").with("retry-after", "0"),
            RelayedAnswer::new(507, "text/plain", "").with("retry-after", "0"),
            RelayedAnswer::problem(403, "unauthorizedRequest"),
            RelayedAnswer::problem(404, "unrecognizedTask"),
        ]
    };
    at_once(put_off().into_iter().map(|told| async move {
        let config = |config: &mut Config| config.leader.max_job_size = 5;
        let (pair, relay) = pair_through_relay(revision, BatchMode::TimeInterval, config).await;
        let (limit, name) = (std::sync::OnceLock::new(), told.status.to_string());
        relay.plan(move |asked, before| {
            let is_job = asked.creates(ResourceKind::AggregationJob);
            let too_long = is_job && asked.body.len() >= *limit.get_or_init(|| asked.body.len());
            match (too_long, before) {
                (true, 0 | 1) => RelayAction::Answer(told.clone()),
                (true, _) => RelayAction::Answer(RelayedAnswer::new(413, "text/plain", "")),
                (false, _) => RelayAction::Pass,
            }
        });
        upload_all(&pair.parties.client(), None).await;
        let collected = pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await;
        assert_whole(&name, collected);
        let jobs = relay.creations(ResourceKind::AggregationJob);
        assert_eq!(jobs.iter().filter(|job| is_same(job, &jobs[0])).count(), 3, "{name}: the refused job is over");
        pair.stop().await;
    }))
    .await;
}

/// A job that the helper refused for its size, before committing anything, is dissolved. Its reports are aggregated in
/// shorter jobs under other ids, and the request is not repeated.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn splits_job_too_long_for_helper(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    at_once(modes(revision).map(|mode| async move {
        let (pair, relay) = pair_through_relay(revision, mode, |config| config.leader.max_job_size = 5).await;
        let limit = std::sync::OnceLock::new();
        relay.plan(move |asked, _| {
            let is_job = asked.creates(ResourceKind::AggregationJob);
            // The helper's limit is below the first job.
            let too_long = is_job && asked.body.len() >= *limit.get_or_init(|| asked.body.len());
            if too_long { RelayAction::Answer(RelayedAnswer::new(413, "text/plain", "")) } else { RelayAction::Pass }
        });
        upload_all(&pair.parties.client(), None).await;
        let collected = pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await;
        assert_whole("413", collected);
        let jobs = relay.creations(ResourceKind::AggregationJob);
        let first_again = jobs.iter().filter(|job| is_same(job, &jobs[0])).count();
        assert_eq!(first_again, 1, "the refused job is over");
        let refused = jobs.iter().filter(|job| job.body.len() >= jobs[0].body.len()).count();
        assert_eq!(refused, 1, "the helper is not asked for as much again");
        pair.stop().await;
    }))
    .await;
}

/// A helper with lower limits of reports or bytes refuses a job before reading it. The leader gets the answer and sends
/// shorter jobs.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn sends_shorter_jobs_to_helper_with_lower_limits(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let mut leader = Node::start_with(|config| config.leader.min_job_size = 16).await;
    let few = Node::start_with(|config| config.limits.max_job_reports = 3).await;
    let small = Node::start_with(|config| config.limits.max_job_bytes = 2 << 20).await;
    for mut helper in [small, few] {
        let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
        let parties = Parties::between(revision, vdaf, BatchMode::TimeInterval, [&leader, &helper]).await;
        let builder = ReportBuilder::new(&parties).await;
        for n in 0..16 {
            let mut report = builder.report(&Measurement::Number(1), clock::now());
            if n > 0 && helper.config.limits.max_job_bytes < 100 << 20 {
                report.helper_share.payload = vec![0; 900 << 10].into();
            }
            assert_accepted(&parties.upload(&report).await);
        }
        let spoilt = |status: &TaskStatus| status.counters.get("helper_hpke_decrypt_error").copied().unwrap_or(0);
        let query = parties.query_now();
        let collected = parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        let status = leader.until(&parties.id(), |status| status.waiting + status.jobs == 0).await;
        assert_eq!(collected.report_count + spoilt(&status), 16, "{status:?}");
        helper.stop().await;
    }
    leader.stop().await;
}

/// The answer with one protocol error.
fn tampered(task: &TaskParameters, told: RelayedAnswer, tamper: ProtocolViolation) -> RelayedAnswer {
    let wire = wire::for_revision(task.revision);
    let mut resps = wire.decode_job_resp(&Bytes::from(told.body.clone()), 100).unwrap();
    assert_eq!(resps.len(), 5);
    tamper(&mut resps);
    RelayedAnswer { body: wire.encode_job_resp(&resps), ..told }
}

/// Answers that violate the protocol (DAP-09 section 4.5.1.1, DAP-18 section 4.5.3.1).
const BREACHES: [(&str, ProtocolViolation); 5] = [
    ("wrong order", |resps| resps.swap(1, 3)),
    ("a report left out", |resps| drop(resps.pop())),
    ("a report twice", |resps| resps.push(resps[4].clone())),
    ("another report", |resps| resps[2].report_id = ReportId::new([9; 16])),
    ("finished too soon", |resps| resps[0].outcome = PrepareOutcome::Finished),
];

/// The leader abandons the whole job, deletes it at the helper, and other reports are unaffected.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn abandons_job_with_mismatched_answer(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let cases = modes(revision).into_iter().flat_map(|mode| BREACHES.map(|case| (mode, case)));
    at_once(cases.map(|(mode, (name, breach))| async move {
        let config = |config: &mut Config| {
            (config.leader.max_job_size, config.leader.min_job_size) = (5, 5);
            config.leader.max_job_delay = Seconds(TEST_TIMEOUT);
        };
        let (pair, relay) = pair_through_relay(revision, mode, config).await;
        let (leader, parties, id) = (&pair.leader, &pair.parties, pair.parties.id());
        let task = parties.task().clone();
        relay.plan(move |asked, _| {
            let task = task.clone();
            let is_job = asked.creates(ResourceKind::AggregationJob);
            if is_job {
                RelayAction::Edit(Box::new(move |told| tampered(&task, told, breach)))
            } else {
                RelayAction::Pass
            }
        });
        let this_hour = parties.interval(0);
        let client = parties.client();
        upload_all(&client, Some(this_hour.start().saturating_sub(Duration(1)))).await;
        let status = leader.until(&id, |status| status.counters.contains_key("helper_protocol_error")).await;
        assert_eq!((status.counters["helper_protocol_error"], status.jobs, status.waiting), (5, 0, 0), "{name}");
        leader.until(&id, |_| relay.requests("/aggregation_jobs/").iter().any(|asked| asked.method == "DELETE")).await;

        relay.plan(|_, _| RelayAction::Pass);
        upload_all(&client, Some(this_hour.start())).await;
        let query = match mode {
            BatchMode::TimeInterval => Query::TimeInterval(this_hour),
            BatchMode::FixedSize { .. } => query(parties),
        };
        assert_whole(name, parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await);
        assert_eq!(leader.counter(&id, "helper_protocol_error").await, 5, "{name}");
        pair.stop().await;
    }))
    .await;
}

/// A batch whose share the helper refuses stays closed (DAP-09 section 4.6.5, DAP-18 section 4.6.1). The collector gets
/// the reason, and no other query gets its reports.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn batch_mismatch_is_final(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let (pair, relay) = pair_through_relay(revision, BatchMode::TimeInterval, |_| {}).await;
    let parties = &pair.parties;
    relay.plan(|asked, before| match before {
        // A lost answer to the first request changes nothing.
        0 if asked.creates(ResourceKind::AggregateShare) => RelayAction::Lose,
        _ if asked.creates(ResourceKind::AggregateShare) => {
            RelayAction::Answer(RelayedAnswer::problem(400, "batchMismatch"))
        }
        _ => RelayAction::Pass,
    });
    upload_all(&parties.client(), None).await;
    let interval = parties.interval(0);
    for attempt in 0..2 {
        let outcome = parties.outcome_of(Query::TimeInterval(interval)).await;
        assert_rejected(&outcome, parties, ProblemType::BatchMismatch);
        assert_eq!(relay.creations(ResourceKind::AggregateShare).len(), 2, "attempt {attempt}: the answer was final");
    }
    let wider = Interval::new(interval.start(), Duration(7200)).unwrap();
    let answer = parties.create_collection(Query::TimeInterval(wider)).await.answer;
    assert_rejected(&answer, parties, ProblemType::BatchOverlap);
    let late = parties.client().prepare(Measurement::Number(1), interval.start()).await.unwrap();
    assert_report_rejected(&parties.upload(&late).await, parties, &late, ReportError::BatchCollected);
    relay.check_repeats(parties);
    pair.stop().await;
}

/// An unreachable helper is retried, and the operator can see it.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn resumes_when_helper_returns(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    at_once(modes(revision).map(|mode| async move {
        let (mut pair, relay) = pair_through_relay(revision, mode, |config| config.leader.min_job_size = 1).await;
        let id = pair.parties.id();
        let client = pair.parties.client();
        client.keys().await.unwrap();
        pair.helper.stop().await;
        upload_all(&client, None).await;
        let status = pair.leader.until(&id, |status| status.last_error.is_some()).await;
        assert_eq!(status.counters["report_success"], 5);
        assert!(!status.counters.contains_key("aggregate_success"));
        pair.helper.resume().await;
        let collected = pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await;
        assert_whole("down", collected);
        relay.check_repeats(&pair.parties);
        assert_eq!(pair.leader.status(&id).await.last_error, None);
        pair.stop().await;
    }))
    .await;
}

/// The two aggregators add a task one after the other: jobs wait for the second.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn resumes_when_helper_learns_task(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let (leader, helper) = (Node::start().await, Node::start().await);
    let mode = BatchMode::TimeInterval;
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
    let parties = Parties::new(revision, vdaf, mode, leader.url(revision), helper.url(revision));
    leader.add(&parties.leader).await;
    // The aggregators' keys are the same for all tasks; another task is known to both.
    let known = Parties::between(revision, VdafConfig::Prio3Count, mode, [&leader, &helper]).await;
    let keys = known.client().keys().await.unwrap();

    let client = parties.client();
    let preparer = vdaf::preparer(revision, &parties.task().vdaf).unwrap();
    for number in MEASUREMENTS {
        let measurement = Measurement::Number(number);
        let report = make_report(client.task(), &*preparer, &keys, &measurement, clock::now()).unwrap();
        assert_eq!(client.send(&[report]).await.unwrap(), []);
    }
    let job = parties.start_collection(parties.query_now()).await;
    let status = leader.until(&parties.id(), |status| status.last_error.is_some()).await;
    assert!(status.last_error.unwrap().contains("unrecognizedTask"));
    helper.add(&parties.helper).await;
    assert_eq!(parties.outcome(&job).await.status, 200);
    assert_whole("later", parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await);
    Pair { leader, helper, parties }.stop().await;
}

/// A report may be too early for the helper's clock only. It waits and is retried, in a job whose request may have the
/// same bytes (DAP-09 section 4.5.1.1, DAP-18 sections 3.2 and 4.5.3.1).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn retries_report_too_early_for_helper(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let impatient = |config: &mut Config| (config.leader.min_job_size, config.leader.retry_max) = (1, Seconds::new(1));
    let leader = Node::start_with(impatient).await;
    let helper = Node::start_with(|config| config.limits.clock_skew = Seconds::new(0)).await;
    let (mode, urls) = (BatchMode::TimeInterval, (leader.url(revision), helper.url(revision)));
    let parties = Parties::new(revision, VdafConfig::Prio3Count, mode, urls.0, urls.1)
        .with(|task| (task.public.min_batch_size, task.public.time_precision) = (1, Duration(1)));
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;

    let soon = clock::now().saturating_add(Duration(4));
    let report = ReportBuilder::new(&parties).await.report(&Measurement::Flag(true), soon);
    assert_accepted(&parties.upload(&report).await);
    helper.until(&parties.id(), |status| status.counters.contains_key("report_too_early")).await;
    let status = helper.until(&parties.id(), |status| status.counters.contains_key("aggregate_success")).await;
    assert!(clock::now() >= soon, "{status:?}");
    let moment = Interval::new(soon, Duration(1)).unwrap();
    assert_eq!(parties.outcome_of(Query::TimeInterval(moment)).await.status, 200);
    Pair { leader, helper, parties }.stop().await;
}

/// Any rejection of a report by the helper leaves the other reports of the job aggregated. The report is dropped for an
/// unknown code or a repeated `report_too_early` (DAP-18 section 4.5.3.1).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn unknown_report_error_rejects_only_its_report(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(ReportError::Unknown(200), ReportError::ReportTooEarly)] said: ReportError,
) {
    let config = |config: &mut Config| {
        (config.leader.max_job_size, config.leader.retry_max) = (6, Seconds::new(1));
        config.leader.early_retry_max = Seconds::new(0);
    };
    let (pair, relay) = pair_through_relay(revision, BatchMode::TimeInterval, config).await;
    let (leader, parties, id) = (&pair.leader, &pair.parties, pair.parties.id());
    relay.plan(move |asked, _| {
        if !asked.creates(ResourceKind::AggregationJob) {
            return RelayAction::Pass;
        }
        RelayAction::Edit(Box::new(move |told| {
            let wire = wire::for_revision(revision);
            let mut resps = wire.decode_job_resp(&Bytes::from(told.body.clone()), 100).unwrap();
            let refused = resps.iter_mut().filter(|resp| matches!(resp.outcome, PrepareOutcome::Reject(_)));
            refused.for_each(|resp| resp.outcome = PrepareOutcome::Reject(said));
            RelayedAnswer { body: wire.encode_job_resp(&resps), ..told }
        }))
    });
    let builder = ReportBuilder::new(parties).await;
    let mut bad = builder.report(&Measurement::Number(32), clock::now());
    bad.helper_share.payload = flipped(&bad.helper_share.payload);
    assert_accepted(&parties.upload(&bad).await);
    upload_all(&parties.client(), None).await;
    assert_whole("refused", parties.collector().collect(query(parties), Some(TEST_TIMEOUT), |_| {}).await);
    let name = match said {
        ReportError::Unknown(_) => "helper_unknown_error_200",
        _ => "helper_report_too_early",
    };
    let status = leader.until(&id, |status| status.waiting + status.jobs == 0).await;
    assert_eq!(status.counters.get(name), Some(&1), "{status:?}");
    pair.stop().await;
}
