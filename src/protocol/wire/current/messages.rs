//! Message layouts (DAP-18 sections 4.1 to 5.2): a pair of functions for each structure.
//!
//! `put` functions write, `get` functions read. Field names are those of the draft. Messages count times in units of
//! the task's time precision; [`TimeUnit`] converts them to seconds.

use bytes::Bytes;

use super::Draft;
use crate::{
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchId, BatchSelector, Collection, CollectionReq, Duration,
        Extension, FixedSizeQuery, ForwardedCollectionReq, Interval, PartialBatchSelector, PlaintextInputShare,
        PrepareInit, PrepareOutcome, PrepareResp, Query, Report, ReportError, ReportId, ReportMetadata, ReportShare,
        TaskParameters, Time,
    },
    wire::{
        codec::{Malformed, Reader, Writer},
        shared::{
            AggregationJobContinueReq, Decoded, PrepareContinue, decode, get_checksum, get_ciphertext, get_extensions,
            get_forwarded_ciphertext, get_id, put_ciphertext, put_extensions, unknown_value,
        },
    },
};

/// `BatchMode` (section 5).
pub(in crate::wire) mod batch_mode {
    pub const TIME_INTERVAL: u8 = 1;
    pub const LEADER_SELECTED: u8 = 2;
}

/// `VerifyRespType` (section 4.5.3.2).
mod verify_resp_type {
    pub const CONTINUE: u8 = 0;
    pub const FINISH: u8 = 1;
    pub const REJECT: u8 = 2;
}

/// `AggregationJobExtensionType.leader_selected_batch_id` (section 5.2.2).
const LEADER_SELECTED_BATCH_ID: u16 = 1;

// Section 4.1: basic structures.

fn get_report_error(draft: &Draft, r: &mut Reader, what: &'static str) -> Decoded<ReportError> {
    Ok(draft.report_error(r.u8(what)?))
}

/// The unit of times in messages: the task's time precision in seconds (section 4.1.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeUnit(u64);

impl TimeUnit {
    /// A precision of zero, which valid tasks do not have, counts as one second.
    pub fn of(task: &TaskParameters) -> Self {
        Self(task.time_precision.0.max(1))
    }

    fn put_time(self, w: &mut Writer, time: Time) {
        w.u64(time.0 / self.0);
    }

    /// Reads a report time, saturating at the last representable time. A saturated time is too early for any clock, so
    /// only its report is rejected.
    fn get_report_time(self, r: &mut Reader, what: &'static str) -> Decoded<Time> {
        Ok(Time(r.u64(what)?.saturating_mul(self.0)))
    }

    pub fn put_interval(self, w: &mut Writer, interval: &Interval) {
        self.put_time(w, interval.start());
        w.u64(interval.duration().0 / self.0);
    }

    fn get_interval(self, r: &mut Reader) -> Decoded<Interval> {
        let start = Time(self.get_seconds(r, "Interval.start")?);
        let duration = Duration(self.get_seconds(r, "Interval.duration")?);
        Interval::new(start, duration).ok_or(Malformed::out_of_range("Interval"))
    }

    fn get_seconds(self, r: &mut Reader, what: &'static str) -> Decoded<u64> {
        let units = r.u64(what)?;
        units.checked_mul(self.0).ok_or(Malformed::out_of_range(what))
    }

    /// Whether both bounds of the interval are multiples of the unit. The interval may be empty.
    fn divides(self, interval: &Interval) -> bool {
        [interval.start().0, interval.end().0].iter().all(|bound| bound % self.0 == 0)
    }
}

// Section 4.4: uploads.

pub(super) fn put_metadata(w: &mut Writer, unit: TimeUnit, metadata: &ReportMetadata, public_extensions: &[Extension]) {
    w.fixed(metadata.id.as_bytes());
    unit.put_time(w, metadata.time);
    put_extensions(w, public_extensions);
}

fn get_metadata(r: &mut Reader, unit: TimeUnit) -> Decoded<(ReportMetadata, Vec<Extension>)> {
    let id = get_id(r, "ReportMetadata.report_id")?;
    let time = unit.get_report_time(r, "ReportMetadata.time")?;
    Ok((ReportMetadata { id, time }, get_extensions(r, "ReportMetadata.public_extensions")?))
}

pub(super) fn put_report(w: &mut Writer, unit: TimeUnit, report: &Report) {
    put_metadata(w, unit, &report.metadata, &report.extensions);
    w.opaque32(&report.public_share);
    put_ciphertext(w, &report.leader_share);
    put_ciphertext(w, &report.helper_share);
}

pub(super) fn get_report(r: &mut Reader, unit: TimeUnit) -> Decoded<Report> {
    let (metadata, extensions) = get_metadata(r, unit)?;
    Ok(Report {
        metadata,
        extensions,
        public_share: r.opaque32("Report.public_share", 0)?,
        leader_share: get_ciphertext(r)?,
        helper_share: get_ciphertext(r)?,
    })
}

/// Positions of the length fields of a report, in order: the distance in bytes from the end of the previous field (or
/// from [`REPORT_START`]), and the width in bytes.
pub(super) const REPORT_LENGTHS: [(usize, usize); 6] = [(0, 2), (0, 4), (1, 2), (0, 4), (1, 2), (0, 4)];

/// Length of a report's id and time, which come first.
pub(super) const REPORT_START: usize = 24;

pub(super) fn get_reports(r: &mut Reader, unit: TimeUnit) -> Decoded<Vec<Report>> {
    r.vector_to_end("UploadRequest.reports", 1, usize::MAX, |r| get_report(r, unit))
}

pub(super) fn put_upload_errors(draft: &Draft, w: &mut Writer, errors: &[(ReportId, ReportError)]) {
    for (id, error) in errors {
        w.fixed(id.as_bytes());
        w.u8(draft.code(draft.sent_in_job(*error)));
    }
}

pub(super) fn get_upload_errors(draft: &Draft, r: &mut Reader) -> Decoded<Vec<(ReportId, ReportError)>> {
    r.vector_to_end("UploadErrors.status", 0, usize::MAX, |r| {
        Ok((get_id(r, "ReportUploadStatus.id")?, get_report_error(draft, r, "ReportUploadStatus.error")?))
    })
}

pub(super) fn put_plaintext(w: &mut Writer, share: &PlaintextInputShare) {
    put_extensions(w, &share.extensions);
    w.opaque32(&share.payload);
}

pub(super) fn get_plaintext(r: &mut Reader) -> Decoded<PlaintextInputShare> {
    Ok(PlaintextInputShare {
        extensions: get_extensions(r, "PlaintextInputShare.private_extensions")?,
        payload: r.opaque32("PlaintextInputShare.payload", 1)?,
    })
}

// Section 4.5: aggregation.

pub(super) fn put_job_init(w: &mut Writer, unit: TimeUnit, init: &AggregationJobInitReq) {
    // Every task has a key, so the default is never sent.
    w.u8(init.verify_key_id.unwrap_or_default());
    w.opaque32(&init.aggregation_parameter);
    put_job_extensions(w, init);
    for init in &init.prepare_inits {
        put_metadata(w, unit, &init.share.metadata, &init.share.extensions);
        w.opaque32(&init.share.public_share);
        put_ciphertext(w, &init.share.input_share);
        w.opaque32(&init.message);
    }
}

/// Extensions are sorted by number; the batch id is one of them.
fn put_job_extensions(w: &mut Writer, init: &AggregationJobInitReq) {
    let batch = match &init.batch {
        PartialBatchSelector::TimeInterval => None,
        PartialBatchSelector::FixedSize(id) => {
            Some(Extension { kind: LEADER_SELECTED_BATCH_ID, data: Bytes::copy_from_slice(id.as_bytes()) })
        }
    };
    let at = init.extensions.partition_point(|extension| extension.kind < LEADER_SELECTED_BATCH_ID);
    let (before, after) = init.extensions.split_at(at);
    put_extensions(w, before.iter().chain(&batch).chain(after));
}

/// The vector of reports extends to the end of the message.
pub(super) fn get_job_init(r: &mut Reader, unit: TimeUnit, max_reports: usize) -> Decoded<AggregationJobInitReq> {
    let verify_key_id = r.u8("AggregationJobInitReq.verification_key_id")?;
    let aggregation_parameter = r.opaque32("AggregationJobInitReq.agg_param", 0)?;
    let (batch, extensions) = get_job_extensions(r)?;
    let prepare_inits =
        r.vector_to_end("AggregationJobInitReq.verify_inits", 1, max_reports, |r| get_verify_init(r, unit))?;
    Ok(AggregationJobInitReq {
        verify_key_id: Some(verify_key_id),
        aggregation_parameter,
        batch,
        extensions,
        prepare_inits,
    })
}

fn get_job_extensions(r: &mut Reader) -> Decoded<(PartialBatchSelector, Vec<Extension>)> {
    let mut extensions = get_extensions(r, "AggregationJobInitReq.extensions")?;
    if !extensions.is_sorted_by(|one, next| one.kind < next.kind) {
        return Err(Malformed::new("AggregationJobInitReq.extensions", "are not in strictly increasing order"));
    }
    let Ok(at) = extensions.binary_search_by_key(&LEADER_SELECTED_BATCH_ID, |extension| extension.kind) else {
        return Ok((PartialBatchSelector::TimeInterval, extensions));
    };
    let batch = BatchId::try_from(&extensions.remove(at).data[..]);
    let batch = batch.map_err(|_| Malformed::new("leader_selected_batch_id", "is not a batch id of 32 bytes"))?;
    Ok((PartialBatchSelector::FixedSize(batch), extensions))
}

fn get_verify_init(r: &mut Reader, unit: TimeUnit) -> Decoded<PrepareInit> {
    let (metadata, extensions) = get_metadata(r, unit)?;
    let share = ReportShare {
        metadata,
        extensions,
        public_share: r.opaque32("ReportShare.public_share", 0)?,
        input_share: get_forwarded_ciphertext(r)?,
    };
    Ok(PrepareInit { share, message: r.opaque32("VerifyInit.payload", 1)? })
}

pub(super) fn put_job_resp(draft: &Draft, w: &mut Writer, resps: &[PrepareResp]) {
    for resp in resps {
        w.fixed(resp.report_id.as_bytes());
        match &resp.outcome {
            PrepareOutcome::Continue(payload) => {
                w.u8(verify_resp_type::CONTINUE);
                w.opaque32(payload);
            }
            PrepareOutcome::Finished => w.u8(verify_resp_type::FINISH),
            PrepareOutcome::Reject(error) => {
                w.u8(verify_resp_type::REJECT);
                w.u8(draft.code(draft.sent_in_job(*error)));
            }
        }
    }
}

pub(super) fn get_job_resp(draft: &Draft, r: &mut Reader, max_reports: usize) -> Decoded<Vec<PrepareResp>> {
    r.vector_to_end("AggregationJobResp.verify_resps", 1, max_reports, |r| {
        Ok(PrepareResp { report_id: get_id(r, "VerifyResp.report_id")?, outcome: get_outcome(draft, r)? })
    })
}

fn get_outcome(draft: &Draft, r: &mut Reader) -> Decoded<PrepareOutcome> {
    Ok(match r.u8("VerifyResp.verify_resp_type")? {
        verify_resp_type::CONTINUE => PrepareOutcome::Continue(r.opaque32("VerifyResp.payload", 1)?),
        verify_resp_type::FINISH => PrepareOutcome::Finished,
        verify_resp_type::REJECT => PrepareOutcome::Reject(get_report_error(draft, r, "VerifyResp.report_error")?),
        _ => return Err(unknown_value("VerifyResp.verify_resp_type")),
    })
}

pub(super) fn put_job_continue(w: &mut Writer, request: &AggregationJobContinueReq) {
    w.u16(request.step);
    for continued in &request.continues {
        w.fixed(continued.report_id.as_bytes());
        w.opaque32(&continued.message);
    }
}

pub(super) fn get_job_continue(r: &mut Reader, max_reports: usize) -> Decoded<AggregationJobContinueReq> {
    let step = r.u16("AggregationJobContinueReq.step")?;
    let continues = r.vector_to_end("AggregationJobContinueReq.verify_continues", 1, max_reports, |r| {
        let report_id = get_id(r, "VerifyContinue.report_id")?;
        Ok(PrepareContinue { report_id, message: r.opaque32("VerifyContinue.payload", 1)? })
    })?;
    Ok(AggregationJobContinueReq { step, continues })
}

// Sections 4.6 and 5: collection.

/// Fails for queries that the protocol does not have.
pub(super) fn put_collection_req(w: &mut Writer, unit: TimeUnit, request: &CollectionReq) -> Decoded<()> {
    match &request.query {
        Query::TimeInterval(interval) if unit.divides(interval) => {
            w.u8(batch_mode::TIME_INTERVAL);
            w.vector16(|w| unit.put_interval(w, interval));
        }
        Query::TimeInterval(_) => {
            return Err(Malformed::new("Query", "has an interval that is not a multiple of the time precision"));
        }
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => {
            w.u8(batch_mode::LEADER_SELECTED);
            w.opaque16(&[]);
        }
        Query::FixedSize(FixedSizeQuery::ByBatchId(_)) => {
            return Err(Malformed::new("Query", "selects a batch by its id, which the draft does not support"));
        }
    }
    w.opaque32(&request.aggregation_parameter);
    put_extensions(w, &request.extensions);
    Ok(())
}

pub(super) fn get_collection_req(r: &mut Reader, unit: TimeUnit) -> Decoded<CollectionReq> {
    Ok(CollectionReq {
        query: get_query(r, unit)?,
        aggregation_parameter: r.opaque32("CollectionJobReq.agg_param", 0)?,
        extensions: get_extensions(r, "CollectionJobReq.extensions")?,
    })
}

fn get_query(r: &mut Reader, unit: TimeUnit) -> Decoded<Query> {
    let mode = r.u8("Query.batch_mode")?;
    let config = r.opaque16("Query.config", 0)?;
    match mode {
        batch_mode::TIME_INTERVAL => decode("Query.config", config, |r| unit.get_interval(r)).map(Query::TimeInterval),
        batch_mode::LEADER_SELECTED => {
            decode("Query.config", config, |_| Ok(Query::FixedSize(FixedSizeQuery::CurrentBatch)))
        }
        _ => Err(unknown_value("Query.batch_mode")),
    }
}

pub(super) fn put_collection(w: &mut Writer, unit: TimeUnit, collection: &Collection) {
    w.u64(collection.report_count);
    unit.put_interval(w, &collection.interval);
    put_ciphertext(w, &collection.leader_share);
    put_ciphertext(w, &collection.helper_share);
}

pub(super) fn get_collection(r: &mut Reader, unit: TimeUnit) -> Decoded<Collection> {
    Ok(Collection {
        batch: None,
        report_count: r.u64("CollectionJobResp.report_count")?,
        interval: unit.get_interval(r)?,
        leader_share: get_ciphertext(r)?,
        helper_share: get_ciphertext(r)?,
    })
}

fn put_batch_selector(w: &mut Writer, unit: TimeUnit, batch: &BatchSelector) {
    match batch {
        BatchSelector::TimeInterval(interval) => {
            w.u8(batch_mode::TIME_INTERVAL);
            w.vector16(|w| unit.put_interval(w, interval));
        }
        BatchSelector::FixedSize(batch) => {
            w.u8(batch_mode::LEADER_SELECTED);
            w.opaque16(batch.as_bytes());
        }
    }
}

fn get_batch_selector(r: &mut Reader, unit: TimeUnit) -> Decoded<BatchSelector> {
    let mode = r.u8("BatchSelector.batch_mode")?;
    let config = r.opaque16("BatchSelector.config", 0)?;
    match mode {
        batch_mode::TIME_INTERVAL => {
            decode("BatchSelector.config", config, |r| unit.get_interval(r)).map(BatchSelector::TimeInterval)
        }
        batch_mode::LEADER_SELECTED => {
            let id = |r: &mut Reader| get_id(r, "LeaderSelectedBatchSelectorConfig.batch_id");
            decode("BatchSelector.config", config, id).map(BatchSelector::FixedSize)
        }
        _ => Err(unknown_value("BatchSelector.batch_mode")),
    }
}

/// Forwards the collector's request byte for byte. A leader always has it.
pub(super) fn put_aggregate_share_req(w: &mut Writer, unit: TimeUnit, request: &AggregateShareReq) {
    w.fixed(request.collection.as_ref().map_or(&[], |collection| &collection.bytes));
    put_batch_selector(w, unit, &request.batch);
    w.u64(request.report_count);
    w.fixed(request.checksum.as_bytes());
}

pub(super) fn get_aggregate_share_req(r: &mut Reader, unit: TimeUnit) -> Decoded<AggregateShareReq> {
    let (request, bytes) = r.with_bytes(|r| get_collection_req(r, unit))?;
    Ok(AggregateShareReq {
        batch: get_batch_selector(r, unit)?,
        aggregation_parameter: request.aggregation_parameter.clone(),
        report_count: r.u64("AggregateShareReq.report_count")?,
        checksum: get_checksum(r, "AggregateShareReq.checksum")?,
        collection: Some(ForwardedCollectionReq { request, bytes }),
    })
}
