//! DAP-18 collection jobs and aggregate shares: the server names them, deletion is final, and each batch is collected
//! once (DAP-18 sections 3.2, 4.6 and 5).

use bytes::Bytes;
use dapbox::{
    config::{Config, Seconds},
    model::{
        AggregateShareReq, BatchId, BatchMode, BatchSelector, Duration, FixedSizeQuery, ForwardedCollectionReq,
        Interval, MaxMeasurement, PartialBatchSelector, PrepareOutcome, Query, ReportError, Revision, Task, Time,
        VdafConfig,
    },
    support::clock,
    vdaf::{AggregateResult, Measurement},
    wire::{
        ProblemType,
        ResourceKind::{AggregateShare, CollectionJob},
        current::media,
    },
};

use crate::common::{
    Pair, Parties, TEST_TIMEOUT, batches_of,
    calls::{assert_deleted, assert_rejected, assert_report_rejected, is_pending, problem},
    relay::{RelayAction, RelayedAnswer, assert_whole, pair_through_relay, upload_all},
    report_builder::{Draft, ReportBuilder, extension},
};

const HOUR: u64 = 3600;
const NEXT: Query = Query::FixedSize(FixedSizeQuery::CurrentBatch);

fn hour(n: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration((10 - n) * HOUR))
}

fn interval(from: u64, to: u64) -> Interval {
    Interval::new(hour(from), Duration((to - from) * HOUR)).unwrap()
}

fn hours(from: u64, to: u64) -> Query {
    Query::TimeInterval(interval(from, to))
}

fn batch(from: u64, to: u64) -> BatchSelector {
    BatchSelector::TimeInterval(interval(from, to))
}

fn yes() -> Measurement {
    Measurement::Flag(true)
}

fn of_two(task: &mut Task) {
    task.public.min_batch_size = 2;
}

fn lazy(config: &mut Config) {
    (config.leader.min_job_size, config.leader.max_job_delay) = (1000, Seconds::new(HOUR));
}

async fn time_interval() -> (Pair, ReportBuilder) {
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(Revision::Dap18, vdaf, BatchMode::TimeInterval, lazy, of_two).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    (pair, builder)
}

/// All requests for the next batch have the same bytes. They mean the same job until it is deleted, and then the
/// following batch (sections 3.2, 4.6.1 and 5.2). A deleted job stays deleted.
#[tokio::test(flavor = "multi_thread")]
async fn gives_next_batch_after_deletion() {
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
    let mut pair = Pair::start_with(Revision::Dap18, vdaf, batches_of(Revision::Dap18, 2), lazy, of_two).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    let reports: Vec<_> = (0..6).map(|i| builder.report(&Measurement::Number(1 << i), hour(i))).collect();
    let (mut seen, mut sum) = (Vec::<(String, Bytes)>::new(), 0);
    for turn in 0..3 {
        let parties = pair.parties.clone();
        let (a, b) = tokio::join!(parties.create_collection(NEXT), parties.create_collection(NEXT));
        let job = a.resource_path().to_owned();
        assert_eq!(b.resource_path(), job, "asked twice at once");
        assert!(is_pending(&a.answer, &parties) && a.answer.retry_after.is_some(), "{a:?}");
        assert!(seen.iter().all(|(old, _)| *old != job));
        parties.upload_all(&reports[2 * turn..2 * turn + 2]).await;
        let body = parties.outcome(&job).await.body;
        // The same request also gets the result, with its location.
        let again = parties.create_collection(NEXT).await;
        assert_eq!((again.resource_path(), &again.answer.body), (job.as_str(), &body));
        assert_eq!(again.answer.content_type.as_deref(), Some(media::COLLECTION_JOB_RESP));
        let collected = parties.collector().collect(NEXT, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        assert_eq!((collected.report_count, collected.location.as_deref()), (2, Some(job.as_str())));
        let AggregateResult::Number(number) = collected.result else { panic!("{collected:?}") };
        assert_eq!((number.count_ones(), number & sum), (2, 0), "a report is in one batch only");
        sum |= number;
        assert!(parties.delete_collection(&job).await.is_success());
        seen.push((job, body));
        for (job, _) in &seen {
            assert_deleted(&parties.poll(job).await, &parties);
            assert_eq!(parties.poll(job).await.status, 410);
        }
        if turn == 1 {
            pair.leader.restart().await;
        }
    }
    assert_eq!(sum, (1 << 6) - 1);
    let status = pair.leader.status(&pair.parties.id()).await;
    assert_eq!((status.batches_collected, status.counters["aggregate_success"]), (3, 6));
    pair.stop().await;
}

/// A collector that never deletes a job gets the next batch after `leader.next_batch_after` (section 5.2). Earlier
/// results stay at their URLs.
#[tokio::test(flavor = "multi_thread")]
async fn gives_next_batch_without_deletion() {
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
    let soon = |config: &mut Config| {
        lazy(config);
        config.leader.next_batch_after = Seconds::new(0);
    };
    let mut pair = Pair::start_with(Revision::Dap18, vdaf, batches_of(Revision::Dap18, 2), soon, of_two).await;
    let parties = pair.parties.clone();
    let builder = ReportBuilder::new(&parties).await;
    let (mut seen, mut sum) = (Vec::<(String, Bytes)>::new(), 0);
    for turn in 0..3 {
        // The job has no result yet, so it is found again.
        let waiting = parties.start_collection(NEXT).await;
        assert_eq!(parties.start_collection(NEXT).await, waiting);
        let reports = [0, 1].map(|i| builder.report(&Measurement::Number(1 << (2 * turn + i)), hour(1)));
        parties.upload_all(&reports).await;
        let collected = parties.collector().collect(NEXT, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        let AggregateResult::Number(number) = collected.result else { panic!("{collected:?}") };
        assert_eq!((number.count_ones(), number & sum), (2, 0), "a report is in one batch only");
        sum |= number;
        let place = collected.location.unwrap();
        assert_eq!(place, waiting);
        let body = parties.poll(&place).await.body;
        assert!(seen.iter().all(|(other, old)| *other != place && *old != body));
        seen.push((place, body));
        pair.leader.restart().await;
        for (place, body) in &seen {
            assert_eq!((parties.poll(place).await.status, parties.poll(place).await.body), (200, body.clone()));
        }
    }
    assert_eq!(sum, (1 << 6) - 1);
    assert!(parties.delete_collection(&seen[0].0).await.is_success());
    assert_eq!(parties.poll(&seen[0].0).await.status, 410);
    assert_eq!(parties.poll(&seen[2].0).await.body, seen[2].1);
    pair.stop().await;
}

/// A batch that the helper refuses does not block the following ones for such a collector.
#[tokio::test(flavor = "multi_thread")]
async fn gives_next_batch_after_failed_one() {
    let soon = |config: &mut Config| config.leader.next_batch_after = Seconds::new(0);
    let (pair, relay) = pair_through_relay(Revision::Dap18, batches_of(Revision::Dap18, 5), soon).await;
    let parties = &pair.parties;
    relay.plan(|asked, _| match asked.creates(AggregateShare) {
        true => RelayAction::Answer(RelayedAnswer::problem(400, "batchMismatch")),
        false => RelayAction::Pass,
    });
    let failed = parties.start_collection(NEXT).await;
    upload_all(&parties.client(), None).await;
    assert_rejected(&parties.outcome(&failed).await, parties, ProblemType::BatchMismatch);
    relay.plan(|_, _| RelayAction::Pass);
    upload_all(&parties.client(), None).await;
    assert_whole("the batch after it", parties.collector().collect(NEXT, Some(TEST_TIMEOUT), |_| {}).await);
    assert_rejected(&parties.poll(&failed).await, parties, ProblemType::BatchMismatch);
    pair.stop().await;
}

/// Different requests create different jobs; two concurrent identical requests create one (section 3.2).
#[tokio::test(flavor = "multi_thread")]
async fn creates_collection_job_once() {
    let (pair, _) = time_interval().await;
    let parties = &pair.parties;
    let ask = || parties.create_collection(hours(0, 1));
    let (a, b, c) = tokio::join!(ask(), ask(), parties.create_collection(hours(1, 2)));
    assert_eq!(a.resource_path(), b.resource_path());
    assert_ne!(a.resource_path(), c.resource_path());
    let location = a.answer.location.as_deref().unwrap();
    assert!(parties.at_leader(a.resource_path()).ends_with(location) && location.starts_with('/'), "{location}");
    pair.stop().await;
}

/// A batch stays collected when its job is deleted (sections 4.6.1 and 4.6.3): no later query may include any part of
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn keeps_batch_collected_after_job_deletion() {
    let (mut pair, builder) = time_interval().await;
    let parties = pair.parties.clone();
    parties.upload_all([&builder.report(&yes(), hour(1)), &builder.report(&yes(), hour(1))]).await;
    let job = parties.start_collection(hours(0, 3)).await;
    assert_eq!(parties.outcome(&job).await.status, 200);
    assert!(parties.delete_collection(&job).await.is_success());
    for _ in 0..2 {
        for query in [hours(0, 3), hours(1, 2), hours(0, 1), hours(2, 9)] {
            assert_rejected(&parties.create_collection(query).await.answer, &parties, ProblemType::BatchOverlap);
        }
        let late = builder.report(&yes(), hour(2));
        assert_report_rejected(&parties.upload(&late).await, &parties, &late, ReportError::BatchCollected);
        assert_deleted(&parties.poll(&job).await, &parties);
        pair.leader.restart().await;
    }
    pair.stop().await;
}

async fn aggregate(parties: &Parties, builder: &ReportBuilder, drafts: &[Draft]) {
    for resp in parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, drafts)).await {
        assert!(matches!(resp.outcome, PrepareOutcome::Continue(_)), "{resp:?}");
    }
}

/// An aggregate share is a resource: the same request finds it, and it can be read and deleted. Its batch stays
/// collected (sections 4.6.4 and 4.6.5).
#[tokio::test(flavor = "multi_thread")]
async fn keeps_aggregate_share_until_deletion() {
    let (mut pair, builder) = time_interval().await;
    let parties = pair.parties.clone();
    let drafts: Vec<_> = (0..2).map(|_| builder.draft(&yes(), hour(1))).collect();
    aggregate(&parties, &builder, &drafts).await;
    let request = parties.share_request(batch(1, 2), &drafts);
    let body = Bytes::from(parties.wire().encode_aggregate_share_req(parties.task(), &request));
    let ask = async |parties: &Parties| parties.create(AggregateShare, &[0; 16], body.clone()).await;
    let (a, b) = tokio::join!(ask(&parties), ask(&parties));
    let share = a.resource_path().to_owned();
    assert_eq!((b.resource_path(), &b.answer.body), (share.as_str(), &a.answer.body));
    for restarted in [false, true] {
        let found = parties.poll_at(AggregateShare, &share).await;
        assert_eq!((found.status, &found.body), (200, &a.answer.body), "restarted: {restarted}");
        assert_eq!(found.content_type.as_deref(), Some(media::AGGREGATE_SHARE));
        pair.helper.restart().await;
    }
    assert_eq!(ask(&parties).await.answer.body, a.answer.body);

    let nowhere = parties.missing_path(AggregateShare);
    assert_eq!(parties.delete_at(AggregateShare, &nowhere).await.status, 404);
    assert_eq!(parties.poll_at(AggregateShare, &nowhere).await.status, 404);
    assert!(parties.delete_at(AggregateShare, &share).await.is_success());
    for restarted in [false, true] {
        let gone = parties.poll_at(AggregateShare, &share).await;
        assert_eq!((gone.status, problem(&gone).task_id), (410, Some(parties.id())), "restarted: {restarted}");
        assert_rejected(&ask(&parties).await.answer, &parties, ProblemType::BatchOverlap);
        let late = builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&yes(), hour(1))]);
        let resps = parties.run_job(&late).await;
        assert_eq!(resps[0].outcome, PrepareOutcome::Reject(ReportError::BatchCollected));
        pair.helper.restart().await;
    }
    pair.stop().await;
}

/// The helper gives its share only for the collector's query (sections 4.6.4 and 5.1.3).
#[tokio::test(flavor = "multi_thread")]
async fn rejects_selector_that_does_not_fit_query() {
    let (pair, builder) = time_interval().await;
    let parties = &pair.parties;
    let drafts: Vec<_> = (0..2).map(|_| builder.draft(&yes(), hour(2))).collect();
    aggregate(parties, &builder, &drafts).await;
    for (query, batch, kind) in [
        (hours(2, 3), batch(1, 3), ProblemType::BatchInvalid),
        (hours(2, 3), batch(2, 4), ProblemType::BatchInvalid),
        (hours(4, 5), batch(2, 3), ProblemType::BatchInvalid),
        (NEXT, batch(2, 3), ProblemType::InvalidMessage),
        (hours(2, 3), BatchSelector::FixedSize(BatchId::random()), ProblemType::InvalidMessage),
    ] {
        let request = parties.share_request_for(query, batch, &drafts);
        assert_rejected(&parties.request_share(&request).await, parties, kind);
    }
    // A part of the interval is permitted.
    let request = parties.share_request_for(hours(1, 4), batch(2, 3), &drafts);
    assert!(parties.request_share(&request).await.is_success());
    pair.stop().await;
}

/// In a leader-selected task the helper gives its share only of batches it has seen (section 4.6.4).
#[tokio::test(flavor = "multi_thread")]
async fn rejects_share_of_unknown_batch() {
    let mode = batches_of(Revision::Dap18, 2);
    let pair = Pair::start_with(Revision::Dap18, VdafConfig::Prio3Count, mode, lazy, of_two).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let drafts: Vec<_> = (0..2).map(|_| builder.draft(&yes(), hour(1))).collect();
    let (small, full) = (BatchId::random(), BatchId::random());
    parties.run_job(&builder.job(PartialBatchSelector::FixedSize(small), &[builder.draft(&yes(), hour(1))])).await;
    parties.run_job(&builder.job(PartialBatchSelector::FixedSize(full), &drafts)).await;
    let request = |id| parties.share_request(BatchSelector::FixedSize(id), &drafts);
    let unlike = AggregateShareReq { report_count: 3, ..request(full) };
    for (request, kind) in [
        (request(BatchId::random()), ProblemType::BatchInvalid),
        (request(small), ProblemType::InvalidBatchSize),
        (unlike, ProblemType::BatchMismatch),
    ] {
        assert_rejected(&parties.request_share(&request).await, parties, kind);
    }
    assert!(parties.request_share(&request(full)).await.is_success());
    let again = AggregateShareReq { report_count: 3, ..request(full) };
    assert_rejected(&parties.request_share(&again).await, parties, ProblemType::BatchOverlap);
    pair.stop().await;
}

/// Both aggregators require known extensions in order (sections 4.6.2 and 4.6.4).
#[tokio::test(flavor = "multi_thread")]
async fn validates_collection_job_extensions() {
    let (pair, builder) = time_interval().await;
    let parties = &pair.parties;
    let drafts: Vec<_> = (0..2).map(|_| builder.draft(&yes(), hour(1))).collect();
    aggregate(parties, &builder, &drafts).await;
    let right = parties.share_request(batch(1, 2), &drafts);
    for (kinds, kind) in [
        (&[7][..], ProblemType::UnsupportedExtension),
        (&[7, 0xff00], ProblemType::UnsupportedExtension),
        (&[9, 7], ProblemType::InvalidExtension),
        (&[7, 7], ProblemType::InvalidExtension),
    ] {
        let extensions = || kinds.iter().map(|kind| extension(*kind)).collect::<Vec<_>>();
        let bytes = parties.collection_req_with(hours(1, 2), b"", extensions());
        let to_leader = parties.create(CollectionJob, &[0; 16], bytes.clone()).await.answer;
        let mut request = right.clone();
        let passed_on = right.collection.clone().unwrap().request;
        let passed_on = dapbox::model::CollectionReq { extensions: extensions(), ..passed_on };
        request.collection = Some(ForwardedCollectionReq { request: passed_on, bytes });
        let to_helper = parties.request_share(&request).await;
        for answer in [to_leader, to_helper] {
            assert_rejected(&answer, parties, kind);
            if kind == ProblemType::UnsupportedExtension {
                assert_eq!(problem(&answer).unsupported_extensions, kinds);
            }
        }
    }
    // The rejected requests had no effect.
    assert!(parties.request_share(&right).await.is_success());
    pair.stop().await;
}
