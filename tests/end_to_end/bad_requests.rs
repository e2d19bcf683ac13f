//! What comes in from strangers and broken peers: it is told what is wrong with it, and nothing is lost by it.

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
    self, Node, PATIENCE, Pair, Parties, batches_of,
    calls::{assert_refused, assert_taken, assert_upload_refused},
    forge::{Forge, flipped},
    hostile::{Forgery, Hint, Proof, Target},
    raw::{ask, begin, status},
    resources::{places, places_without_body},
};

/// The whole barrage against one pair of servers, and then an ordinary task on them.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_bad_requests_with_problem(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let small = |config: &mut Config| config.limits.max_upload_bytes = config.limits.max_report_bytes;
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, small, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    // One good report before, one after.
    parties.upload_all([&forge.report(&Measurement::Flag(true), clock::now())]).await;

    wrong_places(parties).await;
    wrong_methods(parties).await;
    wrong_media_types_and_bodies(parties).await;
    other_spellings(parties).await;
    wrong_tokens(parties).await;
    wrong_tokens_without_a_body(parties).await;
    unknown_tasks(parties).await;
    browsers(parties).await;
    // Where an upload may have several reports, those before the error are taken.
    let sent_before = too_long_or_cut_off(parties, &forge).await;

    parties.upload_all([&sent_before]).await;
    let query = parties.query_now();
    let collected = parties.collector().collect(query, Some(PATIENCE), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (2, AggregateResult::Number(2)));
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 2);
    pair.stop().await;
}

/// HEAD is GET without the body (RFC 9110 section 9.3.2).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_head_like_get(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    for url in [parties.at_leader("hpke_config"), parties.at_helper("hpke_config"), parties.at_leader("nowhere")] {
        let [get, head] = [ask("GET", &url, &[], Vec::new()).await, ask("HEAD", &url, &[], Vec::new()).await];
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{url}");
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{url}");
        for name in ["content-type", "cache-control", "access-control-allow-origin"] {
            assert_eq!(head.header(name), get.header(name), "{url}");
        }
    }
    let refused = ask("HEAD", &parties.at_leader(&format!("tasks/{}/reports", parties.id())), &[], Vec::new()).await;
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
        assert_eq!(ask("PUT", &url, &[], Vec::new()).await.problem(404)["type"], "about:blank", "{url}");
    }
    for path in [
        format!("tasks/{}/reports", &task.to_string()[1..]),
        format!("tasks/{task}=/reports"),
        format!("tasks/{task}AA/aggregate_shares"),
        format!("tasks/{task}/aggregation_jobs/{task}"),
        format!("tasks/{task}/collection_jobs/{}", &job.to_string()[1..]),
    ] {
        ask("PUT", &format!("{base}{path}"), &[], Vec::new()).await.assert_problem(400, "invalidMessage");
    }
}

async fn wrong_methods(parties: &Parties) {
    let mut places = places(parties, parties.id());
    places.extend(places_without_body(parties, parties.id()));
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
        for media_type in ["text/plain", "application/octet-stream", "application/dap-nothing", "application/ppm-dap"] {
            let headers = [("content-type", media_type), ("authorization", bearer.as_str())];
            let said = ask(method, &place.url, &headers, vec![0]).await;
            assert_eq!(said.problem(415)["taskid"], task);
            place.check_cors(&said);
        }
        let said = ask(method, &place.url, &[("authorization", &bearer)], vec![0]).await;
        assert_eq!(said.problem(415)["taskid"], task, "no media type is not {right}");
        // Nothing, one byte, and lengths that promise four gigabytes.
        for body in [vec![], vec![0], vec![0xff; 64]] {
            let said = place.tell(body).await;
            assert_eq!(said.assert_problem(400, "invalidMessage")["taskid"], task);
            place.check_cors(&said);
        }
    }
}

/// Media types in another case or with parameters, and two slashes after the base URL: the body is decoded.
async fn other_spellings(parties: &Parties) {
    for place in places(parties, parties.id()) {
        let (method, right) = place.post.unwrap();
        let bearer = place.bearer();
        let (essence, parameters) = right.split_at(right.find(';').unwrap_or(right.len()));
        let capitals = format!("{}{parameters}", essence.to_uppercase());
        let with_parameter = format!("{right} ; charset=utf-8");
        let prefix = format!("/{}/", parties.wire().path_prefix());
        let doubled = place.url.replace(&prefix, &format!("/{prefix}/"));
        for (url, media_type) in [(&place.url, &capitals), (&place.url, &with_parameter), (&doubled, &right.to_owned())]
        {
            let headers = [("content-type", media_type.as_str()), ("authorization", bearer.as_str())];
            let said = ask(method, url, &headers, vec![0]).await;
            assert_eq!(said.assert_problem(400, "invalidMessage")["taskid"], parties.id().to_string(), "{url}");
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
            assert_eq!(said.refused(parties, ProblemType::UnauthorizedRequest)["taskid"], task, "{headers:?}");
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

/// Polls and deletions want a token too.
async fn wrong_tokens_without_a_body(parties: &Parties) {
    let mut places = places(parties, parties.id());
    places.extend(places_without_body(parties, parties.id()));
    let mut tried = 0;
    for place in places.iter().filter(|place| place.token.is_some()) {
        for method in ["GET", "DELETE"].into_iter().filter(|method| place.allow.contains(method)) {
            for headers in [vec![], vec![("authorization", "Bearer wrong")]] {
                let said = ask(method, &place.url, &headers, Vec::new()).await;
                assert_eq!(said.refused(parties, ProblemType::UnauthorizedRequest)["taskid"], parties.id().to_string());
                tried += 1;
            }
        }
    }
    assert!(tried >= 6, "only {tried} requests");
}

async fn unknown_tasks(parties: &Parties) {
    let stranger = TaskId::random();
    for place in places(parties, stranger) {
        let said = place.tell(vec![0]).await;
        assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], stranger.to_string());
        place.check_cors(&said);
    }
    // Leader and helper each have their own resources of the task.
    for place in places(parties, parties.id()) {
        let said = place.send(&place.elsewhere, &[("authorization", &place.bearer())], vec![0]).await;
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
            let said = ask(method, &format!("{base}{path}"), &asks, Vec::new()).await;
            assert_eq!((said.status, said.header("access-control-allow-origin")), (status, "*"), "{path}");
            if status == 200 {
                assert_eq!(said.header("content-type"), keys.accept.unwrap());
                assert_eq!(said.header("cache-control"), "max-age=86400");
            }
        }
    }
    let upload = parties.wire().upload_request(&parties.id());
    let allowed = if parties.revision() == Revision::Dap09 { "content-type, dap-taskprov" } else { "content-type" };
    for (path, method) in [("hpke_config", "GET, HEAD"), (upload.path.as_str(), upload.method)] {
        let wanted = method.split(", ").next().unwrap();
        let asks = [("access-control-request-method", wanted), ("access-control-request-headers", "content-type")];
        let said = ask("OPTIONS", &parties.at_leader(path), &asks, Vec::new()).await;
        assert_eq!((said.status, said.header("access-control-allow-origin")), (204, "*"));
        assert_eq!(said.header("access-control-allow-methods"), method);
        assert_eq!(said.header("access-control-allow-headers"), allowed);
    }
}

/// In DAP-09 keys may be asked for by task (DAP-09 section 4.4.1).
#[tokio::test(flavor = "multi_thread")]
async fn rejects_hpke_config_request_for_unknown_task() {
    let pair = Pair::start(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    for base in [&pair.parties.task().leader_url, &pair.parties.task().helper_url] {
        let stranger = TaskId::random();
        let keys = async |task: &str| ask("GET", &format!("{base}hpke_config?task_id={task}"), &[], Vec::new()).await;
        let said = keys(&stranger.to_string()).await;
        assert_eq!(said.assert_problem(400, "unrecognizedTask")["taskid"], stranger.to_string());
        assert_eq!(said.header("access-control-allow-origin"), "*");
        let said = keys("AAAA").await;
        said.assert_problem(400, "invalidMessage");
        assert_eq!(said.header("access-control-allow-origin"), "*");
    }
    pair.stop().await;
}

async fn too_long_or_cut_off(parties: &Parties, forge: &Forge) -> Report {
    let upload = parties.wire().upload_request(&parties.id());
    let (method, url) = (upload.method, parties.at_leader(&upload.path));
    let media_type = ("content-type", upload.content_type.unwrap());
    // Announced as too long: refused before a byte of it came.
    let mut stream = begin(method, &url, &[media_type, ("content-length", "1048577")]).await;
    assert_eq!(status(&mut stream).await, Some(413));
    // Not announced: refused as soon as it is too long, and not a byte later. Nor is it a report.
    let mut stream = begin(method, &url, &[media_type, ("transfer-encoding", "chunked")]).await;
    stream.write_all(format!("100001\r\n{}", "\0".repeat(0x10_0001)).as_bytes()).await.unwrap();
    assert!(matches!(status(&mut stream).await, Some(400 | 413)));
    // Cut off one byte before the end: there may be nobody to answer to, but the report is not taken.
    let whole = forge.report(&Measurement::Flag(true), clock::now());
    let report = parties.wire().encode_upload(parties.task(), std::slice::from_ref(&whole));
    let length = report.len().to_string();
    let mut stream = begin(method, &url, &[media_type, ("content-length", &length)]).await;
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
    whole
}

/// An interval whose end cannot be told is no batch (DAP-09 section 4, DAP-18 section 4.1.1: times are 64 bits).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn rejects_batch_interval_that_overflows(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let query = parties.query_now();
    let Query::TimeInterval(interval) = query else { unreachable!() };
    let request = parties.share_request(BatchSelector::TimeInterval(interval), &[]);
    let share = parties.wire().encode_aggregate_share_req(parties.task(), &request);
    for (place, body) in [(3, parties.collection_req(query).to_vec()), (4, share)] {
        // Told in seconds or in the task's units.
        let start = interval.start().0;
        let is_start = |bytes: &[u8]| [start, start / 3600].iter().any(|start| bytes == start.to_be_bytes());
        let at = body.windows(8).rposition(is_start).unwrap();
        let latest = match revision {
            Revision::Dap09 => u64::MAX - 3600,
            Revision::Dap18 => u64::MAX / 3600,
        };
        for late in [u64::MAX, latest] {
            let mut body = body.clone();
            body[at..at + 8].copy_from_slice(&late.to_be_bytes());
            let said = places(parties, parties.id()).remove(place).tell(body).await;
            let said = said.problem(400);
            assert!(said["type"].as_str().unwrap().ends_with("error:batchInvalid"), "{late}: {said}");
        }
    }
    pair.stop().await;
}

/// A report that the leader cannot open: its share is sealed to the leader's key, and was changed on the way.
fn unopenable(forge: &Forge) -> Report {
    let mut report = forge.report(&Measurement::Flag(true), clock::now());
    report.leader_share.payload = flipped(&report.leader_share.payload);
    report
}

/// With a sample of all, a client learns at upload that the leader's share cannot be opened, or that it does not decode.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn reports_undecryptable_sampled_share_to_client(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let all = |config: &mut Config| {
        config.leader.upload_sample_ratio = 1;
        // No job keeps the workers busy.
        config.leader.max_job_delay = dapbox::config::Seconds::new(1000);
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, all, |_| {}).await;
    let (parties, id) = (&pair.parties, pair.parties.id());
    let forge = Forge::new(parties).await;
    assert_taken(&parties.upload(&forge.report(&Measurement::Flag(true), clock::now())).await);
    let shut = unopenable(&forge);
    assert_upload_refused(&parties.upload(&shut).await, parties, &shut, ReportError::HpkeDecryptError);
    let cut = |draft: &mut common::forge::Draft| draft.leader.payload = draft.leader.payload.slice(1..);
    let cut = forge.spoilt(&Measurement::Flag(true), clock::now(), cut);
    assert_upload_refused(&parties.upload(&cut).await, parties, &cut, ReportError::InvalidMessage);
    let status = pair.leader.status(&id).await;
    let counted = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    assert_eq!((counted("hpke_decrypt_error"), counted("invalid_message"), counted("report_success")), (1, 1, 1));
    pair.stop().await;
}

/// The first reports that are sealed to a key are opened until one is good, however few others are; without a sample none
/// is.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn opens_first_uploads_of_key(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let few = |config: &mut Config| {
        (config.leader.upload_sample_ratio, config.leader.min_job_size) = (u32::MAX, 1);
    };
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, few, |_| {}).await;
    let (parties, id) = (&pair.parties, pair.parties.id());
    let forge = Forge::new(parties).await;
    for _ in 0..2 {
        let shut = unopenable(&forge);
        assert_upload_refused(&parties.upload(&shut).await, parties, &shut, ReportError::HpkeDecryptError);
    }
    assert_taken(&parties.upload(&forge.report(&Measurement::Flag(true), clock::now())).await);
    // From now on it is one in billions.
    assert_taken(&parties.upload(&unopenable(&forge)).await);
    pair.leader.until(&id, |status| status.counters.get("hpke_decrypt_error") == Some(&3)).await;

    pair.leader.stop().await;
    pair.leader.config.leader.upload_sample_ratio = 0;
    pair.leader.resume().await;
    assert_taken(&parties.upload(&unopenable(&forge)).await);
    pair.leader.until(&id, |status| status.counters.get("hpke_decrypt_error") == Some(&4)).await;
    pair.stop().await;
}

/// What the two aggregators of a report say to it.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The leader refuses it before it says anything to the helper.
    LeaderRefuses(ReportError),
    /// The helper refuses it, and nothing was committed.
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

/// Whenever the helper accepts a report, an honest leader accepts it: whatever the client has put together.
#[rstest]
fn honest_leader_accepts_reports_that_helper_accepts(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
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

                // A leader that does not look at its part: the helper does not depend on it.
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

/// A measurement as a vector, as it is added up.
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

/// Hostile reports of every kind and VDAF in the same batch as honest ones: the batch is collected, and is the honest
/// reports and those of the others that prove what they say.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_batch_without_hostile_reports(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let quick = |config: &mut Config| {
        (config.leader.max_job_size, config.leader.min_job_size) = (7, 1);
        // One job after the other: what a job leaves of a batch's room, the next one fills.
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
        // All of them in one batch.
        let parties = parties.with(|task| task.public.min_batch_size = count);
        leader.add(&parties.leader).await;
        helper.add(&parties.helper).await;
        let forge = Forge::new(&parties).await;
        let (mut reports, mut valid) = (Vec::new(), Vec::new());
        for measurement in measurements {
            reports.push(forge.report(measurement, clock::now()));
            valid.push(measurement);
            for forgery in &forgeries {
                reports.push(forge.spoilt(measurement, clock::now(), |draft| {
                    let honest = forge.shard(measurement, &draft.metadata.id);
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
        let collected = parties.collector().collect(query, Some(PATIENCE), |_| {}).await;
        let collected = collected.unwrap_or_else(|error| panic!("{:?}: {error}", target.vdaf));
        let mut sums = vec![0; numbers(&target, valid[0]).len()];
        for measurement in &valid {
            sums.iter_mut().zip(numbers(&target, measurement)).for_each(|(sum, number)| *sum += number);
        }
        let found = match collected.result {
            AggregateResult::Number(number) => vec![number],
            AggregateResult::Vector(numbers) => numbers,
            AggregateResult::Noisy(_) => unreachable!("no task has noise"),
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
