//! Deferred jobs in the store.

use super::*;
use crate::{collect, testing};
use dapbox_protocol::model::{AggregateShareId, BatchId, BatchSelector, Checksum, Revision};
use dapbox_store::{Options, Store};
use dapbox_support::Point;

const BODY: Bytes = Bytes::from_static(b"request");
const BOUNDS: Bounds = Bounds { clock_skew: Duration(0), max_open_buckets: 1 };

/// A store with one task that can be reopened.
struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    task: TaskId,
    context: std::sync::Arc<TaskContext>,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Options::default()).unwrap();
        let task = testing::task(Revision::Dap18);
        let (id, context) = (task.public.id, TaskContext::new(task.clone().into()).unwrap());
        store.write(Point::Test, move |tx| tx.add_task(task)).await.unwrap();
        Self { dir, store, task: id, context: context.into() }
    }

    fn request(&self, n: u8) -> Request {
        let batch = PartialBatchSelector::FixedSize(BatchId::new([1; 32]));
        Request {
            task: self.task,
            job: AggregationJobId::new([n; 16]),
            hash: [n; 32],
            batch,
            verify_key_id: None,
            now: Time(5),
        }
    }

    async fn restart(&mut self) {
        self.store.close().await;
        self.store = Store::open(self.dir.path(), Options::default()).unwrap();
    }

    async fn defer(&self, n: u8, most: usize) -> Deferral {
        let request = self.request(n);
        self.store.write(Point::Test, move |tx| defer(tx, &request, &BODY, most)).await.unwrap()
    }

    async fn resume(&self, n: u8) -> Reservation {
        let (request, reports) = (self.request(n), reports());
        self.store.write(Point::Test, move |tx| resume(tx, &request, BOUNDS, &reports)).await.unwrap()
    }

    async fn commit(&self, n: u8) -> Option<Bytes> {
        let (request, context) = (self.request(n), self.context.clone());
        let outcome = PrepareOutcome::Reject(ReportError::VdafPrepError);
        let resps = reports().iter().map(|m| PrepareResp { report_id: m.id, outcome: outcome.clone() }).collect();
        let prepared = PreparedJob { resps, sums: BucketAccumulators::default() };
        self.store.write(Point::Test, move |tx| commit(tx, &context, &request, BOUNDS, prepared)).await.unwrap()
    }

    /// Commits a prepared job with one valid report for its own batch. Returns the outcome for the leader.
    async fn commit_to_own_batch(&self, n: u8) -> PrepareOutcome {
        let (batch, context) = (BatchId::new([n; 32]), self.context.clone());
        let request = Request { batch: PartialBatchSelector::FixedSize(batch), ..self.request(n) };
        let metadata = ReportMetadata { id: ReportId::new([n; 16]), time: Time(0) };
        let resps = vec![PrepareResp { report_id: metadata.id, outcome: PrepareOutcome::Continue(BODY) }];
        let share = self.context.preparer.zero();
        let sum = BucketAccumulator { reports: vec![metadata], checksum: Checksum::default(), share };
        let prepared = PreparedJob { resps, sums: BucketAccumulators([(Bucket::Batch(batch), sum)].into()) };
        let commit = move |tx: &mut Tx<'_>| commit(tx, &context, &request, BOUNDS, prepared);
        let answer = self.store.write(Point::Test, commit).await.unwrap().unwrap();
        self.context.wire.decode_job_resp(&answer, 1).unwrap().remove(0).outcome
    }

    async fn delete(&self, n: u8) -> Option<[u8; 32]> {
        let request = self.request(n);
        self.store.write(Point::Test, move |tx| delete(tx, &request.task, request.job)).await.unwrap()
    }

    /// The deferred jobs, and the body of one of them.
    fn deferred(&self, n: u8) -> (Vec<AggregationJobId>, Option<Bytes>) {
        let request = self.request(n);
        let look = |view: &dapbox_store::View<'_>| {
            let body = view.helper_request(&request.task, &request.job)?;
            Ok((view.task(&request.task).unwrap().deferred.clone(), body))
        };
        self.store.read(look).unwrap()
    }
}

fn reports() -> Vec<ReportMetadata> {
    vec![ReportMetadata { id: ReportId::new([3; 16]), time: Time(0) }]
}

fn pending() -> Reservation {
    Reservation::Existing(JobState::Pending)
}

#[tokio::test]
async fn deferred_request_survives_restarts() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.defer(1, 2).await, Deferral::Stored);
    assert_eq!(bench.defer(1, 2).await, Deferral::Not(pending()));
    assert_eq!(bench.defer(2, 2).await, Deferral::Stored);
    assert_eq!(bench.defer(3, 2).await, Deferral::TooMany);
    bench.restart().await;
    assert_eq!(bench.deferred(1), (vec![bench.request(1).job, bench.request(2).job], Some(BODY)));
    assert_eq!(bench.defer(1, 2).await, Deferral::Not(pending()));
    assert_eq!(bench.resume(1).await, Reservation::New(vec![None]));
    // Reports in preparation are reserved, also against other deferred jobs.
    assert_eq!(bench.resume(2).await, Reservation::New(vec![Some(ReportError::ReportReplayed)]));
    let answer = bench.commit(1).await.unwrap();
    assert_eq!(bench.deferred(1), (vec![bench.request(2).job], None));
    bench.restart().await;
    let answered = Reservation::Existing(JobState::Answered(answer));
    assert_eq!(bench.resume(1).await, answered);
    assert_eq!(bench.defer(1, 2).await, Deferral::Not(answered));
}

#[tokio::test]
async fn deleted_job_gets_no_answer() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.delete(1).await, None);
    assert_eq!(bench.defer(1, 2).await, Deferral::Stored);
    assert_eq!(bench.resume(1).await, Reservation::New(vec![None]));
    assert_eq!(bench.delete(1).await, Some([1; 32]));
    assert_eq!(bench.commit(1).await, None);
    assert_eq!(bench.deferred(1), (vec![], None));
    bench.restart().await;
    assert_eq!(bench.resume(1).await, Reservation::Existing(JobState::Deleted));
    assert_eq!(bench.defer(1, 2).await, Deferral::Not(Reservation::Existing(JobState::Deleted)));
    // Its reports can be reserved again.
    assert_eq!(bench.defer(2, 2).await, Deferral::Stored);
    assert_eq!(bench.resume(2).await, Reservation::New(vec![None]));
}

#[tokio::test]
async fn removing_task_deletes_deferred_requests() {
    let bench = Bench::new().await;
    assert_eq!(bench.defer(1, 2).await, Deferral::Stored);
    assert_eq!(bench.resume(1).await, Reservation::New(vec![None]));
    let task = bench.task;
    bench.store.write(Point::Test, move |tx| tx.remove_task(&task, Time(6))).await.unwrap();
    assert_eq!(bench.commit(1).await, None);
    assert_eq!(bench.resume(1).await, Reservation::NoTask);
    assert_eq!(bench.defer(1, 2).await, Deferral::Not(Reservation::NoTask));
}

/// A batch and the ids of its shares are deleted by different writes.
#[tokio::test]
async fn deletes_share_of_forgotten_batch() {
    let bench = Bench::new().await;
    let (task, share) = (bench.task, AggregateShareId::new([1; 16]));
    let name = move |tx: &mut Tx<'_>| tx.put_share(&task, share, &BatchSelector::FixedSize(BatchId::new([2; 32])));
    bench.store.write(Point::Test, name).await.unwrap();
    let delete = move |tx: &mut Tx<'_>| collect::delete_share(tx, &task, &share);
    assert!(bench.store.write(Point::Test, delete).await.unwrap());
}

/// Of two jobs prepared in parallel, the second exceeds the bucket limit.
#[tokio::test]
async fn rejects_reports_beyond_the_bucket_limit() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.commit_to_own_batch(1).await, PrepareOutcome::Continue(BODY));
    bench.restart().await;
    assert_eq!(bench.commit_to_own_batch(2).await, PrepareOutcome::Reject(ReportError::ReportDropped));
    let known = |view: &dapbox_store::View<'_>| {
        let state = view.task(&bench.task).unwrap();
        Ok((state.buckets.len(), state.open_buckets(), state.replay.len()))
    };
    assert_eq!(bench.store.read(known).unwrap(), (1, 1, 1));
}

#[test]
fn passes_fit_into_the_memory_of_the_job() {
    let task = testing::task(Revision::Dap18);
    let context = TaskContext::new(task.into()).unwrap();
    let prepare_inits = (0..40u64).map(|n| {
        let metadata =
            ReportMetadata { id: ReportId::random(), time: Time(n % 4 * context.task.public.time_precision.0) };
        let input_share =
            dapbox_protocol::model::HpkeCiphertext { config_id: 0, enc: Bytes::new(), payload: Bytes::new() };
        let share = dapbox_protocol::model::ReportShare {
            metadata,
            extensions: vec![],
            public_share: Bytes::new(),
            input_share,
        };
        PrepareInit { share, message: Bytes::new() }
    });
    let prepare_inits = prepare_inits.collect();
    let batch = PartialBatchSelector::TimeInterval;
    let init = AggregationJobInitReq {
        verify_key_id: None,
        aggregation_parameter: Bytes::new(),
        batch,
        extensions: vec![],
        prepare_inits,
    };
    let (memory, sum) = (JobMemory::of(&context, &init), context.preparer.aggregate_share_bytes());
    assert_eq!(memory.min_bytes(), 40 * 1024 + 3 * 4 * sum);
    assert!(memory.fits(memory.min_bytes()) && !memory.fits(memory.min_bytes() - 1));
    assert_eq!(memory.preferred_bytes(4), 40 * 1024 + (4 + 16) * sum);
    assert_eq!(memory.reports_per_pass(memory.preferred_bytes(4), 4), 40, "all parts have room");
    assert_eq!(memory.reports_per_pass(memory.min_bytes(), 4), 8, "twelve sums, of which four are the job's");
    assert_eq!(memory.reports_per_pass(0, 4), 1);
}
