//! Invalid input from strangers and broken peers. Each request gets a problem document, and nothing is lost.

use dapbox::{
    config::Config,
    model::{
        AggregationJobId, BatchMode, BatchSelector, FixedSizeQuery, Query, Report, ReportError, ReportId, Revision,
        TaskId, VdafConfig,
    },
    support::clock,
    vdaf::{self, AggregateResult, InputShare, Measurement, MeasurementShares, VerifyParams},
    wire::{self, ProblemType},
};
use rstest::rstest;
use tokio::io::AsyncWriteExt;

use crate::common::{
    self, Node, Pair, Parties, TEST_TIMEOUT, batches_of,
    calls::{assert_accepted, assert_rejected, assert_report_rejected},
    hostile::{Forgery, Hint, Proof, Target},
    raw::{begin_request, send_raw, status},
    report_builder::{ReportBuilder, flipped},
    resources::{resources, resources_without_body},
};

/// Sends all invalid requests to one pair of servers, then runs an ordinary task on them.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_bad_requests_with_problem(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let small = |config: &mut Config| config.limits.max_upload_bytes = config.limits.max_report_bytes;
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, small, |_| {}).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    // One valid report before, one after.
    parties.upload_all([&builder.report(&Measurement::Flag(true), clock::now())]).await;

    wrong_places(parties).await;
    wrong_methods(parties).await;
    wrong_media_types_and_bodies(parties).await;
    other_spellings(parties).await;
    wrong_tokens(parties).await;
    wrong_tokens_without_a_body(parties).await;
    unknown_tasks(parties).await;
    browsers(parties).await;
    // In an upload of several reports, those before the error are accepted.
    let sent_before = too_long_or_cut_off(parties, &builder).await;

    parties.upload_all([&sent_before]).await;
    let query = parties.query_now();
    let collected = parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (2, AggregateResult::Number(2)));
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 2);
    pair.stop().await;
}

/// HEAD is GET without the body (RFC 9110 section 9.3.2).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_head_like_get(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    for url in [parties.at_leader("hpke_config"), parties.at_helper("hpke_config"), parties.at_leader("nowhere")] {
        let [get, head] = [send_raw("GET", &url, &[], Vec::new()).await, send_raw("HEAD", &url, &[], Vec::new()).await];
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{url}");
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{url}");
        for name in ["content-type", "cache-control", "access-control-allow-origin"] {
            assert_eq!(head.header(name), get.header(name), "{url}");
        }
    }
    let refused =
        send_raw("HEAD", &parties.at_leader(&format!("tasks/{}/reports", parties.id())), &[], Vec::new()).await;
    assert_eq!((refused.status, refused.body.len()), (405, 0));
    pair.stop().await;
}

async fn wrong_places(parties: &Parties) {
    let (base, task) = (&parties.task().leader_url, parties.id());
    let prefix = parties.wire().path_prefix();
    let root = base.strip_suffix(&format!("{prefix}/")).unwrap();
    let job = AggregationJobId::random();
    for url in [
        root.to_owned(),
        format!("{root}{prefix}"),
        format!("{root}hpke_config"),
        format!("{root}dap-10/hpke_config"),
        format!("{base}tasks/{task}"),
        format!("{base}tasks/{task}/reports/"),
        format!("{base}tasks/{task}/aggregation_jobs/{job}/more"),
    ] {
        assert_eq!(send_raw("PUT", &url, &[], Vec::new()).await.problem(404)["type"], "about:blank", "{url}");
    }
    for path in [
        format!("tasks/{}/reports", &task.to_string()[1..]),
        format!("tasks/{task}=/reports"),
        format!("tasks/{task}AA/aggregate_shares"),
        format!("tasks/{task}/aggregation_jobs/{task}"),
        format!("tasks/{task}/collection_jobs/{}", &job.to_string()[1..]),
    ] {
        send_raw("PUT", &format!("{base}{path}"), &[], Vec::new()).await.assert_problem(400, "invalidMessage");
    }
}

async fn wrong_methods(parties: &Parties) {
    let mut places = resources(parties, parties.id());
    places.extend(resources_without_body(parties, parties.id()));
    for resource in &places {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "BREW"] {
            if resource.allow.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let said = send_raw(method, &resource.url, &[], Vec::new()).await;
            said.problem(405);
            assert_eq!(said.header("allow"), resource.allow, "{method} {}", resource.url);
        }
    }
}

async fn wrong_media_types_and_bodies(parties: &Parties) {
    let task = parties.id().to_string();
    for resource in resources(parties, parties.id()) {
        let (method, right) = resource.post.unwrap();
        let bearer = resource.bearer();
        for media_type in ["text/plain", "application/octet-stream", "application/dap-nothing", "application/ppm-dap"] {
            let headers = [("content-type", media_type), ("authorization", bearer.as_str())];
            let said = send_raw(method, &resource.url, &headers, vec![0]).await;
            assert_eq!(said.problem(415)["taskid"], task);
            resource.check_cors(&said);
        }
        let said = send_raw(method, &resource.url, &[("authorization", &bearer)], vec![0]).await;
        assert_eq!(said.problem(415)["taskid"], task, "no media type is not {right}");
        // No bytes, one byte, and lengths that announce four gigabytes.
        for body in [vec![], vec![0], vec![0xff; 64]] {
            let said = resource.send_authorized(body).await;
            assert_eq!(said.assert_problem(400, "invalidMessage")["taskid"], task);
            resource.check_cors(&said);
        }
    }
}

/// Media types in another case or with parameters, and two slashes after the base URL: the body is decoded.
async fn other_spellings(parties: &Parties) {
    for resource in resources(parties, parties.id()) {
        let (method, right) = resource.post.unwrap();
        let bearer = resource.bearer();
        let (essence, parameters) = right.split_at(right.find(';').unwrap_or(right.len()));
        let capitals = format!("{}{parameters}", essence.to_uppercase());
        let with_parameter = format!("{right} ; charset=utf-8");
        let prefix = format!("/{}/", parties.wire().path_prefix());
        let doubled = resource.url.replace(&prefix, &format!("/{prefix}/"));
        for (url, media_type) in
            [(&resource.url, &capitals), (&resource.url, &with_parameter), (&doubled, &right.to_owned())]
        {
            let headers = [("content-type", media_type.as_str()), ("authorization", bearer.as_str())];
            let said = send_raw(method, url, &headers, vec![0]).await;
            assert_eq!(said.assert_problem(400, "invalidMessage")["taskid"], parties.id().to_string(), "{url}");
            resource.check_cors(&said);
        }
    }
}

async fn wrong_tokens(parties: &Parties) {
    let task = parties.id().to_string();
    for resource in resources(parties, parties.id()) {
        let Some(token) = &resource.token else { continue };
        let bearer = resource.bearer();
        for headers in [
            vec![],
            vec![("authorization", "Bearer wrong")],
            vec![("authorization", "Bearer ")],
            vec![("authorization", "Basic d3Jvbmc=")],
            vec![("dap-auth-token", "wrong")],
            // Of two tokens the bearer token counts.
            vec![("authorization", "Bearer wrong"), ("dap-auth-token", token.as_str())],
        ] {
            let said = resource.send(&resource.url, &headers, vec![0]).await;
            assert_eq!(said.refused(parties, ProblemType::UnauthorizedRequest)["taskid"], task, "{headers:?}");
        }
        for headers in [
            vec![("authorization", bearer.as_str())],
            vec![("dap-auth-token", token.as_str())],
            vec![("authorization", bearer.as_str()), ("dap-auth-token", "wrong")],
        ] {
            // The token is valid, so the body is decoded.
            resource.send(&resource.url, &headers, vec![0]).await.assert_problem(400, "invalidMessage");
        }
    }
}

/// Polls and deletions require a token too.
async fn wrong_tokens_without_a_body(parties: &Parties) {
    let mut places = resources(parties, parties.id());
    places.extend(resources_without_body(parties, parties.id()));
    let mut tried = 0;
    for resource in places.iter().filter(|resource| resource.token.is_some()) {
        for method in ["GET", "DELETE"].into_iter().filter(|method| resource.allow.contains(method)) {
            for headers in [vec![], vec![("authorization", "Bearer wrong")]] {
                let said = send_raw(method, &resource.url, &headers, Vec::new()).await;
                assert_eq!(said.refused(parties, ProblemType::UnauthorizedRequest)["taskid"], parties.id().to_string());
                tried += 1;
            }
        }
    }
    assert!(tried >= 6, "only {tried} requests");
}

async fn unknown_tasks(parties: &Parties) {
    let stranger = TaskId::random();
    for resource in resources(parties, stranger) {
        let said = resource.send_authorized(vec![0]).await;
        assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], stranger.to_string());
        resource.check_cors(&said);
    }
    // Leader and helper have different resources of the task.
    for resource in resources(parties, parties.id()) {
        let said = resource.send(&resource.url_elsewhere, &[("authorization", &resource.bearer())], vec![0]).await;
        assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], parties.id().to_string());
    }
}

async fn browsers(parties: &Parties) {
    let keys = parties.wire().hpke_config_request(Some(&parties.id()));
    let asks = [("origin", "https://example.com")];
    for base in [&parties.task().leader_url, &parties.task().helper_url] {
        for (method, path, status) in
            [("GET", keys.path.as_str(), 200), ("GET", "hpke_config", 200), ("POST", "hpke_config", 405)]
        {
            let said = send_raw(method, &format!("{base}{path}"), &asks, Vec::new()).await;
            assert_eq!((said.status, said.header("access-control-allow-origin")), (status, "*"), "{path}");
            if status == 200 {
                assert_eq!(said.header("content-type"), keys.accept.unwrap());
                assert_eq!(said.header("cache-control"), "max-age=86400");
            }
        }
    }
    let upload = parties.wire().upload_request(&parties.id());
    let allowed = if parties.revision() == Revision::Dap18 { "content-type" } else { "content-type, dap-taskprov" };
    for (path, method) in [("hpke_config", "GET, HEAD"), (upload.path.as_str(), upload.method)] {
        let wanted = method.split(", ").next().unwrap();
        let asks = [("access-control-request-method", wanted), ("access-control-request-headers", "content-type")];
        let said = send_raw("OPTIONS", &parties.at_leader(path), &asks, Vec::new()).await;
        assert_eq!((said.status, said.header("access-control-allow-origin")), (204, "*"));
        assert_eq!(said.header("access-control-allow-methods"), method);
        assert_eq!(said.header("access-control-allow-headers"), allowed);
    }
}

/// In DAP-09 a request for keys may name a task (DAP-09 section 4.4.1).
#[tokio::test(flavor = "multi_thread")]
async fn rejects_hpke_config_request_for_unknown_task() {
    let pair = Pair::start(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    for base in [&pair.parties.task().leader_url, &pair.parties.task().helper_url] {
        let stranger = TaskId::random();
        let keys =
            async |task: &str| send_raw("GET", &format!("{base}hpke_config?task_id={task}"), &[], Vec::new()).await;
        let said = keys(&stranger.to_string()).await;
        assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], stranger.to_string());
        assert_eq!(said.header("access-control-allow-origin"), "*");
        let said = keys("AAAA").await;
        said.assert_problem(400, "invalidMessage");
        assert_eq!(said.header("access-control-allow-origin"), "*");
    }
    pair.stop().await;
}

async fn too_long_or_cut_off(parties: &Parties, builder: &ReportBuilder) -> Report {
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let media_type = ("content-type", upload.content_type.unwrap());
    // An announced length over the limit is refused before the body arrives.
    let mut stream = begin_request(method, &url, &[media_type, ("content-length", "1048577")]).await;
    assert_eq!(status(&mut stream).await, Some(413));
    // A chunked body is refused at its first byte over the limit. It is not a valid report either.
    let mut stream = begin_request(method, &url, &[media_type, ("transfer-encoding", "chunked")]).await;
    stream.write_all(format!("100001\r\n{}", "\0".repeat(0x10_0001)).as_bytes()).await.unwrap();
    assert!(matches!(status(&mut stream).await, Some(400 | 413)));
    // Truncated by one byte. The connection may be closed, but the report is not accepted.
    let whole = builder.report(&Measurement::Flag(true), clock::now());
    let report = parties.wire().encode_upload(parties.task(), std::slice::from_ref(&whole));
    let length = report.len().to_string();
    let mut stream = begin_request(method, &url, &[media_type, ("content-length", &length)]).await;
    stream.write_all(&report[..report.len() - 1]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(matches!(status(&mut stream).await, None | Some(400)));
    // Complete requests whose messages are truncated or too long.
    for length in (0..report.len()).step_by(7) {
        let answer = parties.upload_bytes(report[..length].to_vec()).await;
        assert_rejected(&answer, parties, ProblemType::InvalidMessage);
    }
    let answer = parties.upload_bytes([&report[..], b"x"].concat()).await;
    assert_rejected(&answer, parties, ProblemType::InvalidMessage);
    whole
}

/// An interval whose end overflows is invalid (DAP-09 section 4, DAP-18 section 4.1.1: times have 64 bits).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn rejects_batch_interval_that_overflows(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let query = parties.query_now();
    let Query::TimeInterval(interval) = query else { unreachable!() };
    let request = parties.share_request(BatchSelector::TimeInterval(interval), &[]);
    let share = parties.wire().encode_aggregate_share_req(parties.task(), &request);
    for (resource, body) in [(3, parties.collection_req(query).to_vec()), (4, share)] {
        // In seconds or in units of the task's precision.
        let start = interval.start().0;
        let is_start = |bytes: &[u8]| [start, start / 3600].iter().any(|start| bytes == start.to_be_bytes());
        let at = body.windows(8).rposition(is_start).unwrap();
        let latest = match revision {
            Revision::Dap09 => u64::MAX - 3600,
            Revision::Dap18 | Revision::Dap19 => u64::MAX / 3600,
        };
        for late in [u64::MAX, latest] {
            let mut body = body.clone();
            body[at..at + 8].copy_from_slice(&late.to_be_bytes());
            let said = resources(parties, parties.id()).remove(resource).send_authorized(body).await;
            let said = said.problem(400);
            assert!(said["type"].as_str().unwrap().ends_with("error:batchInvalid"), "{late}: {said}");
        }
    }
    pair.stop().await;
}

/// A report whose leader share does not open: it is sealed to the leader's key and was modified.
fn unopenable(builder: &ReportBuilder) -> Report {
    let mut report = builder.report(&Measurement::Flag(true), clock::now());
    report.leader_share.payload = flipped(&report.leader_share.payload);
    report
}

/// With a sampling ratio of one, the upload answer says that the leader's share cannot be opened or decoded.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn reports_undecryptable_sampled_share_to_client(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let all = |config: &mut Config| {
        config.leader.upload_sample_ratio = 1;
        // No job occupies the workers.
        config.leader.max_job_delay = dapbox::config::Seconds::new(1000);
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, all, |_| {}).await;
    let (parties, id) = (&pair.parties, pair.parties.id());
    let builder = ReportBuilder::new(parties).await;
    assert_accepted(&parties.upload(&builder.report(&Measurement::Flag(true), clock::now())).await);
    let shut = unopenable(&builder);
    assert_report_rejected(&parties.upload(&shut).await, parties, &shut, ReportError::HpkeDecryptError);
    let cut = |draft: &mut common::report_builder::Draft| draft.leader.payload = draft.leader.payload.slice(1..);
    let cut = builder.spoilt(&Measurement::Flag(true), clock::now(), cut);
    assert_report_rejected(&parties.upload(&cut).await, parties, &cut, ReportError::InvalidMessage);
    let status = pair.leader.status(&id).await;
    let counted = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    assert_eq!((counted("hpke_decrypt_error"), counted("invalid_message"), counted("report_success")), (1, 1, 1));
    pair.stop().await;
}

/// The first reports sealed to a key are opened until one is valid, for any sampling ratio but zero.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn opens_first_uploads_of_key(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let few = |config: &mut Config| {
        (config.leader.upload_sample_ratio, config.leader.min_job_size) = (u32::MAX, 1);
    };
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, few, |_| {}).await;
    let (parties, id) = (&pair.parties, pair.parties.id());
    let builder = ReportBuilder::new(parties).await;
    for _ in 0..2 {
        let shut = unopenable(&builder);
        assert_report_rejected(&parties.upload(&shut).await, parties, &shut, ReportError::HpkeDecryptError);
    }
    assert_accepted(&parties.upload(&builder.report(&Measurement::Flag(true), clock::now())).await);
    // From here on the ratio is one in billions.
    assert_accepted(&parties.upload(&unopenable(&builder)).await);
    pair.leader.until(&id, |status| status.counters.get("hpke_decrypt_error") == Some(&3)).await;

    pair.leader.stop().await;
    pair.leader.config.leader.upload_sample_ratio = 0;
    pair.leader.resume().await;
    assert_accepted(&parties.upload(&unopenable(&builder)).await);
    pair.leader.until(&id, |status| status.counters.get("hpke_decrypt_error") == Some(&4)).await;
    pair.stop().await;
}

/// The verdict of the two aggregators on a report.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The leader rejects it before the helper sees it.
    LeaderRefuses(ReportError),
    /// The helper rejects it; nothing is committed.
    HelperRefuses(ReportError),
    /// The helper has committed it, and the leader rejects it.
    Contradiction(ReportError),
    Accepted,
}

fn verdict(
    target: &Target,
    id: &ReportId,
    context: &[u8],
    leaders: &MeasurementShares,
    helpers: &MeasurementShares,
) -> Verdict {
    let preparer = vdaf::preparer(target.revision, &target.vdaf).unwrap();
    let key = [7; 32];
    let verification = VerifyParams { key: &key[..preparer.verify_key_length()], context };
    let MeasurementShares { public_share, leader_share: input_share, .. } = leaders;
    let started = preparer.leader_start(verification, InputShare { report_id: id, public_share, input_share });
    let (pending, message) = match started {
        Ok(started) => started,
        Err(error) => return Verdict::LeaderRefuses(error),
    };
    let MeasurementShares { public_share, helper_share: input_share, .. } = helpers;
    match preparer.helper_answer(verification, InputShare { report_id: id, public_share, input_share }, &message) {
        Err(error) => Verdict::HelperRefuses(error),
        Ok((_, answer)) => pending.finish(&answer).map_or_else(Verdict::Contradiction, |_| Verdict::Accepted),
    }
}

/// Whenever the helper accepts a report, an honest leader accepts it too, whatever the client sends.
#[rstest]
fn honest_leader_accepts_reports_that_helper_accepts(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let mut attacks = 0;
    for target in Target::all(revision) {
        let context = wire::for_revision(revision).vdaf_context(&TaskId::random());
        let preparer = vdaf::preparer(revision, &target.vdaf).unwrap();
        for measurement in [&target.largest, &target.ordinary] {
            let id = ReportId::random();
            let honest = preparer.shard(&context, measurement, &id).unwrap();
            for forgery in Forgery::all(!honest.public_share.is_empty()) {
                let name = format!("{:?} {measurement:?} {forgery:?}", target.vdaf);
                let forged = forgery.apply(&target, &context, &honest);
                let expected = match forgery.has_right_hint(0) {
                    false => Verdict::LeaderRefuses(ReportError::VdafPrepError),
                    true if target.is_valid(measurement, &forgery) => Verdict::Accepted,
                    true => Verdict::HelperRefuses(ReportError::VdafPrepError),
                };
                assert_eq!(verdict(&target, &id, &context, &forged, &forged), expected, "{name}");
                let proof_holds = Forgery { hints: [Hint::Right; 2], ..forgery };
                attacks += u32::from(forgery.proof == Proof::Zero && target.is_valid(measurement, &proof_holds));

                // A leader that skips its own check: the helper does not depend on it.
                let with_right_part = [&honest.public_share[..honest.public_share.len() / 2], b""].concat();
                let helpers_part = forged.public_share[forged.public_share.len() / 2..].to_vec();
                let lenient =
                    MeasurementShares { public_share: [with_right_part, helpers_part].concat(), ..forged.clone() };
                let found = verdict(&target, &id, &context, &lenient, &forged);
                assert!(!matches!(found, Verdict::Contradiction(_)), "{name}: {found:?}");
                assert_eq!(found == Verdict::Accepted, expected == Verdict::Accepted, "{name}");
            }
        }
    }
    assert!(attacks >= 9 * 5, "only {attacks} proofs hold whatever the joint randomness is");
}

/// A measurement as the vector that is added up.
fn numbers(target: &Target, measurement: &Measurement) -> Vec<u128> {
    match (measurement, &target.vdaf) {
        (Measurement::Number(bin), VdafConfig::Prio3Histogram { length, .. }) => {
            (0..*length as u128).map(|n| u128::from(n == *bin)).collect()
        }
        (Measurement::Number(number), _) => vec![*number],
        (Measurement::Flag(flag), _) => vec![u128::from(*flag)],
        (Measurement::Vector(numbers), _) => numbers.clone(),
    }
}

/// Hostile reports of every kind and VDAF share a batch with honest ones. The result is the sum of the honest reports
/// and of those hostile ones whose proof is valid.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_batch_without_hostile_reports(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let quick = |config: &mut Config| {
        (config.leader.max_job_size, config.leader.min_job_size) = (7, 1);
        // Jobs in sequence: the next job uses the batch capacity that the last one left.
        config.leader.jobs_in_flight = 1;
    };
    let (mut leader, mut helper) = (Node::start_with(quick).await, Node::start_with(quick).await);
    for (n, target) in Target::all(revision).into_iter().enumerate() {
        let mode = if n % 2 == 0 { BatchMode::TimeInterval } else { batches_of(revision, 100) };
        let (leader_url, helper_url) = (leader.url(revision), helper.url(revision));
        let parties = Parties::new(revision, target.vdaf.clone(), mode, leader_url, helper_url);
        let context = parties.wire().vdaf_context(&parties.id());
        let preparer = vdaf::preparer(revision, &target.vdaf).unwrap();
        let honest = preparer.shard(&context, &target.largest, &ReportId::random()).unwrap();
        let forgeries = Forgery::all(!honest.public_share.is_empty());
        let measurements = [&target.largest, &target.ordinary];
        let are_valid =
            measurements.map(|each| forgeries.iter().filter(|forgery| target.is_valid(each, forgery)).count());
        let count = (measurements.len() + are_valid.iter().sum::<usize>()) as u64;
        // All reports in one batch.
        let parties = parties.with(|task| task.public.min_batch_size = count);
        leader.add(&parties.leader).await;
        helper.add(&parties.helper).await;
        let builder = ReportBuilder::new(&parties).await;
        let (mut reports, mut valid) = (Vec::new(), Vec::new());
        for measurement in measurements {
            reports.push(builder.report(measurement, clock::now()));
            valid.push(measurement);
            for forgery in &forgeries {
                reports.push(builder.spoilt(measurement, clock::now(), |draft| {
                    let honest = builder.shard(measurement, &draft.metadata.id);
                    draft.set_shares(forgery.apply(&target, &context, &honest));
                }));
                valid.extend(target.is_valid(measurement, forgery).then_some(measurement));
            }
        }
        parties.upload_all(&reports).await;
        let query = match mode {
            BatchMode::TimeInterval => parties.query_now(),
            BatchMode::FixedSize { .. } => Query::FixedSize(FixedSizeQuery::CurrentBatch),
        };
        let collected = parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await;
        let collected = collected.unwrap_or_else(|error| panic!("{:?}: {error}", target.vdaf));
        let mut sums = vec![0; numbers(&target, valid[0]).len()];
        for measurement in &valid {
            sums.iter_mut().zip(numbers(&target, measurement)).for_each(|(sum, number)| *sum += number);
        }
        let found = match collected.result {
            AggregateResult::Number(number) => vec![number],
            AggregateResult::Vector(numbers) => numbers,
            AggregateResult::Noisy(_) | AggregateResult::NoisyNumber(_) => unreachable!("no task has noise"),
        };
        assert_eq!((collected.report_count, found), (count, sums), "{:?}", target.vdaf);
        leader.until(&parties.id(), |status| status.waiting + status.jobs == 0).await;
        assert_eq!(leader.counter(&parties.id(), "rejected_after_continue").await, 0);
        let refused = reports.len() - valid.len();
        let mut counted = 0;
        for name in ["vdaf_prep_error", "helper_vdaf_prep_error"] {
            counted += leader.counter(&parties.id(), name).await;
        }
        assert_eq!(counted, refused as u64, "{:?}", target.vdaf);
    }
    leader.stop().await;
    helper.stop().await;
}
