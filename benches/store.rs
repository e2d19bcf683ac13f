//! Durable writes, alone and in groups.
//!
//! The results depend on the disk: set `TMPDIR` to a directory on the disk to measure.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dapbox::{
    model::{
        AggregationJobId, BatchMode, Bucket, Duration, HpkeCiphertext, HpkeConfig, Party, Report, ReportId,
        ReportMetadata, Revision, Secret, Task, TaskId, TaskParameters, Time, TokenHash, VdafConfig,
    },
    store::{HelperJobRecord, HelperJobState, Options, Store},
    support::Point,
};
use futures_util::future::try_join_all;
use tokio::runtime::Runtime;

const TASK: TaskId = TaskId::new([1; 32]);
const REPORTS_PER_JOB: usize = 300;

fn task() -> Task {
    Task {
        public: TaskParameters {
            id: TASK,
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: "https://leader.example/".into(),
            helper_url: "https://helper.example/".into(),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Count,
            min_batch_size: 10,
            time_precision: Duration(3600),
            task_expiration: None,
            task_interval: None,
            noise: None,
        },
        verify_key: Secret::new(vec![1; 16]),
        verify_key_id: 0,
        max_batch_query_count: 1,
        report_expiry_age: None,
        collector_hpke_config: HpkeConfig { id: 1, kem_id: 0x20, kdf_id: 1, aead_id: 1, public_key: vec![5; 32] },
        party: Party::Helper { leader_token: TokenHash::of(b"token") },
    }
}

/// A store with one task, with its directory and runtime.
fn fixture() -> (tempfile::TempDir, Runtime, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let store = Store::open(dir.path(), Options::default()).expect("a store");
    runtime.block_on(store.write(Point::Test, |tx| tx.add_task(task()))).expect("a task");
    (dir, runtime, store)
}

fn small_writes(c: &mut Criterion) {
    let (_dir, runtime, store) = fixture();
    let mut group = c.benchmark_group("store/small_write");
    for writers in [1, 64] {
        group.throughput(Throughput::Elements(writers));
        group.bench_function(format!("{writers}_writers"), |b| {
            b.iter(|| {
                let write = || store.write(Point::Test, |tx| tx.count(&TASK, "things", 1));
                runtime.block_on(try_join_all((0..writers).map(|_| write()))).expect("written")
            });
        });
    }
    group.finish();
}

fn helper_jobs(c: &mut Criterion) {
    let (_dir, runtime, store) = fixture();
    let mut group = c.benchmark_group("store/helper_job");
    let answer = Bytes::from(vec![7; 20_000]);
    for writers in [1, 64] {
        group.throughput(Throughput::Elements(writers));
        group.bench_function(format!("{writers}_writers"), |b| {
            let jobs = || (0..writers).map(|_| ids()).collect::<Vec<_>>();
            let run = |jobs: Vec<Vec<(ReportId, Time)>>| {
                let writes = jobs.into_iter().map(|ids| helper_job(&store, ids, answer.clone()));
                runtime.block_on(try_join_all(writes)).expect("written")
            };
            b.iter_batched(jobs, run, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn ids() -> Vec<(ReportId, Time)> {
    (0..REPORTS_PER_JOB).map(|_| (ReportId::random(), Time(1_700_000_000))).collect()
}

/// Writes a helper's records of a job: ids, the bucket, the answer.
async fn helper_job(store: &Store, ids: Vec<(ReportId, Time)>, answer: Bytes) -> Result<(), dapbox::support::Fault> {
    let write = store.write(Point::Test, move |tx| {
        tx.record_aggregated(&TASK, &ids)?;
        let mut bucket = tx.bucket_mut(&TASK, Bucket::Time(Time(1_700_000_000)))?;
        bucket.header.count += ids.len() as u64;
        bucket.replace_share(vec![1; 800]);
        let state = HelperJobState::Answered(answer);
        let job = HelperJobRecord { request_hash: [1; 32], created: Time(1_700_000_000), state };
        tx.put_helper_job(&TASK, AggregationJobId::random(), &job)
    });
    write.await
}

fn uploads(c: &mut Criterion) {
    let (_dir, runtime, store) = fixture();
    let mut group = c.benchmark_group("store/append_report");
    for writers in [1, 64] {
        group.throughput(Throughput::Elements(writers));
        group.bench_function(format!("{writers}_writers"), |b| {
            let reports = || (0..writers).map(|_| report()).collect::<Vec<_>>();
            let run = |reports: Vec<Report>| {
                let append = |report: Report| store.write(Point::Test, move |tx| tx.append_report(&TASK, &report));
                black_box(runtime.block_on(try_join_all(reports.into_iter().map(append))).expect("written"))
            };
            b.iter_batched(reports, run, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn report() -> Report {
    let sealed = |config_id, len| HpkeCiphertext {
        config_id,
        enc: Bytes::from(vec![1; 32]),
        payload: Bytes::from(vec![2; len]),
    };
    Report {
        metadata: ReportMetadata { id: ReportId::random(), time: Time(1_700_000_000) },
        extensions: Vec::new(),
        public_share: Bytes::from(vec![3; 32]),
        leader_share: sealed(1, 1000),
        helper_share: sealed(2, 100),
    }
}

criterion_group!(benches, small_writes, helper_jobs, uploads);
criterion_main!(benches);
