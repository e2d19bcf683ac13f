//! The helper's side of an aggregation job (DAP-09 section 4.5.1.2, DAP-18 section 4.5.3.2).
//!
//! A job is answered in three steps. [`reserve`] reserves the report ids in the store's writer, so that no other job
//! prepares them. [`prepare`] runs on the pool. [`commit`] stores sums, ids and answer together. A repeated request
//! gets the same bytes while the answer is kept.
//!
//! The helper may defer its answer (DAP-18 section 3.1): [`defer`] stores the request, and [`resume`] later replaces
//! `reserve`.
//!
//! # Decision: answers expire before their jobs
//!
//! Answers are large, so they are deleted after `retention.answer_age`. The job itself stays until its reports expire.
//! A later repeat of its request is refused with 410 and never answered differently.

mod bounds;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{
    BucketAccumulators, Error, InputShareOpener, KeyRing, TaskContext, check_aggregation_parameter, check_extensions,
    check_replay, check_time, counters,
    shares::{BucketAccumulator, bucket_of, catch_panic},
};
use dapbox_protocol::{
    model::{
        AggregationJobId, AggregationJobInitReq, BatchMode, Bucket, Duration, PartialBatchSelector, PrepareInit,
        PrepareOutcome, PrepareResp, ReportError, ReportId, ReportMetadata, TaskId, Time,
    },
    vdaf::{InputShare, VerifyParams},
    wire::{Problem, ProblemType},
};
use dapbox_store::{HelperJobRecord, HelperJobState, TaskState, Tx};
use dapbox_support::Fault;

use bounds::BucketLimiter;
pub(super) use bounds::SUM_COPIES;
pub use bounds::{Bounds, JobMemory};

/// Checks a request as far as possible without the store.
pub fn check_request(context: &TaskContext, init: &AggregationJobInitReq) -> Result<(), Error> {
    let task = &context.task;
    let refuse = |detail: &str| {
        Err(Problem::new(ProblemType::InvalidMessage).with_detail(detail).with_task(task.public.id).into())
    };
    match (task.public.batch_mode, init.batch) {
        (BatchMode::TimeInterval, PartialBatchSelector::TimeInterval)
        | (BatchMode::FixedSize { .. }, PartialBatchSelector::FixedSize(_)) => {}
        _ => return refuse("the batch mode of the job is not that of the task"),
    }
    if context.wire.report_policy().unknown_key_aborts_job && has_unknown_key(context, init) {
        return refuse("the task has no verification key with this id");
    }
    check_extensions(&init.extensions)?;
    check_aggregation_parameter(&init.aggregation_parameter)?;
    let mut seen = HashSet::with_capacity(init.prepare_inits.len());
    if !init.prepare_inits.iter().all(|init| seen.insert(init.share.metadata.id)) {
        return refuse("the job contains a report twice");
    }
    Ok(())
}

/// Whether the task has no verification key with the id of the job. If that does not abort the job, it rejects each report.
fn has_unknown_key(context: &TaskContext, init: &AggregationJobInitReq) -> bool {
    init.verify_key_id.is_some_and(|id| context.verify_keys.get(id).is_none())
}

/// The key data of a request for an aggregation job.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The task.
    pub task: TaskId,
    /// The job.
    pub job: AggregationJobId,
    /// SHA-256 of the body of the request.
    pub hash: [u8; 32],
    /// The batch of the job's reports, as far as it is known.
    pub batch: PartialBatchSelector,
    /// The verification key, if the revision has several.
    pub verify_key_id: Option<u8>,
    /// When the request arrived.
    pub now: Time,
}

/// The state of an aggregation job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Accepted; not answered yet.
    Pending,
    /// Answered.
    Answered(Bytes),
    /// Answered; the answer has expired.
    Expired,
    /// Deleted.
    Deleted,
}

impl From<HelperJobRecord> for JobState {
    fn from(record: HelperJobRecord) -> Self {
        match record.state {
            HelperJobState::Pending => Self::Pending,
            HelperJobState::Answered(answer) => Self::Answered(answer),
            HelperJobState::Expired => Self::Expired,
            HelperJobState::Deleted => Self::Deleted,
        }
    }
}

/// The outcome of a reservation.
#[derive(Debug, PartialEq, Eq)]
pub enum Reservation {
    /// A new job. For each report: `None` if it is reserved, else the reason for its rejection.
    New(Vec<Option<ReportError>>),
    /// The job exists.
    Existing(JobState),
    /// The job id was used for another request.
    Conflict,
    /// The task was removed.
    NoTask,
}

/// The outcome of deferring a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Deferral {
    /// The request is stored.
    Stored,
    /// The task has too many deferred requests.
    TooMany,
    /// The request is not deferred, because its job exists or has no task.
    Not(Reservation),
}

/// Finds an earlier job, or reserves the reports of a new one.
pub fn reserve(
    tx: &mut Tx<'_>,
    request: &Request,
    bounds: Bounds,
    reports: &[ReportMetadata],
) -> Result<Reservation, Fault> {
    match find(tx, request)? {
        Some(known) => Ok(known),
        None => Ok(reserve_reports(tx, request, bounds, reports)),
    }
}

/// Reserves the reports of a deferred job.
pub fn resume(
    tx: &mut Tx<'_>,
    request: &Request,
    bounds: Bounds,
    reports: &[ReportMetadata],
) -> Result<Reservation, Fault> {
    match find(tx, request)? {
        Some(Reservation::Existing(JobState::Pending)) => Ok(reserve_reports(tx, request, bounds, reports)),
        Some(known) => Ok(known),
        None => Ok(Reservation::NoTask),
    }
}

/// Finds an earlier job, or stores the request. At most `most` requests of a task may be deferred.
pub fn defer(tx: &mut Tx<'_>, request: &Request, body: &Bytes, most: usize) -> Result<Deferral, Fault> {
    if let Some(known) = find(tx, request)? {
        return Ok(Deferral::Not(known));
    }
    match tx.task(&request.task) {
        None => return Ok(Deferral::Not(Reservation::NoTask)),
        Some(state) if state.deferred.len() >= most => return Ok(Deferral::TooMany),
        Some(_) => {}
    }
    let (request_hash, created) = (request.hash, request.now);
    let record = HelperJobRecord { request_hash, created, state: HelperJobState::Pending };
    tx.put_helper_job(&request.task, request.job, &record)?;
    tx.put_helper_request(&request.task, request.job, body)?;
    Ok(Deferral::Stored)
}

fn find(tx: &Tx<'_>, request: &Request) -> Result<Option<Reservation>, Fault> {
    Ok(tx.helper_job(&request.task, &request.job)?.map(|record| match JobState::from(record.clone()) {
        JobState::Deleted => Reservation::Existing(JobState::Deleted),
        state if record.request_hash == request.hash => Reservation::Existing(state),
        _ => Reservation::Conflict,
    }))
}

fn reserve_reports(tx: &mut Tx<'_>, request: &Request, bounds: Bounds, reports: &[ReportMetadata]) -> Reservation {
    let Some(state) = tx.task_mut(&request.task) else { return Reservation::NoTask };
    let mut room = room_in_batch(state, request.batch);
    let mut opened = BucketLimiter::new(bounds.max_open_buckets);
    let mut verdicts = Vec::with_capacity(reports.len());
    for metadata in reports {
        let bucket = bucket_of(&state.task, request.batch, metadata);
        let checked = check_report(state, request, bounds.clock_skew, metadata, room);
        let verdict = checked.and_then(|()| opened.admit(state, bucket)).err();
        if verdict.is_none() {
            state.reserved.insert(metadata.id, request.job);
            room = room.saturating_sub(1);
        }
        verdicts.push(verdict);
    }
    opened.log(&request.task);
    Reservation::New(verdicts)
}

/// How many more reports the batch may take (DAP-09 section 4.5.1.4).
fn room_in_batch(state: &TaskState, batch: PartialBatchSelector) -> u64 {
    let (Some(max), PartialBatchSelector::FixedSize(id)) = (state.task.public.max_batch_size(), batch) else {
        return u64::MAX;
    };
    let count = state.buckets.get(&Bucket::Batch(id)).map_or(0, |bucket| bucket.count);
    max.saturating_sub(count)
}

fn check_report(
    state: &TaskState,
    request: &Request,
    skew: Duration,
    metadata: &ReportMetadata,
    room: u64,
) -> Result<(), ReportError> {
    check_time(&state.task, state.end(), request.now, skew, metadata.time)?;
    check_replay(&state.replay, &metadata.id, metadata.time)?;
    if state.reserved.contains_key(&metadata.id) {
        return Err(ReportError::ReportReplayed);
    }
    if state.collected.covers(&bucket_of(&state.task, request.batch, metadata)) {
        return Err(ReportError::BatchCollected);
    }
    if room == 0 {
        return Err(ReportError::BatchSaturated);
    }
    let latest = metadata.time.saturating_add(skew);
    if request.verify_key_id.is_some_and(|id| !state.verify_keys.accepts(id, latest)) {
        return Err(ReportError::UnknownVerificationKeyId);
    }
    Ok(())
}

/// Releases the reservations of a job that will not be committed.
pub fn release(tx: &mut Tx<'_>, task: &TaskId, job: AggregationJobId) {
    if let Some(state) = tx.task_mut(task) {
        state.reserved.retain(|_, holder| *holder != job);
    }
}

/// A report of a job and the outcome of its reservation.
pub struct CandidateReport {
    /// The report share and the leader's message.
    pub init: PrepareInit,
    /// The reason for its rejection, if it is rejected.
    pub refused: Option<ReportError>,
}

/// The result of preparing part of a job.
#[derive(Default)]
pub struct PreparedJob {
    /// The answers for the reports, in the order of the request.
    pub resps: Vec<PrepareResp>,
    /// The sums of the valid reports.
    pub sums: BucketAccumulators,
}

impl PreparedJob {
    /// Appends the next part of the job.
    pub fn append(&mut self, context: &TaskContext, other: Self) {
        self.resps.extend(other.resps);
        self.sums.merge(context.preparer.as_ref(), other.sums);
    }
}

/// Opens and verifies part of a job. Runs on the pool.
pub fn prepare(context: &TaskContext, keys: &KeyRing, request: &Request, part: Vec<CandidateReport>) -> PreparedJob {
    let batch = request.batch;
    let verify = verification(context, request.verify_key_id);
    let opener = InputShareOpener::new(context, keys);
    let mut prepared = PreparedJob { resps: Vec::with_capacity(part.len()), sums: BucketAccumulators::default() };
    for CandidateReport { init, refused } in part {
        let metadata = init.share.metadata;
        let answered = refused.map_or_else(|| catch_panic(&metadata, || answer(context, &opener, verify?, &init)), Err);
        let outcome = match answered {
            Ok((share, message)) => {
                let bucket = bucket_of(&context.task, batch, &metadata);
                prepared.sums.add(context.preparer.as_ref(), bucket, metadata, share);
                PrepareOutcome::Continue(message)
            }
            Err(error) => PrepareOutcome::Reject(error),
        };
        prepared.resps.push(PrepareResp { report_id: metadata.id, outcome });
    }
    prepared
}

fn verification(context: &TaskContext, key: Option<u8>) -> Result<VerifyParams<'_>, ReportError> {
    let Some(id) = key else { return Ok(context.verification()) };
    let key = context.verify_keys.get(id).ok_or(ReportError::UnknownVerificationKeyId)?;
    Ok(context.verification_with(key))
}

/// Opens and verifies one report. Returns its output share and the message for the leader. All cryptography of a helper
/// is here.
pub fn answer(
    context: &TaskContext,
    opener: &InputShareOpener<'_>,
    verify: VerifyParams<'_>,
    init: &PrepareInit,
) -> Result<(dapbox_protocol::vdaf::OutputShare, Bytes), ReportError> {
    let PrepareInit { share, message } = init;
    let input_share = opener.open(&share.metadata, &share.extensions, &share.public_share, &share.input_share)?;
    let input =
        InputShare { report_id: &share.metadata.id, public_share: &share.public_share, input_share: &input_share };
    let (output, answer) = context.preparer.helper_answer(verify, input, message)?;
    Ok((output, answer.into()))
}

/// Stores the result of a job and returns its answer; `None` if the task or the job was deleted in the meantime.
///
/// A batch that was closed or filled during preparation takes no more reports, nor does a bucket beyond the limit.
/// These reports are rejected here.
pub fn commit(
    tx: &mut Tx<'_>,
    context: &TaskContext,
    request: &Request,
    bounds: Bounds,
    prepared: PreparedJob,
) -> Result<Option<Bytes>, Fault> {
    let Request { task, job, hash: request_hash, batch, verify_key_id: _, now } = *request;
    let task = &task;
    release(tx, task, job);
    let accepted = tx.helper_job(task, &job)?;
    if accepted.as_ref().is_some_and(|record| record.state == HelperJobState::Deleted) {
        return Ok(None);
    }
    let created = accepted.map_or(now, |record| record.created);
    let Some(state) = tx.task(task) else { return Ok(None) };
    let PreparedJob { mut resps, mut sums } = prepared;
    let mut late: HashMap<ReportId, ReportError> = HashMap::new();
    let mut opened = BucketLimiter::new(bounds.max_open_buckets);
    sums.0.retain(|bucket, sum| {
        let checked = check_bucket(state, batch, bucket, sum);
        let refused = checked.and_then(|()| opened.admit(state, *bucket)).err();
        late.extend(refused.into_iter().flat_map(|error| sum.reports.iter().map(move |m| (m.id, error))));
        refused.is_none()
    });
    opened.log(task);
    for resp in &mut resps {
        if let Some(error) = late.get(&resp.report_id) {
            resp.outcome = PrepareOutcome::Reject(*error);
        }
    }
    if let PartialBatchSelector::FixedSize(id) = batch
        && !state.buckets.contains_key(&Bucket::Batch(id))
        && !state.collected.is_abandoned(&id)
        && opened.admit(state, Bucket::Batch(id)).is_ok()
    {
        // A batch id that a job named is known from now on, even if all its reports are rejected.
        tx.bucket_mut(task, Bucket::Batch(id))?;
    }
    for (bucket, sum) in sums.0 {
        merge_into_bucket(tx, context, bucket, sum)?;
    }
    count(tx, task, &resps)?;
    let answer = Bytes::from(context.wire.encode_job_resp(&resps));
    let record = HelperJobRecord { request_hash, created, state: HelperJobState::Answered(answer.clone()) };
    tx.put_helper_job(task, job, &record)?;
    tx.end_helper_request(task, &job)?;
    Ok(Some(answer))
}

/// Whether the bucket still takes the reports of a job.
fn check_bucket(
    state: &TaskState,
    batch: PartialBatchSelector,
    bucket: &Bucket,
    sum: &BucketAccumulator,
) -> Result<(), ReportError> {
    if state.is_before_horizon(bucket) {
        return Err(ReportError::ReportDropped);
    }
    if state.collected.covers(bucket) {
        return Err(ReportError::BatchCollected);
    }
    if sum.reports.len() as u64 > room_in_batch(state, batch) {
        return Err(ReportError::BatchSaturated);
    }
    Ok(())
}

/// Adds the sum of a job to its batch bucket and records its reports. Consumes the sum, so that it is not held besides
/// its encoding.
pub(super) fn merge_into_bucket(
    tx: &mut Tx<'_>,
    context: &TaskContext,
    bucket: Bucket,
    sum: BucketAccumulator,
) -> Result<(), Fault> {
    let (Some(first), Some(last)) =
        (sum.reports.iter().map(|m| m.time).min(), sum.reports.iter().map(|m| m.time).max())
    else {
        return Ok(());
    };
    let preparer = context.preparer.as_ref();
    let mut record = tx.bucket_mut(&context.task.public.id, bucket)?;
    let encoded = if record.header.count == 0 {
        preparer.encode(&sum.share)
    } else {
        let mut share = preparer
            .decode(record.share())
            .map_err(|error| Fault::while_doing("reading a batch bucket's sum from the store", error))?;
        preparer.merge(&mut share, &sum.share);
        preparer.encode(&share)
    };
    record.replace_share(encoded);
    let header = record.header;
    (header.first, header.last) = (header.first.min(first), header.last.max(last));
    header.count += sum.reports.len() as u64;
    header.checksum.merge(&sum.checksum);
    tx.record_aggregated(&context.task.public.id, &sum.ids_and_times())
}

fn count(tx: &mut Tx<'_>, task: &TaskId, resps: &[PrepareResp]) -> Result<(), Fault> {
    for resp in resps {
        let counter = match resp.outcome {
            PrepareOutcome::Continue(_) | PrepareOutcome::Finished => counters::AGGREGATE_SUCCESS,
            PrepareOutcome::Reject(error) => counters::refused(error),
        };
        tx.count(task, counter, 1)?;
    }
    Ok(())
}

/// Deletes the answer of a job, or its deferred request (DAP-09 section 4.5.2.2, DAP-18 section 4.5.5). Its replay
/// protection and its id stay. Returns the hash of the request, if the job exists.
pub fn delete(tx: &mut Tx<'_>, task: &TaskId, job: AggregationJobId) -> Result<Option<[u8; 32]>, Fault> {
    let Some(record) = tx.helper_job(task, &job)? else { return Ok(None) };
    let request_hash = record.request_hash;
    tx.put_helper_job(task, job, &HelperJobRecord { state: HelperJobState::Deleted, ..record })?;
    tx.end_helper_request(task, &job)?;
    Ok(Some(request_hash))
}

#[cfg(test)]
mod tests;
