//! What comes in from strangers and broken peers: it is told what is wrong with it, and nothing is lost by it.

mod common;

use common::{
    PATIENCE, Pair, Parties,
    calls::{assert_refused, assert_taken, assert_upload_refused},
    forge::{Forge, flipped},
    places::{places, places_without_body},
    raw::{ask, begin, status},
};
use dapbox::{
    config::Config,
    model::{
        AggregationJobId, BatchMode, BatchSelector, Query, Report, ReportError, Revision, TaskId, Time, VdafConfig,
    },
    vdaf::{AggregateResult, Measurement},
    wire::ProblemType,
};
use rstest::rstest;
use tokio::io::AsyncWriteExt;

/// The whole barrage against one pair of servers, and then an ordinary task on them.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_what_is_wrong_and_nothing_is_lost(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let small = |config: &mut Config| config.limits.max_upload_bytes = config.limits.max_report_bytes;
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, small, |_| {}).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    // One good report before, one after.
    parties.upload_all([&forge.report(&Measurement::Flag(true), Time::now())]).await;

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
async fn answers_head_where_get_works(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
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
    let prefix = parties.wire().prefix();
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
        let prefix = format!("/{}/", parties.wire().prefix());
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
    let keys = parties.wire().hpke_config_call(Some(&parties.id()));
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
    let upload = parties.wire().upload_call(&parties.id());
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
async fn keys_are_for_tasks_that_are_known() {
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
    let upload = parties.wire().upload_call(&parties.id());
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
    let whole = forge.report(&Measurement::Flag(true), Time::now());
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

/// An interval whose end cannot be told is no interval (DAP-09 section 4, DAP-18 section 4.1.1: times are 64 bits).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn an_interval_that_ends_after_time_is_malformed(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
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
            assert!(said["type"].as_str().unwrap().ends_with("error:invalidMessage"), "{late}: {said}");
        }
    }
    pair.stop().await;
}

/// A report that the leader cannot open: its share is sealed to the leader's key, and was changed on the way.
fn unopenable(forge: &Forge) -> Report {
    let mut report = forge.report(&Measurement::Flag(true), Time::now());
    report.leader_share.payload = flipped(&report.leader_share.payload);
    report
}

/// With a sample of all, a client learns at upload that the leader's share cannot be opened, or that it does not decode.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn tells_clients_of_a_share_that_cannot_be_opened(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let all = |config: &mut Config| {
        config.leader.upload_sample_ratio = 1;
        // No job keeps the workers busy.
        config.leader.max_job_delay = dapbox::config::Seconds::new(1000);
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, all, |_| {}).await;
    let (parties, id) = (&pair.parties, pair.parties.id());
    let forge = Forge::new(parties).await;
    assert_taken(&parties.upload(&forge.report(&Measurement::Flag(true), Time::now())).await);
    let shut = unopenable(&forge);
    assert_upload_refused(&parties.upload(&shut).await, parties, &shut, ReportError::HpkeDecryptError);
    let cut = |draft: &mut common::forge::Draft| draft.leader.payload = draft.leader.payload.slice(1..);
    let cut = forge.spoilt(&Measurement::Flag(true), Time::now(), cut);
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
async fn opens_the_first_uploads_of_a_key(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
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
    assert_taken(&parties.upload(&forge.report(&Measurement::Flag(true), Time::now())).await);
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
