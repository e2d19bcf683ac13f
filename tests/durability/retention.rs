//! Closing the past and deleting it: the horizon of a task, everything that raises it, and the sweeper.

use bytes::Bytes;
use dapbox::{
    aggregator::{
        phase,
        retention::{self, DataLoss},
    },
    config::{Config, Retention, Seconds},
    model::{
        AggregationJobId, BatchId, BatchMode, BatchSelector, Bucket, CollectionJobId, Duration, FixedSizeQuery,
        HpkeCiphertext, Interval, PartialBatchSelector, PrepareOutcome, Query, Report, ReportError, ReportId,
        ReportMetadata, Revision, Task, TaskId, Time, VdafConfig,
    },
    store::{
        CollectionJobRecord, CollectionState, LeaderJobRecord, LeaderJobState, Options, ReportRef, SweepCursor, Tx,
    },
    support::{Point, clock},
    vdaf::{AggregateResult, Measurement},
    wire::{ProblemType, ResourceKind},
};
use rstest::rstest;

use crate::common::{
    Node, Pair, Parties, TEST_TIMEOUT, batches_of,
    calls::{assert_rejected, assert_report_rejected, problem},
    open_store,
    report_builder::{Draft, ReportBuilder},
};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A whole hour this many hours before now. It stays the same if the hour changes during the test.
fn clock() -> impl Fn(u64) -> Time + Copy {
    let hour = clock::now().truncate(Duration(HOUR));
    move |hours| hour.saturating_sub(Duration(hours * HOUR))
}

fn hours(from: Time, count: u64) -> Interval {
    Interval::new(from, Duration(count * HOUR)).unwrap()
}

/// Reports are aggregated immediately, and only a test sweeps.
fn prompt(config: &mut Config) {
    config.leader.max_job_delay = Seconds::millis(50);
    config.retention.sweep_interval = Seconds(TEST_TIMEOUT);
}

async fn upload(pair: &Pair, builder: &ReportBuilder, count: usize, time: Time) {
    let reports: Vec<_> = (0..count).map(|_| builder.report(&Measurement::Flag(true), time)).collect();
    pair.parties.upload_all(&reports).await;
    let id = pair.parties.id();
    pair.leader.until(&id, |status| status.waiting + status.jobs == 0).await;
}

/// Sweeps the data directory of a stopped node with another time.
async fn sweep_at(node: &mut Node, task: TaskId, now: Time) {
    node.stop().await;
    let store = open_store(node.data_dir(), Options::default()).await;
    let mut next = Some(SweepCursor::default());
    while let Some(place) = next {
        let step = move |tx: &mut Tx<'_>| retention::sweep(tx, &task, now, &Retention::default(), place);
        next = store.write(Point::Test, step).await.unwrap();
    }
    store.close().await;
    node.resume().await;
}

/// Without a loss or restore, one side closes the past after the other. In between, old reports and batches are
/// refused; afterwards every batch has the same reports on both sides.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregators_agree_after_past_is_closed(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(false, true)] by_interval: bool,
    #[values(false, true)] helper_first: bool,
) {
    let ago = clock();
    let mode = if by_interval { BatchMode::TimeInterval } else { batches_of(revision, 3) };
    let minimum = |task: &mut Task| task.public.min_batch_size = 2;
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, mode, prompt, minimum).await;
    let (id, builder) = (pair.parties.id(), ReportBuilder::new(&pair.parties).await);
    upload(&pair, &builder, 3, ago(2)).await;
    let sides = if helper_first { [&pair.helper, &pair.leader] } else { [&pair.leader, &pair.helper] };

    // Rounded up to a bucket boundary.
    let before = ago(1).saturating_add(Duration(7));
    assert_eq!(sides[0].close_before(id, before).await, ago(0));
    let old = builder.report(&Measurement::Flag(true), ago(2));
    if helper_first {
        // The leader is not told yet. The helper refuses old reports and new reports of a closed batch; the leader then
        // closes that batch too.
        upload(&pair, &builder, 1, ago(2)).await;
        upload(&pair, &builder, 1, ago(0)).await;
        let status = pair.leader.status(&id).await;
        assert_eq!(status.counters["helper_report_dropped"], 1);
        let lost = status.counters.get("helper_batch_collected").copied().unwrap_or_default();
        // The first rejection concerned only the time of a report; the next report entered the same batch.
        assert_eq!(lost, u64::from(!by_interval));
    } else {
        assert_report_rejected(&pair.parties.upload(&old).await, &pair.parties, &old, ReportError::ReportDropped);
        // An older leader may still send it.
        let batch = if by_interval {
            PartialBatchSelector::TimeInterval
        } else {
            PartialBatchSelector::FixedSize(BatchId::random())
        };
        assert_eq!(pair.helper.status(&id).await.horizon, None);
        let resps = pair.parties.run_job(&builder.job(batch, &[builder.draft(&Measurement::Flag(true), ago(3))])).await;
        assert!(matches!(resps[0].outcome, PrepareOutcome::Continue(_)));
    }
    assert_eq!(sides[1].close_before(id, before).await, ago(0));
    assert_eq!(sides[1].close_before(id, ago(5)).await, ago(0), "it only rises");
    assert_report_rejected(&pair.parties.upload(&old).await, &pair.parties, &old, ReportError::ReportDropped);

    let before = u64::from(by_interval && helper_first);
    upload(&pair, &builder, 4, ago(0)).await;
    if by_interval {
        let closed = pair.parties.outcome_of(Query::TimeInterval(hours(ago(1), 3))).await;
        assert_eq!(problem(&closed).kind, ProblemType::BatchInvalid, "{closed:?}");
        let open = Query::TimeInterval(hours(ago(0), 2));
        let collected = pair.parties.collector().collect(open, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        assert_eq!(
            (collected.report_count, collected.result),
            (4 + before, AggregateResult::Number((4 + before).into()))
        );
    } else {
        for _ in 0..2 {
            let collector = pair.parties.collector();
            let next = Query::FixedSize(FixedSizeQuery::CurrentBatch);
            let collected = collector.collect(next, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
            assert_eq!((collected.report_count, &collected.result), (2, &AggregateResult::Number(2)));
            assert_eq!(collected.interval, hours(ago(0), 1));
            if collected.batch_id.is_none() {
                collector.release(&collected).await.unwrap();
            }
        }
    }
    for side in sides {
        let status = side.until(&id, |status| status.aggregated == 0).await;
        assert_eq!(status.batches_collected, if by_interval { 1 } else { 2 });
        // Three from the start, and the helper's own report on the helper alone.
        side.until(&id, |status| {
            let given_up = status.counters.get("sum_given_up").copied().unwrap_or_default();
            let extra = u64::from(!helper_first && side.config.listen == pair.helper.config.listen);
            given_up == 3 + extra
        })
        .await;
    }
    pair.stop().await;
}

/// A leader without the operator's command learns from the first rejection that the helper has closed a batch, and adds
/// no more reports to it.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn leader_closes_batch_that_helper_has_closed(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let ago = clock();
    let minimum = |task: &mut Task| task.public.min_batch_size = 2;
    let mode = batches_of(revision, 3);
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, mode, prompt, minimum).await;
    let (id, builder) = (pair.parties.id(), ReportBuilder::new(&pair.parties).await);
    upload(&pair, &builder, 1, ago(0)).await;
    pair.helper.close_before(id, ago(0)).await;
    upload(&pair, &builder, 1, ago(0)).await;
    assert_eq!(pair.leader.counter(&id, "helper_batch_collected").await, 1);
    upload(&pair, &builder, 2, ago(0)).await;
    assert_eq!(pair.leader.counter(&id, "helper_batch_collected").await, 1);
    let next = Query::FixedSize(FixedSizeQuery::CurrentBatch);
    let collected = pair.parties.collector().collect(next, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (2, AggregateResult::Number(2)));
    pair.stop().await;
}

/// A helper refuses a share of a closed batch, whatever the leader claims.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn helper_refuses_share_of_closed_batch(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(false, true)] by_interval: bool,
) {
    let ago = clock();
    let mode = if by_interval { BatchMode::TimeInterval } else { batches_of(revision, 9) };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, mode, prompt, |_| {}).await;
    let (parties, builder) = (&pair.parties, ReportBuilder::new(&pair.parties).await);
    let drafts: Vec<Draft> = (0..2).map(|_| builder.draft(&Measurement::Flag(true), ago(2))).collect();
    let batch = BatchId::random();
    let (partial, selector) = match by_interval {
        true => (PartialBatchSelector::TimeInterval, BatchSelector::TimeInterval(hours(ago(2), 1))),
        false => (PartialBatchSelector::FixedSize(batch), BatchSelector::FixedSize(batch)),
    };
    parties.run_job(&builder.job(partial, &drafts)).await;
    pair.helper.close_before(parties.id(), ago(0)).await;
    let refused = parties.request_share(&parties.share_request(selector, &drafts)).await;
    assert_rejected(&refused, parties, ProblemType::BatchInvalid);
    // No report is added to it.
    let late = builder.draft(&Measurement::Flag(true), ago(if by_interval { 2 } else { 0 }));
    let resps = parties.run_job(&builder.job(partial, &[late])).await;
    let error = if by_interval { ReportError::ReportDropped } else { ReportError::BatchCollected };
    assert_eq!(resps[0].outcome, PrepareOutcome::Reject(error));
    pair.stop().await;
}

/// A sweep deletes what exceeds the task's retention. A clock that jumps back, as here when the nodes restart, reopens
/// nothing. A collected batch stays collected after its record is deleted.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn keeps_swept_batches_closed(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let ago = clock();
    let age = |task: &mut Task| task.report_expiry_age = Some(Duration(DAY));
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, prompt, age).await;
    let (id, builder) = (pair.parties.id(), ReportBuilder::new(&pair.parties).await);
    let drafts: Vec<Draft> = (0..2).map(|_| builder.draft(&Measurement::Flag(true), ago(5))).collect();
    let first: Vec<Report> = drafts.iter().map(|draft| builder.seal(draft)).collect();
    pair.parties.upload_all(&first).await;
    upload(&pair, &builder, 3, ago(4)).await;
    upload(&pair, &builder, 1, ago(1)).await;
    let query = Query::TimeInterval(hours(ago(5), 1));
    pair.parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    let request = pair.parties.share_request_for(query, BatchSelector::TimeInterval(hours(ago(5), 1)), &drafts);
    // A repeated query gets the stored answer as long as it exists.
    assert!(pair.parties.request_share(&request).await.is_success());

    let now = ago(3).saturating_add(Duration(DAY + 17));
    sweep_at(&mut pair.leader, id, now).await;
    sweep_at(&mut pair.helper, id, now).await;
    for node in [&pair.leader, &pair.helper] {
        let status = node.status(&id).await;
        assert_eq!((status.horizon, status.aggregated, status.batches_collected), (Some(ago(3)), 1, 1));
        assert_eq!((status.counters["sum_given_up"], status.counters["batch_forgotten"]), (3, 1));
    }
    assert_rejected(&pair.parties.request_share(&request).await, &pair.parties, ProblemType::BatchInvalid);
    let again = pair.parties.outcome_of(Query::TimeInterval(hours(ago(5), 6))).await;
    assert_eq!(problem(&again).kind, ProblemType::BatchInvalid, "{again:?}");
    assert_report_rejected(&pair.parties.upload(&first[0]).await, &pair.parties, &first[0], ReportError::ReportDropped);
    let resps = pair.parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, &drafts)).await;
    assert!(resps.iter().all(|resp| resp.outcome == PrepareOutcome::Reject(ReportError::ReportDropped)));
    // Later reports are processed.
    upload(&pair, &builder, 1, ago(1)).await;
    let query = Query::TimeInterval(hours(ago(3), 4));
    let collected = pair.parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!(collected.report_count, 2);
    pair.stop().await;
}

/// A running server sweeps periodically: it drops and counts a report that was not aggregated in time.
#[tokio::test(flavor = "multi_thread")]
async fn sweeps_periodically() {
    let config = |config: &mut Config| {
        config.leader.max_job_delay = Seconds(TEST_TIMEOUT);
        config.retention.sweep_interval = Seconds::millis(20);
    };
    let keep_for_a_moment = |task: &mut Task| {
        (task.public.time_precision, task.report_expiry_age) = (Duration(1), Some(Duration(5)));
    };
    let mode = BatchMode::TimeInterval;
    let pair = Pair::start_with(Revision::Dap09, VdafConfig::Prio3Count, mode, config, keep_for_a_moment).await;
    let (id, builder) = (pair.parties.id(), ReportBuilder::new(&pair.parties).await);
    // Within the permitted clock difference, so that it is accepted however long it takes to arrive.
    let report = builder.report(&Measurement::Flag(true), clock::now().saturating_add(Duration(2)));
    pair.parties.upload_all([&report]).await;
    let status = pair.leader.until(&id, |status| status.waiting == 0).await;
    assert_eq!((status.counters["report_success"], status.counters["report_dropped"]), (1, 1));
    assert!(status.horizon > Some(report.metadata.time));
    pair.stop().await;
}

/// The answer to a job is deleted before the job. Then the same request is refused, and so is another one with its id.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_gone_for_expired_job_answer(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let ago = clock();
    let mode = BatchMode::TimeInterval;
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, mode, prompt, |_| {}).await;
    let (id, builder) = (pair.parties.id(), ReportBuilder::new(&pair.parties).await);
    let job = builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&Measurement::Flag(true), ago(1))]);
    let name = [7; 16];
    let first = pair.parties.send_job(&name, &job).await;
    let repeated = pair.parties.send_job(&name, &job).await;
    assert_eq!(first.answer.body, repeated.answer.body);

    sweep_at(&mut pair.helper, id, clock::now().saturating_add(Duration(13 * DAY))).await;
    assert_eq!(pair.parties.send_job(&name, &job).await.answer.body, first.answer.body);
    sweep_at(&mut pair.helper, id, clock::now().saturating_add(Duration(16 * DAY))).await;
    let refused = pair.parties.send_job(&name, &job).await.answer;
    assert_eq!(refused.status, 410, "{refused:?}");
    assert!(problem(&refused).detail.contains("has expired"), "{refused:?}");
    let other = builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&Measurement::Flag(true), ago(1))]);
    if pair.parties.requester_chooses_ids() {
        assert_eq!(pair.parties.send_job(&name, &other).await.answer.status, 409);
    } else {
        let place = format!("{}?step=0", first.resource_path());
        assert_eq!(pair.parties.poll_at(ResourceKind::AggregationJob, &place).await.status, 410);
    }
    // The ids of its reports stay known for as long as a replay is possible.
    let again = builder.job_of(PartialBatchSelector::TimeInterval, [other.prepare_inits, job.prepare_inits].concat());
    let outcomes: Vec<_> = pair.parties.run_job(&again).await.into_iter().map(|resp| resp.outcome).collect();
    assert!(matches!(outcomes[0], PrepareOutcome::Continue(_)));
    assert_eq!(outcomes[1], PrepareOutcome::Reject(ReportError::ReportReplayed));
    pair.stop().await;
}

/// A report for the store that is never opened.
fn sealed_report(time: Time) -> Report {
    let sealed = HpkeCiphertext { config_id: 0, enc: "e".into(), payload: "p".into() };
    let metadata = ReportMetadata { id: ReportId::random(), time };
    let (extensions, public_share) = (Vec::new(), Bytes::new());
    Report { metadata, extensions, public_share, leader_share: sealed.clone(), helper_share: sealed }
}

/// A restored copy has jobs in progress that were completed after the backup. They end, and their reports are never
/// retried. If only the other side was restored, unsent reports are retried.
#[rstest]
#[tokio::test]
async fn finishes_jobs_in_flight_after_past_is_closed(
    #[values(DataLoss::Own, DataLoss::Peer)] lost: DataLoss,
    #[values(false, true)] by_interval: bool,
) {
    let ago = clock();
    let dir = tempfile::TempDir::new().unwrap();
    let store = open_store(&dir.path().join("data"), Options::default()).await;
    let mode = if by_interval { BatchMode::TimeInterval } else { BatchMode::fixed_size(Some(9)) };
    let url = |name| format!("http://localhost/{name}/");
    let task = Parties::new(Revision::Dap09, VdafConfig::Prio3Count, mode, url("leader"), url("helper")).leader;
    let id = task.public.id;
    let batch = BatchId::random();
    let partial = if by_interval { PartialBatchSelector::TimeInterval } else { PartialBatchSelector::FixedSize(batch) };
    let (sent, unsent) = (AggregationJobId::new([1; 16]), AggregationJobId::new([2; 16]));
    let waiting = CollectionJobId::new([3; 16]);
    let query = match by_interval {
        true => Query::TimeInterval(hours(ago(3), 1)),
        false => Query::FixedSize(FixedSizeQuery::CurrentBatch),
    };
    let fill = move |tx: &mut Tx<'_>| {
        tx.add_task(task)?;
        for (job, state) in [(sent, LeaderJobState::Sent { request_hash: [1; 32] }), (unsent, LeaderJobState::Picked)] {
            let reports = vec![tx.append_report(&id, &sealed_report(ago(3)))?];
            let record =
                LeaderJobRecord { batch: partial, now: ago(3), created: ago(3), reports, state, verify_key_id: None };
            tx.put_leader_job(&id, job, record)?;
        }
        let bucket = if by_interval { Bucket::Time(ago(3)) } else { Bucket::Batch(batch) };
        let mut record = tx.bucket_mut(&id, bucket)?;
        (record.header.count, record.header.last) = (5, ago(3));
        record.replace_share(vec![1]);
        let job = CollectionJobRecord {
            request: Bytes::new(),
            query,
            accepted_before: ReportRef::END,
            created: ago(3),
            state: CollectionState::Waiting,
            ended: None,
            batch: None,
        };
        tx.put_collection(&id, waiting, job)
    };
    store.write(Point::Test, fill).await.unwrap();
    let close = move |tx: &mut Tx<'_>| retention::close_before(tx, &id, ago(0).saturating_add(Duration(1)), lost);
    let horizon = store.write(Point::Test, close).await.unwrap();
    assert_eq!(horizon, Some(ago(0).saturating_add(Duration(HOUR))));

    store.close().await;
    let store = open_store(&dir.path().join("data"), Options::default()).await;
    store
        .read(|view| {
            let state = view.task(&id).unwrap();
            let jobs: Vec<_> = state.leader_jobs.keys().copied().collect();
            let job = view.collection(&id, &waiting)?.unwrap();
            match lost {
                DataLoss::Own => {
                    assert_eq!((jobs, state.waiting.len()), (vec![], 0));
                    assert!(matches!(job.state, CollectionState::Failed { .. }), "{job:?}");
                }
                DataLoss::Peer => {
                    // Unsent reports become pending and are then dropped for their time. Sent reports could only affect
                    // a closed batch.
                    assert_eq!((jobs, state.waiting.len()), (vec![], 1));
                    assert_eq!(job.state, CollectionState::Waiting);
                    let phase = phase::collection_phase(state, &job.query, job.accepted_before);
                    assert_eq!(matches!(phase, phase::CollectionPhase::Refused(_)), by_interval, "{phase:?}");
                }
            }
            assert_eq!(state.collected.is_abandoned(&batch), !by_interval);
            Ok(())
        })
        .unwrap();
    store.close().await;
}
