//! Collections (DAP-09 section 4.6): the collection jobs of the leader and the aggregate shares of the helper.
//!
//! A collection job waits until its batch can be closed. One write closes the batch and stores its count, its checksum
//! and the leader's aggregate share. Only then does the leader ask the helper. A closed batch never reopens.
//!
//! # Decision: buckets outlive their collection
//!
//! A collection empties the sums of its buckets and keeps their counts. A later overlapping query is therefore refused
//! as an overlap and not as too small, in the order of checks that the drafts define.
//!
//! # Decision: the helper seals its aggregate share in the store's writer
//!
//! Closing a batch and storing the share that is given out must be atomic. Sealing happens once per batch and takes
//! less time than the commit, so it runs on the writer thread.
//!
//! # Decision: noise is a share of no reports
//!
//! The sum that is given out starts with a noise sample instead of zero. The sample is drawn on the worker pool before
//! the write that closes the batch, and the write adds it. A task draws for one batch at a time, once the batch can be
//! closed; other tasks do not wait. An unused sample is dropped. A used one is on disk before anyone sees it. The
//! sampler comes from `prio`, so that it needs no separate review.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Error, TaskContext,
    batches::{self, BatchTotals, Refusal},
    check_aggregation_parameter, check_extensions,
    phase::{CollectionPhase, collection_phase, has_enough_reports},
    privacy, results,
};
use crate::config;
use dapbox_protocol::{
    hpke,
    model::{
        AggregateShareId, AggregateShareReq, BatchMode, BatchSelector, Bucket, Collection, CollectionJobId,
        CollectionReq, FixedSizeQuery, ForwardedCollectionReq, HpkeCiphertext, Interval, Query, Task, TaskId, Time,
    },
    vdaf::AggregateShare,
    wire::{CollectedBatchPolicy, Problem, ProblemType},
};
use dapbox_store::{
    CollectedBatch, CollectedBy, CollectionJobRecord, CollectionProgress, CollectionState, ResultRecord, ResultStage,
    TaskState, Tx, WriteError,
};
use dapbox_support::Fault;

/// The refusal of a collection job by `leader.max_collections`.
const TOO_MANY: &str = "the task has too many collection jobs without a result; delete some or retry later";

/// The refusal of a request in another batch mode.
const WRONG_BATCH_MODE: &str = "the request's batch mode is not the task's";

/// Checks a collector's request as far as possible without the store.
pub fn check_request(task: &Task, request: &CollectionReq) -> Result<(), Error> {
    let refuse = |detail: &str| {
        Err(Problem::new(ProblemType::InvalidMessage).with_detail(detail).with_task(task.public.id).into())
    };
    match (task.public.batch_mode, request.query) {
        (BatchMode::TimeInterval, Query::TimeInterval(_)) | (BatchMode::FixedSize { .. }, Query::FixedSize(_)) => {}
        _ => return refuse(WRONG_BATCH_MODE),
    }
    check_aggregation_parameter(&request.aggregation_parameter)?;
    if request.extensions.windows(2).any(|pair| pair[0].kind >= pair[1].kind) {
        let detail = "the extensions are not in strictly increasing order of their types";
        return Err(Problem::new(ProblemType::InvalidExtension).with_detail(detail).into());
    }
    Ok(check_extensions(&request.extensions)?)
}

/// A request for a new collection job.
pub struct NewCollectionJob {
    /// The id of the job.
    pub id: CollectionJobId,
    /// The encoded request.
    pub bytes: Bytes,
    /// The query.
    pub query: Query,
    /// Whether the disk has room for a job that waits for reports. Existing reports can be collected without.
    pub room: Result<(), Problem>,
}

/// Creates a collection job, or finds the one that the same request created (DAP-09 section 4.6.1).
pub fn create(
    tx: &mut Tx<'_>,
    now: Time,
    context: &TaskContext,
    limits: &config::Leader,
    new: NewCollectionJob,
) -> Result<(), WriteError<Problem>> {
    let task = &context.task.public.id;
    let NewCollectionJob { id, bytes, query, room } = new;
    if let Some(existing) = tx.collection(task, &id)? {
        if matches!(existing.state, CollectionState::Deleted) {
            let detail = "the collection job was deleted; use a new job id";
            return Err(WriteError::Refused(Problem::from_status(410).with_detail(detail).with_task(*task)));
        }
        if existing.request == bytes {
            return Ok(());
        }
        let detail = "the collection job exists with other parameters; use a new job id";
        return Err(WriteError::Refused(Problem::from_status(409).with_detail(detail).with_task(*task)));
    }
    let Some(state) = tx.task(task) else {
        return Err(WriteError::Refused(Problem::new(ProblemType::UnrecognizedTask).with_task(*task)));
    };
    if let Err(Refusal { kind, detail }) = check_query(state, &context.wire.collected_batch_policy(), limits, &query) {
        return Err(WriteError::Refused(Problem::new(kind).with_detail(detail).with_task(*task)));
    }
    if needs_new_batch(state, &query) {
        privacy::check(state).map_err(WriteError::Refused)?;
    }
    if state.collections.len() >= limits.max_collections {
        return Err(WriteError::Refused(Problem::busy().with_detail(TOO_MANY).with_task(*task)));
    }
    if let Err(problem) = room
        && !has_enough_reports(state, &query)
    {
        return Err(WriteError::Refused(problem.with_task(*task)));
    }
    let (accepted_before, state) = (tx.next_position(), CollectionState::Waiting);
    let record =
        CollectionJobRecord { request: bytes, query, accepted_before, created: now, state, ended: None, batch: None };
    Ok(tx.put_collection(task, id, record)?)
}

/// Whether the answer to an admissible query takes a batch that is not collected yet.
fn needs_new_batch(state: &TaskState, query: &Query) -> bool {
    match query {
        Query::TimeInterval(interval) => !state.collected.contains_exactly(&BatchSelector::TimeInterval(*interval)),
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => true,
        Query::FixedSize(FixedSizeQuery::ByBatchId(_)) => false,
    }
}

/// Checks whether a query can be answered at all, as far as is known at its arrival.
fn check_query(
    state: &TaskState,
    policy: &CollectedBatchPolicy,
    limits: &config::Leader,
    query: &Query,
) -> Result<(), Refusal> {
    match query {
        Query::TimeInterval(interval) => {
            let batch = BatchSelector::TimeInterval(*interval);
            batches::check_boundaries(state, &batch)?;
            if policy.may_repeat && state.collected.contains_exactly(&batch) {
                return Ok(());
            }
            batches::check_not_abandoned(state, &batch)?;
            batches::check_overlap(state, &batch)?;
            // The length costs us nothing, but some helpers create an entry per unit.
            let most = limits.max_interval_units;
            if interval.duration().0.div_ceil(state.task.public.time_precision.0) > most {
                let detail = format!("the interval is longer than {most} times the task's time precision");
                return Err(Refusal { kind: ProblemType::BatchInvalid, detail });
            }
            Ok(())
        }
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => Ok(()),
        Query::FixedSize(FixedSizeQuery::ByBatchId(id)) if state.names.contains(id) => Ok(()),
        Query::FixedSize(FixedSizeQuery::ByBatchId(_)) => Err(Refusal {
            kind: ProblemType::BatchInvalid,
            detail: "no earlier collection returned this batch id".to_owned(),
        }),
    }
}

/// Advances a waiting collection job as far as possible without the helper. Returns true if it no longer waits.
///
/// `noise` is a sample for this call ([`Preparer::sample_noise`](dapbox_protocol::vdaf::Preparer::sample_noise)). It is added to the
/// share if this call closes the batch, in the same write, so that a batch never gets two samples. Without a sample no
/// batch is closed.
pub fn advance(
    tx: &mut Tx<'_>,
    now: Time,
    context: &TaskContext,
    id: CollectionJobId,
    noise: Option<AggregateShare>,
) -> Result<bool, Fault> {
    let task = &context.task.public.id;
    let Some(state) = tx.task(task) else { return Ok(true) };
    let Some(job) = state.collections.get(&id) else { return Ok(true) };
    if !matches!(job.state, CollectionState::Waiting) {
        return Ok(true);
    }
    let job = job.clone();
    let (next, batch) = match collection_phase(state, &job.query, job.accepted_before) {
        CollectionPhase::TooFewReports | CollectionPhase::AwaitingAggregation | CollectionPhase::AwaitingJobs => {
            return Ok(false);
        }
        CollectionPhase::Refused(Refusal { kind, detail }) => (failed(kind, detail), None),
        // It waits: the answer to a failed job could not change after a larger budget.
        CollectionPhase::Ready(_) if privacy::check(state).is_err() => return Ok(false),
        CollectionPhase::Ready(batch) => {
            let Some(noise) = noise else { return Ok(false) };
            close(tx, now, context, id, batch, noise)?;
            (CollectionState::Closed { batch }, Some(batch))
        }
        CollectionPhase::Closed(batch) => match follow_owner(tx, task, &batch)? {
            Some(next) => (next, Some(batch)),
            None => return Ok(false),
        },
    };
    tx.put_collection(task, id, CollectionJobRecord { state: next, batch, ..job })?;
    Ok(true)
}

fn failed(kind: ProblemType, detail: String) -> CollectionState {
    CollectionState::Failed { kind: kind.urn(), detail }
}

/// Closes a batch for a collection job. Its reports are collected from here on.
fn close(
    tx: &mut Tx<'_>,
    now: Time,
    context: &TaskContext,
    job: CollectionJobId,
    batch: BatchSelector,
    noise: AggregateShare,
) -> Result<(), Fault> {
    let task = &context.task.public.id;
    let Some(state) = tx.task(task) else { return Ok(()) };
    let totals = batches::totals(state, &batch);
    let interval = totals.interval(state).ok_or_else(|| Fault::new("a batch without reports is being closed"))?;
    let BatchTotals { count, checksum, .. } = totals;
    let share = take_aggregate_share(tx, context, &batch, noise)?;
    let party = CollectedBy::Leader { job, interval, progress: CollectionProgress::Share(share) };
    tx.put_collected(task, &CollectedBatch { batch, report_count: count, checksum, party })?;
    if let BatchSelector::FixedSize(id) = batch {
        // Not with the result: the batch can be queried by its id even if this job fails.
        tx.name_batch(task, id)?;
    }
    tx.put_result(task, batch, ResultRecord { report_count: count, interval, closed: now, stage: ResultStage::Pending })
}

/// Sums up the shares of a batch and empties its buckets, so that a noised sum exists nowhere without its noise. Counts
/// and checksums stay for overlap checks.
fn take_aggregate_share(
    tx: &mut Tx<'_>,
    context: &TaskContext,
    batch: &BatchSelector,
    noise: AggregateShare,
) -> Result<Vec<u8>, Fault> {
    let task = &context.task.public.id;
    let Some(state) = tx.task(task) else { return Ok(Vec::new()) };
    let buckets: Vec<Bucket> = batches::buckets_of(state, batch).map(|(bucket, _)| *bucket).collect();
    let mut sum = noise;
    for bucket in buckets {
        let mut bucket = tx.bucket_mut(task, bucket)?;
        let share = bucket.replace_share(Vec::new());
        if bucket.header.count > 0 {
            let share = context
                .preparer
                .decode(&share)
                .map_err(|error| Fault::while_doing("reading a batch bucket's sum from the store", error))?;
            context.preparer.merge(&mut sum, &share);
        }
    }
    Ok(context.preparer.encode(&sum))
}

/// The state of a job whose batch another job closed: it gets the same result. Returns `None` while there is none.
fn follow_owner(tx: &Tx<'_>, task: &TaskId, batch: &BatchSelector) -> Result<Option<CollectionState>, Fault> {
    let (owner, progress) = match tx.collected(task, batch)? {
        Some(CollectedBatch { party: CollectedBy::Leader { job, progress, .. }, .. }) => (job, progress),
        Some(_) => return Err(Fault::new("a batch of a leader has a record of a helper")),
        None => {
            let detail = "the batch was collected, but its result has expired".to_owned();
            return Ok(Some(failed(ProblemType::BatchInvalid, detail)));
        }
    };
    if let CollectionProgress::Result(body) = progress {
        return Ok(Some(CollectionState::Done { body }));
    }
    Ok(match tx.collection(task, &owner)?.map(|job| job.state) {
        Some(CollectionState::Waiting | CollectionState::Closed { .. } | CollectionState::Done { .. }) => None,
        Some(CollectionState::Failed { kind, detail }) => Some(CollectionState::Failed { kind, detail }),
        // The job that closed the batch was deleted before it had a result, so this one continues.
        Some(CollectionState::Deleted) | None => Some(CollectionState::Closed { batch: *batch }),
    })
}

/// The exchange with the helper about a closed batch.
pub struct ShareExchange {
    /// The request for the helper's share.
    pub request: AggregateShareReq,
    /// Our aggregate share, encoded.
    share: Vec<u8>,
    interval: Interval,
}

/// Prepares the request for the helper's share of a closed batch. Returns the stored result as an error if there is
/// one.
pub fn exchange(collected: CollectedBatch, query: Query, bytes: Bytes) -> Result<ShareExchange, Option<Bytes>> {
    let CollectedBatch { batch, report_count, checksum, party } = collected;
    match party {
        CollectedBy::Leader { interval, progress: CollectionProgress::Share(share), .. } => {
            let request = CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: Vec::new() };
            let collection = Some(ForwardedCollectionReq { request, bytes });
            let aggregation_parameter = Bytes::new();
            let request = AggregateShareReq { batch, aggregation_parameter, report_count, checksum, collection };
            Ok(ShareExchange { request, share, interval })
        }
        CollectedBy::Leader { progress: CollectionProgress::Result(body), .. } => Err(Some(body)),
        CollectedBy::Helper { .. } => Err(None),
    }
}

/// Assembles the result of a collection and seals our share (DAP-09 section 4.6.1). Runs on the pool.
pub fn complete(context: &TaskContext, exchange: ShareExchange, helper_share: HpkeCiphertext) -> Result<Bytes, Fault> {
    let leader_share = seal_share(context, &exchange.request, &exchange.share)?;
    let collection = Collection {
        batch: Some(exchange.request.batch.partial()),
        report_count: exchange.request.report_count,
        interval: exchange.interval,
        leader_share,
        helper_share,
    };
    Ok(context.wire.encode_collection(&context.task.public, &collection).into())
}

fn seal_share(context: &TaskContext, request: &AggregateShareReq, share: &[u8]) -> Result<HpkeCiphertext, Fault> {
    let info = context.wire.aggregate_share_info(context.role());
    let collection = request.collection.as_ref().map_or(&[][..], |forwarded| &forwarded.bytes);
    let aad = context.wire.aggregate_share_aad(&context.task.public, collection, &request.batch);
    hpke::seal(&context.task.collector_hpke_config, &info, &aad, share)
        .map_err(|error| Fault::while_doing("sealing an aggregate share to the collector", error))
}

/// Stores the result of a closed batch for this job and all later ones of the same batch. The first stored result
/// stays.
pub fn finish(tx: &mut Tx<'_>, task: &TaskId, id: CollectionJobId, body: Bytes) -> Result<(), Fault> {
    let Some(job) = tx.collection(task, &id)? else { return Ok(()) };
    let CollectionState::Closed { batch } = job.state else { return Ok(()) };
    let body = match tx.collected(task, &batch)? {
        Some(CollectedBatch {
            party: CollectedBy::Leader { progress: CollectionProgress::Result(first), .. }, ..
        }) => first,
        Some(CollectedBatch { report_count, checksum, party: CollectedBy::Leader { job, interval, .. }, .. }) => {
            let party = CollectedBy::Leader { job, interval, progress: CollectionProgress::Result(body.clone()) };
            tx.put_collected(task, &CollectedBatch { batch, report_count, checksum, party })?;
            body
        }
        _ => return Err(Fault::new("a collected batch has no record of a leader")),
    };
    if let BatchSelector::FixedSize(batch_id) = batch {
        tx.name_batch(task, batch_id)?;
    }
    if !matches!(results::stage(tx, task, &batch), Some(ResultStage::Fetched { .. })) {
        results::advance(tx, task, batch, ResultStage::Ready)?;
    }
    tx.put_collection(task, id, CollectionJobRecord { state: CollectionState::Done { body }, ..job })
}

/// Stores that a collection job failed permanently. Its batch stays closed.
pub fn fail(tx: &mut Tx<'_>, task: &TaskId, id: CollectionJobId, refusal: Refusal) -> Result<(), Fault> {
    let Some(job) = tx.collection(task, &id)? else { return Ok(()) };
    if !matches!(job.state, CollectionState::Waiting | CollectionState::Closed { .. }) {
        return Ok(());
    }
    if let Some(batch) = results::batch_of(&job)
        && results::stage(tx, task, &batch) == Some(ResultStage::Pending)
    {
        results::advance(tx, task, batch, ResultStage::Failed { reported: None })?;
    }
    tx.put_collection(task, id, CollectionJobRecord { state: failed(refusal.kind, refusal.detail), ..job })
}

/// Deletes a collection job (DAP-09 section 4.6.1, DAP-18 section 4.6.3). A closed batch stays collected. Returns the
/// request that created the job, if it exists.
pub fn delete(tx: &mut Tx<'_>, task: &TaskId, id: CollectionJobId) -> Result<Option<Bytes>, Fault> {
    let Some(job) = tx.collection(task, &id)? else { return Ok(None) };
    let request = job.request.clone();
    tx.put_collection(task, id, CollectionJobRecord { state: CollectionState::Deleted, ..job })?;
    Ok(Some(request))
}

/// Answers a request for the helper's aggregate share (DAP-09 section 4.6.2, DAP-18 section 4.6.4): validates the
/// batch, collects it and stores the answer. A repeated request gets the same bytes until the share is deleted. `id` is
/// the id of the share, where the protocol has one. `noise` is a sample for this call, used only for a new share.
pub fn helper_share(
    tx: &mut Tx<'_>,
    context: &TaskContext,
    bytes: &Bytes,
    request: &AggregateShareReq,
    id: Option<AggregateShareId>,
    noise: AggregateShare,
) -> Result<Bytes, WriteError<Problem>> {
    let task = &context.task.public.id;
    let Some(state) = tx.task(task) else {
        return Err(WriteError::Refused(Problem::new(ProblemType::UnrecognizedTask).with_task(*task)));
    };
    if let Some(decided) = existing_answer(state, tx.collected(task, &request.batch)?, context, bytes, request) {
        return decided.map_err(WriteError::Refused);
    }
    let request_hash: [u8; 32] = Sha256::digest(bytes).into();
    let share = take_aggregate_share(tx, context, &request.batch, noise)?;
    let sealed = seal_share(context, request, &share)?;
    let answer = context.wire.encode_aggregate_share(&sealed);
    let party = CollectedBy::Helper { request_hash, answer: answer.clone() };
    let AggregateShareReq { batch, report_count, checksum, .. } = request.clone();
    tx.put_collected(task, &CollectedBatch { batch, report_count, checksum, party })?;
    if let Some(id) = id {
        tx.put_share(task, id, &batch)?;
    }
    Ok(answer.into())
}

/// The answer to a request for an aggregate share that needs no new share: the stored answer of a repeated request, or
/// a refusal. `collected` is the record of the request's batch. Returns `None` if a new share must be made.
pub fn existing_answer(
    state: &TaskState,
    collected: Option<CollectedBatch>,
    context: &TaskContext,
    bytes: &Bytes,
    request: &AggregateShareReq,
) -> Option<Result<Bytes, Problem>> {
    if let Some(CollectedBatch { party: CollectedBy::Helper { request_hash, answer }, .. }) = collected
        && request_hash[..] == Sha256::digest(bytes)[..]
        && !answer.is_empty()
    {
        return Some(Ok(answer.into()));
    }
    match check_share_request(state, &context.wire.collected_batch_policy(), request) {
        Ok(()) => privacy::check(state).err().map(Err),
        Err(Refusal { kind, detail }) => {
            Some(Err(Problem::new(kind).with_detail(detail).with_task(context.task.public.id)))
        }
    }
}

/// The stored answer of a collected batch; `None` if the share was deleted.
pub fn stored_answer(collected: CollectedBatch) -> Option<Bytes> {
    match collected.party {
        CollectedBy::Helper { answer, .. } if !answer.is_empty() => Some(answer.into()),
        _ => None,
    }
}

/// Deletes an aggregate share of the helper (DAP-18 section 4.6.5). Its batch stays collected. Returns false if the
/// share does not exist.
pub fn delete_share(tx: &mut Tx<'_>, task: &TaskId, id: &AggregateShareId) -> Result<bool, Fault> {
    let Some(batch) = tx.share(task, id)? else { return Ok(false) };
    let (request_hash, report_count, checksum) = match tx.collected(task, &batch)? {
        // The sweeper deleted the batch with its share, and will delete this id.
        None => return Ok(true),
        Some(CollectedBatch { party: CollectedBy::Helper { request_hash, .. }, report_count, checksum, .. }) => {
            (request_hash, report_count, checksum)
        }
        Some(_) => return Err(Fault::new("an aggregate share has a record of a leader")),
    };
    let party = CollectedBy::Helper { request_hash, answer: Vec::new() };
    tx.put_collected(task, &CollectedBatch { batch, report_count, checksum, party })?;
    Ok(true)
}

/// Checks a leader's request as far as possible without the store: its batch must match the forwarded request of the
/// collector (DAP-18 sections 4.6.4 and 5).
pub fn check_forwarded_request(task: &Task, request: &AggregateShareReq) -> Result<(), Error> {
    if !request.aggregation_parameter.is_empty() {
        // The jobs of the batch had the empty parameter, so another one is a mismatch.
        let detail = "the aggregation parameter differs from that of the aggregation jobs";
        return Err(Problem::new(ProblemType::InvalidMessage).with_detail(detail).into());
    }
    let Some(ForwardedCollectionReq { request: wanted, .. }) = &request.collection else { return Ok(()) };
    check_request(task, wanted)?;
    let fits = match (wanted.query, request.batch) {
        (Query::TimeInterval(wanted), BatchSelector::TimeInterval(batch)) => {
            wanted.start() <= batch.start() && batch.end() <= wanted.end()
        }
        (Query::FixedSize(FixedSizeQuery::ByBatchId(wanted)), BatchSelector::FixedSize(batch)) => wanted == batch,
        (Query::FixedSize(FixedSizeQuery::CurrentBatch), BatchSelector::FixedSize(_)) => true,
        _ => return Err(Problem::new(ProblemType::InvalidMessage).with_detail(WRONG_BATCH_MODE).into()),
    };
    if fits {
        return Ok(());
    }
    let detail = "the batch is not part of the collector's query";
    Err(Problem::new(ProblemType::BatchInvalid).with_detail(detail).into())
}

/// Validates the batch of a share request, in the order of the drafts (DAP-09 sections 4.6.2 and 4.6.5, DAP-18 section
/// 4.6.4).
fn check_share_request(
    state: &TaskState,
    policy: &CollectedBatchPolicy,
    request: &AggregateShareReq,
) -> Result<(), Refusal> {
    let refuse = |kind, detail: &str| Err(Refusal { kind, detail: detail.to_owned() });
    match (state.task.public.batch_mode, request.batch) {
        (BatchMode::TimeInterval, BatchSelector::TimeInterval(_)) => {}
        (BatchMode::FixedSize { .. }, BatchSelector::FixedSize(id)) => {
            batches::check_not_abandoned(state, &request.batch)?;
            if !state.buckets.contains_key(&Bucket::Batch(id)) {
                return refuse(ProblemType::BatchInvalid, "no aggregation job named this batch id");
            }
        }
        _ => return refuse(ProblemType::InvalidMessage, WRONG_BATCH_MODE),
    }
    batches::check_boundaries(state, &request.batch)?;
    batches::check_not_abandoned(state, &request.batch)?;
    let totals = batches::totals(state, &request.batch);
    if policy.size_before_overlap {
        batches::check_size(state, totals.count)?;
    }
    batches::check_overlap(state, &request.batch)?;
    batches::check_size(state, totals.count)?;
    if (totals.count, totals.checksum) != (request.report_count, request.checksum) {
        let detail = format!(
            "the leader has {} reports in the batch and the helper {}, or the report ids differ",
            request.report_count, totals.count
        );
        return Err(Refusal { kind: ProblemType::BatchMismatch, detail });
    }
    Ok(())
}
