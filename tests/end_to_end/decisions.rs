//! Decisions of an aggregator on a bare store with a test clock. On running servers these cases would take days or
//! luck.

use bytes::Bytes;
use dapbox::{
    aggregator::{
        KeyRing, TaskContext, batches, check_time, collect, keys,
        leader::{self, JobBounds},
        upload::{self, Sampled},
    },
    config::{Config, Limits},
    model::{
        BatchMode, Bucket, CollectionJobId, Duration, HpkeCiphertext, Interval, Query, Report, ReportError, ReportId,
        ReportMetadata, Revision, Task, TaskId, TaskParameters, Time, VdafConfig,
    },
    store::{LeaderJobState, Options, Store, Tx},
    support::Point,
    vdaf::Measurement,
};
use rstest::rstest;
use tempfile::TempDir;

use crate::common::{self, Node, Pair, Parties, open_store, report_builder::ReportBuilder};

const HOUR: u64 = 3600;
const NOW: Time = Time(1_700_000_000 / HOUR * HOUR);

fn task(revision: Revision, change: impl Fn(&mut Task)) -> Task {
    let url = |name| format!("http://localhost/{name}/");
    let (leader, helper) = (url("leader"), url("helper"));
    Parties::new(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, leader, helper).with(change).leader
}

/// A report for the store that is never opened.
fn report(time: Time, config_id: u8) -> Report {
    let sealed = HpkeCiphertext { config_id, enc: "e".into(), payload: "p".into() };
    let metadata = ReportMetadata { id: ReportId::random(), time };
    Report {
        metadata,
        extensions: Vec::new(),
        public_share: Bytes::new(),
        leader_share: sealed.clone(),
        helper_share: sealed,
    }
}

fn ago(hours: u64) -> Time {
    NOW.saturating_sub(Duration(hours * HOUR))
}

/// A store with one task.
async fn store_with(task: &Task) -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = open_store(&dir.path().join("data"), Options::default()).await;
    let task = task.clone();
    store.write(Point::Test, move |tx| tx.add_task(task)).await.unwrap();
    (dir, store)
}

/// Appends reports as uploads do.
async fn append(store: &Store, task: TaskId, reports: Vec<Report>) {
    store
        .write(Point::Test, move |tx| reports.iter().try_for_each(|report| tx.append_report(&task, report).map(drop)))
        .await
        .unwrap();
}

fn one_at_a_time() -> dapbox::config::Leader {
    let mut limits = Config::default().leader;
    (limits.min_job_size, limits.max_job_size, limits.jobs_in_flight) = (1, 1, 1_000_000);
    limits
}

/// Picks a job; returns its reports.
async fn pick(store: &Store, task: TaskId, limits: &dapbox::config::Leader) -> Vec<ReportId> {
    pick_within(store, task, limits, JobBounds::NONE).await
}

async fn pick_within(store: &Store, task: TaskId, limits: &dapbox::config::Leader, bounds: JobBounds) -> Vec<ReportId> {
    let limits = limits.clone();
    let pick = move |tx: &mut Tx<'_>| leader::pick(tx, NOW, &limits, bounds, &task, false);
    let Some(job) = store.write(Point::Test, pick).await.unwrap() else { return Vec::new() };
    store
        .read(|view| {
            let places = view.task(&task).unwrap().leader_jobs[&job].reports.clone();
            Ok(view.load_reports(&task, &places)?.iter().map(|report| report.metadata.id).collect())
        })
        .unwrap()
}

/// A flood of reports of another time, or of an earlier hour of the same interval, does not delay the reports of a
/// collection.
#[rstest]
#[tokio::test]
async fn aggregates_reports_of_waiting_collection_first(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let task = task(revision, |_| {});
    let (id, (_dir, store)) = (task.public.id, store_with(&task).await);
    let interval = Interval::new(ago(4), Duration(2 * HOUR)).unwrap();
    // Enough reports are aggregated already.
    let count = move |tx: &mut Tx<'_>| {
        tx.bucket_mut(&id, Bucket::Time(ago(4)))?.header.count = 5;
        Ok(())
    };
    store.write(Point::Test, count).await.unwrap();
    let wanted: Vec<_> = (0..3).map(|_| report(ago(3), 0)).collect();
    append(&store, id, wanted.clone()).await;
    let context = TaskContext::new(task.into()).unwrap();
    let create = move |tx: &mut Tx<'_>| {
        let query = Query::TimeInterval(interval);
        let new = collect::NewCollectionJob { id: CollectionJobId::random(), bytes: Bytes::new(), query, room: Ok(()) };
        collect::create(tx, NOW, &context, &one_at_a_time(), new)
    };
    store.try_write(Point::Test, create).await.unwrap();
    for report_wanted in &wanted {
        append(&store, id, vec![report(ago(4), 0), report(ago(9), 0), report(ago(3), 0)]).await;
        assert_eq!(pick(&store, id, &one_at_a_time()).await, [report_wanted.metadata.id]);
    }
    // All of its reports are in jobs: the interval rests, and other times continue.
    let others = pick(&store, id, &dapbox::config::Leader { max_job_size: 100, ..one_at_a_time() }).await;
    assert_eq!(others.len(), 3);
    assert_eq!(pick(&store, id, &one_at_a_time()).await, []);
    store.close().await;
}

/// Many reports that expire at the same time are dropped in several writes, so that the store is not blocked.
#[rstest]
#[tokio::test]
async fn drops_expired_reports_in_batches(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let task = task(revision, |task| task.report_expiry_age = Some(Duration(5 * HOUR)));
    let (id, (_dir, store)) = (task.public.id, store_with(&task).await);
    append(&store, id, (0..10_001).map(|_| report(ago(6), 0)).collect()).await;
    let good = report(ago(1), 0);
    append(&store, id, vec![good.clone()]).await;
    let left = || store.read(|view| Ok(view.task(&id).unwrap().waiting.len())).unwrap();
    assert_eq!((pick(&store, id, &one_at_a_time()).await, left()), (vec![good.metadata.id], 1));
    assert_eq!((pick(&store, id, &one_at_a_time()).await, left()), (vec![], 0));
    store.close().await;
}

/// A crash between picking a job and preparing it: after the start the job exists and is sent.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn resumes_picked_job_after_restart(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let config = |config: &mut Config| config.leader.max_job_delay = dapbox::config::Seconds(common::TEST_TIMEOUT);
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, config, |_| {}).await;
    let (id, builder) = (pair.parties.id(), ReportBuilder::new(&pair.parties).await);
    let reports: Vec<_> = (0..2).map(|_| builder.report(&Measurement::Flag(true), ago(1))).collect();
    pair.parties.upload_all(&reports).await;
    pair.leader.stop().await;
    let store = open_store(pair.leader.data_dir(), Options::default()).await;
    assert_eq!(pick(&store, id, &one_at_a_time()).await.len(), 1);
    let states = store
        .read(|view| Ok(view.task(&id).unwrap().leader_jobs.values().map(|job| job.state.clone()).collect::<Vec<_>>()));
    assert_eq!(states.unwrap(), [LeaderJobState::Picked]);
    store.close().await;
    pair.leader.resume().await;
    let status = pair.leader.until(&id, |status| status.jobs == 0).await;
    assert_eq!((status.counters["aggregate_success"], status.waiting), (1, 1));
    assert_eq!(pair.helper.counter(&id, "aggregate_success").await, 1);
    pair.stop().await;
}

/// A leader's job has no more batch buckets than fit into memory; the other reports get jobs of their own.
#[rstest]
#[tokio::test]
async fn limits_batch_buckets_of_job(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let task = task(revision, |_| {});
    let (id, (_dir, store)) = (task.public.id, store_with(&task).await);
    append(&store, id, (1..=5).flat_map(|hours| [report(ago(hours), 0), report(ago(hours), 0)]).collect()).await;
    let limits = dapbox::config::Leader { max_job_size: 100, ..one_at_a_time() };
    let bounds = JobBounds { max_buckets: 2, ..JobBounds::NONE };
    let mut sizes = Vec::new();
    for _ in 0..4 {
        sizes.push(pick_within(&store, id, &limits, bounds).await.len());
    }
    assert_eq!(sizes, [4, 4, 2, 0]);
    store.close().await;
}

/// With the maximum of open batches, reports wait until one is collected. None is lost.
#[rstest]
#[tokio::test]
async fn limits_open_fixed_size_batches(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let mode = common::batches_of(revision, 3);
    let task = task(revision, |task| (task.public.batch_mode, task.public.min_batch_size) = (mode, 2));
    let (id, (_dir, store)) = (task.public.id, store_with(&task).await);
    append(&store, id, (0..7).map(|_| report(ago(1), 0)).collect()).await;
    let limits = dapbox::config::Leader { max_job_size: 100, ..one_at_a_time() };
    let bounds = JobBounds { max_open_batches: 2, ..JobBounds::NONE };
    for expected in [2, 2, 0] {
        assert_eq!(pick_within(&store, id, &limits, bounds).await.len(), expected);
    }
    let give_up = move |tx: &mut Tx<'_>| {
        let jobs = tx.task(&id).unwrap().leader_jobs.values().next().map(|job| job.batch);
        let Some(dapbox::model::PartialBatchSelector::FixedSize(batch)) = jobs else { panic!("a job without a batch") };
        tx.abandon_batch(&id, batch)
    };
    assert!(store.write(Point::Test, give_up).await.unwrap());
    for expected in [2, 0] {
        assert_eq!(pick_within(&store, id, &limits, bounds).await.len(), expected);
    }
    store.close().await;
}

/// The same report several times in one group commit counts once.
#[rstest]
#[tokio::test]
async fn counts_racing_uploads_of_one_report_once(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let task = task(revision, |_| {});
    let (id, (_dir, store)) = (task.public.id, store_with(&task).await);
    let policy = keys::Policy::of(&Config::default());
    store.write(Point::Test, move |tx| keys::begin(tx, NOW, &policy)).await.unwrap();
    let ring = store.read(|view| KeyRing::load(view.keys().values())).unwrap();
    let ring = std::sync::Arc::new(ring);
    let report = report(ago(1), ring.configs()[0].id);
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (store, ring, report) = (store.clone(), ring.clone(), report.clone());
        racing.spawn(async move {
            let accept = move |tx: &mut Tx<'_>| {
                upload::accept(tx, NOW, &Limits::default(), &ring, &id, &[report], &Sampled::new())
            };
            store.try_write(Point::Test, accept).await.unwrap();
        });
    }
    racing.join_all().await;
    let (waiting, counters) = store
        .read(|view| {
            let state = view.task(&id).unwrap();
            Ok((state.waiting.len(), state.counters.clone()))
        })
        .unwrap();
    assert_eq!((waiting, counters["report_success"], counters["upload_repeated"]), (1, 1, 19));
    store.close().await;
}

/// The boundaries at which a report is valid, also at both ends of time.
#[test]
fn checks_times_to_the_second() {
    let age = Duration(HOUR);
    let change = |task: &mut Task| (task.public.task_expiration, task.report_expiry_age) = (Some(NOW), Some(age));
    let task = task(Revision::Dap09, change);
    let skew = Duration(60);
    let at = |now: Time, time: Time| check_time(&task, task.public.task_expiration, now, skew, time);
    let later = |seconds| NOW.saturating_add(Duration(seconds));
    assert_eq!(at(NOW, NOW), Ok(()));
    assert_eq!(at(NOW, later(1)), Err(ReportError::TaskExpired));
    assert_eq!(at(NOW, later(60)), Err(ReportError::TaskExpired));
    assert_eq!(at(NOW, later(61)), Err(ReportError::ReportTooEarly));
    assert_eq!(at(later(HOUR), NOW), Ok(()));
    assert_eq!(at(later(HOUR + 1), NOW), Err(ReportError::ReportDropped));
    // Clocks that differ by the permitted maximum.
    assert_eq!(at(Time(0), Time(0)), Ok(()));
    assert_eq!(at(Time(0), NOW), Err(ReportError::ReportTooEarly));
    assert_eq!(at(Time(u64::MAX), NOW), Err(ReportError::ReportDropped));
    assert_eq!(at(Time(u64::MAX), Time(u64::MAX)), Err(ReportError::TaskExpired));
}

/// The first and the last moment of a task interval (DAP-18 section 4.1.1: the end is excluded).
#[test]
fn task_interval_is_half_open() {
    let task = task(Revision::Dap18, |task| task.public.task_interval = Interval::new(ago(2), Duration(2 * HOUR)));
    let at = |time: Time| check_time(&task, task.public.task_expiration, NOW, Duration(60), time);
    let before = |time: Time| time.saturating_sub(Duration(1));
    assert_eq!(at(before(ago(2))), Err(ReportError::TaskNotStarted));
    assert_eq!((at(ago(2)), at(before(NOW))), (Ok(()), Ok(())));
    assert_eq!(at(NOW), Err(ReportError::TaskExpired));
    assert_eq!(at(Time(0)), Err(ReportError::TaskNotStarted));
}

/// Two operators add a task concurrently: identical tasks are one task, and of two different ones with the same id one
/// is refused.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn adds_tasks_concurrently(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let mut node = Node::start().await;
    for differ in [false, true] {
        let one = task(revision, |_| {});
        let min_batch_size = if differ { 2 } else { 1 };
        let other = Task { public: TaskParameters { min_batch_size, ..one.public.clone() }, ..one.clone() };
        let (a, b) = tokio::join!(node.try_add(&one), node.try_add(&other));
        let mut answers = [a, b];
        answers.sort_unstable();
        assert_eq!(answers, if differ { [201, 409] } else { [201, 201] });
    }
    node.stop().await;
}

/// A collector key that cannot be sealed to would fail only when a batch closes. The task is refused instead.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn refuses_task_with_degenerate_collector_key(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let mut node = Node::start().await;
    let degenerate = task(revision, |task| task.collector_hpke_config.public_key = vec![0; 32]);
    assert_eq!(node.try_add(&degenerate).await, 400);
    node.stop().await;
}

/// Clients determine the number of time windows. Reports of a new window are refused when pending reports and open
/// batches have as many windows as permitted.
#[tokio::test]
async fn limits_time_windows_of_batches() {
    let window = Some(Duration(2 * HOUR));
    let mode = BatchMode::FixedSize { max_batch_size: None, batch_time_window_size: window };
    let task = task(Revision::Dap09, |task| (task.public.batch_mode, task.public.min_batch_size) = (mode, 2));
    let (id, (_dir, store)) = (task.public.id, store_with(&task).await);
    let start = ago(20).truncate(Duration(2 * HOUR));
    let at = |hours: u64| start.saturating_add(Duration(hours * HOUR));
    append(&store, id, vec![report(at(0), 0), report(at(1), 0), report(at(2), 0)]).await;
    let has_room = |time, most| {
        let look = |view: &dapbox::store::View<'_>| Ok(batches::has_room(view.task(&id).unwrap(), time, most));
        store.read(look).unwrap()
    };
    assert!(has_room(at(1), 2) && has_room(at(3), 2), "windows that have reports");
    assert!(!has_room(at(4), 2) && has_room(at(4), 3), "another window");
    let open = move |tx: &mut Tx<'_>| {
        tx.bucket_mut(&id, Bucket::Batch(dapbox::model::BatchId::new([1; 32])))?.header.count = 1;
        Ok(())
    };
    store.write(Point::Test, open).await.unwrap();
    assert!(!has_room(at(4), 3) && has_room(at(4), 4), "an open batch counts");
    store.close().await;
}
