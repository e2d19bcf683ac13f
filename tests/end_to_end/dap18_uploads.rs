//! Uploads of several reports in one request (DAP-18 section 4.4.2). Reports are accepted or rejected independently;
//! the answer lists the rejected ones.

use std::time::Duration as Span;

use dapbox::{
    config::Config,
    model::{BatchMode, Duration, Interval, Query, Report, ReportError, Revision, Task, Time, VdafConfig},
    support::clock,
    vdaf::{AggregateResult, Measurement},
    wire::{ProblemType, current::media},
};
use tokio::io::AsyncWriteExt;

use crate::common::{
    self, Pair, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, assert_rejected, problem, upload_errors},
    raw::{answer, begin_request},
    relay::Relay,
    report_builder::{ReportBuilder, extension, other_config_id},
};

const HOUR: u64 = 3600;

fn yes() -> Measurement {
    Measurement::Flag(true)
}

fn ago(hours: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours * HOUR))
}

async fn pair_with(config: impl Fn(&mut Config), task: impl Fn(&mut Task)) -> (Pair, ReportBuilder) {
    let pair = Pair::start_with(Revision::Dap18, VdafConfig::Prio3Count, BatchMode::TimeInterval, config, task).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    (pair, builder)
}

/// Rejected reports are listed in the order of the request, and the same upload gets the same answer again (section
/// 4.4.2.2).
#[tokio::test(flavor = "multi_thread")]
async fn lists_rejections_in_order_of_request() {
    // The task ran from ten to two hours ago; reports older than eight hours are deleted.
    let change = |task: &mut Task| {
        task.public.task_interval = Interval::new(ago(10), Duration(8 * HOUR));
        task.report_expiry_age = Some(Duration(8 * HOUR));
    };
    let (pair, builder) = pair_with(|_| {}, change).await;
    let parties = &pair.parties;
    let report = |time| builder.report(&yes(), time);
    let good = [report(ago(5)), report(ago(3)), report(ago(6))];
    let last_moment = report(Time(ago(2).0 - 1));
    let mut to_another_key = report(ago(5));
    to_another_key.leader_share.config_id = other_config_id(&builder.keys.leader);
    let bad = [
        (report(clock::now().saturating_add(Duration(9 * HOUR))), ReportError::ReportTooEarly),
        (to_another_key, ReportError::OutdatedConfig),
        (report(ago(2)), ReportError::ReportDropped),
        (report(Time(ago(10).0 - 1)), ReportError::ReportDropped),
        (report(ago(9)), ReportError::ReportDropped),
    ];
    let [one, two, three] = good;
    let [early, outdated, after, before, old] = bad.each_ref().map(|(report, _)| report.clone());
    // One of them is a duplicate: it is not reported, and counts once.
    let upload = [one.clone(), early, outdated, two, after, one, before, last_moment, old, three];
    let expected: Vec<_> = bad.iter().map(|(report, error)| (report.metadata.id, *error)).collect();
    for _ in 0..2 {
        let answer = parties.upload_together(&upload).await;
        assert_eq!((answer.status, answer.content_type.as_deref()), (200, Some(media::UPLOAD_ERRORS)));
        assert_eq!(upload_errors(&answer, parties), expected);
    }
    let status = pair.leader.status(&parties.id()).await;
    assert_eq!((status.counters["report_success"], status.counters["upload_repeated"]), (4, 6));
    let query = Query::TimeInterval(Interval::new(ago(10), Duration(8 * HOUR)).unwrap());
    let collected = parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (4, AggregateResult::Number(4)));

    // The answer says that the batch is collected (section 4.4.2.2). Reports in the batch are known.
    let late = report(ago(5));
    let answer = parties.upload_together(&[upload[0].clone(), late.clone()]).await;
    assert_eq!(upload_errors(&answer, parties), [(late.metadata.id, ReportError::BatchCollected)]);
    pair.stop().await;
}

/// Reports are stored while others are still arriving, in pieces of any length.
#[tokio::test(flavor = "multi_thread")]
async fn streams_long_upload() {
    let (pair, builder) = pair_with(|_| {}, |_| {}).await;
    let parties = &pair.parties;
    let reports: Vec<_> = (0..300).map(|_| builder.report(&yes(), clock::now())).collect();
    let body = parties.wire().encode_upload(parties.task(), &reports);
    let call = parties.wire().upload_request(&parties.id());
    let headers = [("content-type", media::UPLOAD_REQ), ("transfer-encoding", "chunked"), ("connection", "close")];
    let mut stream = begin_request(call.method, &parties.at_leader(&call.path), &headers).await;
    let (first, rest) = body.split_at(body.len() / 2);
    for part in [first, rest] {
        let mut length = 1;
        let mut left = part;
        while !left.is_empty() {
            let (piece, more) = left.split_at(length.min(left.len()));
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
            stream.write_all(&chunk).await.unwrap();
            (length, left) = (length * 2 % 1021, more);
        }
        // Half of the body has arrived. Most of it is stored, and no answer was sent.
        pair.leader.until(&parties.id(), |status| status.counters.get("report_success") >= Some(&100)).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let (status, head, body) = answer(&mut stream).await;
    assert_eq!((status, body.len()), (200, 0), "{head}");
    assert!(!head.contains("content-type"), "{head}");
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 300);
    pair.stop().await;
}

/// Bytes after the last whole report make the upload malformed. The reports before them are stored; sending all of it
/// again is harmless.
#[tokio::test(flavor = "multi_thread")]
async fn reports_malformed_tail() {
    let (pair, builder) = pair_with(|_| {}, |_| {}).await;
    let parties = &pair.parties;
    let reports: Vec<_> = (0..4).map(|_| builder.report(&yes(), clock::now())).collect();
    let whole = parties.wire().encode_upload(parties.task(), &reports);
    let cut_off = whole[..whole.len() - 1].to_vec();
    assert_rejected(&parties.upload_bytes(cut_off).await, parties, ProblemType::InvalidMessage);
    assert_eq!(pair.leader.counter(&parties.id(), "report_success").await, 3);
    let with_more = [&whole[..], &[0; 7]].concat();
    assert_rejected(&parties.upload_bytes(with_more).await, parties, ProblemType::InvalidMessage);
    assert_rejected(&parties.upload_bytes(Vec::new()).await, parties, ProblemType::InvalidMessage);
    assert_accepted(&parties.upload_bytes(whole).await);
    let status = pair.leader.status(&parties.id()).await;
    assert_eq!((status.counters["report_success"], status.counters["report_decode_failure"]), (4, 3));

    // A time that overflows in seconds is too early.
    let mut late = parties.wire().encode_upload(parties.task(), &reports[..1]);
    for units in [u64::MAX, u64::MAX / HOUR + 1] {
        late[16..24].copy_from_slice(&units.to_be_bytes());
        let answer = parties.upload_bytes(late.clone()).await;
        assert_eq!(upload_errors(&answer, parties), [(reports[0].metadata.id, ReportError::ReportTooEarly)]);
    }
    pair.stop().await;
}

/// An unknown public extension is reported by its number; other reports of the upload are unaffected.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_unknown_public_extensions() {
    let (pair, builder) = pair_with(|_| {}, |_| {}).await;
    let parties = &pair.parties;
    let with = |kinds: &[u16]| -> Report {
        let extensions = kinds.iter().map(|kind| extension(*kind)).collect();
        builder.spoilt(&yes(), clock::now(), |draft| draft.extensions = extensions)
    };
    let good = || builder.report(&yes(), clock::now());
    for (upload, numbers) in [
        (vec![with(&[42])], vec![42]),
        (vec![good(), with(&[23, 42]), good(), with(&[7])], vec![7, 23, 42]),
        // A duplicate of an unknown extension is rejected as well.
        (vec![with(&[5, 5]), good()], vec![5]),
    ] {
        let answer = parties.upload_together(&upload).await;
        assert_rejected(&answer, parties, ProblemType::UnsupportedExtension);
        assert_eq!(problem(&answer).unsupported_extensions, numbers);
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(document["unsupported_extensions"], serde_json::json!(numbers));
    }
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (3, AggregateResult::Number(3)));
    pair.stop().await;
}

/// A report and a request have limits of length.
#[tokio::test(flavor = "multi_thread")]
async fn limits_upload() {
    let tight = |config: &mut Config| {
        (config.limits.max_report_bytes, config.limits.max_upload_bytes) = (1000, 10_000);
    };
    let (pair, builder) = pair_with(tight, |_| {}).await;
    let parties = &pair.parties;
    let mut long = builder.report(&yes(), clock::now());
    long.public_share = vec![0; 1000].into();
    let answer = parties.upload(&long).await;
    assert_eq!((answer.status, problem(&answer).task_id), (413, Some(parties.id())), "{answer:?}");
    let many: Vec<_> = (0..60).map(|_| builder.report(&yes(), clock::now())).collect();
    let body = parties.wire().encode_upload(parties.task(), &many);
    assert!(body.len() > 10_000);
    let call = parties.wire().upload_request(&parties.id());
    let headers = [("content-type", media::UPLOAD_REQ), ("transfer-encoding", "chunked"), ("connection", "close")];
    let mut stream = begin_request(call.method, &parties.at_leader(&call.path), &headers).await;
    let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
    stream.write_all(&chunk).await.unwrap();
    let (status, ..) = tokio::time::timeout(Span::from_secs(30), common::raw::answer(&mut stream)).await.unwrap();
    assert_eq!(status, 413);
    pair.stop().await;
}

/// The client puts several reports into a request and returns the outcome of each measurement.
#[tokio::test(flavor = "multi_thread")]
async fn batches_uploads_in_few_requests() {
    let (pair, _) = pair_with(|_| {}, |_| {}).await;
    let relay = Relay::start().await;
    let leader_url = relay.before(&pair.parties.task().leader_url);
    let vdaf = VdafConfig::Prio3Count;
    let helper_url = pair.helper.url(Revision::Dap18);
    let parties = Parties::new(Revision::Dap18, vdaf, BatchMode::TimeInterval, leader_url, helper_url);
    pair.leader.add(&parties.leader).await;
    pair.helper.add(&parties.helper).await;
    let measurements = (0..200).map(|n| Measurement::Flag(n % 2 == 0));
    let summary = parties.client().upload_many(measurements, None, 2, |_| {}).await;
    assert_eq!((summary.accepted, summary.rejected_total()), (200, 0), "{summary:?}");
    let requests = relay.requests("/reports").len();
    assert!((1..20).contains(&requests), "200 reports in {requests} requests");
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (200, AggregateResult::Number(100)));
    pair.stop().await;
}
