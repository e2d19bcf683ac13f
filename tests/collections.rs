//! What a collector may have, how often, and what it is told otherwise (DAP-09 section 4.6).

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use common::{
    PATIENCE, Pair, Parties,
    calls::{assert_refused, dap, problem},
    forge::{Draft, Forge, job, share_request},
};
use dapbox::{
    config::{Config, Seconds},
    model::{
        AggregateShareReq, BatchId, BatchMode, BatchSelector, Collection, CollectionJobId, Duration, FixedSizeQuery,
        Interval, PartialBatch, PrepareOutcome, Query, ReportError, Task, Time, VdafConfig,
    },
    vdaf::{AggregateResult, Measurement},
    wire::ProblemType,
};

const HOUR: u64 = 3600;

/// Some hours ago, aligned.
fn hour(n: u64) -> Time {
    Time::now().truncate(Duration(HOUR)).saturating_sub(Duration(10 * HOUR)).saturating_add(Duration(n * HOUR))
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

async fn collected(parties: &Parties, job: &CollectionJobId) -> (bytes::Bytes, Collection) {
    let answer = parties.outcome(job).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.content_type.as_deref(), Some("application/dap-collection"));
    let collection = dap().decode_collection(&answer.body).unwrap();
    (answer.body, collection)
}

/// Refusals that leave nothing behind (sections 4.6.1 and 4.6.5.1.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_makes_no_sense_is_refused() {
    let pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, lazy, at_least(3)).await;
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
        let job = CollectionJobId::random();
        assert_refused(&parties.put_collection(&job, query).await, parties, kind);
        let poll = parties.poll(&job).await;
        assert_eq!(poll.status, 404, "a refused job does not exist: {poll:?}");
        assert_eq!(problem(&poll).task_id, Some(parties.id()));
        assert_eq!(parties.delete_collection(&job).await.status, 404);
    }
    let answer = parties.put_collection_with(&CollectionJobId::random(), hours(0, 1), b"parameter").await;
    assert_refused(&answer, parties, ProblemType::InvalidMessage);
    pair.stop().await;
}

/// An interval's life: too few reports, enough, collected for ever (sections 4.6.1 and 4.6.5).
#[tokio::test(flavor = "multi_thread")]
async fn an_interval_is_collected_once_and_stays_collected() {
    let mut pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, lazy, at_least(3)).await;
    let parties = pair.parties.clone();
    let forge = Forge::new(&parties).await;
    let report = |n| forge.report(&yes(), hour(n).saturating_add(Duration(60)));

    // A job that is deleted before it closed a batch leaves no trace but its id.
    let deleted = parties.start_collection(hours(0, 3)).await;
    assert_eq!(parties.delete_collection(&deleted).await.status, 204);
    assert_eq!(parties.poll(&deleted).await.status, 204);

    // Fewer than the smallest job, with an hour to wait for more: a collection that waits has them aggregated now.
    parties.upload_all([&report(1), &report(1)]).await;
    let first = parties.start_collection(hours(0, 3)).await;
    pair.leader.until(&parties.id(), |status| status.aggregated == 2).await;
    let poll = parties.poll(&first).await;
    assert_eq!((poll.status, poll.body.len()), (202, 0));
    assert!(poll.retry_after.is_some(), "a collector that polls is told when to come back");
    let request =
        AggregateShareReq { report_count: 2, ..share_request(BatchSelector::TimeInterval(interval(0, 3)), &[]) };
    assert_refused(&parties.ask_share(&request).await, &parties, ProblemType::InvalidBatchSize);
    // This one finds no report of its own, and is in the way of the first when that has its batch.
    let late = parties.start_collection(hours(2, 4)).await;

    parties.upload_all([&report(1)]).await;
    let (body, collection) = collected(&parties, &first).await;
    assert_eq!((collection.report_count, collection.interval), (3, interval(1, 2)));
    assert_refused(&parties.outcome(&late).await, &parties, ProblemType::BatchOverlap);

    // The same once more, by the same job or another: the stored bytes. With a single allowed query that is not
    // "too many times": the aggregation parameter is the same (section 4.6.5).
    assert_eq!(parties.poll(&first).await.body, body);
    assert_eq!(parties.put_collection(&first, hours(0, 3)).await.status, 201);
    let changed = parties.put_collection(&first, hours(0, 2)).await;
    assert_eq!((changed.status, problem(&changed).task_id), (409, Some(parties.id())));
    let second = parties.start_collection(hours(0, 3)).await;
    assert_eq!(collected(&parties, &second).await.0, body);

    stays_collected(&parties, &forge, &body).await;
    assert_eq!(parties.delete_collection(&first).await.status, 204);
    assert_eq!(parties.poll(&first).await.status, 204);
    assert_eq!(parties.delete_collection(&first).await.status, 204);
    stays_collected(&parties, &forge, &body).await;
    pair.leader.restart().await;
    pair.helper.restart().await;
    assert_eq!(parties.poll(&second).await.body, body);
    assert_eq!(parties.poll(&first).await.status, 204);
    stays_collected(&parties, &forge, &body).await;

    // Next to it is free.
    parties.upload_all([&report(3), &report(3), &report(3)]).await;
    let next = parties.start_collection(hours(3, 4)).await;
    assert_eq!(collected(&parties, &next).await.1.report_count, 3);
    let status = pair.leader.status(&parties.id()).await;
    assert_eq!((status.counters["interval_collected"], status.counters["aggregate_success"]), (9, 6));
    assert_eq!((status.batches_collected, pair.helper.status(&parties.id()).await.batches_collected), (2, 2));
    pair.stop().await;
}

/// Hours 0 to 3 are collected, those without reports too; the same query gets the same bytes.
async fn stays_collected(parties: &Parties, forge: &Forge, body: &[u8]) {
    let long = Interval::new(Time(0), Duration((1 << 62) / HOUR * HOUR)).unwrap();
    for query in [hours(1, 2), hours(2, 3), hours(2, 5), hours(0, 4), Query::TimeInterval(long)] {
        let answer = parties.put_collection(&CollectionJobId::random(), query).await;
        assert_refused(&answer, parties, ProblemType::BatchOverlap);
    }
    for n in 0..3 {
        let report = forge.report(&yes(), hour(n).saturating_add(Duration(HOUR - 1)));
        assert_refused(&parties.upload(&report).await, parties, ProblemType::ReportRejected);
    }
    let draft = forge.draft(&yes(), hour(2));
    let resps = parties.run_job(&forge.job(PartialBatch::TimeInterval, &[draft])).await;
    assert_eq!(resps[0].outcome, PrepareOutcome::Reject(ReportError::BatchCollected));
    let again = parties.start_collection(hours(0, 3)).await;
    assert_eq!(collected(parties, &again).await.0, body);
}

/// The helper's checks and their order: boundaries, size, overlap, then count and checksum (sections 4.6.2, 4.6.5).
#[tokio::test(flavor = "multi_thread")]
async fn the_helper_checks_a_batch_before_it_gives_its_share() {
    let pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, lazy, at_least(3)).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let drafts = |n| -> Vec<Draft> { (0..3).map(|_| forge.draft(&yes(), hour(n))).collect() };
    let (first, second) = (drafts(1), drafts(2));
    for drafts in [&first, &second] {
        let resps = parties.run_job(&forge.job(PartialBatch::TimeInterval, drafts)).await;
        assert!(resps.iter().all(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))));
    }
    let batch = |from, to| BatchSelector::TimeInterval(interval(from, to));
    let unaligned = Interval::new(hour(0), Duration(HOUR + 1)).unwrap();
    let right = share_request(batch(1, 2), &first);
    let with_parameter = AggregateShareReq { aggregation_parameter: "p".into(), ..right.clone() };
    for (request, kind) in [
        // No reports and nothing aligned: the boundaries come first.
        (share_request(BatchSelector::TimeInterval(unaligned), &[]), ProblemType::BatchInvalid),
        // Too few, whatever the leader claims.
        (share_request(batch(5, 6), &first), ProblemType::InvalidBatchSize),
        (share_request(batch(1, 2), &first[..2]), ProblemType::BatchMismatch),
        (share_request(batch(1, 2), &second), ProblemType::BatchMismatch),
        (share_request(batch(1, 3), &first), ProblemType::BatchMismatch),
        (with_parameter, ProblemType::InvalidMessage),
        (share_request(BatchSelector::FixedSize(BatchId::random()), &first), ProblemType::InvalidMessage),
    ] {
        assert_refused(&parties.ask_share(&request).await, parties, kind);
    }
    // None of that collected anything. The same request again gets the same bytes.
    let answer = parties.ask_share(&right).await;
    assert_eq!((answer.status, answer.content_type.as_deref()), (200, Some("application/dap-aggregate-share")));
    assert_eq!(parties.ask_share(&right).await.body, answer.body);
    for request in [
        // Overlap comes before the mismatch that is there too.
        share_request(batch(1, 2), &second),
        share_request(batch(1, 3), &second),
        share_request(batch(0, 2), &first),
    ] {
        assert_refused(&parties.ask_share(&request).await, parties, ProblemType::BatchOverlap);
    }
    assert_eq!(parties.ask_share(&share_request(batch(2, 3), &second)).await.status, 200);
    assert_eq!(parties.ask_share(&right).await.body, answer.body);
    pair.stop().await;
}

/// When the aggregators disagree, the collector is told, and the batch is never opened again (section 4.6.2).
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_aggregators_disagree_about_is_lost() {
    let pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, lazy, at_least(1)).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    parties.run_job(&forge.job(PartialBatch::TimeInterval, &[forge.draft(&yes(), hour(1))])).await;
    parties.upload_all([&forge.report(&yes(), hour(1))]).await;
    for _ in 0..2 {
        let job = parties.start_collection(hours(1, 2)).await;
        assert_refused(&parties.outcome(&job).await, parties, ProblemType::BatchMismatch);
    }
    assert_refused(&parties.upload(&forge.report(&yes(), hour(1))).await, parties, ProblemType::ReportRejected);
    pair.stop().await;
}

/// Batches that the leader makes: distinct, of the minimum size, and only by ids that it has given out
/// (sections 4.1.2 and 4.6.5.2).
#[tokio::test(flavor = "multi_thread")]
async fn fixed_size_batches_are_distinct_and_of_the_right_size() {
    let mode = BatchMode::FixedSize { max_batch_size: Some(5) };
    let pair = Pair::start_with(VdafConfig::Prio3Sum { max: Max::of_bits(12) }, mode, lazy, at_least(3)).await;
    let parties = &pair.parties;
    let forge = Forge::new(parties).await;
    let report = |i: u32| forge.report(&Measurement::Number(1 << i), hour(u64::from(i % 9)));
    // A collection that comes before its reports is served when they are there, and not by more than it needs.
    let mut jobs = vec![parties.start_collection(CURRENT).await];
    let reports: Vec<_> = (0..9).map(report).collect();
    parties.upload_all(&reports[..1]).await;
    pair.leader.until(&parties.id(), |status| status.aggregated == 1).await;
    assert_eq!(parties.poll(&jobs[0]).await.status, 202);
    parties.upload_all(&reports[1..]).await;
    for _ in 0..2 {
        jobs.push(parties.start_collection(CURRENT).await);
    }

    let mut batches = Vec::new();
    for job in &jobs {
        let (body, collection) = collected(parties, job).await;
        assert_eq!(collection.report_count, 3);
        let PartialBatch::FixedSize(id) = collection.batch else { panic!("{collection:?}") };
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
    let answer = parties.put_collection(&CollectionJobId::random(), unknown).await;
    assert_refused(&answer, parties, ProblemType::BatchInvalid);
    let answer = parties.put_collection(&CollectionJobId::random(), hours(0, 9)).await;
    assert_refused(&answer, parties, ProblemType::InvalidMessage);

    helper_knows_its_batches(parties, &forge, batches[0].0).await;
    assert_eq!(parties.poll(&fourth).await.status, 202);
    parties.upload_all(&[report(9), report(10), report(11)]).await;
    assert_eq!(collected(parties, &fourth).await.1.report_count, 3);
    pair.stop().await;
}

/// The helper gives its share of batches that it saw in a job only, once, and above the minimum (section 4.6.5.2.1).
async fn helper_knows_its_batches(parties: &Parties, forge: &Forge, taken: BatchId) {
    let mine = BatchId::random();
    let drafts: Vec<_> = (0..2).map(|_| forge.draft(&Measurement::Number(1), hour(0))).collect();
    parties.run_job(&job(PartialBatch::FixedSize(mine), drafts.iter().map(|draft| forge.init(draft)).collect())).await;
    for (batch, kind) in [
        (BatchSelector::FixedSize(BatchId::random()), ProblemType::BatchInvalid),
        (BatchSelector::FixedSize(mine), ProblemType::InvalidBatchSize),
        (BatchSelector::FixedSize(taken), ProblemType::BatchOverlap),
        (BatchSelector::TimeInterval(interval(0, 1)), ProblemType::InvalidMessage),
    ] {
        assert_refused(&parties.ask_share(&share_request(batch, &drafts)).await, parties, kind);
    }
}

/// What was accepted before a collection is in it, though the minimum is met long before all of it is aggregated.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_waits_for_what_was_accepted_before_it() {
    let slow = |config: &mut Config| {
        lazy(config);
        (config.leader.max_job_size, config.leader.jobs_in_flight) = (1, 1);
    };
    let pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, slow, at_least(2)).await;
    let forge = Forge::new(&pair.parties).await;
    let reports: Vec<_> = (0..15).map(|_| forge.report(&yes(), hour(1))).collect();
    pair.parties.upload_all(&reports).await;
    let job = pair.parties.start_collection(hours(1, 2)).await;
    assert_eq!(collected(&pair.parties, &job).await.1.report_count, 15);
    pair.stop().await;
}

/// Uploads that never cease do not keep a collection from its end: everything that was accepted before it is in it,
/// and then the batch closes.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_under_a_steady_stream_of_uploads_ends() {
    let busy = |config: &mut Config| (config.leader.min_job_size, config.leader.max_job_size) = (1, 10);
    let pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, busy, at_least(5)).await;
    let parties = pair.parties.clone();
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let stream = {
        let (parties, stop, accepted) = (parties.clone(), stop.clone(), accepted.clone());
        tokio::spawn(async move {
            let forge = Forge::new(&parties).await;
            let mut refused = 0;
            while !stop.load(Ordering::Relaxed) || refused == 0 {
                match parties.upload(&forge.report(&yes(), hour(1))).await.status {
                    201 => accepted.fetch_add(1, Ordering::Relaxed),
                    status => {
                        assert_eq!(status, 400);
                        refused += 1;
                        0
                    }
                };
            }
        })
    };
    let enough = |status: &dapbox::model::status::TaskStatus| status.counters.get("report_success") >= Some(&20);
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

/// A task that is added to servers that run is served like any other, without anybody asking for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_task_is_served_at_once() {
    let config = |config: &mut Config| {
        lazy(config);
        config.leader.min_job_size = 3;
    };
    let pair = Pair::start_with(VdafConfig::Prio3Count, BatchMode::TimeInterval, config, |_| {}).await;
    for _ in 0..2 {
        let (leader, helper) = (pair.leader.url(), pair.helper.url());
        let parties = Parties::new(VdafConfig::Prio3Count, BatchMode::TimeInterval, leader, helper);
        pair.leader.add(&parties.leader).await;
        pair.helper.add(&parties.helper).await;
        let forge = Forge::new(&parties).await;
        parties.upload_all(&[(); 3].map(|()| forge.report(&yes(), hour(1)))).await;
        pair.leader.until(&parties.id(), |status| status.aggregated == 3).await;
    }
    pair.stop().await;
}
