//! Message layouts of DAP-09 (sections 4 to 4.6): a pair of functions for each structure.
//!
//! `put` functions write, `get` functions read. Field names are those of the draft.

use crate::{
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchSelector, Collection, CollectionReq, Duration, FixedSizeQuery,
        Interval, PartialBatchSelector, PlaintextInputShare, PrepareInit, PrepareOutcome, PrepareResp, Query, Report,
        ReportError, ReportId, ReportMetadata, ReportShare, Time,
    },
    wire::{
        codec::{Malformed, Reader, Writer},
        shared::{
            AggregationJobContinueReq, Decoded, PrepareContinue, get_checksum, get_ciphertext, get_extensions,
            get_forwarded_ciphertext, get_id, put_ciphertext, put_extensions, unknown_value,
        },
    },
};

/// `QueryType` (section 4.1).
pub mod query_type {
    pub const TIME_INTERVAL: u8 = 1;
    pub const FIXED_SIZE: u8 = 2;
}

/// `FixedSizeQueryType` (section 4.1).
mod fixed_size_query_type {
    pub const BY_BATCH_ID: u8 = 0;
    pub const CURRENT_BATCH: u8 = 1;
}

/// `PrepareRespState` (section 4.5.1.2).
mod prepare_resp_state {
    pub const CONTINUE: u8 = 0;
    pub const FINISHED: u8 = 1;
    pub const REJECT: u8 = 2;
}

/// `PrepareError` (section 4.5.1.2). The index of an error is its code on the wire.
const PREPARE_ERRORS: [ReportError; 10] = [
    ReportError::BatchCollected,
    ReportError::ReportReplayed,
    ReportError::ReportDropped,
    ReportError::HpkeUnknownConfigId,
    ReportError::HpkeDecryptError,
    ReportError::VdafPrepError,
    ReportError::BatchSaturated,
    ReportError::TaskExpired,
    ReportError::InvalidMessage,
    ReportError::ReportTooEarly,
];

// Section 4: basic structures.

fn put_interval(w: &mut Writer, interval: &Interval) {
    w.u64(interval.start().0);
    w.u64(interval.duration().0);
}

fn get_interval(r: &mut Reader) -> Decoded<Interval> {
    let start = Time(r.u64("Interval.start")?);
    let duration = Duration(r.u64("Interval.duration")?);
    Interval::new(start, duration).ok_or(Malformed::out_of_range("Interval"))
}

// Section 4.1: queries and batches.

fn put_query(w: &mut Writer, query: &Query) {
    match query {
        Query::TimeInterval(interval) => {
            w.u8(query_type::TIME_INTERVAL);
            put_interval(w, interval);
        }
        Query::FixedSize(FixedSizeQuery::ByBatchId(batch)) => {
            w.u8(query_type::FIXED_SIZE);
            w.u8(fixed_size_query_type::BY_BATCH_ID);
            w.fixed(batch.as_bytes());
        }
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => {
            w.u8(query_type::FIXED_SIZE);
            w.u8(fixed_size_query_type::CURRENT_BATCH);
        }
    }
}

fn get_query(r: &mut Reader) -> Decoded<Query> {
    match r.u8("Query.query_type")? {
        query_type::TIME_INTERVAL => Ok(Query::TimeInterval(get_interval(r)?)),
        query_type::FIXED_SIZE => Ok(Query::FixedSize(get_fixed_size_query(r)?)),
        _ => Err(unknown_value("Query.query_type")),
    }
}

fn get_fixed_size_query(r: &mut Reader) -> Decoded<FixedSizeQuery> {
    match r.u8("FixedSizeQuery.query_type")? {
        fixed_size_query_type::BY_BATCH_ID => Ok(FixedSizeQuery::ByBatchId(get_id(r, "FixedSizeQuery.batch_id")?)),
        fixed_size_query_type::CURRENT_BATCH => Ok(FixedSizeQuery::CurrentBatch),
        _ => Err(unknown_value("FixedSizeQuery.query_type")),
    }
}

fn put_partial_batch(w: &mut Writer, batch: &PartialBatchSelector) {
    match batch {
        PartialBatchSelector::TimeInterval => w.u8(query_type::TIME_INTERVAL),
        PartialBatchSelector::FixedSize(batch) => {
            w.u8(query_type::FIXED_SIZE);
            w.fixed(batch.as_bytes());
        }
    }
}

fn get_partial_batch(r: &mut Reader) -> Decoded<PartialBatchSelector> {
    match r.u8("PartialBatchSelector.query_type")? {
        query_type::TIME_INTERVAL => Ok(PartialBatchSelector::TimeInterval),
        query_type::FIXED_SIZE => Ok(PartialBatchSelector::FixedSize(get_id(r, "PartialBatchSelector.batch_id")?)),
        _ => Err(unknown_value("PartialBatchSelector.query_type")),
    }
}

pub(super) fn put_batch_selector(w: &mut Writer, batch: &BatchSelector) {
    match batch {
        BatchSelector::TimeInterval(interval) => {
            w.u8(query_type::TIME_INTERVAL);
            put_interval(w, interval);
        }
        BatchSelector::FixedSize(batch) => {
            w.u8(query_type::FIXED_SIZE);
            w.fixed(batch.as_bytes());
        }
    }
}

fn get_batch_selector(r: &mut Reader) -> Decoded<BatchSelector> {
    match r.u8("BatchSelector.query_type")? {
        query_type::TIME_INTERVAL => Ok(BatchSelector::TimeInterval(get_interval(r)?)),
        query_type::FIXED_SIZE => Ok(BatchSelector::FixedSize(get_id(r, "BatchSelector.batch_id")?)),
        _ => Err(unknown_value("BatchSelector.query_type")),
    }
}

// Section 4.4: uploads.

pub(super) fn put_metadata(w: &mut Writer, metadata: &ReportMetadata) {
    w.fixed(metadata.id.as_bytes());
    w.u64(metadata.time.0);
}

fn get_metadata(r: &mut Reader) -> Decoded<ReportMetadata> {
    Ok(ReportMetadata { id: get_id(r, "ReportMetadata.report_id")?, time: Time(r.u64("ReportMetadata.time")?) })
}

pub(super) fn put_report(w: &mut Writer, report: &Report) {
    put_metadata(w, &report.metadata);
    w.opaque32(&report.public_share);
    put_ciphertext(w, &report.leader_share);
    put_ciphertext(w, &report.helper_share);
}

pub(super) fn get_report(r: &mut Reader) -> Decoded<Report> {
    Ok(Report {
        metadata: get_metadata(r)?,
        extensions: Vec::new(),
        public_share: r.opaque32("Report.public_share", 0)?,
        leader_share: get_ciphertext(r)?,
        helper_share: get_ciphertext(r)?,
    })
}

pub(super) fn put_plaintext(w: &mut Writer, share: &PlaintextInputShare) {
    put_extensions(w, &share.extensions);
    w.opaque32(&share.payload);
}

pub(super) fn get_plaintext(r: &mut Reader) -> Decoded<PlaintextInputShare> {
    Ok(PlaintextInputShare {
        extensions: get_extensions(r, "PlaintextInputShare.extensions")?,
        payload: r.opaque32("PlaintextInputShare.payload", 0)?,
    })
}

// Section 4.5: aggregation.

pub(super) fn put_job_init(w: &mut Writer, init: &AggregationJobInitReq) {
    w.opaque32(&init.aggregation_parameter);
    put_partial_batch(w, &init.batch);
    w.vector32(|w| {
        for init in &init.prepare_inits {
            put_metadata(w, &init.share.metadata);
            w.opaque32(&init.share.public_share);
            put_ciphertext(w, &init.share.input_share);
            w.opaque32(&init.message);
        }
    });
}

pub(super) fn get_job_init(r: &mut Reader, max_reports: usize) -> Decoded<AggregationJobInitReq> {
    Ok(AggregationJobInitReq {
        verify_key_id: None,
        aggregation_parameter: r.opaque32("AggregationJobInitReq.agg_param", 0)?,
        batch: get_partial_batch(r)?,
        extensions: Vec::new(),
        prepare_inits: r.vector32("AggregationJobInitReq.prepare_inits", 1, max_reports, get_prepare_init)?,
    })
}

fn get_prepare_init(r: &mut Reader) -> Decoded<PrepareInit> {
    let share = ReportShare {
        metadata: get_metadata(r)?,
        extensions: Vec::new(),
        public_share: r.opaque32("ReportShare.public_share", 0)?,
        input_share: get_forwarded_ciphertext(r)?,
    };
    Ok(PrepareInit { share, message: r.opaque32("PrepareInit.payload", 0)? })
}

pub(super) fn put_job_resp(w: &mut Writer, resps: &[PrepareResp]) {
    w.vector32(|w| {
        for resp in resps {
            w.fixed(resp.report_id.as_bytes());
            put_prepare_outcome(w, &resp.outcome);
        }
    });
}

pub(super) fn get_job_resp(r: &mut Reader, max_reports: usize) -> Decoded<Vec<PrepareResp>> {
    r.vector32("AggregationJobResp.prepare_resps", 1, max_reports, |r| {
        Ok(PrepareResp { report_id: get_id(r, "PrepareResp.report_id")?, outcome: get_prepare_outcome(r)? })
    })
}

fn put_prepare_outcome(w: &mut Writer, outcome: &PrepareOutcome) {
    match outcome {
        PrepareOutcome::Continue(payload) => {
            w.u8(prepare_resp_state::CONTINUE);
            w.opaque32(payload);
        }
        PrepareOutcome::Finished => w.u8(prepare_resp_state::FINISHED),
        PrepareOutcome::Reject(error) => {
            w.u8(prepare_resp_state::REJECT);
            w.u8(prepare_error_number(*error));
        }
    }
}

fn get_prepare_outcome(r: &mut Reader) -> Decoded<PrepareOutcome> {
    match r.u8("PrepareResp.prepare_resp_state")? {
        prepare_resp_state::CONTINUE => Ok(PrepareOutcome::Continue(r.opaque32("PrepareResp.payload", 0)?)),
        prepare_resp_state::FINISHED => Ok(PrepareOutcome::Finished),
        prepare_resp_state::REJECT => {
            let number = r.u8("PrepareResp.prepare_error")?;
            // An unknown code rejects its report only, as in DAP-18 section 4.5.3.1.
            let error = PREPARE_ERRORS.get(usize::from(number)).copied().unwrap_or(ReportError::Unknown(number));
            Ok(PrepareOutcome::Reject(error))
        }
        _ => Err(unknown_value("PrepareResp.prepare_resp_state")),
    }
}

fn prepare_error_number(error: ReportError) -> u8 {
    match error {
        ReportError::BatchCollected => 0,
        ReportError::ReportReplayed => 1,
        // DAP-09 tasks have no start and one verification key, so these have no code of their own.
        ReportError::ReportDropped | ReportError::TaskNotStarted | ReportError::UnknownVerificationKeyId => 2,
        ReportError::HpkeUnknownConfigId | ReportError::OutdatedConfig => 3,
        ReportError::HpkeDecryptError => 4,
        ReportError::VdafPrepError => 5,
        ReportError::BatchSaturated => 6,
        ReportError::TaskExpired => 7,
        ReportError::InvalidMessage | ReportError::UnsupportedExtension => 8,
        ReportError::ReportTooEarly => 9,
        ReportError::Unknown(number) => number,
    }
}

pub(super) fn put_job_continue(w: &mut Writer, request: &AggregationJobContinueReq) {
    w.u16(request.step);
    w.vector32(|w| {
        for continued in &request.continues {
            w.fixed(continued.report_id.as_bytes());
            w.opaque32(&continued.message);
        }
    });
}

pub(super) fn get_job_continue(r: &mut Reader, max_reports: usize) -> Decoded<AggregationJobContinueReq> {
    let step = r.u16("AggregationJobContinueReq.step")?;
    let continues = r.vector32("AggregationJobContinueReq.prepare_continues", 1, max_reports, |r| {
        let report_id: ReportId = get_id(r, "PrepareContinue.report_id")?;
        Ok(PrepareContinue { report_id, message: r.opaque32("PrepareContinue.payload", 0)? })
    })?;
    Ok(AggregationJobContinueReq { step, continues })
}

// Section 4.6: collection.

pub(super) fn put_collection_req(w: &mut Writer, request: &CollectionReq) {
    put_query(w, &request.query);
    w.opaque32(&request.aggregation_parameter);
}

pub(super) fn get_collection_req(r: &mut Reader) -> Decoded<CollectionReq> {
    Ok(CollectionReq {
        query: get_query(r)?,
        aggregation_parameter: r.opaque32("CollectionReq.agg_param", 0)?,
        extensions: Vec::new(),
    })
}

pub(super) fn put_collection(w: &mut Writer, collection: &Collection) {
    put_partial_batch(w, &collection.batch.unwrap_or(PartialBatchSelector::TimeInterval));
    w.u64(collection.report_count);
    put_interval(w, &collection.interval);
    put_ciphertext(w, &collection.leader_share);
    put_ciphertext(w, &collection.helper_share);
}

pub(super) fn get_collection(r: &mut Reader) -> Decoded<Collection> {
    Ok(Collection {
        batch: Some(get_partial_batch(r)?),
        report_count: r.u64("Collection.report_count")?,
        interval: get_interval(r)?,
        leader_share: get_ciphertext(r)?,
        helper_share: get_ciphertext(r)?,
    })
}

pub(super) fn put_aggregate_share_req(w: &mut Writer, request: &AggregateShareReq) {
    put_batch_selector(w, &request.batch);
    w.opaque32(&request.aggregation_parameter);
    w.u64(request.report_count);
    w.fixed(request.checksum.as_bytes());
}

pub(super) fn get_aggregate_share_req(r: &mut Reader) -> Decoded<AggregateShareReq> {
    Ok(AggregateShareReq {
        batch: get_batch_selector(r)?,
        aggregation_parameter: r.opaque32("AggregateShareReq.agg_param", 0)?,
        report_count: r.u64("AggregateShareReq.report_count")?,
        checksum: get_checksum(r, "AggregateShareReq.checksum")?,
        collection: None,
    })
}
