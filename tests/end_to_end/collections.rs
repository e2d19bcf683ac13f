//! What a collector may have, how often, and what it is told otherwise (DAP-09 section 4.6, DAP-18 section 4.6).

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
    PATIENCE, Pair, Parties, batches_of,
    calls::{assert_deleted, assert_refused, assert_upload_refused, is_pending, problem},
    forge::{Draft, Forge},
    raw::ask,
    relay::{Act, assert_whole, pair_through_relay, upload_all},
};

const HOUR: u64 = 3600;

/// Some hours ago, aligned.
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

/// Nothing is aggregated unless somebody waits for it.
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

/// Whether the revision has words for a query.
fn can_be_asked(parties: &Parties, query: Query) -> bool {
    let (wire, task) = (parties.wire(), parties.task());
    let request = CollectionReq { query, aggregation_parameter: bytes::Bytes::new(), extensions: Vec::new() };
    let bytes = wire.encode_collection_req(task, &request);
    bytes.is_ok_and(|bytes| wire.decode_collection_req(task, &bytes.into()) == Ok(request))
}

/// Refusals that leave nothing behind (DAP-09 sections 4.6.1 and 4.6.5.1.1, DAP-18 sections 4.6.1 and 5.1).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_query(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, lazy, at_least(3)).await;
    let parties = &pair.parties;
    let raw = |start: Time, duration| Query::TimeInterval(Interval::new(start, Duration(duration)).unwrap());
    for (query, kind) in [
        (raw(hour(0), HOUR + 1), ProblemType::BatchInvalid),
        (raw(hour(0).saturating_add(Duration(1)), HOUR), ProblemType::BatchInvalid),
        (raw(hour(0), 0), ProblemType::BatchInvalid),
        // There are helpers that would run out of memory over it.
        (raw(hour(0), HOUR * 10_001), ProblemType::BatchInvalid),
        (CURRENT, ProblemType::InvalidMessage),
        (Query::FixedSize(FixedSizeQuery::ByBatchId(BatchId::random())), ProblemType::InvalidMessage),
    ] {
        if !can_be_asked(parties, query) {
            continue;
        }
        let made = parties.ask_collection(query).await;
        assert_refused(&made.answer, parties, kind);
        let job = made.place.unwrap_or_else(|| parties.nowhere(ResourceKind::CollectionJob));
        let poll = parties.poll(&job).await;
        assert_eq!(poll.status, 404, "a refused job does not exist: {poll:?}");
        assert_eq!(problem(&poll).task_id, Some(parties.id()));
        assert_eq!(parties.delete_collection(&job).await.status, 404);
    }
    let request = parties.collection_req_with(hours(0, 1), b"parameter", Vec::new());
    let answer = parties.create(ResourceKind::CollectionJob, &[1; 16], request).await.answer;
    assert_refused(&answer, parties, ProblemType::InvalidAggregationParameter);
    pair.stop().await;
}

/// An interval's life: too few reports, enough, collected for ever (DAP-09 sections 4.6.1 and 4.6.5, DAP-18 sections
/// 4.6.1 to 4.6.5).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collects_interval_once(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Count;
    let mut pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, lazy, at_least(3)).await;
    let parties = pair.parties.clone();
    let forge = Forge::new(&parties).await;
    let report = |n| forge.report(&yes(), hour(n).saturating_add(Duration(60)));

    // A job that is deleted before it closed a batch leaves no trace but its id.
    let deleted = parties.start_collection(hours(0, 3)).await;
    assert!(parties.delete_collection(&deleted).await.is_success());
    assert_deleted(&parties.poll(&deleted).await, &parties);

    // Fewer than the smallest job, with an hour to wait for more: a collection that waits has them aggregated now.
    parties.upload_all([&report(1), &report(1)]).await;
    let id = ReportId::random();
    let first = parties.ask_collection_as(id.as_bytes(), hours(0, 3)).await.place().to_owned();
    assert_ne!(first, deleted);
    pair.leader.until(&parties.id(), |status| status.aggregated == 2).await;
    let poll = parties.poll(&first).await;
    assert!(is_pending(&poll, &parties), "{poll:?}");
    assert!(poll.retry_after.is_some(), "a collector that polls is told when to come back");
    let batch = BatchSelector::TimeInterval(interval(0, 3));
    let request = AggregateShareReq { report_count: 2, ..parties.share_request(batch, &[]) };
    assert_refused(&parties.ask_share(&request).await, &parties, ProblemType::InvalidBatchSize);
    // This one finds no report of its own, and is in the way of the first when that has its batch.
    let late = parties.start_collection(hours(2, 4)).await;

    parties.upload_all([&report(1)]).await;
    let (body, collection) = collected(&parties, &first).await;
    assert_eq!((collection.report_count, collection.interval), (3, interval(1, 2)));
    assert_refused(&parties.outcome(&late).await, &parties, ProblemType::BatchOverlap);

    // The same once more, by the same job or another: the stored bytes. With a single allowed query that is not
    // "too many times": the aggregation parameter is the same (DAP-09 section 4.6.5).
    assert_eq!(parties.poll(&first).await.body, body);
    assert_eq!(parties.ask_collection_as(id.as_bytes(), hours(0, 3)).await.place(), first);
    let changed = parties.ask_collection_as(id.as_bytes(), hours(0, 2)).await.answer;
    let status = if parties.wire().collected_batch_policy().may_repeat { 409 } else { 400 };
    assert_eq!((changed.status, problem(&changed).task_id), (status, Some(parties.id())));
    let second = parties.start_collection(hours(0, 3)).await;
    assert_eq!(collected(&parties, &second).await.0, body);

    stays_collected(&parties, &forge, Some(&body)).await;
    assert!(parties.delete_collection(&first).await.is_success());
    assert_deleted(&parties.poll(&first).await, &parties);
    assert!(parties.delete_collection(&first).await.is_success(), "whoever deletes twice is not told off");
    // What nobody has a job for any more is not given out again, unless the revision lets a batch be asked for again.
    let again = parties.wire().collected_batch_policy().may_repeat.then_some(&body[..]);
    stays_collected(&parties, &forge, again).await;
    pair.leader.restart().await;
    pair.helper.restart().await;
    assert_deleted(&parties.poll(&first).await, &parties);
    if first != second {
        assert_eq!(parties.poll(&second).await.body, body);
    }
    stays_collected(&parties, &forge, again).await;

    // Next to it is free.
    parties.upload_all([&report(3), &report(3), &report(3)]).await;
    let next = parties.start_collection(hours(3, 4)).await;
    assert_eq!(collected(&parties, &next).await.1.report_count, 3);
    let status = pair.leader.status(&parties.id()).await;
    assert_eq!((status.counters["interval_collected"], status.counters["aggregate_success"]), (9, 6));
    assert_eq!((status.batches_collected, pair.helper.status(&parties.id()).await.batches_collected), (2, 2));
    pair.stop().await;
}

/// Hours 0 to 3 are collected, those without reports too; the same query gets the same bytes, or is refused.
async fn stays_collected(parties: &Parties, forge: &Forge, body: Option<&[u8]>) {
    let long = Interval::new(Time(0), Duration((1 << 62) / HOUR * HOUR)).unwrap();
    for query in [hours(1, 2), hours(2, 3), hours(2, 5), hours(0, 4), Query::TimeInterval(long)] {
        let answer = parties.ask_collection(query).await.answer;
        assert_refused(&answer, parties, ProblemType::BatchOverlap);
    }
    // The refusal names what is free, and says if nothing is.
    for (query, free) in [
        (hours(1, 2), "no part of the interval is free".to_owned()),
        (hours(2, 5), format!("free: {} to {}", timestamp::show(hour(3)), timestamp::show(hour(5)))),
    ] {
        let detail = problem(&parties.ask_collection(query).await.answer).detail;
        assert!(detail.contains(&free), "{detail}");
    }
    for n in 0..3 {
        let report = forge.report(&yes(), hour(n).saturating_add(Duration(HOUR - 1)));
        assert_upload_refused(&parties.upload(&report).await, parties, &report, ReportError::BatchCollected);
    }
    let draft = forge.draft(&yes(), hour(2));
    let resps = parties.run_job(&forge.job(PartialBatchSelector::TimeInterval, &[draft])).await;
    assert_eq!(resps[0].outcome, PrepareOutcome::Reject(ReportError::BatchCollected));
    let again = parties.outcome_of(hours(0, 3)).await;
    match body {
        Some(body) => assert_eq!((again.status, &again.body[..]), (200, body)),
        None => assert_refused(&again, parties, ProblemType::BatchOverlap),
    }
}

/// The helper's checks and their order: boundaries, size and overlap, then count and checksum (DAP-09 sections 4.6.2
/// and 4.6.5, DAP-18 section 4.6.4).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn helper_validates_batch_before_sharing(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, lazy, at_least(3)).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let drafts = |n| -> Vec<Draft> { (0..3).map(|_| forge.draft(&yes(), hour(n))).collect() };
    let (first, second) = (drafts(1), drafts(2));
    for drafts in [&first, &second] {
        let resps = parties.run_job(&forge.job(PartialBatchSelector::TimeInterval, drafts)).await;
        assert!(resps.iter().all(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))));
    }
    let batch = |from, to| BatchSelector::TimeInterval(interval(from, to));
    let unaligned = Interval::new(hour(0), Duration(HOUR + 1)).unwrap();
    if can_be_asked(parties, Query::TimeInterval(unaligned)) {
        // No reports and nothing aligned: the boundaries come first.
        let request = parties.share_request(BatchSelector::TimeInterval(unaligned), &[]);
        assert_refused(&parties.ask_share(&request).await, parties, ProblemType::BatchInvalid);
    }
    let right = parties.share_request(batch(1, 2), &first);
    for (request, kind) in [
        // Too few, whatever the leader claims.
        (parties.share_request(batch(5, 6), &first), ProblemType::InvalidBatchSize),
        (parties.share_request(batch(1, 2), &first[..2]), ProblemType::BatchMismatch),
        (parties.share_request(batch(1, 2), &second), ProblemType::BatchMismatch),
        (parties.share_request(batch(1, 3), &first), ProblemType::BatchMismatch),
        (with_parameter(parties, &right), ProblemType::InvalidMessage),
        (parties.share_request(BatchSelector::FixedSize(BatchId::random()), &first), ProblemType::InvalidMessage),
    ] {
        assert_refused(&parties.ask_share(&request).await, parties, kind);
    }
    // None of that collected anything. The same request again gets the same bytes.
    let answer = parties.ask_share(&right).await;
    let media_type = parties.wire().create_request(ResourceKind::AggregateShare, &parties.id(), &[0; 16]).accept;
    assert_eq!((answer.is_success(), answer.content_type.as_deref()), (true, media_type));
    assert_eq!(parties.ask_share(&right).await.body, answer.body);
    for request in [
        // Overlap comes before the mismatch that is there too.
        parties.share_request(batch(1, 2), &second),
        parties.share_request(batch(1, 3), &second),
        parties.share_request(batch(0, 2), &first),
    ] {
        assert_refused(&parties.ask_share(&request).await, parties, ProblemType::BatchOverlap);
    }
    assert!(parties.ask_share(&parties.share_request(batch(2, 3), &second)).await.is_success());
    assert_eq!(parties.ask_share(&right).await.body, answer.body);
    pair.stop().await;
}

/// A request with an aggregation parameter, which is not that of the batch's jobs.
fn with_parameter(parties: &Parties, request: &AggregateShareReq) -> AggregateShareReq {
    let mut request = request.clone();
    request.aggregation_parameter = "p".into();
    if let Some(ForwardedCollectionReq { request, bytes }) = &mut request.collection {
        request.aggregation_parameter = "p".into();
        *bytes = parties.collection_req_with(request.query, b"p", Vec::new());
    }
    request
}

/// When the aggregators disagree, the collector is told, and the batch is never opened again (DAP-09 section 4.6.2,
/// DAP-18 sections 4.6.1 and 4.6.4).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn fails_collection_on_batch_mismatch(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, lazy, at_least(1)).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    parties.run_job(&forge.job(PartialBatchSelector::TimeInterval, &[forge.draft(&yes(), hour(1))])).await;
    parties.upload_all([&forge.report(&yes(), hour(1))]).await;
    for _ in 0..2 {
        assert_refused(&parties.outcome_of(hours(1, 2)).await, parties, ProblemType::BatchMismatch);
    }
    let late = forge.report(&yes(), hour(1));
    assert_upload_refused(&parties.upload(&late).await, parties, &late, ReportError::BatchCollected);
    pair.stop().await;
}

/// Batches that the leader makes have the minimum size, and each report is in one of them (DAP-09 section 4.1.2, DAP-18
/// section 5.2).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collects_leader_selected_batches_in_sequence(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(12) };
    let pair = Pair::start_with(revision, vdaf, batches_of(revision, 5), lazy, at_least(3)).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let reports: Vec<_> = (0..9).map(|i| forge.report(&Measurement::Number(1 << i), hour(i % 9))).collect();
    parties.upload_all(&reports).await;
    let (mut sum, collector) = (0, parties.collector());
    for _ in 0..3 {
        let batch = collector.collect(CURRENT, Some(PATIENCE), |_| {}).await.unwrap();
        collector.release(&batch).await.unwrap();
        let AggregateResult::Number(number) = batch.result else { panic!("{batch:?}") };
        assert_eq!((batch.report_count, number.count_ones(), sum & number), (3, 3, 0));
        sum |= number;
    }
    assert_eq!(sum, (1 << 9) - 1);
    assert_eq!(pair.leader.status(&parties.id()).await.batches_collected, 3);
    pair.stop().await;
}

/// Batches that the leader makes: distinct, of the minimum size, and only by ids that it has given out
/// (DAP-09 sections 4.1.2 and 4.6.5.2).
#[tokio::test(flavor = "multi_thread")]
async fn fills_fixed_size_batches_exactly() {
    let mode = BatchMode::fixed_size(Some(5));
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(12) };
    let pair = Pair::start_with(Revision::Dap09, vdaf, mode, lazy, at_least(3)).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let report = |i: u32| forge.report(&Measurement::Number(1 << i), hour(u64::from(i % 9)));
    // A collection that comes before its reports is served when they are there, and not by more than it needs.
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
    // There is no report left for a fourth batch.
    let fourth = parties.start_collection(CURRENT).await;

    // By id: the same bytes as before, and a result in which each report is in one batch.
    let mut sum = 0;
    for (id, body) in &batches {
        let query = Query::FixedSize(FixedSizeQuery::ByBatchId(*id));
        let again = parties.start_collection(query).await;
        assert_eq!(collected(parties, &again).await.0, body);
        let result = parties.collector().collect(query, Some(PATIENCE), |_| {}).await.unwrap();
        let AggregateResult::Number(number) = result.result else { panic!("{result:?}") };
        assert_eq!((number.count_ones(), sum & number), (3, 0));
        sum |= number;
    }
    assert_eq!(sum, (1 << 9) - 1);
    let unknown = Query::FixedSize(FixedSizeQuery::ByBatchId(BatchId::random()));
    let answer = parties.ask_collection(unknown).await.answer;
    assert_refused(&answer, parties, ProblemType::BatchInvalid);
    let answer = parties.ask_collection(hours(0, 9)).await.answer;
    assert_refused(&answer, parties, ProblemType::InvalidMessage);

    helper_knows_its_batches(parties, &forge, batches[0].0).await;
    assert!(is_pending(&parties.poll(&fourth).await, parties));
    parties.upload_all(&[report(9), report(10), report(11)]).await;
    assert_eq!(collected(parties, &fourth).await.1.report_count, 3);
    pair.stop().await;
}

/// The helper gives its share of batches that it saw in a job only, once, and above the minimum (DAP-09 section
/// 4.6.5.2.1).
async fn helper_knows_its_batches(parties: &Parties, forge: &Forge, taken: BatchId) {
    let mine = BatchId::random();
    let drafts: Vec<_> = (0..2).map(|_| forge.draft(&Measurement::Number(1), hour(0))).collect();
    parties.run_job(&forge.job(PartialBatchSelector::FixedSize(mine), &drafts)).await;
    for (batch, kind) in [
        (BatchSelector::FixedSize(BatchId::random()), ProblemType::BatchInvalid),
        (BatchSelector::FixedSize(mine), ProblemType::InvalidBatchSize),
        (BatchSelector::FixedSize(taken), ProblemType::BatchOverlap),
        (BatchSelector::TimeInterval(interval(0, 1)), ProblemType::InvalidMessage),
    ] {
        assert_refused(&parties.ask_share(&parties.share_request(batch, &drafts)).await, parties, kind);
    }
}

/// What was accepted before a collection is in it, though the minimum is met long before all of it is aggregated.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collection_includes_reports_accepted_before_it(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let slow = |config: &mut Config| {
        lazy(config);
        (config.leader.max_job_size, config.leader.jobs_in_flight) = (1, 1);
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, slow, at_least(2)).await;
    let forge = Forge::new(&pair.parties).await;
    let reports: Vec<_> = (0..15).map(|_| forge.report(&yes(), hour(1))).collect();
    pair.parties.upload_all(&reports).await;
    let job = pair.parties.start_collection(hours(1, 2)).await;
    assert_eq!(collected(&pair.parties, &job).await.1.report_count, 15);
    pair.stop().await;
}

/// Uploads that never cease do not keep a collection from its end: everything that was accepted before it is in it,
/// and then the batch closes.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn finishes_collection_under_steady_uploads(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let busy = |config: &mut Config| (config.leader.min_job_size, config.leader.max_job_size) = (1, 10);
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, busy, at_least(5)).await;
    let parties = pair.parties.clone();
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let stream = {
        let (parties, stop, accepted) = (parties.clone(), stop.clone(), accepted.clone());
        tokio::spawn(async move {
            let forge = Forge::new(&parties).await;
            let mut refused = 0;
            while !stop.load(Ordering::Relaxed) || refused == 0 {
                let report = forge.report(&yes(), hour(1));
                let answer = parties.upload(&report).await;
                if answer.is_success() && answer.body.is_empty() {
                    accepted.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_upload_refused(&answer, &parties, &report, ReportError::BatchCollected);
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
    // What came while the batch was being closed is dropped and counted; nothing is left over or lost from sight.
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

/// A result that nobody has fetched is not lost: the operator sees which batch it is of, and the collector gets it as
/// often as it asks.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn lists_collected_batches_with_fetch_state(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(true, false)] is_by_time: bool,
) {
    let mode = if is_by_time { BatchMode::TimeInterval } else { batches_of(revision, 5) };
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, mode, lazy, at_least(2)).await;
    let parties = pair.parties.clone();
    let forge = Forge::new(&parties).await;
    let query = if is_by_time { hours(0, 3) } else { CURRENT };
    // Before its reports, so that the request for the job is not answered with the result.
    let made = parties.ask_collection(query).await;
    assert!(is_pending(&made.answer, &parties));
    parties.upload_all([&forge.report(&yes(), hour(1)), &forge.report(&yes(), hour(1))]).await;
    for _ in 0..2 {
        let batch = only_batch(&pair, ResultState::NotFetched).await;
        assert_eq!((batch.report_count, batch.id.is_some(), batch.fetched), (Some(2), !is_by_time, None));
        assert_eq!(batch.interval, Some(if is_by_time { interval(0, 3) } else { interval(1, 2) }));
        assert!(batch.closed.is_some());
        pair.leader.restart().await;
    }
    let job = made.place().to_owned();
    if revision == Revision::Dap18 {
        let token = format!("Bearer {}", parties.collector_token.expose_text().unwrap());
        let head = ask("HEAD", &parties.at_leader(&job), &[("authorization", &token)], Vec::new()).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        only_batch(&pair, ResultState::NotFetched).await;
    }

    let (body, collection) = collected(&parties, &job).await;
    for _ in 0..2 {
        let batch = only_batch(&pair, ResultState::Fetched).await;
        assert!(batch.fetched >= batch.closed, "{batch:?}");
        match collection.batch {
            Some(PartialBatchSelector::FixedSize(id)) => assert_eq!(batch.id, Some(id)),
            _ => assert!(is_by_time || revision == Revision::Dap18),
        }
        pair.leader.restart().await;
        assert_eq!(parties.poll(&job).await.body, body);
    }
    // Where the collector chooses ids, a new job for the next batch means another one.
    if is_by_time || revision == Revision::Dap18 {
        assert_eq!(parties.outcome_of(query).await.body, body);
    }
    pair.stop().await;
}

/// A fixed-size batch whose job was deleted before anybody fetched its result is collected by its id, whether or not the
/// helper had given its share.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn recovers_abandoned_batch_by_id(#[values(true, false)] has_share: bool) {
    let (pair, relay) = pair_through_relay(Revision::Dap09, batches_of(Revision::Dap09, 5), |_| {}).await;
    let parties = &pair.parties;
    relay.plan(move |asked, _| match asked.makes(ResourceKind::AggregateShare) && !has_share {
        true => Act::Lose,
        false => Act::Pass,
    });
    let job = parties.start_collection(CURRENT).await;
    upload_all(&parties.client(), None).await;
    let stage = if has_share { ResultState::NotFetched } else { ResultState::Pending };
    let id = only_batch(&pair, stage).await.id.unwrap();
    assert!(parties.delete_collection(&job).await.is_success());
    relay.plan(|_, _| Act::Pass);
    // It is not the next one: that would be another batch.
    assert_eq!(only_batch(&pair, stage).await.id, Some(id));
    let query = Query::FixedSize(FixedSizeQuery::ByBatchId(id));
    assert_whole("abandoned", parties.collector().collect(query, Some(PATIENCE), |_| {}).await);
    assert_eq!(only_batch(&pair, ResultState::Fetched).await.id, Some(id));
    pair.stop().await;
}

/// Collection jobs that have no result are limited. A request that comes again finds its job all the same.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn limits_collection_jobs(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let few = |config: &mut Config| {
        lazy(config);
        config.leader.max_collections = 2;
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, few, |_| {}).await;
    let parties = &pair.parties;
    let first = parties.ask_collection_as(&[1; 16], hours(0, 1)).await.place().to_owned();
    let second = parties.ask_collection_as(&[2; 16], hours(1, 2)).await.place().to_owned();
    let refused = parties.ask_collection_as(&[3; 16], hours(2, 3)).await.answer;
    assert_eq!((problem(&refused).status, refused.retry_after.is_some()), (503, true), "{refused:?}");
    assert_eq!(parties.ask_collection_as(&[1; 16], hours(0, 1)).await.place(), first);
    assert!(parties.delete_collection(&second).await.is_success());
    assert!(parties.ask_collection_as(&[3; 16], hours(2, 3)).await.answer.is_success());
    pair.stop().await;
}

/// A task that is added to servers that run is served like any other, without anybody asking for it.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn serves_new_task_immediately(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let config = |config: &mut Config| {
        lazy(config);
        config.leader.min_job_size = 3;
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, config, |_| {}).await;
    for _ in 0..2 {
        let nodes = [&pair.leader, &pair.helper];
        let parties = Parties::between(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
        let forge = Forge::new(&parties).await;
        parties.upload_all(&[(); 3].map(|()| forge.report(&yes(), hour(1)))).await;
        pair.leader.until(&parties.id(), |status| status.aggregated == 3).await;
    }
    pair.stop().await;
}
