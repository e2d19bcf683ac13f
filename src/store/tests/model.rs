//! Random writes, compared with a simple model before and after reopening.

mod compare;
mod expire;
mod ops;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    sweep::{sweep_removed, sweep_task},
    *,
};
use crate::{
    BucketHeader, CollectedBatch, CollectedBy, CollectionJobRecord, CollectionState, Counters, HelperJobRecord,
    HelperJobState, LeaderJobRecord, LeaderJobState, Pick, ReportEntry, ReportRef, ResultRecord, ResultStage,
    SweepCutoffs, TaskState, Tx, View,
    api_token::Provision,
    engine::{Engine, EngineError},
    records::BucketRecord,
    rows, table,
};
use dapbox_protocol::model::{
    AggregateShareId, AggregationJobId, BatchId, BatchSelector, Bucket, Checksum, CollectionJobId, Interval,
    PartialBatchSelector, Query, Tokens, taskprov::InBandOrigin,
};
use dapbox_support::Fault;

use compare::{check, check_nothing_is_left};
use expire::sweep;
use ops::apply;

const TASKS: u8 = 2;
const DAY: u64 = 86_400;

#[derive(Clone, Debug)]
enum Op {
    AddTask,
    RemoveTask,
    Count(u64),
    Remember(u32, u64),
    RaiseHorizon(u64),
    CloseBefore(u64),
    AbandonBatch(u8),
    Append(u32, u64, usize),
    StartJob(u8, usize),
    EndJob(u8, bool),
    DeleteWaiting(usize),
    AddToBucket(Bucket, usize),
    Collect(BatchSelector, usize),
    Name(u8),
    PutCollection(u8, u8),
    PutHelperJob(u8, usize),
    PutHelperRequest(u8, usize),
    EndHelperRequest(u8),
    NameShare(u8, BatchSelector),
    RaiseGeneration(u8, u8),
    Provision(u64),
    InBand(u64),
}

fn selector() -> impl Strategy<Value = BatchSelector> {
    let interval = (0..8u64, 1..4u64).prop_map(|(start, len)| {
        let interval = Interval::new(Time(start * PRECISION), Duration(len * PRECISION)).unwrap();
        BatchSelector::TimeInterval(interval)
    });
    prop_oneof![interval, (0..3u8).prop_map(|n| BatchSelector::FixedSize(BatchId::new([n; 32])))]
}

fn bucket() -> impl Strategy<Value = Bucket> {
    prop_oneof![
        3 => (0..5u64).prop_map(|start| Bucket::Time(Time(start * PRECISION))),
        1 => (0..3u8).prop_map(|n| Bucket::Batch(BatchId::new([n; 32]))),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 0..200usize, 1 => 60_000..200_000usize];
    prop_oneof![
        2 => Just(Op::AddTask),
        1 => Just(Op::RemoveTask),
        4 => (1..5u64).prop_map(Op::Count),
        6 => (0..20u32, 0..4u64).prop_map(|(n, day)| Op::Remember(n, day * DAY + 7)),
        1 => (0..4u64).prop_map(|day| Op::RaiseHorizon(day * DAY)),
        1 => (0..3u64).prop_map(|day| Op::CloseBefore(day * DAY)),
        1 => (0..3u8).prop_map(Op::AbandonBatch),
        16 => (0..60u32, 0..500u64, len.clone()).prop_map(|(n, time, len)| Op::Append(n, time, len)),
        6 => (0..4u8, 1..6usize).prop_map(|(job, limit)| Op::StartJob(job, limit)),
        6 => (0..4u8, any::<bool>()).prop_map(|(job, delete)| Op::EndJob(job, delete)),
        2 => (0..5usize).prop_map(Op::DeleteWaiting),
        4 => (bucket(), len.clone()).prop_map(|(bucket, len)| Op::AddToBucket(bucket, len)),
        3 => (selector(), len.clone()).prop_map(|(batch, len)| Op::Collect(batch, len)),
        1 => (0..3u8).prop_map(Op::Name),
        3 => (0..3u8, 0..5u8).prop_map(|(job, state)| Op::PutCollection(job, state)),
        3 => (0..3u8, len.clone()).prop_map(|(job, len)| Op::PutHelperJob(job, len)),
        3 => (0..4u8, len).prop_map(|(job, len)| Op::PutHelperRequest(job, len)),
        2 => (0..4u8).prop_map(Op::EndHelperRequest),
        1 => (0..3u8, selector()).prop_map(|(id, batch)| Op::NameShare(id, batch)),
        2 => (0..2u8, 0..2u8).prop_map(|(kind, hash)| Op::RaiseGeneration(kind, hash)),
        1 => (0..3u64).prop_map(Op::Provision),
        1 => (0..3u64).prop_map(Op::InBand),
    ]
}

#[derive(Debug, Default)]
struct Model {
    tasks: BTreeMap<u8, ModelTask>,
    removed: BTreeSet<u8>,
}

#[derive(Debug, Default)]
struct ModelTask {
    counters: Counters,
    provision: Option<Provision>,
    in_band: Option<InBandOrigin>,
    /// The times of recorded reports by id.
    remembered: BTreeMap<u32, u64>,
    horizon: Option<Time>,
    /// Waiting and assigned reports.
    reports: BTreeMap<ReportRef, (u32, Report)>,
    assigned: BTreeMap<u8, Vec<ReportRef>>,
    buckets: BTreeMap<Bucket, BucketRecord>,
    collected: Vec<CollectedBatch>,
    /// When the sweeper first found nothing else of the batch.
    abandoned: BTreeMap<BatchId, Option<Time>>,
    results: BTreeMap<BatchSelector, ResultRecord>,
    names: BTreeSet<BatchId>,
    collections: BTreeMap<u8, CollectionJobRecord>,
    helper_jobs: BTreeMap<u8, HelperJobRecord>,
    helper_requests: BTreeMap<u8, Bytes>,
    shares: BTreeMap<u8, BatchSelector>,
    /// The count, and when the sweeper first found it.
    generations: BTreeMap<(u8, u8), (u64, Option<Time>)>,
}

impl ModelTask {
    fn raise_horizon(&mut self, time: u64) {
        self.remembered.retain(|_, other| *other >= time);
        self.horizon = self.horizon.max(Some(Time(time)));
    }

    fn abandon(&mut self, id: BatchId) {
        if self.collected.iter().all(|row| row.batch != BatchSelector::FixedSize(id)) {
            self.abandoned.entry(id).or_default();
        }
    }

    /// The open buckets: with aggregated or waiting reports, and not closed.
    fn open_buckets(&self) -> BTreeSet<Bucket> {
        let of_report = |(_, report): &(u32, Report)| Bucket::Time(report.metadata.time.truncate(Duration(PRECISION)));
        let all = self.buckets.keys().copied().chain(self.reports.values().map(of_report));
        let is_closed = |bucket: &Bucket| {
            let is_before_horizon = matches!(bucket, Bucket::Time(start) if Some(*start) < self.horizon);
            let is_abandoned = matches!(bucket, Bucket::Batch(id) if self.abandoned.contains_key(id));
            is_before_horizon || is_abandoned || self.collected.iter().any(|row| row.batch.contains(bucket))
        };
        all.filter(|bucket| !is_closed(bucket)).collect()
    }

    fn waiting(&self) -> Vec<ReportRef> {
        let is_assigned = |at: &ReportRef| self.assigned.values().flatten().any(|other| other == at);
        let mut waiting: Vec<_> = self.reports.keys().copied().filter(|at| !is_assigned(at)).collect();
        waiting.sort_by_key(|at| (self.reports[at].1.metadata.time.truncate(Duration(PRECISION)), *at));
        waiting
    }
}

fn job_id(n: u8) -> AggregationJobId {
    AggregationJobId::new([n; 16])
}

fn collection_id(n: u8) -> CollectionJobId {
    CollectionJobId::new([n; 16])
}

fn share_id(n: u8) -> AggregateShareId {
    AggregateShareId::new([n; 16])
}

fn collection(n: u8, state: u8) -> CollectionJobRecord {
    let batch = BatchSelector::FixedSize(BatchId::new([n; 32]));
    CollectionJobRecord {
        request: Bytes::from(vec![n; 50]),
        query: Query::TimeInterval(Interval::new(Time(0), Duration(u64::from(n))).unwrap()),
        accepted_before: ReportRef { pack: n.into(), slot: 0 },
        created: Time(4),
        state: match state {
            0 => CollectionState::Waiting,
            1 => CollectionState::Closed { batch },
            2 => CollectionState::Done { body: Bytes::from(vec![9; 100_000]) },
            3 => CollectionState::Failed { kind: "batchOverlap".into(), detail: "so".into() },
            _ => CollectionState::Deleted,
        },
        ended: None,
        batch: (state == 2).then_some(batch),
    }
}

fn leader_job(reports: Vec<ReportRef>) -> LeaderJobRecord {
    let (now, created) = (Time(1), Time(2));
    let state = LeaderJobState::Sent { request_hash: [7; 32] };
    LeaderJobRecord { batch: PartialBatchSelector::TimeInterval, now, created, reports, state, verify_key_id: None }
}

/// The operations of one write, an optional sweep, and whether the store is reopened.
type Step = (Vec<(u8, Op)>, Option<SweepCutoffs>, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = prop::collection::vec((0..TASKS, op()), 1..8);
    prop::collection::vec((write, prop::option::weighted(0.2, old()), prop::bool::weighted(0.15)), 1..25)
}

/// Random ages for a sweep. The test limits the age of results to the horizon.
fn old() -> impl Strategy<Value = SweepCutoffs> {
    let time = || (0..400u64).prop_map(Time);
    let maybe = move || prop::option::weighted(0.7, time());
    (time(), time(), maybe(), maybe(), maybe()).prop_map(|(now, answers, results, jobs, generations)| SweepCutoffs {
        now,
        answers: Time(answers.0 * DAY / 100),
        results,
        jobs,
        generations,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut model = Model::default();
        for n in 0..TASKS {
            model.tasks.insert(n, ModelTask::default());
            runtime.block_on(add_task(&store, n));
        }
        for (ops, old, reopen) in steps {
            let write = store.write(Point::Test, move |tx| {
                for (n, op) in ops {
                    apply(tx, &mut model, n, op)?;
                }
                Ok(model)
            });
            model = runtime.block_on(write).unwrap();
            check(&store, &model);
            if let Some(old) = old {
                sweep(&runtime, &store, &mut model, old);
                check(&store, &model);
            }
            if reopen {
                drop(store);
                store = open(dir.path());
                check(&store, &model);
            }
        }
        drop(store);
        store = open(dir.path());
        check(&store, &model);
        runtime.block_on(sweep_removed(&store));
        drop(store);
        check_nothing_is_left(dir.path(), &model.removed);
    }
}
