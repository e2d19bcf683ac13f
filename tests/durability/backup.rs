//! Backups of running aggregators and restores from them. Nothing acknowledged is missing, nothing is aggregated or
//! released twice, and new batches are exact on both sides.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dapbox::{
    aggregator::{
        offline::Offline,
        restored::{self, Restored},
        retention::{self, DataLoss},
    },
    config::{Config, Seconds},
    model::{
        BatchId, BatchMode, BatchSelector, Bucket, Duration, Epsilon, FixedSizeQuery, Interval, MaxMeasurement,
        PartialBatchSelector, PrepareOutcome, Query, ReportError, ReportId, Revision, Role, Time, VdafConfig,
    },
    store::{self, BackupContents, Options},
    support::{Point, clock},
    vdaf::Measurement,
    views::privacy::{BudgetChange, PrivacyChange},
    wire::{ProblemType, ResourceKind},
};
use rstest::rstest;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::common::{
    self, Node, Pair, TEST_TIMEOUT,
    calls::{assert_rejected, problem, upload_errors},
    open_store,
    relay::{MEASUREMENTS, assert_whole, modes, query},
    report_builder::{Draft, ReportBuilder},
    restore::{back_up, options, restore_from},
};

const SUM: VdafConfig = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
/// The permitted clock difference.
const SKEW: Duration = Duration(5);

fn contents(backup: &[u8]) -> BackupContents {
    store::verify(backup, |_| ()).unwrap()
}

/// The ids of the reports that a copy of a leader knows, pending or aggregated.
async fn knows(backup: &[u8], parties: &common::Parties, reports: &[(ReportId, Time)]) -> Vec<bool> {
    let dir = TempDir::new().unwrap();
    store::restore(dir.path(), &options(), backup, None, |_, _| Ok(()), |_| ()).unwrap();
    let store = open_store(dir.path(), Options::default()).await;
    let known = store.read(|view| {
        let task = view.task(&parties.id()).unwrap();
        let known = reports.iter().map(|(id, _)| task.waiting.contains(id) || task.replay.contains(id));
        Ok(known.collect())
    });
    store.close().await;
    known.unwrap()
}

/// The id of the batch that a copy knows, if batches have ids.
async fn batch_in(backup: &[u8], parties: &common::Parties) -> Option<BatchId> {
    let dir = TempDir::new().unwrap();
    store::restore(dir.path(), &options(), backup, None, |_, _| Ok(()), |_| ()).unwrap();
    let store = open_store(dir.path(), Options::default()).await;
    let id = store.read(|view| {
        let mut buckets = view.task(&parties.id()).unwrap().buckets.keys();
        Ok(buckets.find_map(|bucket| match bucket {
            Bucket::Batch(id) => Some(*id),
            Bucket::Time(_) => None,
        }))
    });
    store.close().await;
    id.unwrap()
}

#[rstest]
#[tokio::test]
async fn backs_up_one_moment_under_load(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let small = |config: &mut Config| {
        config.leader.max_job_size = 7;
        config.leader.max_job_delay = Seconds::millis(5);
    };
    let pair = Pair::start_with(revision, SUM, BatchMode::TimeInterval, small, |_| {}).await;
    let parties = pair.parties.clone();
    let client = parties.client();
    let prepare = async |n: u128| client.prepare(Measurement::Number(n), clock::now()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (told, mut uploaded) = tokio::sync::mpsc::unbounded_channel();
    let load = {
        let mut reports = Vec::new();
        for n in 0..400 {
            reports.push(prepare(n % 200).await);
        }
        let (parties, stop) = (parties.clone(), stop.clone());
        tokio::spawn(async move {
            for report in reports.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
                parties.upload_all([report]).await;
                told.send((report.metadata.id, report.metadata.time)).unwrap();
            }
        })
    };
    let mut acknowledged = Vec::new();
    for _ in 0..5 {
        for _ in 0..20 {
            acknowledged.push(uploaded.recv().await.unwrap());
        }
        let (of_leader, of_helper) = (back_up(&pair.leader).await, back_up(&pair.helper).await);
        for (backup, role) in [(&of_leader, Role::Leader), (&of_helper, Role::Helper)] {
            let task = contents(backup).tasks.remove(0);
            assert_eq!((task.id, task.role), (parties.id(), Some(role)));
            assert_eq!(task.aggregated, task.remembered, "{role:?}: sums and ids are written together");
        }
        let known = knows(&of_leader, &parties, &acknowledged).await;
        assert!(known.iter().all(|known| *known), "{known:?}");
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    pair.stop().await;
}

#[tokio::test]
async fn keeps_serving_when_backup_reader_stalls() {
    let impatient = |config: &mut Config| config.limits.stop_timeout = Seconds::millis(500);
    let mut pair = Pair::start_with(Revision::Dap09, SUM, BatchMode::TimeInterval, impatient, |_| {}).await;
    // More than all buffers of the connection hold.
    let vector = pair.parties.client();
    for _ in 0..3 {
        vector.upload(Measurement::Number(1), None).await.unwrap();
    }
    grow(&mut pair.leader, &pair.parties).await;
    let mut stalled = UnixStream::connect(pair.leader.config.control_socket()).await.unwrap();
    stalled.write_all(b"GET /backup HTTP/1.1\r\nhost: control\r\n\r\n").await.unwrap();
    let mut first = [0; 100];
    stalled.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"), "{first:?}");

    // Uploads are accepted. Only one backup runs at a time.
    pair.parties.client().upload(Measurement::Number(1), None).await.unwrap();
    assert!(store::verify(&cut_off(&pair.leader).await[..], |_| ()).is_err());
    // A reader that disconnects ends its backup.
    drop(stalled);
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while store::verify(&cut_off(&pair.leader).await[..], |_| ()).is_err() {
        assert!(std::time::Instant::now() < deadline, "a backup without a reader does not end");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // A stalled reader does not delay a shutdown.
    let mut stalled = UnixStream::connect(pair.leader.config.control_socket()).await.unwrap();
    stalled.write_all(b"GET /backup HTTP/1.1\r\nhost: control\r\n\r\n").await.unwrap();
    stalled.read_exact(&mut first).await.unwrap();
    pair.leader.stop().await;
    pair.leader.resume().await;
    pair.stop().await;
}

/// The bytes of a backup that may end early.
async fn cut_off(node: &Node) -> Vec<u8> {
    let client = reqwest::Client::builder().unix_socket(node.config.control_socket()).build().unwrap();
    let mut answer = client.get("http://control/backup").send().await.unwrap();
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

/// Grows the data directory of a node to some megabytes.
async fn grow(node: &mut Node, parties: &common::Parties) {
    let id = parties.id();
    node.stop().await;
    let store = open_store(node.data_dir(), Options::default()).await;
    for n in 0..160u8 {
        let grow = move |tx: &mut store::Tx<'_>| {
            tx.bucket_mut(&id, Bucket::Time(Time(n.into())))?.replace_share(vec![n; 60_000]);
            Ok(())
        };
        store.write(Point::Test, grow).await.unwrap();
    }
    store.close().await;
    node.resume().await;
}

/// Closes the past at the other aggregator, as the restore's output tells its operator.
async fn close_at(node: &mut Node, restored: &Restored) {
    node.stop().await;
    let store = open_store(node.data_dir(), Options::default()).await;
    for task in restored.tasks.clone() {
        let close =
            move |tx: &mut store::Tx<'_>| retention::close_before(tx, &task.id, task.closed_before, DataLoss::Peer);
        assert_eq!(store.write(Point::Test, close).await.unwrap(), Some(task.closed_before));
    }
    store.close().await;
    node.resume().await;
}

/// An interval of batches that holds both times.
fn around(first: Time, last: Time) -> Query {
    Query::TimeInterval(Interval::new(first, Duration(last.0 - first.0 + 1)).unwrap())
}

#[rstest]
#[case(Revision::Dap09, Role::Leader)]
#[case(Revision::Dap09, Role::Helper)]
#[case(Revision::Dap18, Role::Leader)]
#[case(Revision::Dap18, Role::Helper)]
#[tokio::test]
async fn restored_aggregator_repeats_nothing_and_continues(#[case] revision: Revision, #[case] who: Role) {
    for mode in modes(revision) {
        go_on(revision, who, mode).await;
    }
}

/// A backup does not know what was released after it, so the account of a restored aggregator never looks lower than it is.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn restored_aggregator_does_not_trust_its_privacy_account(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let noisy = |task: &mut dapbox::model::Task| task.public.noise = Epsilon::new(1, 2);
    let mut pair = Pair::start_with(revision, SUM, BatchMode::TimeInterval, |_| {}, noisy).await;
    let (parties, id) = (pair.parties.clone(), pair.parties.id());
    let change = |budget, batches| PrivacyChange { task: id, budget, batches };
    let set = BudgetChange::Set(Epsilon::new(10, 1).unwrap());
    assert_eq!(pair.leader.change_privacy(&change(set, None)).await.0, 200);
    let backup = back_up(&pair.leader).await;
    parties.client().upload(Measurement::Number(1), None).await.unwrap();
    parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    restore_from(&mut pair.leader, &backup).await;

    let account = pair.leader.status(&id).await.privacy.unwrap();
    assert!(account.is_uncertain && account.batches == 0 && account.budget == Epsilon::new(10, 1), "{account:?}");
    let later = around(clock::now().saturating_add(Duration(7200)), clock::now().saturating_add(Duration(7200)));
    let Query::TimeInterval(interval) = later else { unreachable!() };
    let precision = parties.leader.public.time_precision;
    let later = Query::TimeInterval(Interval::new(interval.start().truncate(precision), precision).unwrap());
    let refused = parties.create_collection(later).await.answer;
    assert!(refused.status == 403 && problem(&refused).detail.contains("restored"), "{refused:?}");

    let known = pair.helper.status(&id).await.privacy.unwrap().batches;
    let (_, stated) = pair.leader.change_privacy(&change(BudgetChange::Keep, Some(known))).await;
    let stated = stated.unwrap();
    assert_eq!((stated.batches, stated.is_uncertain, stated.batches_left), (1, false, Some(19)));
    assert!(parties.create_collection(later).await.answer.is_success());
    pair.stop().await;
}

/// A precision of a second, so that the horizon passes during the test.
async fn go_on(revision: Revision, who: Role, mode: BatchMode) {
    let name = format!("{revision:?} {who:?} {mode:?}");
    let quick = |config: &mut Config| {
        config.leader.max_job_delay = Seconds::millis(5);
        config.limits.clock_skew = Seconds::new(SKEW.0);
    };
    let seconds = |task: &mut dapbox::model::Task| {
        task.public.time_precision = Duration(1);
        task.public.min_batch_size = MEASUREMENTS.len() as u64;
    };
    let mut pair = Pair::start_with(revision, SUM, mode, quick, seconds).await;
    let (parties, id) = (pair.parties.clone(), pair.parties.id());
    let builder = ReportBuilder::new(&parties).await;

    let then = clock::now();
    let drafts: Vec<Draft> = MEASUREMENTS.iter().map(|n| builder.draft(&Measurement::Number(*n), then)).collect();
    let reports: Vec<_> = drafts.iter().map(|draft| builder.seal(draft)).collect();
    // The backup knows two reports. All are aggregated and collected after it.
    parties.upload_all(&reports[..2]).await;
    pair.leader.until(&id, |status| status.aggregated == 2).await;
    let backup = back_up(if who == Role::Leader { &pair.leader } else { &pair.helper }).await;
    parties.upload_all(&reports[2..]).await;
    let old = if mode == BatchMode::TimeInterval { around(then, then) } else { query(&parties) };
    let collected = parties.collector().collect(old, Some(TEST_TIMEOUT), |_| {}).await;
    let old_batch = batch_in(&backup, &parties).await;
    assert_whole(&name, collected);

    let (lost, other) =
        if who == Role::Leader { (&mut pair.leader, &mut pair.helper) } else { (&mut pair.helper, &mut pair.leader) };
    let lost_at = clock::now();
    let restored = restore_from(lost, &backup).await;
    close_at(other, &restored).await;
    let horizon = restored.tasks[0].closed_before;
    assert!(horizon >= restored.closed_before, "{name}: {restored:?}");
    assert!(restored.closed_before >= lost_at.saturating_add(SKEW), "{name}: {restored:?}");

    refuses_the_past(&name, &pair, who, (&drafts, &reports), old, old_batch).await;

    // New batches are complete on both sides.
    while clock::now() < horizon {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let now = clock::now();
    let client = parties.client();
    for number in MEASUREMENTS {
        client.upload(Measurement::Number(number), Some(now)).await.unwrap();
    }
    let new = if mode == BatchMode::TimeInterval { around(now, now) } else { query(&parties) };
    assert_whole(&name, parties.collector().collect(new, Some(TEST_TIMEOUT), |_| {}).await);
    pair.stop().await;
}

/// No old report is accepted again, whether the backup knows it or not, and no old batch is collected or shared.
async fn refuses_the_past(
    name: &str,
    pair: &Pair,
    who: Role,
    (drafts, reports): (&[Draft], &[dapbox::model::Report]),
    old: Query,
    old_batch: Option<BatchId>,
) {
    let parties = &pair.parties;
    if who == Role::Leader {
        for report in reports {
            let answer = parties.upload(report).await;
            match parties.revision() {
                Revision::Dap09 => assert_rejected(&answer, parties, ProblemType::ReportRejected),
                Revision::Dap18 | Revision::Dap19 => {
                    assert_eq!(upload_errors(&answer, parties), [(report.metadata.id, ReportError::ReportDropped)]);
                }
            }
        }
        let ask = match (old, old_batch, parties.revision()) {
            (Query::FixedSize(_), Some(batch), Revision::Dap09) => Query::FixedSize(FixedSizeQuery::ByBatchId(batch)),
            // In this revision the query names no batch. The new batch below shows that no old one is released.
            (Query::FixedSize(_), ..) => return,
            (query, ..) => query,
        };
        let answer = parties.outcome_of(ask).await;
        assert!(!answer.is_success(), "{name}: {answer:?}");
        return;
    }
    let builder = ReportBuilder::new(parties).await;
    let (partial, batch) = match old_batch {
        Some(id) => (PartialBatchSelector::FixedSize(id), BatchSelector::FixedSize(id)),
        None => match old {
            Query::TimeInterval(interval) => {
                (PartialBatchSelector::TimeInterval, BatchSelector::TimeInterval(interval))
            }
            Query::FixedSize(_) => panic!("{name}: there must be an id"),
        },
    };
    let prepare_inits = drafts.iter().map(|draft| builder.init(draft)).collect();
    let outcomes: BTreeSet<_> = parties
        .run_job(&builder.job_of(partial, prepare_inits))
        .await
        .iter()
        .map(|resp| format!("{:?}", resp.outcome))
        .collect();
    let dropped = format!("{:?}", PrepareOutcome::Reject(ReportError::ReportDropped));
    let collected = format!("{:?}", PrepareOutcome::Reject(ReportError::BatchCollected));
    assert!(outcomes.iter().all(|outcome| *outcome == dropped || *outcome == collected), "{name}: {outcomes:?}");
    for count in [2, drafts.len()] {
        let answer = parties.request_share(&parties.share_request(batch, &drafts[..count])).await;
        assert!(!answer.is_success(), "{name}: {answer:?}");
    }
}

/// In DAP-18 all requests for the next batch have the same bytes. A copy that does not know about the release of the
/// last batch would release it again as the next one.
#[tokio::test]
async fn does_not_release_batch_again_after_restore() {
    let quick = |config: &mut Config| config.leader.max_job_delay = Seconds::millis(5);
    let whole = |task: &mut dapbox::model::Task| task.public.min_batch_size = MEASUREMENTS.len() as u64;
    let mode = BatchMode::fixed_size(None);
    let mut pair = Pair::start_with(Revision::Dap18, SUM, mode, quick, whole).await;
    let parties = pair.parties.clone();
    let client = parties.client();
    for number in MEASUREMENTS {
        client.upload(Measurement::Number(number), None).await.unwrap();
    }
    let made = parties.create_collection(query(&parties)).await;
    let place = made.resource_path().split('?').next().unwrap().to_owned();
    let result = parties.poll_until_ready(ResourceKind::CollectionJob, made).await;
    assert!(result.is_success() && !result.body.is_empty(), "{result:?}");
    let backup = back_up(&pair.leader).await;
    assert!(parties.delete_collection(&place).await.is_success());

    let restored = restore_from(&mut pair.leader, &backup).await;
    close_at(&mut pair.helper, &restored).await;
    let next = parties.create_collection(query(&parties)).await;
    assert_ne!(next.resource_path().split('?').next(), Some(&*place));
    assert!(next.answer.body.is_empty(), "there is no next batch yet: {:?}", next.answer);
    pair.stop().await;
}

/// How a task returns that the backup does not have.
#[derive(Clone, Copy, Debug)]
enum Return {
    /// `task add` at the running server.
    Online,
    /// `task import` at the running server.
    OnlineTogether,
    /// `task add` in the data directory.
    Offline,
    /// `task import` in the data directory.
    OfflineTogether,
    /// `task add` of a task that was removed after the backup; its tombstone is lost.
    AfterRemoval,
}

async fn bring_back(node: &mut Node, parties: &common::Parties, how: Return) {
    let task = parties.helper.clone();
    match how {
        Return::Online | Return::AfterRemoval => node.add(&task).await,
        Return::OnlineTogether => {
            let client = reqwest::Client::builder().unix_socket(node.config.control_socket()).build().unwrap();
            let answer = client.post("http://control/all_tasks").json(&[task]).send().await.unwrap();
            assert_eq!(answer.status(), 201);
        }
        Return::Offline | Return::OfflineTogether => {
            node.stop().await;
            let offline = Offline::open(node.data_dir(), Options::default()).unwrap();
            match how {
                Return::Offline => offline.add_task(task).await.unwrap(),
                _ => offline.add_tasks(vec![task]).await.unwrap(),
            }
            offline.close().await;
            node.resume().await;
        }
    }
}

/// A helper is restored from a backup older than a task, and the task is added again. A second aggregate share of all
/// reports but one would reveal that report to leader and collector.
#[rstest]
#[tokio::test]
async fn closes_the_past_of_tasks_added_after_a_restore(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(Return::Online, Return::OnlineTogether, Return::Offline, Return::OfflineTogether, Return::AfterRemoval)]
    how: Return,
) {
    let [leader, mut helper] = [Node::start().await, Node::start().await];
    let backup = back_up(&helper).await;
    let parties = common::Parties::between(revision, SUM, BatchMode::TimeInterval, [&leader, &helper]).await;
    let (builder, now) = (ReportBuilder::new(&parties).await, clock::now());
    let drafts: Vec<Draft> = MEASUREMENTS.iter().map(|n| builder.draft(&Measurement::Number(*n), now)).collect();
    let outcomes = parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, &drafts)).await;
    assert!(outcomes.iter().all(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))), "{outcomes:?}");
    let batch = BatchSelector::TimeInterval(parties.interval(0));
    let share = parties.request_share(&parties.share_request(batch, &drafts)).await;
    assert!(share.is_success(), "{share:?}");
    if matches!(how, Return::AfterRemoval) {
        helper.remove(&parties.id()).await;
    }

    let restored = restore_from(&mut helper, &backup).await;
    assert_eq!(restored.tasks, []);
    bring_back(&mut helper, &parties, how).await;
    assert!(helper.status(&parties.id()).await.horizon >= Some(restored.closed_before));
    let outcomes = parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, &drafts[1..])).await;
    let dropped = PrepareOutcome::Reject(ReportError::ReportDropped);
    assert!(outcomes.iter().all(|resp| resp.outcome == dropped), "{outcomes:?}");
    for asked in [&drafts[1..], &drafts] {
        let share = parties.request_share(&parties.share_request(batch, asked)).await;
        assert!(!share.is_success(), "{share:?}");
    }
    // The horizon is stored. Adding the task once more does not move it.
    let horizon = helper.status(&parties.id()).await.horizon;
    helper.restart().await;
    helper.add(&parties.helper).await;
    assert_eq!(helper.status(&parties.id()).await.horizon, horizon);
}

/// A server accepts reports ahead of its clock up to a configured limit. The restore closes that far ahead without
/// knowing the limit.
#[tokio::test]
async fn restore_closes_as_far_ahead_as_the_server_took_reports() {
    let far = |config: &mut Config| config.limits.clock_skew = Seconds::new(7200);
    let mut node = Node::start_with(far).await;
    let backup = back_up(&node).await;
    // The limit was lower before, and the configuration of the restore has a lower one.
    node.config.limits.clock_skew = Seconds::new(60);
    node.restart().await;
    let later = back_up(&node).await;
    for backup in [backup, later] {
        let (dir, now) = (TempDir::new().unwrap(), clock::now());
        let restored = restored::restore(dir.path(), &options(), &backup[..], None, (now, SKEW), |_| ()).unwrap();
        assert_eq!(restored.clock_skew, Duration(7200));
        assert!(restored.closed_before >= now.saturating_add(Duration(7200)));
    }
    let (dir, further) = (TempDir::new().unwrap(), Duration(10_000));
    let restored =
        restored::restore(dir.path(), &options(), &back_up(&node).await[..], None, (clock::now(), further), |_| ());
    assert_eq!(restored.unwrap().clock_skew, further);
    node.stop().await;
}
