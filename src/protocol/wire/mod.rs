//! Message encodings: converts between bytes and the data types of [`model`](crate::model). Only this module knows
//! message layouts.
//!
//! Each protocol revision is an implementation of [`Wire`] in a directory of its own. Other modules obtain it from
//! [`for_revision`] and do not depend on a revision.

pub mod codec;
pub mod current;
pub mod dap09;
pub mod management;
pub mod media;
pub mod parse_bytes;
pub mod problem;
mod shared;
pub mod taskprov;

use bytes::Bytes;

use crate::model::{
    AggregateShareReq, AggregationJobInitReq, BatchSelector, Collection, CollectionReq, Extension, HpkeCiphertext,
    HpkeConfig, PlaintextInputShare, PrepareResp, Report, ReportError, ReportId, ReportMetadata, Revision, Role,
    TaskId, TaskParameters,
};
pub use codec::Malformed;
pub use problem::{Problem, ProblemType};
pub use shared::AggregationJobContinueReq;

/// A request to a peer, without its base URL, credentials and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSpec {
    /// HTTP method.
    pub method: &'static str,
    /// Path with query, relative to the peer's base URL and without a leading slash.
    pub path: String,
    /// Media type of the request's body, if it has one.
    pub content_type: Option<&'static str>,
    /// Media type of the body of a successful response, if it has one.
    pub accept: Option<&'static str>,
    /// Path of the resource that the request creates or polls, if this side and not the peer chose it.
    pub resource_path: Option<String>,
    /// Configuration of an in-band task, as the value of the [`HEADER`](taskprov::HEADER).
    pub advertisement: Option<String>,
}

impl RequestSpec {
    /// Adds the advertisement of an in-band task, if there is one.
    pub fn with_advertisement(self, advertisement: Option<String>) -> Self {
        Self { advertisement, ..self }
    }
}

/// Kinds of resources that a request creates at the peer. They are ready immediately or must be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// An aggregation job: the leader asks the helper to prepare reports.
    AggregationJob,
    /// An aggregate share: the leader asks the helper for its share of a batch.
    AggregateShare,
    /// A collection job: the collector asks the leader for a batch.
    CollectionJob,
}

/// Rules for collected batches in which the revisions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectedBatchPolicy {
    /// Whether a repeated query for the same batch returns the same result (DAP-09 section 4.6.5) or is rejected as an
    /// overlap (DAP-18 section 4.6.1).
    pub may_repeat: bool,
    /// Whether the batch size is checked before the overlap with other batches (DAP-09 section 4.6.2) or after it
    /// (DAP-18 section 4.6.4).
    pub size_before_overlap: bool,
}

/// Rules for reports in which the revisions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportPolicy {
    /// Whether an unknown public extension rejects the upload (DAP-18 section 4.4.2.2) or its report only (DAP-19).
    pub extensions_reject_upload: bool,
    /// Whether an unknown verification key aborts the aggregation job (DAP-18 section 4.5.3.3) or rejects its reports
    /// (DAP-19). If it aborts the job, a task has one key for its life.
    pub unknown_key_aborts_job: bool,
}

/// A protocol revision: encodings, HPKE labels and resources.
///
/// Decoders are total: they consume every byte, never panic, and never allocate more memory than the input justifies.
pub trait Wire: Sync {
    /// Path prefix of the revision's resources, such as `dap-09`.
    fn path_prefix(&self) -> &'static str;

    /// The rules for collected batches.
    fn collected_batch_policy(&self) -> CollectedBatchPolicy;
    /// The rules for reports.
    fn report_policy(&self) -> ReportPolicy;
    /// Whether tasks have a distinguishing text ([`TaskParameters::info`]).
    fn has_task_info(&self) -> bool;
    /// Checks that the protocol can express the task parameters. The error says what to change.
    fn check_task(&self, task: &TaskParameters) -> Result<(), String>;

    /// HPKE application info for input shares, from the client to `recipient`.
    fn input_share_info(&self, recipient: Role) -> Vec<u8>;
    /// HPKE application info for aggregate shares, from `sender` to the collector.
    fn aggregate_share_info(&self, sender: Role) -> Vec<u8>;
    /// The VDAF's application context for a task; empty where the revision's VDAF has none.
    fn vdaf_context(&self, task: &TaskId) -> Vec<u8>;
    /// Associated data of an input share.
    fn input_share_aad(
        &self,
        task: &TaskParameters,
        metadata: &ReportMetadata,
        extensions: &[Extension],
        public_share: &[u8],
    ) -> Vec<u8>;
    /// Associated data of an aggregate share. `request` is the collector's encoded request; the aggregation parameter
    /// is empty.
    fn aggregate_share_aad(&self, task: &TaskParameters, request: &[u8], batch: &BatchSelector) -> Vec<u8>;

    /// Encodes a list of HPKE configurations.
    fn encode_hpke_configs(&self, configs: &[HpkeConfig]) -> Vec<u8>;
    /// Decodes a list of HPKE configurations.
    fn decode_hpke_configs(&self, bytes: &Bytes) -> Result<Vec<HpkeConfig>, Malformed>;
    /// Maximum number of reports in one upload of a dapbox client.
    fn reports_per_upload(&self) -> usize;
    /// Encodes an upload of at most [`reports_per_upload`](Wire::reports_per_upload) reports.
    fn encode_upload(&self, task: &TaskParameters, reports: &[Report]) -> Vec<u8>;
    /// Decodes a complete upload.
    fn decode_upload(&self, task: &TaskParameters, bytes: &Bytes) -> Result<Vec<Report>, Malformed>;
    /// The error that a leader sends for an error of an uploaded report.
    fn upload_error(&self, error: ReportError) -> ReportError;
    /// Encodes the response to an upload: the rejected reports, in order. Empty if the protocol has no such response.
    fn encode_upload_answer(&self, errors: &[(ReportId, ReportError)]) -> Vec<u8>;
    /// Decodes the response to an upload: the rejected reports, in order.
    fn decode_upload_answer(&self, bytes: &Bytes) -> Result<Vec<(ReportId, ReportError)>, Malformed>;
    /// Encodes the plaintext of an input share.
    fn encode_plaintext(&self, share: &PlaintextInputShare) -> Vec<u8>;
    /// Decodes the plaintext of an input share.
    fn decode_plaintext(&self, bytes: &Bytes) -> Result<PlaintextInputShare, Malformed>;
    /// Encodes a request to create an aggregation job.
    fn encode_job_init(&self, task: &TaskParameters, init: &AggregationJobInitReq) -> Vec<u8>;
    /// Decodes a request to create an aggregation job of at most `max_reports` reports.
    fn decode_job_init(
        &self,
        task: &TaskParameters,
        bytes: &Bytes,
        max_reports: usize,
    ) -> Result<AggregationJobInitReq, Malformed>;
    /// Encodes the helper's response to an aggregation job.
    fn encode_job_resp(&self, resps: &[PrepareResp]) -> Vec<u8>;
    /// Decodes the helper's response to an aggregation job of at most `max_reports` reports.
    fn decode_job_resp(&self, bytes: &Bytes, max_reports: usize) -> Result<Vec<PrepareResp>, Malformed>;
    /// Encodes a collector's request. Fails if the protocol has no such query.
    fn encode_collection_req(&self, task: &TaskParameters, request: &CollectionReq) -> Result<Vec<u8>, Malformed>;
    /// Decodes a collector's request.
    fn decode_collection_req(&self, task: &TaskParameters, bytes: &Bytes) -> Result<CollectionReq, Malformed>;
    /// Encodes the result for a collector.
    fn encode_collection(&self, task: &TaskParameters, collection: &Collection) -> Vec<u8>;
    /// Decodes the result for a collector.
    fn decode_collection(&self, task: &TaskParameters, bytes: &Bytes) -> Result<Collection, Malformed>;
    /// Encodes the leader's request for an aggregate share.
    fn encode_aggregate_share_req(&self, task: &TaskParameters, request: &AggregateShareReq) -> Vec<u8>;
    /// Decodes the leader's request for an aggregate share.
    fn decode_aggregate_share_req(&self, task: &TaskParameters, bytes: &Bytes) -> Result<AggregateShareReq, Malformed>;
    /// Encodes the helper's aggregate share.
    fn encode_aggregate_share(&self, share: &HpkeCiphertext) -> Vec<u8>;
    /// Decodes the helper's aggregate share.
    fn decode_aggregate_share(&self, bytes: &Bytes) -> Result<HpkeCiphertext, Malformed>;

    /// The request for an aggregator's HPKE configurations. `task` applies if the protocol has configurations per task.
    fn hpke_config_request(&self, task: Option<&TaskId>) -> RequestSpec;
    /// The request to upload reports to the leader.
    fn upload_request(&self, task: &TaskId) -> RequestSpec;
    /// The request to create a resource. `id` applies if the protocol lets the requesting side choose it.
    fn create_request(&self, kind: ResourceKind, task: &TaskId, id: &[u8; 16]) -> RequestSpec;
    /// The request to poll a resource at its path; `None` if the resource is always ready immediately.
    fn poll_request(&self, kind: ResourceKind, resource_path: &str) -> Option<RequestSpec>;
    /// The request to delete a resource at its path; `None` if it cannot be deleted.
    fn delete_request(&self, kind: ResourceKind, resource_path: &str) -> Option<RequestSpec>;
    /// Whether a successful response to a poll has the HTTP status of a deleted resource.
    fn is_deleted_status(&self, status: u16) -> bool;
}

/// The encodings of a revision.
pub fn for_revision(revision: Revision) -> &'static dyn Wire {
    match revision {
        Revision::Dap09 => &dap09::Dap09,
        Revision::Dap18 => &current::DAP_18,
        Revision::Dap19 => &current::DAP_19,
    }
}
