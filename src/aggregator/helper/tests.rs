//! Jobs that are answered later, as the store sees them.

use super::*;
use crate::{
    aggregator::{collect, testing},
    model::{AggregateShareId, BatchId, BatchSelector, Point, Revision},
    store::{Options, Store},
};

const BODY: Bytes = Bytes::from_static(b"request");

/// Runs one write after the other on a new store with one task; the second handle is of the store opened again.
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
        store.write(Point::Trial, move |tx| tx.add_task(task)).await.unwrap();
        Self { dir, store, task: id, context: context.into() }
    }

    fn request(&self, n: u8) -> Request {
        let batch = PartialBatch::FixedSize(BatchId::new([1; 32]));
        Request { task: self.task, job: AggregationJobId::new([n; 16]), hash: [n; 32], batch, now: Time(5) }
    }

    async fn restart(&mut self) {
        self.store.close().await;
        self.store = Store::open(self.dir.path(), Options::default()).unwrap();
    }

    async fn defer(&self, n: u8, most: usize) -> Deferred {
        let request = self.request(n);
        self.store.write(Point::Trial, move |tx| defer(tx, &request, &BODY, most)).await.unwrap()
    }

    async fn resume(&self, n: u8) -> Reserved {
        let (request, reports) = (self.request(n), reports());
        self.store.write(Point::Trial, move |tx| resume(tx, &request, Duration(0), &reports)).await.unwrap()
    }

    async fn commit(&self, n: u8) -> Option<Bytes> {
        let (request, context) = (self.request(n), self.context.clone());
        let outcome = PrepareOutcome::Reject(ReportError::VdafPrepError);
        let resps = reports().iter().map(|m| PrepareResp { report_id: m.id, outcome: outcome.clone() }).collect();
        let prepared = Prepared { resps, sums: Sums::default() };
        self.store.write(Point::Trial, move |tx| commit(tx, &context, &request, prepared)).await.unwrap()
    }

    async fn delete(&self, n: u8) -> Option<[u8; 32]> {
        let request = self.request(n);
        self.store.write(Point::Trial, move |tx| delete(tx, &request.task, request.job)).await.unwrap()
    }

    /// The accepted jobs, and the body of one of them.
    fn deferred(&self, n: u8) -> (Vec<AggregationJobId>, Option<Bytes>) {
        let request = self.request(n);
        let look = |view: &crate::store::View<'_>| {
            let body = view.helper_request(&request.task, &request.job)?;
            Ok((view.task(&request.task).unwrap().deferred.clone(), body))
        };
        self.store.read(look).unwrap()
    }
}

fn reports() -> Vec<ReportMetadata> {
    vec![ReportMetadata { id: ReportId::new([3; 16]), time: Time(0) }]
}

fn pending() -> Reserved {
    Reserved::Known(JobState::Pending)
}

#[tokio::test]
async fn an_accepted_request_waits_over_restarts_until_it_is_answered() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.defer(1, 2).await, Deferred::Stored);
    assert_eq!(bench.defer(1, 2).await, Deferred::Not(pending()));
    assert_eq!(bench.defer(2, 2).await, Deferred::Stored);
    assert_eq!(bench.defer(3, 2).await, Deferred::TooMany);
    bench.restart().await;
    assert_eq!(bench.deferred(1), (vec![bench.request(1).job, bench.request(2).job], Some(BODY)));
    assert_eq!(bench.defer(1, 2).await, Deferred::Not(pending()));
    assert_eq!(bench.resume(1).await, Reserved::New(vec![None]));
    // What is being prepared is reserved, whoever else has it.
    assert_eq!(bench.resume(2).await, Reserved::New(vec![Some(ReportError::ReportReplayed)]));
    let answer = bench.commit(1).await.unwrap();
    assert_eq!(bench.deferred(1), (vec![bench.request(2).job], None));
    bench.restart().await;
    let answered = Reserved::Known(JobState::Answered(answer));
    assert_eq!(bench.resume(1).await, answered);
    assert_eq!(bench.defer(1, 2).await, Deferred::Not(answered));
}

#[tokio::test]
async fn nothing_comes_of_a_job_that_is_deleted_before_its_answer() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.delete(1).await, None);
    assert_eq!(bench.defer(1, 2).await, Deferred::Stored);
    assert_eq!(bench.resume(1).await, Reserved::New(vec![None]));
    assert_eq!(bench.delete(1).await, Some([1; 32]));
    assert_eq!(bench.commit(1).await, None);
    assert_eq!(bench.deferred(1), (vec![], None));
    bench.restart().await;
    assert_eq!(bench.resume(1).await, Reserved::Known(JobState::Deleted));
    assert_eq!(bench.defer(1, 2).await, Deferred::Not(Reserved::Known(JobState::Deleted)));
    // Its reports are free again.
    assert_eq!(bench.defer(2, 2).await, Deferred::Stored);
    assert_eq!(bench.resume(2).await, Reserved::New(vec![None]));
}

#[tokio::test]
async fn a_removed_task_takes_its_accepted_requests_with_it() {
    let bench = Bench::new().await;
    assert_eq!(bench.defer(1, 2).await, Deferred::Stored);
    assert_eq!(bench.resume(1).await, Reserved::New(vec![None]));
    let task = bench.task;
    bench.store.write(Point::Trial, move |tx| tx.remove_task(&task, Time(6))).await.unwrap();
    assert_eq!(bench.commit(1).await, None);
    assert_eq!(bench.resume(1).await, Reserved::NoTask);
    assert_eq!(bench.defer(1, 2).await, Deferred::Not(Reserved::NoTask));
}

/// A batch is forgotten in one write and the names of its shares in a later one.
#[tokio::test]
async fn a_share_whose_batch_was_forgotten_is_deleted_like_any_other() {
    let bench = Bench::new().await;
    let (task, share) = (bench.task, AggregateShareId::new([1; 16]));
    let name = move |tx: &mut Tx<'_>| tx.put_share(&task, share, &BatchSelector::FixedSize(BatchId::new([2; 32])));
    bench.store.write(Point::Trial, name).await.unwrap();
    let delete = move |tx: &mut Tx<'_>| collect::delete_share(tx, &task, &share);
    assert!(bench.store.write(Point::Trial, delete).await.unwrap());
}
