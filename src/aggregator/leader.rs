//! The leader's side of an aggregation job (DAP-09 section 4.5.1.1).
//!
//! A job is picked from the waiting reports ([`pick()`]), prepared on the pool ([`start`]), sealed into the store
//! before its request is first sent ([`seal`]), and committed after the helper's answer ([`commit`]). A crash at any
//! point leads to the same request: its reports, its clock and its hash are stored, and preparation is deterministic.

mod pick;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    BucketAccumulators, InputShareOpener, KeyRing, TaskContext, counters,
    helper::{self, merge_into_bucket},
    retention,
    shares::{bucket_of, catch_panic},
    verify_keys,
};
use dapbox_protocol::{
    model::{
        AggregationJobId, AggregationJobInitReq, PartialBatchSelector, PrepareInit, PrepareOutcome, PrepareResp,
        Report, ReportError, ReportId, ReportMetadata, ReportShare, Secret, TaskId, Time,
    },
    vdaf::{InputShare, Pending, VerifyParams},
};
use dapbox_store::{LeaderJobRecord, LeaderJobState, ReportEntry, ReportRef, TaskState, Tx};
use dapbox_support::Fault;

pub use pick::{JobBounds, may_pick, pick};

fn drop_report(tx: &mut Tx<'_>, task: &TaskId, id: ReportId, at: ReportRef, counter: &str) -> Result<(), Fault> {
    tx.delete_reports(task, &[(id, at)])?;
    tx.count(task, counter, 1)
}

/// The approximate bytes per report besides the state of its VDAF: its parts of the request and the answer. Usual
/// reports need less than half.
const REPORT_OVERHEAD_BYTES: usize = 2048;

/// The approximate bytes per report while its job waits for the helper.
pub fn report_bytes(context: &TaskContext) -> usize {
    context.preparer.leader_state_bytes() + REPORT_OVERHEAD_BYTES
}

/// How many batch buckets a job may have so that their sums fit into `bytes`; at least one.
pub fn buckets_within(context: &TaskContext, bytes: usize) -> usize {
    (bytes / sums_bytes(context, 1).max(1)).max(1)
}

/// The approximate bytes of the sums of a job when it is stored.
pub fn sums_bytes(context: &TaskContext, buckets: usize) -> usize {
    helper::SUM_COPIES * buckets * context.preparer.aggregate_share_bytes()
}

/// The number of batch buckets of a job.
pub fn bucket_count(state: &TaskState, job: &LeaderJobRecord) -> usize {
    let times = state.waiting.assigned(&job.reports).into_iter().map(|entry| entry.time);
    let buckets: BTreeSet<_> = times.map(|time| state.task.public.time_bucket(time)).collect();
    buckets.len()
}

/// A report that waits for the helper's answer.
pub struct AwaitingReport {
    entry: ReportEntry,
    pending: Box<dyn Pending>,
}

/// A report that is not aggregated, with its counter.
pub struct DroppedReport {
    metadata: ReportMetadata,
    at: ReportRef,
    counter: &'static str,
}

/// Part of a job before its request is sent.
#[derive(Default)]
pub struct StartedJob {
    prepare_inits: Vec<PrepareInit>,
    /// The valid reports, in the order of the request.
    pub awaiting: Vec<AwaitingReport>,
    dropped: Vec<DroppedReport>,
    /// Reports that return to the queue because the job is long enough without them.
    pub left: Vec<ReportRef>,
    /// The approximate size, in bytes.
    pub bytes: usize,
}

impl StartedJob {
    /// Appends the next part of the job.
    pub fn append(&mut self, other: Self) {
        self.prepare_inits.extend(other.prepare_inits);
        self.awaiting.extend(other.awaiting);
        self.dropped.extend(other.dropped);
        self.left.extend(other.left);
        self.bytes += other.bytes;
    }

    /// The reports of the request, in order.
    pub fn entries(&self) -> Vec<ReportEntry> {
        self.awaiting.iter().map(|awaiting| awaiting.entry).collect()
    }

    /// Encodes the request to the helper and returns it with its hash. Consumes the parts of the request.
    pub fn take_request(
        &mut self,
        context: &TaskContext,
        batch: PartialBatchSelector,
        verify_key_id: u8,
    ) -> (Bytes, [u8; 32]) {
        let prepare_inits = std::mem::take(&mut self.prepare_inits);
        let init = AggregationJobInitReq {
            verify_key_id: Some(verify_key_id),
            aggregation_parameter: Bytes::new(),
            batch,
            extensions: Vec::new(),
            prepare_inits,
        };
        let request = Bytes::from(context.wire.encode_job_init(&context.task.public, &init));
        let hash = Sha256::digest(&request).into();
        (request, hash)
    }
}

/// The verification key of a job; `None` if the job is gone.
pub fn verify_key(state: &TaskState, job: &LeaderJobRecord) -> Option<(u8, Secret)> {
    let id = job.verify_key_id.unwrap_or(state.task.verify_key_id);
    state.verify_keys.of_job(id).map(|key| (id, key.clone()))
}

/// Opens and prepares part of a job, in order. Runs on the pool.
pub fn start(context: &TaskContext, keys: &KeyRing, verify_key: &Secret, part: Vec<(ReportRef, Report)>) -> StartedJob {
    let verify = context.verification_with(verify_key);
    let opener = InputShareOpener::new(context, keys);
    let mut started = StartedJob::default();
    for (at, report) in part {
        let metadata = report.metadata;
        match catch_panic(&metadata, || start_report(context, &opener, verify, report)) {
            Ok((init, pending)) => {
                // Twice: the encoded request contains it as well.
                started.bytes += context.preparer.leader_state_bytes() + 2 * chosen_bytes(&init.share);
                started.prepare_inits.push(init);
                let entry = ReportEntry { id: metadata.id, time: metadata.time, at };
                started.awaiting.push(AwaitingReport { entry, pending });
            }
            Err(error) => started.dropped.push(DroppedReport { metadata, at, counter: counters::refused(error) }),
        }
    }
    started
}

/// Opens and prepares one report. Returns the message for the helper and the pending state. All cryptography of a
/// leader is here and in [`Pending::finish`].
pub fn start_report(
    context: &TaskContext,
    opener: &InputShareOpener<'_>,
    verify: VerifyParams<'_>,
    report: Report,
) -> Result<(PrepareInit, Box<dyn Pending>), ReportError> {
    let Report { metadata, extensions, public_share, leader_share, helper_share } = report;
    let input_share = opener.open(&metadata, &extensions, &public_share, &leader_share)?;
    let input = InputShare { report_id: &metadata.id, public_share: &public_share, input_share: &input_share };
    let (pending, message) = context.preparer.leader_start(verify, input)?;
    let share = ReportShare { metadata, extensions, public_share, input_share: helper_share };
    Ok((PrepareInit { share, message: message.into() }, pending))
}

/// The approximate bytes of the request that the client of the report chose.
fn chosen_bytes(share: &ReportShare) -> usize {
    share.public_share.len() + share.input_share.enc.len() + share.input_share.payload.len()
}

/// The outcome of [`seal`].
#[derive(Debug, PartialEq, Eq)]
pub enum SealOutcome {
    /// The request may be sent.
    Send,
    /// No report is valid: the job has ended.
    Empty,
    /// The job is gone: its task was removed.
    Gone,
    /// The request differs from the one sent before. It must not be sent, because the helper may have aggregated the
    /// first.
    Differs,
}

/// Stores the content of the request before it is first sent, or checks that it equals the request sent before.
pub fn seal(
    tx: &mut Tx<'_>,
    task: &TaskId,
    id: AggregationJobId,
    started: &StartedJob,
    request_hash: [u8; 32],
) -> Result<SealOutcome, Fault> {
    let Some(job) = tx.task(task).and_then(|state| state.leader_jobs.get(&id)).cloned() else {
        return Ok(SealOutcome::Gone);
    };
    match job.state {
        LeaderJobState::Sent { request_hash: sent } if sent == request_hash => return Ok(SealOutcome::Send),
        LeaderJobState::Sent { .. } => return Ok(SealOutcome::Differs),
        LeaderJobState::Picked => {}
    }
    for dropped in &started.dropped {
        drop_report(tx, task, dropped.metadata.id, dropped.at, dropped.counter)?;
    }
    if let Some(state) = tx.task_mut(task) {
        let left = state.waiting.assigned(&started.left);
        state.waiting.defer(&left, job.now);
    }
    if started.awaiting.is_empty() {
        tx.end_leader_job(task, &id)?;
        return Ok(SealOutcome::Empty);
    }
    let reports = started.awaiting.iter().map(|awaiting| awaiting.entry.at).collect();
    let state = LeaderJobState::Sent { request_hash };
    tx.put_leader_job(task, id, LeaderJobRecord { reports, state, ..job })?;
    Ok(SealOutcome::Send)
}

/// The helper violated the protocol in its answer to a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the helper's answer does not match the aggregation job: {0}")]
pub struct ProtocolViolation(&'static str);

/// Checks that the helper answered for the same reports, in order, with outcomes that the VDAF allows (DAP-09 section
/// 4.5.1.1).
pub fn check_answer(asked: &[ReportEntry], resps: &[PrepareResp]) -> Result<(), ProtocolViolation> {
    if asked.len() != resps.len() {
        return Err(ProtocolViolation("wrong number of reports"));
    }
    if asked.iter().zip(resps).any(|(mine, theirs)| mine.id != theirs.report_id) {
        return Err(ProtocolViolation("wrong reports, or wrong order"));
    }
    if resps.iter().any(|resp| resp.outcome == PrepareOutcome::Finished) {
        return Err(ProtocolViolation("a report is finished before its verification"));
    }
    Ok(())
}

/// The result of finishing part of a job.
#[derive(Default)]
pub struct FinishedJob {
    sums: BucketAccumulators,
    /// Reports to delete, aggregated or not.
    over: Vec<(ReportId, ReportRef)>,
    /// The counter of each report that was not aggregated.
    refused: Vec<Cow<'static, str>>,
    early: Vec<ReportEntry>,
    /// Reports whose verification key the helper does not have.
    pub without_key: Vec<ReportEntry>,
    /// Reports that the helper accepted and we reject. An honest helper leaves none: it has aggregated them, so their
    /// batches do not match.
    pub rejected_after_continue: RejectedAfterContinue,
    /// Unknown error codes of the helper, with the number of reports.
    pub unknown_errors: BTreeMap<u8, u64>,
    /// Whether the helper reported that the batch is collected.
    is_closed: bool,
}

impl FinishedJob {
    /// Appends another part of the job.
    pub fn append(&mut self, context: &TaskContext, other: Self) {
        self.sums.merge(context.preparer.as_ref(), other.sums);
        self.over.extend(other.over);
        self.refused.extend(other.refused);
        self.early.extend(other.early);
        self.without_key.extend(other.without_key);
        self.rejected_after_continue.append(other.rejected_after_continue);
        for (code, count) in other.unknown_errors {
            *self.unknown_errors.entry(code).or_default() += count;
        }
        self.is_closed |= other.is_closed;
    }
}

/// Reports that the helper accepted and we reject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectedAfterContinue {
    /// The number of reports.
    pub count: u64,
    /// The earliest and the latest time of these reports, and our error for the last one processed.
    pub details: Option<(Time, Time, ReportError)>,
}

impl RejectedAfterContinue {
    fn of(time: Time, error: ReportError) -> Self {
        Self { count: 1, details: Some((time, time, error)) }
    }

    fn append(&mut self, other: Self) {
        self.count += other.count;
        self.details = match (self.details, other.details) {
            (Some((first, last, _)), Some((from, to, error))) => Some((first.min(from), last.max(to), error)),
            (mine, theirs) => mine.or(theirs),
        };
    }
}

/// Finishes the preparation of part of a job with the helper's answers. Runs on the pool.
pub fn finish(
    context: &TaskContext,
    batch: PartialBatchSelector,
    part: Vec<(AwaitingReport, PrepareOutcome)>,
) -> FinishedJob {
    let mut finished = FinishedJob::default();
    for (AwaitingReport { entry, pending }, outcome) in part {
        let metadata = ReportMetadata { id: entry.id, time: entry.time };
        finished.is_closed |= outcome == PrepareOutcome::Reject(ReportError::BatchCollected);
        let verified = match outcome {
            PrepareOutcome::Continue(message) => catch_panic(&metadata, || pending.finish(&message)).map_err(|error| {
                finished.rejected_after_continue.append(RejectedAfterContinue::of(metadata.time, error));
                Cow::Borrowed(counters::REJECTED_AFTER_CONTINUE)
            }),
            PrepareOutcome::Reject(ReportError::ReportTooEarly) => {
                finished.early.push(entry);
                continue;
            }
            PrepareOutcome::Reject(ReportError::UnknownVerificationKeyId) => {
                finished.without_key.push(entry);
                continue;
            }
            PrepareOutcome::Reject(error) => {
                if let ReportError::Unknown(code) = error {
                    *finished.unknown_errors.entry(code).or_default() += 1;
                }
                Err(counters::refused_by_helper(error))
            }
            PrepareOutcome::Finished => Err(Cow::Borrowed(counters::HELPER_PROTOCOL_ERROR)),
        };
        finished.over.push((entry.id, entry.at));
        match verified {
            Ok(share) => {
                let bucket = bucket_of(&context.task, batch, &metadata);
                finished.sums.add(context.preparer.as_ref(), bucket, metadata, share);
            }
            Err(counter) => finished.refused.push(counter),
        }
    }
    finished
}

/// Whether a report with this outcome may be put into a later job.
pub fn is_retried(outcome: &PrepareOutcome) -> bool {
    use ReportError::{ReportTooEarly, UnknownVerificationKeyId};
    matches!(outcome, PrepareOutcome::Reject(ReportTooEarly | UnknownVerificationKeyId))
}

/// The retry of reports that are too early for the helper's clock.
#[derive(Clone, Copy, Debug)]
pub struct EarlyRetry {
    /// Now.
    pub now: Time,
    /// The time of the retry.
    pub at: Time,
    /// Earlier reports are dropped: no clock difference explains the rejection of a report this old, and the retries
    /// would never end.
    pub give_up_before: Time,
}

/// Stores the result of a job, deletes its reports and ends it.
///
/// Reports that are too early for the helper's clock are retried, unless they are old by our clock. So are reports whose
/// verification key the helper does not have.
pub fn commit(
    tx: &mut Tx<'_>,
    context: &TaskContext,
    id: AggregationJobId,
    finished: FinishedJob,
    early_retry: EarlyRetry,
) -> Result<(), Fault> {
    let task = &context.task.public.id;
    let Some(batch) = tx.task(task).and_then(|state| state.leader_jobs.get(&id)).map(|job| job.batch) else {
        return Ok(());
    };
    let mut aggregated = 0;
    for (bucket, sum) in finished.sums.0 {
        aggregated += sum.reports.len() as u64;
        merge_into_bucket(tx, context, bucket, sum)?;
    }
    tx.count(task, counters::AGGREGATE_SUCCESS, aggregated)?;
    for counter in finished.refused {
        tx.count(task, &counter, 1)?;
    }
    let (mut early, hopeless): (Vec<_>, Vec<_>) =
        finished.early.into_iter().partition(|entry| entry.time >= early_retry.give_up_before);
    for entry in hopeless {
        let counter = counters::refused_by_helper(ReportError::ReportTooEarly);
        drop_report(tx, task, entry.id, entry.at, &counter)?;
    }
    if let PartialBatchSelector::FixedSize(batch) = batch
        && finished.is_closed
    {
        // We never asked for its share, so the helper has abandoned the batch. Further reports would be lost.
        retention::abandon_batch(tx, task, batch)?;
    }
    tx.delete_reports(task, &finished.over)?;
    // The helper's operator may be adding the key.
    if !finished.without_key.is_empty() {
        verify_keys::fall_back(tx, task, &id, early_retry.now)?;
    }
    early.extend(finished.without_key);
    end_and_defer(tx, task, id, &early, early_retry.at)
}

/// Abandons a job after a protocol violation of the helper and drops its reports (DAP-09 section 4.5.1.1).
pub fn abandon(tx: &mut Tx<'_>, task: &TaskId, id: AggregationJobId, reports: &[ReportEntry]) -> Result<(), Fault> {
    if !has_job(tx, task, &id) {
        return Ok(());
    }
    for report in reports {
        drop_report(tx, task, report.id, report.at, counters::HELPER_PROTOCOL_ERROR)?;
    }
    tx.end_leader_job(task, &id)
}

/// Returns the reports of a job to the queue until `retry_at`. Only for a job that the helper certainly did not accept.
pub fn dissolve(
    tx: &mut Tx<'_>,
    task: &TaskId,
    id: AggregationJobId,
    reports: &[ReportEntry],
    retry_at: Time,
) -> Result<(), Fault> {
    if !has_job(tx, task, &id) {
        return Ok(());
    }
    end_and_defer(tx, task, id, reports, retry_at)
}

/// Whether the job still exists: its task may have been removed.
fn has_job(tx: &Tx<'_>, task: &TaskId, id: &AggregationJobId) -> bool {
    tx.task(task).is_some_and(|state| state.leader_jobs.contains_key(id))
}

fn end_and_defer(
    tx: &mut Tx<'_>,
    task: &TaskId,
    id: AggregationJobId,
    entries: &[ReportEntry],
    retry_at: Time,
) -> Result<(), Fault> {
    if let Some(state) = tx.task_mut(task) {
        state.waiting.defer(entries, retry_at);
    }
    tx.end_leader_job(task, &id)
}
