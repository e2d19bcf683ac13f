//! What comes in from strangers and broken peers: it is told what is wrong with it, and nothing is lost by it.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{
    PATIENCE, Pair, Parties,
    calls::{assert_refused, dap, problem},
    forge::{Draft, Forge, job, share_request},
    raw::{Said, ask, begin, status},
};
use dapbox::{
    model::{
        AggregationJobId, BatchMode, BatchSelector, CollectionJobId, CollectionReq, JobInit, PartialBatch, PrepareInit,
        Query, ReportError, ReportId, TaskId, Time, VdafConfig, status::TaskStatus,
    },
    vdaf::{AggregateResult, Measurement},
    wire::{
        ProblemType,
        dap09::{JobContinue, PrepareContinue, encode_job_continue},
    },
};
use tokio::io::AsyncWriteExt;

/// A resource of DAP-09 (section 4.3) at the party that has it.
struct Place {
    url: String,
    allow: &'static str,
    /// The method that carries a body, the media type of that body, and a token.
    post: Option<(&'static str, &'static str)>,
    token: Option<String>,
    /// The same at the other aggregator, which does not have it.
    elsewhere: String,
}

/// All resources of a task.
fn places(parties: &Parties, task: TaskId) -> Vec<Place> {
    let (leader, helper) = (&parties.leader.leader_url, &parties.leader.helper_url);
    let (a, c) = (AggregationJobId::random(), CollectionJobId::random());
    let helper_token = parties.helper_token.expose_text().map(str::to_owned);
    let collector_token = parties.collector_token.expose_text().map(str::to_owned);
    let place = |mine: &str, other: &str, path: String, allow, post, token| Place {
        url: format!("{mine}{path}"),
        allow,
        post: Some(post),
        token,
        elsewhere: format!("{other}{path}"),
    };
    let many = "PUT, POST, DELETE";
    vec![
        place(leader, helper, format!("tasks/{task}/reports"), "PUT", ("PUT", "application/dap-report"), None),
        place(
            helper,
            leader,
            format!("tasks/{task}/aggregation_jobs/{a}"),
            many,
            ("PUT", "application/dap-aggregation-job-init-req"),
            helper_token.clone(),
        ),
        place(
            helper,
            leader,
            format!("tasks/{task}/aggregation_jobs/{a}"),
            many,
            ("POST", "application/dap-aggregation-job-continue-req"),
            helper_token.clone(),
        ),
        place(
            leader,
            helper,
            format!("tasks/{task}/collection_jobs/{c}"),
            many,
            ("PUT", "application/dap-collect-req"),
            collector_token,
        ),
        place(
            helper,
            leader,
            format!("tasks/{task}/aggregate_shares"),
            "POST",
            ("POST", "application/dap-aggregate-share-req"),
            helper_token,
        ),
    ]
}

impl Place {
    async fn send(&self, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Said {
        let (method, media_type) = self.post.unwrap();
        ask(method, url, &[headers, &[("content-type", media_type)]].concat(), body).await
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token.clone().unwrap_or_default())
    }

    /// Browsers can read the answers of these (section 4.4: clients may be web pages).
    fn for_browsers(&self) -> bool {
        self.url.ends_with("/reports")
    }

    #[track_caller]
    fn check_cors(&self, said: &Said) {
        let expected = if self.for_browsers() { "*" } else { "" };
        assert_eq!(said.header("access-control-allow-origin"), expected, "{said:?}");
    }
}

/// The whole barrage against one pair of servers, and then an ordinary task on them.
#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_what_is_wrong_and_nothing_is_lost() {
    let pair = Pair::start(VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    // One good report before, one after.
    parties.upload_all([&forge.report(&Measurement::Flag(true), Time::now())]).await;

    wrong_places(parties).await;
    wrong_methods(parties).await;
    wrong_media_types_and_bodies(parties).await;
    wrong_tokens(parties).await;
    unknown_tasks(parties).await;
    browsers(parties).await;
    too_long_or_cut_off(parties, &forge).await;
    wrong_jobs(parties, &forge).await;

    parties.upload_all([&forge.report(&Measurement::Flag(true), Time::now())]).await;
    let query = parties.query_now();
    let collected = parties.collector().collect(query, Some(PATIENCE), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (2, AggregateResult::Number(2)));
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 2);
    pair.stop().await;
}

async fn wrong_places(parties: &Parties) {
    let (base, task) = (&parties.leader.leader_url, parties.id());
    let root = base.strip_suffix("dap-09/").unwrap();
    let job = AggregationJobId::random();
    for url in [
        root.to_owned(),
        format!("{root}dap-09"),
        format!("{root}hpke_config"),
        format!("{root}dap-10/hpke_config"),
        format!("{base}tasks/{task}"),
        format!("{base}tasks/{task}/reports/"),
        format!("{base}tasks/{task}/aggregation_jobs/{job}/more"),
    ] {
        assert_eq!(ask("PUT", &url, &[], Vec::new()).await.problem(404)["type"], "about:blank", "{url}");
    }
    for path in [
        format!("tasks/{}/reports", &task.to_string()[1..]),
        format!("tasks/{task}=/reports"),
        format!("tasks/{task}AA/aggregate_shares"),
        format!("tasks/{task}/aggregation_jobs/{task}"),
        format!("tasks/{task}/collection_jobs/{}", &job.to_string()[1..]),
        "hpke_config?task_id=AAAA".to_owned(),
    ] {
        let method = if path.starts_with("hpke") { "GET" } else { "PUT" };
        ask(method, &format!("{base}{path}"), &[], Vec::new()).await.assert_problem(400, "invalidMessage");
    }
}

async fn wrong_methods(parties: &Parties) {
    let mut places = places(parties, parties.id());
    places.push(Place {
        url: format!("{}hpke_config", parties.leader.leader_url),
        allow: "GET",
        post: None,
        token: None,
        elsewhere: String::new(),
    });
    for place in &places {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "BREW"] {
            if place.allow.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let said = ask(method, &place.url, &[], Vec::new()).await;
            said.problem(405);
            assert_eq!(said.header("allow"), place.allow, "{method} {}", place.url);
        }
    }
}

async fn wrong_media_types_and_bodies(parties: &Parties) {
    let task = parties.id().to_string();
    for place in places(parties, parties.id()) {
        let (method, right) = place.post.unwrap();
        let bearer = place.bearer();
        for media_type in ["text/plain", "application/octet-stream", "application/dap-nothing"] {
            let headers = [("content-type", media_type), ("authorization", bearer.as_str())];
            let said = ask(method, &place.url, &headers, vec![0]).await;
            assert_eq!(said.problem(415)["taskid"], task);
            place.check_cors(&said);
        }
        let said = ask(method, &place.url, &[("authorization", &bearer)], vec![0]).await;
        assert_eq!(said.problem(415)["taskid"], task, "no media type is not {right}");
        // Nothing, one byte, and lengths that promise four gigabytes.
        for body in [vec![], vec![0], vec![0xff; 64]] {
            let said = place.send(&place.url, &[("authorization", &bearer)], body).await;
            assert_eq!(said.assert_problem(400, "invalidMessage")["taskid"], task);
            place.check_cors(&said);
        }
    }
}

async fn wrong_tokens(parties: &Parties) {
    let task = parties.id().to_string();
    for place in places(parties, parties.id()) {
        let Some(token) = &place.token else { continue };
        let bearer = place.bearer();
        for headers in [
            vec![],
            vec![("authorization", "Bearer wrong")],
            vec![("authorization", "Bearer ")],
            vec![("authorization", "Basic d3Jvbmc=")],
            vec![("dap-auth-token", "wrong")],
            // Of two tokens the bearer token counts.
            vec![("authorization", "Bearer wrong"), ("dap-auth-token", token.as_str())],
        ] {
            let said = place.send(&place.url, &headers, vec![0]).await;
            assert_eq!(said.assert_problem(403, "unauthorizedRequest")["taskid"], task, "{headers:?}");
        }
        for headers in [
            vec![("authorization", bearer.as_str())],
            vec![("dap-auth-token", token.as_str())],
            vec![("authorization", bearer.as_str()), ("dap-auth-token", "wrong")],
        ] {
            // The token holds, so that the body is looked at.
            place.send(&place.url, &headers, vec![0]).await.assert_problem(400, "invalidMessage");
        }
    }
}

async fn unknown_tasks(parties: &Parties) {
    let stranger = TaskId::random();
    for place in places(parties, stranger) {
        let said = place.send(&place.url, &[("authorization", &place.bearer())], vec![0]).await;
        assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], stranger.to_string());
        place.check_cors(&said);
    }
    // Leader and helper each have their own resources of the task.
    for place in places(parties, parties.id()) {
        let said = place.send(&place.elsewhere, &[("authorization", &place.bearer())], vec![0]).await;
        assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], parties.id().to_string());
    }
    for base in [&parties.leader.leader_url, &parties.leader.helper_url] {
        let said = ask("GET", &format!("{base}hpke_config?task_id={stranger}"), &[], Vec::new()).await;
        assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], stranger.to_string());
    }
}

async fn browsers(parties: &Parties) {
    for base in [&parties.leader.leader_url, &parties.leader.helper_url] {
        for (method, path, status) in [
            ("GET", format!("hpke_config?task_id={}", parties.id()), 200),
            ("GET", "hpke_config".to_owned(), 200),
            ("GET", format!("hpke_config?task_id={}", TaskId::random()), 400),
            ("GET", "hpke_config?task_id=AAAA".to_owned(), 400),
            ("POST", "hpke_config".to_owned(), 405),
        ] {
            let said = ask(method, &format!("{base}{path}"), &[("origin", "https://example.com")], Vec::new()).await;
            assert_eq!((said.status, said.header("access-control-allow-origin")), (status, "*"), "{path}");
            if status == 200 {
                assert_eq!(said.header("content-type"), "application/dap-hpke-config-list");
                assert_eq!(said.header("cache-control"), "max-age=86400");
            }
        }
    }
    for (path, method) in [("hpke_config".to_owned(), "GET"), (format!("tasks/{}/reports", parties.id()), "PUT")] {
        let asks = [("access-control-request-method", method), ("access-control-request-headers", "content-type")];
        let said = ask("OPTIONS", &format!("{}{path}", parties.leader.leader_url), &asks, Vec::new()).await;
        assert_eq!((said.status, said.header("access-control-allow-origin")), (204, "*"));
        assert_eq!(said.header("access-control-allow-methods"), method);
        assert_eq!(said.header("access-control-allow-headers"), "content-type");
    }
}

async fn too_long_or_cut_off(parties: &Parties, forge: &Forge) {
    let url = format!("{}tasks/{}/reports", parties.leader.leader_url, parties.id());
    let media_type = ("content-type", "application/dap-report");
    // Announced as too long: refused before a byte of it came.
    let mut stream = begin("PUT", &url, &[media_type, ("content-length", "1048577")]).await;
    assert_eq!(status(&mut stream).await, Some(413));
    // Not announced: refused as soon as it is too long, and not a byte later.
    let mut stream = begin("PUT", &url, &[media_type, ("transfer-encoding", "chunked")]).await;
    stream.write_all(format!("100001\r\n{}", "x".repeat(0x10_0001)).as_bytes()).await.unwrap();
    assert_eq!(status(&mut stream).await, Some(413));
    // Cut off one byte before the end: there may be nobody to answer to, but the report is not taken.
    let report = dap().encode_report(&forge.report(&Measurement::Flag(true), Time::now()));
    let length = report.len().to_string();
    let mut stream = begin("PUT", &url, &[media_type, ("content-length", &length)]).await;
    stream.write_all(&report[..report.len() - 1]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(matches!(status(&mut stream).await, None | Some(400)));
    // Whole requests with the ends of their messages missing, or more after the end.
    for length in (0..report.len()).step_by(7) {
        let answer = parties.upload_bytes(report[..length].to_vec()).await;
        assert_refused(&answer, parties, ProblemType::InvalidMessage);
    }
    let answer = parties.upload_bytes([&report[..], b"x"].concat()).await;
    assert_refused(&answer, parties, ProblemType::InvalidMessage);
}

fn good(forge: &Forge) -> Draft {
    forge.draft(&Measurement::Flag(true), Time(1_600_000_000))
}

/// Jobs that the helper refuses as a whole (section 4.5.1.2).
async fn wrong_jobs(parties: &Parties, forge: &Forge) {
    let batch = PartialBatch::TimeInterval;
    let init = forge.init(&good(forge));
    let twice = job(batch, vec![init.clone(), init.clone()]);
    let in_batch = job(PartialBatch::FixedSize(dapbox::model::BatchId::random()), vec![init.clone()]);
    let with_parameter = JobInit { aggregation_parameter: Bytes::from_static(b"p"), ..job(batch, vec![init.clone()]) };
    for request in [job(batch, Vec::new()), twice, in_batch, with_parameter] {
        let answer = parties.put_job(&AggregationJobId::random(), &request).await;
        assert_refused(&answer, parties, ProblemType::InvalidMessage);
    }
    // Every vector's length lies, by one in either direction.
    let whole = dap().encode_job_init(&job(batch, vec![init.clone()]));
    let positions = [3, 8, whole.len() - init.message.len() - 1];
    for (position, by) in positions.into_iter().flat_map(|position| [(position, 1), (position, 0xff)]) {
        let mut lying = whole.clone();
        lying[position] = lying[position].wrapping_add(by);
        let answer = parties.put_job_bytes(&AggregationJobId::random(), lying).await;
        assert_refused(&answer, parties, ProblemType::InvalidMessage);
    }
    for length in (0..whole.len()).step_by(5) {
        let answer = parties.put_job_bytes(&AggregationJobId::random(), whole[..length].to_vec()).await;
        assert_refused(&answer, parties, ProblemType::InvalidMessage);
    }
    let answer = parties.put_job_bytes(&AggregationJobId::random(), more_than_a_million()).await;
    // A leader can tell from the status that fewer reports may do better.
    assert_eq!((problem(&answer).kind, answer.status), (ProblemType::InvalidMessage, 413));
    assert!(problem(&answer).detail.contains("more items"), "{answer:?}");
    // The report was never aggregated, for all that.
    let resps = parties.run_job(&job(batch, vec![init])).await;
    assert!(matches!(resps[0].outcome, dapbox::model::PrepareOutcome::Continue(_)));
}

/// A job of one report more than a million, as short as they can be.
fn more_than_a_million() -> Vec<u8> {
    const COUNT: u32 = 1_000_001;
    // Id, time, no public share, a ciphertext of one byte to one byte, no message.
    let mut report = [0; 41];
    (report[30], report[35]) = (1, 1);
    let length = COUNT * 41;
    // No aggregation parameter, time interval.
    let mut body = [&[0, 0, 0, 0, 1][..], &length.to_be_bytes()].concat();
    for n in 0..COUNT {
        report[..4].copy_from_slice(&n.to_be_bytes());
        body.extend_from_slice(&report);
    }
    body
}

/// The same request gets the same bytes, at once or later; anything else under the same id is refused
/// (section 4.5.1.2), and what was aggregated is never aggregated again.
#[tokio::test(flavor = "multi_thread")]
async fn an_aggregation_job_is_answered_once() {
    let pair = Pair::start(VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let drafts: Vec<_> = (0..20).map(|_| good(&forge)).collect();
    let request = forge.job(PartialBatch::TimeInterval, &drafts);
    let id = AggregationJobId::random();

    let (a, b) = tokio::join!(parties.put_job(&id, &request), parties.put_job(&id, &request));
    assert_eq!((a.status, b.status), (201, 201));
    assert_eq!(a.content_type.as_deref(), Some("application/dap-aggregation-job-resp"));
    assert_eq!(a.body, b.body);
    assert_eq!(parties.put_job(&id, &request).await.body, a.body);
    let successes = pair.helper.counter(&parties.id(), "aggregate_success").await;
    assert_eq!((successes, pair.helper.counter(&parties.id(), "report_replayed").await), (20, 0));
    let shorter = job(PartialBatch::TimeInterval, request.inits[..19].to_vec());
    let answer = parties.put_job(&id, &shorter).await;
    assert_eq!((answer.status, problem(&answer).aggregation_job_id), (409, Some(id)));

    continuations(parties, id).await;

    assert_eq!(parties.delete_job(&id).await.status, 204);
    assert_eq!(parties.put_job(&id, &request).await.status, 410, "a deleted job stays deleted");
    let unknown = parties.delete_job(&AggregationJobId::random()).await;
    assert_refused(&unknown, parties, ProblemType::UnrecognizedAggregationJob);
    let all_replayed = async |parties: &Parties| {
        let resps = parties.run_job(&request).await;
        let replayed = dapbox::model::PrepareOutcome::Reject(ReportError::ReportReplayed);
        assert!(resps.iter().all(|resp| resp.outcome == replayed));
    };
    all_replayed(parties).await;
    let Pair { leader, mut helper, parties } = pair;
    helper.restart().await;
    assert_eq!(parties.put_job(&id, &request).await.status, 410);
    all_replayed(&parties).await;
    // The deletion took nothing from the batch.
    let start = drafts[0].metadata.time.truncate(parties.leader.time_precision);
    let interval = dapbox::model::Interval::new(start, parties.leader.time_precision).unwrap();
    let answer = parties.ask_share(&share_request(BatchSelector::TimeInterval(interval), &drafts)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    Pair { leader, helper, parties }.stop().await;
}

/// A VDAF of one round has nothing to continue (section 4.5.2.2).
async fn continuations(parties: &Parties, id: AggregationJobId) {
    let place = places(parties, parties.id()).remove(2);
    let send = async |id: AggregationJobId, step| {
        let continues = vec![PrepareContinue { report_id: ReportId::random(), message: Bytes::new() }];
        let body = encode_job_continue(&JobContinue { step, continues });
        let url = format!("{}tasks/{}/aggregation_jobs/{id}", parties.leader.helper_url, parties.id());
        place.send(&url, &[("authorization", &place.bearer())], body).await
    };
    send(id, 0).await.assert_problem(400, "invalidMessage");
    send(AggregationJobId::random(), 1).await.assert_problem(400, "unrecognizedAggregationJob");
    for step in [1, 2, u16::MAX] {
        let document = send(id, step).await.assert_problem(400, "stepMismatch");
        assert_eq!(document["aggregation_job_id"], id.to_string());
    }
}

/// A server that has as much to do as it may says so, and goes on giving out its keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_says_when_to_come_back() {
    let tight = |config: &mut dapbox::config::Config| {
        (config.limits.pool_queue, config.limits.workers, config.limits.max_requests) = (1, 1, 40);
    };
    let pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, tight, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let inits = |n: usize| -> Vec<PrepareInit> { (0..n).map(|_| forge.init(&good(&forge))).collect() };
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (request, parties) = (job(PartialBatch::TimeInterval, inits(8)), parties.clone());
        jobs.spawn(async move {
            let (id, mut busy) = (AggregationJobId::random(), 0);
            loop {
                let answer = parties.put_job(&id, &request).await;
                if answer.status == 201 {
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
    all_slots_taken().await;
}

async fn all_slots_taken() {
    let pair = Pair::start_with(
        VdafConfig::Prio3Count,
        BatchMode::TimeInterval,
        |config| config.limits.max_requests = 1,
        |_| {},
    )
    .await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let url = format!("{}tasks/{}/reports", parties.leader.leader_url, parties.id());
    let report = || dap().encode_report(&forge.report(&Measurement::Flag(true), Time::now()));
    let (slow, headers) = (report(), [("content-type", "application/dap-report")]);
    let length = slow.len().to_string();
    let mut stream = begin("PUT", &url, &[headers[0], ("content-length", &length)]).await;
    let (deadline, mut taken) = (std::time::Instant::now() + PATIENCE, 1);
    let refused = loop {
        let said = ask("PUT", &url, &headers, report()).await;
        if said.status != 201 {
            break said;
        }
        taken += 1;
        assert!(std::time::Instant::now() < deadline, "the slow upload takes no slot");
    };
    assert_eq!(refused.problem(503)["taskid"], parties.id().to_string());
    assert_eq!(refused.header("access-control-allow-origin"), "*");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    let keys = ask("GET", &format!("{}hpke_config", parties.leader.leader_url), &[], Vec::new()).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    // What was begun is finished.
    stream.write_all(&slow).await.unwrap();
    assert_eq!(status(&mut stream).await, Some(201));
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, taken);
    pair.stop().await;
}

/// Clients that hang up before they are answered: what was stored is aggregated like any other report, though nothing
/// else happens that would wake the leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_whose_client_hangs_up_is_aggregated() {
    let eager = |config: &mut dapbox::config::Config| config.leader.min_job_size = 1;
    let pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, eager, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let url = format!("{}tasks/{}/reports", parties.leader.leader_url, parties.id());
    let count = |status: &TaskStatus, name: &str| status.counters.get(name).copied().unwrap_or(0);
    let mut stored = 0;
    for _ in 0..20 {
        let report = dap().encode_report(&forge.report(&Measurement::Flag(true), Time::now()));
        let length = report.len().to_string();
        let headers = [("content-type", "application/dap-report"), ("content-length", &length)];
        let mut stream = begin("PUT", &url, &headers).await;
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
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_task_never_comes_back() {
    let mut pair = Pair::start(VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let gone = pair.parties.clone();
    let (leader, helper) = (pair.leader.url(), pair.helper.url());
    let other = Parties::new(VdafConfig::Prio3Count, BatchMode::TimeInterval, leader, helper);
    pair.leader.add(&other.leader).await;
    pair.helper.add(&other.helper).await;
    let forge = Forge::new(&gone).await;
    gone.upload_all([&forge.report(&Measurement::Flag(true), Time::now())]).await;
    assert_eq!(pair.leader.try_add(&gone.leader).await, 201, "the same task again is no harm");
    pair.leader.remove(&gone.id()).await;
    pair.helper.remove(&gone.id()).await;
    for restarted in [false, true] {
        for place in places(&gone, gone.id()) {
            let said = place.send(&place.url, &[("authorization", &place.bearer())], vec![0]).await;
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

/// An interval whose end cannot be told is no interval (section 4: times are 64 bits).
#[tokio::test(flavor = "multi_thread")]
async fn an_interval_that_ends_after_time_is_malformed() {
    let pair = Pair::start(VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let request = CollectionReq { query: parties.query_now(), aggregation_parameter: Bytes::new() };
    let mut body = dap().encode_collection_req(&request);
    body[1..9].copy_from_slice(&u64::MAX.to_be_bytes());
    let place = places(parties, parties.id()).remove(3);
    let said = place.send(&place.url, &[("authorization", &place.bearer())], body).await;
    said.assert_problem(400, "invalidMessage");
    let Query::TimeInterval(interval) = request.query else { unreachable!() };
    let mut body = dap().encode_aggregate_share_req(&share_request(BatchSelector::TimeInterval(interval), &[]));
    body[1..9].copy_from_slice(&u64::MAX.to_be_bytes());
    let place = places(parties, parties.id()).remove(4);
    let said = place.send(&place.url, &[("authorization", &place.bearer())], body).await;
    said.assert_problem(400, "invalidMessage");
    pair.stop().await;
}
