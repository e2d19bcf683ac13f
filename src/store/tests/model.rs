//! Random writes, compared with a model that could not be simpler, before and after the store is opened again.

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
    /// The times of reports, by their ids.
    remembered: BTreeMap<u32, u64>,
    horizon: Option<Time>,
    /// Waiting and assigned.
    reports: BTreeMap<ReportRef, (u32, Report)>,
    assigned: BTreeMap<u8, Vec<ReportRef>>,
    buckets: BTreeMap<Bucket, BucketRecord>,
    collected: Vec<CollectedBatch>,
    /// When the sweeper first found nothing else of it.
    abandoned: BTreeMap<BatchId, Option<Time>>,
    results: BTreeMap<BatchSelector, ResultRecord>,
    names: BTreeSet<BatchId>,
    collections: BTreeMap<u8, CollectionJobRecord>,
    helper_jobs: BTreeMap<u8, HelperJobRecord>,
    helper_requests: BTreeMap<u8, Bytes>,
    shares: BTreeMap<u8, BatchSelector>,
    /// How often, and since when as far as the sweeper has seen.
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

    /// The buckets that have reports, aggregated or not, and can take more.
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
    LeaderJobRecord { batch: PartialBatchSelector::TimeInterval, now, created, reports, state }
}

/// Does the same to the store and to the model. Asks for nothing that a caller may not ask for.
fn apply(tx: &mut Tx<'_>, model: &mut Model, n: u8, op: Op) -> Result<(), Fault> {
    let id = task_id(n);
    if let Op::AddTask = op {
        if !model.tasks.contains_key(&n) && !model.removed.contains(&n) {
            model.tasks.insert(n, ModelTask::default());
            tx.add_task(task(n))?;
        }
        return Ok(());
    }
    let Some(known) = model.tasks.get_mut(&n) else { return Ok(()) };
    match op {
        Op::AddTask => {}
        Op::RemoveTask => {
            model.tasks.remove(&n);
            model.removed.insert(n);
            tx.remove_task(&id, Time(3))?;
        }
        Op::Count(by) => {
            *known.counters.entry("things".into()).or_default() += by;
            tx.count(&id, "things", by)?;
        }
        Op::Remember(report, time) => {
            if known.horizon <= Some(Time(time)) {
                known.remembered.entry(report).or_insert(time);
            }
            tx.record_aggregated(&id, &[(report_id(report), Time(time))])?;
        }
        Op::Provision(end) => {
            let provision = Provision { at: Time(1), by: "plane".into(), end: (end > 0).then_some(Time(end)) };
            known.provision = Some(provision.clone());
            tx.put_provision(&id, provision)?;
        }
        Op::InBand(at) => {
            let in_band =
                InBandOrigin { at: Time(at), bytes: Bytes::from_static(b"says"), peer: "https://a.example".into() };
            known.in_band = Some(in_band.clone());
            tx.put_in_band(&id, in_band)?;
        }
        Op::RaiseHorizon(time) => {
            known.raise_horizon(time);
            tx.raise_horizon(&id, Time(time))?;
        }
        Op::CloseBefore(time) => {
            known.raise_horizon(time);
            for bucket in known.buckets.keys().copied().collect::<Vec<_>>() {
                if let Bucket::Batch(id) = bucket {
                    known.abandon(id);
                }
            }
            tx.close_before(&id, Time(time))?;
        }
        Op::PutCollection(job, state) => {
            known.collections.insert(job, collection(job, state));
            tx.put_collection(&id, collection_id(job), collection(job, state))?;
        }
        Op::PutHelperJob(job, len) => {
            let created = Time(u64::from(job) * 100);
            let state = match job {
                1 => HelperJobState::Deleted,
                _ if len % 4 == 0 => HelperJobState::Pending,
                _ => HelperJobState::Answered(Bytes::from(vec![job; len])),
            };
            let record = HelperJobRecord { request_hash: [job; 32], created, state };
            tx.put_helper_job(&id, job_id(job), &record)?;
            known.helper_jobs.insert(job, record);
        }
        other => {
            apply_to_reports(tx, known, &id, other.clone())?;
            apply_to_batches(tx, known, &id, other.clone())?;
            apply_to_resources(tx, known, &id, other)?;
        }
    }
    Ok(())
}

fn apply_to_reports(tx: &mut Tx<'_>, known: &mut ModelTask, id: &TaskId, op: Op) -> Result<(), Fault> {
    match op {
        Op::Append(n, time, len) if known.reports.values().all(|(other, _)| *other != n) => {
            let report = report(n, time, len);
            let at = tx.append_report(id, &report)?;
            assert!(known.reports.keys().all(|other| *other < at));
            assert!(at < tx.next_position());
            known.reports.insert(at, (n, report));
        }
        Op::StartJob(job, limit) if !known.assigned.contains_key(&job) => {
            let picked = tx.task_mut(id).unwrap().waiting.pick(Time(0), limit, |_| Pick::Take);
            let positions: Vec<_> = picked.taken.iter().map(|entry| entry.at).collect();
            assert_eq!(positions, known.waiting().into_iter().take(limit).collect::<Vec<_>>());
            known.assigned.insert(job, positions.clone());
            tx.put_leader_job(id, job_id(job), leader_job(positions))?;
        }
        Op::EndJob(job, delete) => {
            let Some(positions) = known.assigned.remove(&job) else { return Ok(()) };
            let entry = |at: &ReportRef| {
                let (n, report) = &known.reports[at];
                ReportEntry { id: report_id(*n), time: report.metadata.time, at: *at }
            };
            let entries: Vec<ReportEntry> = positions.iter().map(entry).collect();
            if delete {
                tx.delete_reports(id, &entries.iter().map(|entry| (entry.id, entry.at)).collect::<Vec<_>>())?;
                positions.iter().for_each(|at| drop(known.reports.remove(at)));
            } else {
                tx.task_mut(id).unwrap().waiting.defer(&entries, Time(0));
            }
            tx.end_leader_job(id, &job_id(job))?;
        }
        Op::DeleteWaiting(place) => {
            let Some(at) = known.waiting().get(place).copied() else { return Ok(()) };
            let (n, _) = known.reports.remove(&at).unwrap();
            tx.delete_reports(id, &[(report_id(n), at)])?;
        }
        _ => {}
    }
    Ok(())
}

fn apply_to_batches(tx: &mut Tx<'_>, known: &mut ModelTask, id: &TaskId, op: Op) -> Result<(), Fault> {
    match op {
        Op::AbandonBatch(n) => {
            let before = known.abandoned.len();
            known.abandon(BatchId::new([n; 32]));
            assert_eq!(tx.abandon_batch(id, BatchId::new([n; 32]))?, known.abandoned.len() > before);
        }
        Op::AddToBucket(bucket, len) => {
            let mine = known.buckets.entry(bucket).or_insert(BucketRecord::EMPTY);
            let mut theirs = tx.bucket_mut(id, bucket)?;
            assert_eq!(theirs.share(), mine.share);
            let time = Time(len as u64);
            mine.count += 1;
            (mine.first, mine.last) = (mine.first.min(time), mine.last.max(time));
            theirs.header.count += 1;
            (theirs.header.first, theirs.header.last) = (mine.first, mine.last);
            mine.share = vec![len as u8; len];
            assert!(theirs.replace_share(mine.share.clone()).len() <= 200_000);
        }
        Op::Collect(batch, len) => {
            let overlaps = known.collected.iter().any(|other| overlap(&other.batch, &batch));
            assert_eq!(tx.task(id).unwrap().collected.overlaps(&batch), overlaps);
            if !overlaps && !matches!(batch, BatchSelector::FixedSize(id) if known.abandoned.contains_key(&id)) {
                let (request_hash, answer) = ([len as u8; 32], vec![3; len]);
                let party = CollectedBy::Helper { request_hash, answer };
                let row = CollectedBatch { batch, report_count: len as u64, checksum: Checksum::default(), party };
                tx.put_collected(id, &row)?;
                let (first, stage) = (row.report_count, ResultStage::Fetched { at: Time(len as u64) });
                let interval = Interval::new(Time(first), Duration(PRECISION)).unwrap();
                let result = ResultRecord { report_count: first, interval, closed: Time(5), stage };
                tx.put_result(id, batch, result)?;
                known.results.insert(batch, result);
                known.collected.push(row);
            }
        }
        Op::Name(n) => {
            known.names.insert(BatchId::new([n; 32]));
            tx.name_batch(id, BatchId::new([n; 32]))?;
        }
        _ => {}
    }
    Ok(())
}

fn apply_to_resources(tx: &mut Tx<'_>, known: &mut ModelTask, id: &TaskId, op: Op) -> Result<(), Fault> {
    match op {
        Op::PutHelperRequest(job, len) => {
            let body = Bytes::from(vec![job; len]);
            tx.put_helper_request(id, job_id(job), &body)?;
            known.helper_requests.insert(job, body);
        }
        Op::EndHelperRequest(job) => {
            let was_there = known.helper_requests.remove(&job).is_some();
            assert_eq!(tx.end_helper_request(id, &job_id(job))?, was_there);
        }
        Op::NameShare(share, batch) => {
            known.shares.insert(share, batch);
            tx.put_share(id, share_id(share), &batch)?;
            assert_eq!(tx.share(id, &share_id(share))?, Some(batch));
        }
        Op::RaiseGeneration(kind, hash) => {
            let mine = known.generations.entry((kind, hash)).or_default();
            *mine = (mine.0 + 1, None);
            tx.raise_generation(id, kind, &[hash; 32])?;
            assert_eq!(tx.generation(id, kind, &[hash; 32])?, mine.0);
        }
        _ => {}
    }
    Ok(())
}

/// Does the same to the store, in as many writes as it takes, and to the model.
fn sweep(runtime: &tokio::runtime::Runtime, store: &Store, model: &mut Model, old: SweepCutoffs) {
    for (n, known) in &mut model.tasks {
        let old = SweepCutoffs { results: old.results.min(known.horizon), ..old };
        let dropped = runtime.block_on(sweep_task(store, task_id(*n), old));
        let waiting = known.waiting();
        let past = waiting.into_iter().filter(|at| Some(known.reports[at].1.metadata.time) < known.horizon);
        let past: Vec<_> = past.collect();
        past.iter().for_each(|at| drop(known.reports.remove(at)));
        let sums = sweep_buckets(known);
        assert_eq!((dropped.reports, dropped.sums), (past.len() as u64, sums));
        assert_eq!(dropped.batches, sweep_collected(known, &old));
        if let Some(before) = old.results {
            let ModelTask { abandoned, buckets, .. } = known;
            let is_empty = |id: &BatchId| !buckets.contains_key(&Bucket::Batch(*id));
            abandoned.retain(|id, since| !is_empty(id) || since.is_none_or(|since| since >= before));
            let over = abandoned.iter_mut().filter(|(id, _)| is_empty(id));
            over.for_each(|(_, since)| *since = since.or(Some(old.now)));
        }
        known.helper_jobs.retain(|_, job| job.state == HelperJobState::Pending || Some(job.created) >= old.jobs);
        for job in known.helper_jobs.values_mut() {
            let is_old = job.created.0 / DAY < old.answers.0 / DAY;
            if is_old && matches!(job.state, HelperJobState::Answered(_)) {
                job.state = HelperJobState::Expired;
            }
        }
        if let Some(before) = old.results {
            known.collections.retain(|_, job| job.state.is_active() || job.ended.is_none_or(|ended| ended >= before));
            let over = known.collections.values_mut().filter(|job| !job.state.is_active());
            over.for_each(|job| job.ended = job.ended.or(Some(old.now)));
        }
        // A collection that goes on keeps the names of all.
        let is_active = known.collections.values().any(|job| job.state.is_active());
        if let Some(before) = old.generations.filter(|_| !is_active) {
            known.generations.retain(|_, (_, since)| since.is_none_or(|since| since >= before));
            known.generations.values_mut().for_each(|(_, since)| *since = since.or(Some(old.now)));
        }
        let collected = &known.collected;
        known.shares.retain(|_, batch| collected.iter().any(|row| row.batch == *batch));
    }
    runtime.block_on(sweep_removed(store));
}

/// Returns how many reports were in sums that were not collected.
fn sweep_buckets(known: &mut ModelTask) -> u64 {
    let mut sums = 0;
    let is_over = |bucket: &Bucket, last: Time| match bucket {
        Bucket::Time(start) => Some(*start) < known.horizon,
        Bucket::Batch(id) if known.abandoned.contains_key(id) => true,
        Bucket::Batch(id) => {
            let batch = BatchSelector::FixedSize(*id);
            Some(last) < known.horizon && known.collected.iter().all(|row| row.batch != batch)
        }
    };
    let over: Vec<_> = known.buckets.iter().filter(|(bucket, record)| is_over(bucket, record.last)).collect();
    let over: Vec<_> = over.into_iter().map(|(bucket, record)| (*bucket, record.clone())).collect();
    for (bucket, record) in over {
        known.buckets.remove(&bucket);
        if !record.share.is_empty() {
            sums += record.count;
            if let Bucket::Batch(id) = bucket {
                known.abandoned.entry(id).or_default();
            }
        }
    }
    sums
}

/// Returns how many batches were forgotten.
fn sweep_collected(known: &mut ModelTask, old: &SweepCutoffs) -> u64 {
    let Some(before) = old.results else { return 0 };
    let before_sweep = known.collected.len();
    let ModelTask { collected, collections, buckets, names, results, .. } = known;
    collected.retain(|row| {
        let is_active = collections.values().any(|job| job.state == CollectionState::Closed { batch: row.batch });
        let is_old = match row.batch {
            BatchSelector::TimeInterval(interval) => interval.end() <= before,
            BatchSelector::FixedSize(id) => buckets.get(&Bucket::Batch(id)).is_none_or(|record| record.last < before),
        };
        if is_old
            && !is_active
            && let BatchSelector::FixedSize(id) = row.batch
        {
            names.remove(&id);
            buckets.remove(&Bucket::Batch(id));
        }
        if is_old && !is_active {
            results.remove(&row.batch);
        }
        !is_old || is_active
    });
    (before_sweep - collected.len()) as u64
}

fn overlap(a: &BatchSelector, b: &BatchSelector) -> bool {
    match (a, b) {
        (BatchSelector::TimeInterval(a), BatchSelector::TimeInterval(b)) => a.overlaps(b),
        (a, b) => a == b,
    }
}

fn check(store: &Store, model: &Model) {
    let compare = |view: &View<'_>| {
        let tasks: Vec<u8> = view.state.tasks.keys().map(|id| id.as_bytes()[0]).collect();
        assert!(tasks.iter().eq(model.tasks.keys()));
        assert!(view.state.sums.bytes() <= SUM_CACHE_BYTES);
        assert!((0..TASKS).all(|n| view.state.removed.contains_key(&task_id(n)) == model.removed.contains(&n)));
        for (n, known) in &model.tasks {
            let id = task_id(*n);
            check_memory(view.task(&id).unwrap(), known);
            check_rows(view, &id, known)?;
        }
        Ok(())
    };
    store.read(compare).unwrap();
}

fn check_memory(task: &TaskState, known: &ModelTask) {
    assert_eq!(task.counters, known.counters);
    assert_eq!((task.replay.len(), task.replay.horizon()), (known.remembered.len(), known.horizon));
    assert!(known.remembered.keys().all(|n| task.replay.contains(&report_id(*n))));
    let headers: BTreeMap<_, _> =
        known.buckets.iter().map(|(bucket, row)| (*bucket, BucketHeader::from(row))).collect();
    assert_eq!((&task.buckets, &task.names), (&headers, &known.names));
    assert_eq!(task.open_buckets(), known.open_buckets().len());
    assert!(known.open_buckets().iter().all(|bucket| task.is_open(bucket)));
    assert_eq!(task.results, known.results);
    assert_eq!(task.provision, known.provision);
    assert_eq!((&task.in_band, task.tokens == Tokens::default()), (&known.in_band, known.in_band.is_some()));
    assert_eq!(task.collected.len(), known.collected.len());
    assert!(known.collected.iter().all(|row| task.collected.contains_exactly(&row.batch)));

    assert!((0..3).all(|n| {
        let id = BatchId::new([n; 32]);
        task.collected.is_abandoned(&id) == known.abandoned.contains_key(&id)
    }));

    let waiting = known.waiting();
    assert_eq!(task.waiting.len(), waiting.len());
    assert!((0..60).all(|n| {
        let is_known = known.reports.values().any(|(other, _)| *other == n);
        task.waiting.contains(&report_id(n)) == is_known
    }));
    let jobs: BTreeMap<_, _> =
        known.assigned.iter().map(|(job, positions)| (job_id(*job), leader_job(positions.clone()))).collect();
    assert_eq!(task.leader_jobs, jobs);
    let active = known.collections.iter().filter(|(_, job)| job.state.is_active());
    let mut deferred = task.deferred.clone();
    deferred.sort();
    assert!(deferred.into_iter().eq(known.helper_requests.keys().map(|job| job_id(*job))));
    assert_eq!(task.collections, active.map(|(n, job)| (collection_id(*n), job.clone())).collect::<BTreeMap<_, _>>());
}

fn check_rows(view: &View<'_>, id: &TaskId, known: &ModelTask) -> Result<(), Fault> {
    let positions: Vec<_> = known.reports.keys().copied().collect();
    let reports = view.load_reports(id, &positions)?;
    assert!(reports.iter().eq(known.reports.values().map(|(_, report)| report)));
    for (bucket, row) in &known.buckets {
        assert_eq!(rows::load(view, &table::BUCKETS, &(*id, *bucket))?.as_ref(), Some(row));
    }
    for row in &known.collected {
        assert_eq!(view.collected(id, &row.batch)?.as_ref(), Some(row));
    }
    for n in 0..4 {
        assert_eq!(view.collection(id, &collection_id(n))?.as_ref(), known.collections.get(&n));
        assert_eq!(view.helper_job(id, &job_id(n))?.as_ref(), known.helper_jobs.get(&n));
        assert_eq!(view.helper_request(id, &job_id(n))?.as_ref(), known.helper_requests.get(&n));
        assert_eq!(view.share(id, &share_id(n))?.as_ref(), known.shares.get(&n));
    }
    Ok(())
}

/// Of a removed task there is no row, and no piece of one.
fn check_nothing_is_left(dir: &Path, removed: &BTreeSet<u8>) {
    let engine = Engine::open(&dir.join("tables"), 1 << 20).unwrap();
    for id in removed.iter().map(|n| task_id(*n)) {
        for table in table::TASK_TABLE_PREFIXES {
            for prefix in [vec![table], vec![0xff, table]] {
                let prefix = [&prefix[..], id.as_bytes()].concat();
                let visit = |key: &[u8]| Err(EngineError::Damaged(format!("there is still {key:?}")));
                engine.keys(&prefix, visit).unwrap();
            }
        }
    }
}

/// Operations that are done in one write, what is swept then, and whether the store is then opened again.
type Step = (Vec<(u8, Op)>, Option<SweepCutoffs>, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = prop::collection::vec((0..TASKS, op()), 1..8);
    prop::collection::vec((write, prop::option::weighted(0.2, old()), prop::bool::weighted(0.15)), 1..25)
}

/// What is old by some sweeper. Results never are of after the horizon; the test sees to that.
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
