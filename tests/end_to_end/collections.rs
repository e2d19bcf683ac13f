//! Collections: which batches a collector gets, how often, and which errors it gets otherwise (DAP-09 section 4.6,
//! DAP-18 section 4.6).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use dapbox::{
    config::{Config, Seconds},
    model::{
        AggregateShareReq, BatchId, BatchMode, BatchSelector, Collection, CollectionReq, Duration, FixedSizeQuery,
        ForwardedCollectionReq, Interval, MaxMeasurement, PartialBatchSelector, PrepareOutcome, Query, ReportError,
        ReportId, Revision, Task, Time, VdafConfig,
    },
    support::{clock, timestamp},
    vdaf::{AggregateResult, Measurement},
    views::status::{CollectedBatchStatus, ResultState, TaskStatus},
    wire::{ProblemType, ResourceKind},
};
use rstest::rstest;

use crate::common::{
    Pair, Parties, TEST_TIMEOUT, batches_of,
    calls::{assert_deleted, assert_rejected, assert_report_rejected, is_pending, problem},
    raw::send_raw,
    relay::{RelayAction, assert_whole, pair_through_relay, upload_all},
    report_builder::{Draft, ReportBuilder},
};

const HOUR: u64 = 3600;

/// An aligned time this many hours ago.
fn hour(n: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(10 * HOUR)).saturating_add(Duration(n * HOUR))
}

fn interval(from: u64, to: u64) -> Interval {
    Interval::new(hour(from), Duration((to - from) * HOUR)).unwrap()
}

fn hours(from: u64, to: u64) -> Query {
    Query::TimeInterval(interval(from, to))
}

fn yes() -> Measurement {
    Measurement::Flag(true)
}

/// Reports are aggregated only for a waiting collection.
fn lazy(config: &mut Config) {
    config.leader.min_job_size = 1000;
    config.leader.max_job_delay = Seconds::new(HOUR);
}

fn at_least(n: u64) -> impl Fn(&mut Task) {
    move |task| task.public.min_batch_size = n
}

const CURRENT: Query = Query::FixedSize(FixedSizeQuery::CurrentBatch);

async fn collected(parties: &Parties, job: &str) -> (bytes::Bytes, Collection) {
    let answer = parties.outcome(job).await;
    let wire = parties.wire();
    let media_type = wire.poll_request(ResourceKind::CollectionJob, job).unwrap().accept;
    assert_eq!((answer.status, answer.content_type.as_deref()), (200, media_type), "{answer:?}");
    let collection = wire.decode_collection(parties.task(), &answer.body).unwrap();
    (answer.body, collection)
}

/// Whether the revision can express a query.
fn can_be_asked(parties: &Parties, query: Query) -> bool {
    let (wire, task) = (parties.wire(), parties.task());
    let request = CollectionReq { query, aggregation_parameter: bytes::Bytes::new(), extensions: Vec::new() };
    let bytes = wire.encode_collection_req(task, &request);
    bytes.is_ok_and(|bytes| wire.decode_collection_req(task, &bytes.into()) == Ok(request))
}

/// Rejected collections without side effects (DAP-09 sections 4.6.1 and 4.6.5.1.1, DAP-18 sections 4.6.1 and 5.1).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_query(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, lazy, at_least(3)).await;
    let parties = &pair.parties;
    let raw = |start: Time, duration| Query::TimeInterval(Interval::new(start, Duration(duration)).unwrap());
    for (query, kind) in [
        (raw(hour(0), HOUR + 1), ProblemType::BatchInvalid),
        (raw(hour(0).saturating_add(Duration(1)), HOUR), ProblemType::BatchInvalid),
        (raw(hour(0), 0), ProblemType::BatchInvalid),
        // Some helpers run out of memory on such an interval.
        (raw(hour(0), HOUR * 10_001), ProblemType::BatchInvalid),
        (CURRENT, ProblemType::InvalidMessage),
        (Query::FixedSize(FixedSizeQuery::ByBatchId(BatchId::random())), ProblemType::InvalidMessage),
    ] {
        if !can_be_asked(parties, query) {
            continue;
        }
        let made = parties.create_collection(query).await;
        assert_rejected(&made.answer, parties, kind);
        let job = made.resource_path.unwrap_or_else(|| parties.missing_path(ResourceKind::CollectionJob));
        let poll = parties.poll(&job).await;
        assert_eq!(poll.status, 404, "a refused job does not exist: {poll:?}");
        assert_eq!(problem(&poll).task_id, Some(parties.id()));
        assert_eq!(parties.delete_collection(&job).await.status, 404);
    }
    let request = parties.collection_req_with(hours(0, 1), b"parameter", Vec::new());
    let answer = parties.create(ResourceKind::CollectionJob, &[1; 16], request).await.answer;
    assert_rejected(&answer, parties, ProblemType::InvalidAggregationParameter);
    pair.stop().await;
}

/// The life of an interval: too few reports, enough reports, collected for good (DAP-09 sections 4.6.1 and 4.6.5,
/// DAP-18 sections 4.6.1 to 4.6.5).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collects_interval_once(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Count;
    let mut pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, lazy, at_least(3)).await;
    let parties = pair.parties.clone();
    let builder = ReportBuilder::new(&parties).await;
    let report = |n| builder.report(&yes(), hour(n).saturating_add(Duration(60)));

    // A job that is deleted before it closed a batch leaves only its id.
    let deleted = parties.start_collection(hours(0, 3)).await;
    assert!(parties.delete_collection(&deleted).await.is_success());
    assert_deleted(&parties.poll(&deleted).await, &parties);

    // Fewer than the smallest job, which would wait an hour for more. A waiting collection has them aggregated now.
    parties.upload_all([&report(1), &report(1)]).await;
    let id = ReportId::random();
    let first = parties.create_collection_as(id.as_bytes(), hours(0, 3)).await.resource_path().to_owned();
    assert_ne!(first, deleted);
    pair.leader.until(&parties.id(), |status| status.aggregated == 2).await;
    let poll = parties.poll(&first).await;
    assert!(is_pending(&poll, &parties), "{poll:?}");
    assert!(poll.retry_after.is_some(), "a collector that polls is told when to come back");
    let batch = BatchSelector::TimeInterval(interval(0, 3));
    let request = AggregateShareReq { report_count: 2, ..parties.share_request(batch, &[]) };
    assert_rejected(&parties.request_share(&request).await, &parties, ProblemType::InvalidBatchSize);
    // This collection has no reports of its own, and overlaps the first one once that is closed.
    let late = parties.start_collection(hours(2, 4)).await;

    parties.upload_all([&report(1)]).await;
    let (body, collection) = collected(&parties, &first).await;
    assert_eq!((collection.report_count, collection.interval), (3, interval(1, 2)));
    assert_rejected(&parties.outcome(&late).await, &parties, ProblemType::BatchOverlap);

    // A repeated request, by the same job or another, gets the stored bytes. It does not exceed a query count of one,
    // because the aggregation parameter is the same (DAP-09 section 4.6.5).
    assert_eq!(parties.poll(&first).await.body, body);
    assert_eq!(parties.create_collection_as(id.as_bytes(), hours(0, 3)).await.resource_path(), first);
    let changed = parties.create_collection_as(id.as_bytes(), hours(0, 2)).await.answer;
    let status = if parties.wire().collected_batch_policy().may_repeat { 409 } else { 400 };
    assert_eq!((changed.status, problem(&changed).task_id), (status, Some(parties.id())));
    let second = parties.start_collection(hours(0, 3)).await;
    assert_eq!(collected(&parties, &second).await.0, body);

    stays_collected(&parties, &builder, Some(&body)).await;
    assert!(parties.delete_collection(&first).await.is_success());
    assert_deleted(&parties.poll(&first).await, &parties);
    assert!(parties.delete_collection(&first).await.is_success(), "whoever deletes twice is not told off");
    // A batch without a job is not released again, unless the revision allows another request for it.
    let again = parties.wire().collected_batch_policy().may_repeat.then_some(&body[..]);
    stays_collected(&parties, &builder, again).await;
    pair.leader.restart().await;
    pair.helper.restart().await;
    assert_deleted(&parties.poll(&first).await, &parties);
    if first != second {
        assert_eq!(parties.poll(&second).await.body, body);
    }
    stays_collected(&parties, &builder, again).await;

    // The adjacent interval is free.
    parties.upload_all([&report(3), &report(3), &report(3)]).await;
    let next = parties.start_collection(hours(3, 4)).await;
    assert_eq!(collected(&parties, &next).await.1.report_count, 3);
    let status = pair.leader.status(&parties.id()).await;
    assert_eq!((status.counters["interval_collected"], status.counters["aggregate_success"]), (9, 6));
    assert_eq!((status.batches_collected, pair.helper.status(&parties.id()).await.batches_collected), (2, 2));
    pair.stop().await;
}

/// Hours 0 to 3 are collected, with or without reports. The same query gets the same bytes or is rejected.
async fn stays_collected(parties: &Parties, builder: &ReportBuilder, body: Option<&[u8]>) {
    let long = Interval::new(Time(0), Duration((1 << 62) / HOUR * HOUR)).unwrap();
    for query in [hours(1, 2), hours(2, 3), hours(2, 5), hours(0, 4), Query::TimeInterval(long)] {
        let answer = parties.create_collection(query).await.answer;
        assert_rejected(&answer, parties, ProblemType::BatchOverlap);
    }
    // The problem document lists the free intervals, or says that there is none.
    for (query, free) in [
        (hours(1, 2), "the whole interval is collected".to_owned()),
        (hours(2, 5), format!("free: {} to {}", timestamp::show(hour(3)), timestamp::show(hour(5)))),
    ] {
        let detail = problem(&parties.create_collection(query).await.answer).detail;
        assert!(detail.contains(&free), "{detail}");
    }
    for n in 0..3 {
        let report = builder.report(&yes(), hour(n).saturating_add(Duration(HOUR - 1)));
        assert_report_rejected(&parties.upload(&report).await, parties, &report, ReportError::BatchCollected);
    }
    let draft = builder.draft(&yes(), hour(2));
    let resps = parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, &[draft])).await;
    assert_eq!(resps[0].outcome, PrepareOutcome::Reject(ReportError::BatchCollected));
    let again = parties.outcome_of(hours(0, 3)).await;
    match body {
        Some(body) => assert_eq!((again.status, &again.body[..]), (200, body)),
        None => assert_rejected(&again, parties, ProblemType::BatchOverlap),
    }
}

/// The helper's checks and their order: boundaries, size and overlap, then count and checksum (DAP-09 sections 4.6.2
/// and 4.6.5, DAP-18 section 4.6.4).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn helper_validates_batch_before_sharing(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, lazy, at_least(3)).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let drafts = |n| -> Vec<Draft> { (0..3).map(|_| builder.draft(&yes(), hour(n))).collect() };
    let (first, second) = (drafts(1), drafts(2));
    for drafts in [&first, &second] {
        let resps = parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, drafts)).await;
        assert!(resps.iter().all(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))));
    }
    let batch = |from, to| BatchSelector::TimeInterval(interval(from, to));
    let unaligned = Interval::new(hour(0), Duration(HOUR + 1)).unwrap();
    if can_be_asked(parties, Query::TimeInterval(unaligned)) {
        // Unaligned and without reports: the boundaries are checked first.
        let request = parties.share_request(BatchSelector::TimeInterval(unaligned), &[]);
        assert_rejected(&parties.request_share(&request).await, parties, ProblemType::BatchInvalid);
    }
    let right = parties.share_request(batch(1, 2), &first);
    for (request, kind) in [
        // Too few reports, whatever count the leader claims.
        (parties.share_request(batch(5, 6), &first), ProblemType::InvalidBatchSize),
        (parties.share_request(batch(1, 2), &first[..2]), ProblemType::BatchMismatch),
        (parties.share_request(batch(1, 2), &second), ProblemType::BatchMismatch),
        (parties.share_request(batch(1, 3), &first), ProblemType::BatchMismatch),
        (with_parameter(parties, &right), ProblemType::InvalidMessage),
        (parties.share_request(BatchSelector::FixedSize(BatchId::random()), &first), ProblemType::InvalidMessage),
    ] {
        assert_rejected(&parties.request_share(&request).await, parties, kind);
    }
    // The rejected requests collected nothing. The same request gets the same bytes.
    let answer = parties.request_share(&right).await;
    let media_type = parties.wire().create_request(ResourceKind::AggregateShare, &parties.id(), &[0; 16]).accept;
    assert_eq!((answer.is_success(), answer.content_type.as_deref()), (true, media_type));
    assert_eq!(parties.request_share(&right).await.body, answer.body);
    for request in [
        // The overlap is reported, not the mismatch.
        parties.share_request(batch(1, 2), &second),
        parties.share_request(batch(1, 3), &second),
        parties.share_request(batch(0, 2), &first),
    ] {
        assert_rejected(&parties.request_share(&request).await, parties, ProblemType::BatchOverlap);
    }
    assert!(parties.request_share(&parties.share_request(batch(2, 3), &second)).await.is_success());
    assert_eq!(parties.request_share(&right).await.body, answer.body);
    pair.stop().await;
}

/// A request with an aggregation parameter that differs from that of the batch's jobs.
fn with_parameter(parties: &Parties, request: &AggregateShareReq) -> AggregateShareReq {
    let mut request = request.clone();
    request.aggregation_parameter = "p".into();
    if let Some(ForwardedCollectionReq { request, bytes }) = &mut request.collection {
        request.aggregation_parameter = "p".into();
        *bytes = parties.collection_req_with(request.query, b"p", Vec::new());
    }
    request
}

/// If the aggregators disagree, the collector gets the error and the batch is never reopened (DAP-09 section 4.6.2,
/// DAP-18 sections 4.6.1 and 4.6.4).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn fails_collection_on_batch_mismatch(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, lazy, at_least(1)).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&yes(), hour(1))])).await;
    parties.upload_all([&builder.report(&yes(), hour(1))]).await;
    for _ in 0..2 {
        assert_rejected(&parties.outcome_of(hours(1, 2)).await, parties, ProblemType::BatchMismatch);
    }
    let late = builder.report(&yes(), hour(1));
    assert_report_rejected(&parties.upload(&late).await, parties, &late, ReportError::BatchCollected);
    pair.stop().await;
}

/// Leader-selected batches have the minimum size, and each report is in one of them (DAP-09 section 4.1.2, DAP-18
/// section 5.2).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collects_leader_selected_batches_in_sequence(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(12) };
    let pair = Pair::start_with(revision, vdaf, batches_of(revision, 5), lazy, at_least(3)).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let reports: Vec<_> = (0..9).map(|i| builder.report(&Measurement::Number(1 << i), hour(i % 9))).collect();
    parties.upload_all(&reports).await;
    let (mut sum, collector) = (0, parties.collector());
    for _ in 0..3 {
        let batch = collector.collect(CURRENT, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        collector.release(&batch).await.unwrap();
        let AggregateResult::Number(number) = batch.result else { panic!("{batch:?}") };
        assert_eq!((batch.report_count, number.count_ones(), sum & number), (3, 3, 0));
        sum |= number;
    }
    assert_eq!(sum, (1 << 9) - 1);
    assert_eq!(pair.leader.status(&parties.id()).await.batches_collected, 3);
    pair.stop().await;
}

/// Leader-selected batches are distinct, have the minimum size, and are available by released ids only (DAP-09 sections
/// 4.1.2 and 4.6.5.2).
#[tokio::test(flavor = "multi_thread")]
async fn fills_fixed_size_batches_exactly() {
    let mode = BatchMode::fixed_size(Some(5));
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(12) };
    let pair = Pair::start_with(Revision::Dap09, vdaf, mode, lazy, at_least(3)).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let report = |i: u32| builder.report(&Measurement::Number(1 << i), hour(u64::from(i % 9)));
    // A collection that precedes its reports is served when they arrive, and uses only as many as it needs.
    let mut jobs = vec![parties.start_collection(CURRENT).await];
    let reports: Vec<_> = (0..9).map(report).collect();
    parties.upload_all(&reports[..1]).await;
    pair.leader.until(&parties.id(), |status| status.aggregated == 1).await;
    assert!(is_pending(&parties.poll(&jobs[0]).await, parties));
    parties.upload_all(&reports[1..]).await;
    for _ in 0..2 {
        jobs.push(parties.start_collection(CURRENT).await);
    }

    let mut batches = Vec::new();
    for job in &jobs {
        let (body, collection) = collected(parties, job).await;
        assert_eq!(collection.report_count, 3);
        let Some(PartialBatchSelector::FixedSize(id)) = collection.batch else { panic!("{collection:?}") };
        batches.push((id, body));
    }
    assert!((1..3).all(|i| !batches[..i].iter().any(|(id, _)| *id == batches[i].0)), "{batches:?}");
    // No report is left for a fourth batch.
    let fourth = parties.start_collection(CURRENT).await;

    // By id: the same bytes as before, and each report in one batch.
    let mut sum = 0;
    for (id, body) in &batches {
        let query = Query::FixedSize(FixedSizeQuery::ByBatchId(*id));
        let again = parties.start_collection(query).await;
        assert_eq!(collected(parties, &again).await.0, body);
        let result = parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        let AggregateResult::Number(number) = result.result else { panic!("{result:?}") };
        assert_eq!((number.count_ones(), sum & number), (3, 0));
        sum |= number;
    }
    assert_eq!(sum, (1 << 9) - 1);
    let unknown = Query::FixedSize(FixedSizeQuery::ByBatchId(BatchId::random()));
    let answer = parties.create_collection(unknown).await.answer;
    assert_rejected(&answer, parties, ProblemType::BatchInvalid);
    let answer = parties.create_collection(hours(0, 9)).await.answer;
    assert_rejected(&answer, parties, ProblemType::InvalidMessage);

    helper_knows_its_batches(parties, &builder, batches[0].0).await;
    assert!(is_pending(&parties.poll(&fourth).await, parties));
    parties.upload_all(&[report(9), report(10), report(11)]).await;
    assert_eq!(collected(parties, &fourth).await.1.report_count, 3);
    pair.stop().await;
}

/// The helper gives its share only of batches named in a job, once, and above the minimum size (DAP-09 section
/// 4.6.5.2.1).
async fn helper_knows_its_batches(parties: &Parties, builder: &ReportBuilder, taken: BatchId) {
    let mine = BatchId::random();
    let drafts: Vec<_> = (0..2).map(|_| builder.draft(&Measurement::Number(1), hour(0))).collect();
    parties.run_job(&builder.job(PartialBatchSelector::FixedSize(mine), &drafts)).await;
    for (batch, kind) in [
        (BatchSelector::FixedSize(BatchId::random()), ProblemType::BatchInvalid),
        (BatchSelector::FixedSize(mine), ProblemType::InvalidBatchSize),
        (BatchSelector::FixedSize(taken), ProblemType::BatchOverlap),
        (BatchSelector::TimeInterval(interval(0, 1)), ProblemType::InvalidMessage),
    ] {
        assert_rejected(&parties.request_share(&parties.share_request(batch, &drafts)).await, parties, kind);
    }
}

/// A collection includes all reports accepted before it, although the minimum is reached long before all are
/// aggregated.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collection_includes_reports_accepted_before_it(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let slow = |config: &mut Config| {
        lazy(config);
        (config.leader.max_job_size, config.leader.jobs_in_flight) = (1, 1);
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, slow, at_least(2)).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    let reports: Vec<_> = (0..15).map(|_| builder.report(&yes(), hour(1))).collect();
    pair.parties.upload_all(&reports).await;
    let job = pair.parties.start_collection(hours(1, 2)).await;
    assert_eq!(collected(&pair.parties, &job).await.1.report_count, 15);
    pair.stop().await;
}

/// Continuous uploads do not delay a collection forever. It includes everything accepted before it, then the batch
/// closes.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn finishes_collection_under_steady_uploads(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let busy = |config: &mut Config| (config.leader.min_job_size, config.leader.max_job_size) = (1, 10);
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, busy, at_least(5)).await;
    let parties = pair.parties.clone();
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let stream = {
        let (parties, stop, accepted) = (parties.clone(), stop.clone(), accepted.clone());
        tokio::spawn(async move {
            let builder = ReportBuilder::new(&parties).await;
            let mut refused = 0;
            while !stop.load(Ordering::Relaxed) || refused == 0 {
                let report = builder.report(&yes(), hour(1));
                let answer = parties.upload(&report).await;
                if answer.is_success() && answer.body.is_empty() {
                    accepted.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_report_rejected(&answer, &parties, &report, ReportError::BatchCollected);
                    refused += 1;
                }
            }
        })
    };
    let enough = |status: &dapbox::views::status::TaskStatus| status.counters.get("report_success") >= Some(&20);
    pair.leader.until(&parties.id(), enough).await;
    let before = accepted.load(Ordering::Relaxed);
    let job = parties.start_collection(hours(1, 2)).await;
    let (_, collection) = collected(&parties, &job).await;
    stop.store(true, Ordering::Relaxed);
    stream.await.unwrap();
    assert!(collection.report_count >= before.max(5), "{} of {before}", collection.report_count);
    // Reports that arrived while the batch was closing are dropped and counted; none stays pending.
    let status = pair.leader.until(&parties.id(), |status| status.waiting + status.jobs == 0).await;
    let dropped = status.counters.get("batch_collected").copied().unwrap_or(0);
    assert_eq!(collection.report_count + dropped, accepted.load(Ordering::Relaxed));
    pair.stop().await;
}

/// The only collected batch, as the leader's operator sees it.
async fn only_batch(pair: &Pair, result: ResultState) -> CollectedBatchStatus {
    let is_right = |status: &TaskStatus| status.collected.iter().any(|batch| batch.result == result);
    let mut status = pair.leader.until(&pair.parties.id(), is_right).await;
    let not_fetched = u64::from(matches!(result, ResultState::Pending | ResultState::NotFetched));
    assert_eq!((status.collected.len(), status.results_not_fetched), (1, not_fetched), "{status:?}");
    status.collected.remove(0)
}

/// A result that was never fetched is not lost: the operator sees its batch, and the collector gets it on every
/// request.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn lists_collected_batches_with_fetch_state(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
    #[values(true, false)] is_by_time: bool,
) {
    let mode = if is_by_time { BatchMode::TimeInterval } else { batches_of(revision, 5) };
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, mode, lazy, at_least(2)).await;
    let parties = pair.parties.clone();
    let builder = ReportBuilder::new(&parties).await;
    let query = if is_by_time { hours(0, 3) } else { CURRENT };
    // Requested before its reports, so that the answer is not the result.
    let made = parties.create_collection(query).await;
    assert!(is_pending(&made.answer, &parties));
    parties.upload_all([&builder.report(&yes(), hour(1)), &builder.report(&yes(), hour(1))]).await;
    for _ in 0..2 {
        let batch = only_batch(&pair, ResultState::NotFetched).await;
        assert_eq!((batch.report_count, batch.id.is_some(), batch.fetched), (Some(2), !is_by_time, None));
        assert_eq!(batch.interval, Some(if is_by_time { interval(0, 3) } else { interval(1, 2) }));
        assert!(batch.closed.is_some());
        pair.leader.restart().await;
    }
    let job = made.resource_path().to_owned();
    if revision != Revision::Dap09 {
        let token = format!("Bearer {}", parties.collector_token.expose_text().unwrap());
        let head = send_raw("HEAD", &parties.at_leader(&job), &[("authorization", &token)], Vec::new()).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        only_batch(&pair, ResultState::NotFetched).await;
    }

    let (body, collection) = collected(&parties, &job).await;
    for _ in 0..2 {
        let batch = only_batch(&pair, ResultState::Fetched).await;
        assert!(batch.fetched >= batch.closed, "{batch:?}");
        match collection.batch {
            Some(PartialBatchSelector::FixedSize(id)) => assert_eq!(batch.id, Some(id)),
            _ => assert!(is_by_time || revision != Revision::Dap09),
        }
        pair.leader.restart().await;
        assert_eq!(parties.poll(&job).await.body, body);
    }
    // Where the collector chooses ids, a new job for the next batch means another batch.
    if is_by_time || revision == Revision::Dap18 {
        assert_eq!(parties.outcome_of(query).await.body, body);
    }
    pair.stop().await;
}

/// A fixed-size batch whose job was deleted before its result was fetched is collected by its id, whether or not the
/// helper had given its share.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn recovers_abandoned_batch_by_id(#[values(true, false)] has_share: bool) {
    let (pair, relay) = pair_through_relay(Revision::Dap09, batches_of(Revision::Dap09, 5), |_| {}).await;
    let parties = &pair.parties;
    relay.plan(move |asked, _| match asked.creates(ResourceKind::AggregateShare) && !has_share {
        true => RelayAction::Lose,
        false => RelayAction::Pass,
    });
    let job = parties.start_collection(CURRENT).await;
    upload_all(&parties.client(), None).await;
    let stage = if has_share { ResultState::NotFetched } else { ResultState::Pending };
    let id = only_batch(&pair, stage).await.id.unwrap();
    assert!(parties.delete_collection(&job).await.is_success());
    relay.plan(|_, _| RelayAction::Pass);
    // The next batch would be another one.
    assert_eq!(only_batch(&pair, stage).await.id, Some(id));
    let query = Query::FixedSize(FixedSizeQuery::ByBatchId(id));
    assert_whole("abandoned", parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await);
    assert_eq!(only_batch(&pair, ResultState::Fetched).await.id, Some(id));
    pair.stop().await;
}

/// The number of collection jobs without a result is limited. A repeated request still finds its job.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn limits_collection_jobs(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let few = |config: &mut Config| {
        lazy(config);
        config.leader.max_collections = 2;
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, few, |_| {}).await;
    let parties = &pair.parties;
    let first = parties.create_collection_as(&[1; 16], hours(0, 1)).await.resource_path().to_owned();
    let second = parties.create_collection_as(&[2; 16], hours(1, 2)).await.resource_path().to_owned();
    let refused = parties.create_collection_as(&[3; 16], hours(2, 3)).await.answer;
    assert_eq!((problem(&refused).status, refused.retry_after.is_some()), (503, true), "{refused:?}");
    assert_eq!(parties.create_collection_as(&[1; 16], hours(0, 1)).await.resource_path(), first);
    assert!(parties.delete_collection(&second).await.is_success());
    assert!(parties.create_collection_as(&[3; 16], hours(2, 3)).await.answer.is_success());
    pair.stop().await;
}

/// A task added to running servers is served without further commands.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn serves_new_task_immediately(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let config = |config: &mut Config| {
        lazy(config);
        config.leader.min_job_size = 3;
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, config, |_| {}).await;
    for _ in 0..2 {
        let nodes = [&pair.leader, &pair.helper];
        let parties = Parties::between(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
        let builder = ReportBuilder::new(&parties).await;
        parties.upload_all(&[(); 3].map(|()| builder.report(&yes(), hour(1)))).await;
        pair.leader.until(&parties.id(), |status| status.aggregated == 3).await;
    }
    pair.stop().await;
}
