//! Bytes and the nouns of [`model`](crate::model): the only place with message layouts.
//!
//! A protocol revision is one implementation of [`Wire`] in a file of its own. The rest of the code asks
//! [`for_revision`] for the one that a task is pinned to and never learns which it got.

pub mod codec;
pub mod dap09;
pub mod dap18;
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

/// A request to a peer: everything but its address, credentials and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSpec {
    /// HTTP method.
    pub method: &'static str,
    /// Path below the peer's base URL, with query, without a leading slash.
    pub path: String,
    /// Media type of the request's body, if it has one.
    pub content_type: Option<&'static str>,
    /// Media type of a successful answer's body, if it has one.
    pub accept: Option<&'static str>,
    /// For a request that creates a resource, or asks how it is: the path of that resource, if we and not the peer chose
    /// it.
    pub resource_path: Option<String>,
    /// The configuration of a task that is set up in-band, as the value of its [header](taskprov::HEADER).
    pub advertisement: Option<String>,
}

impl RequestSpec {
    /// The same for a task that is set up in-band, if there is something to advertise.
    pub fn with_advertisement(self, advertisement: Option<String>) -> Self {
        Self { advertisement, ..self }
    }
}

/// The interactions that make a resource at the peer, which may be ready at once or has to be asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// The leader asks the helper to prepare reports.
    AggregationJob,
    /// The leader asks the helper for its share of a batch.
    AggregateShare,
    /// The collector asks the leader for a batch.
    CollectionJob,
}

/// In what the revisions differ about batches that were collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectedBatchPolicy {
    /// Whether a query for exactly the same batch gets the same result again (DAP-09 section 4.6.5), instead of being
    /// refused as an overlap (DAP-18 section 4.6.1).
    pub may_repeat: bool,
    /// Whether the size of a batch is checked before the overlap with others (DAP-09 section 4.6.2), or after it
    /// (DAP-18 section 4.6.4).
    pub size_before_overlap: bool,
}

/// What a protocol revision looks like from outside: encodings, labels and resources.
///
/// Decoders are total: they consume every byte, never panic, and never allocate more than the input justifies.
pub trait Wire: Sync {
    /// The path that the revision's resources are mounted under, such as `dap-09`.
    fn path_prefix(&self) -> &'static str;

    /// What holds for batches that were collected.
    fn collected_batch_policy(&self) -> CollectedBatchPolicy;
    /// Whether a task has a text that tells it from others ([`TaskParameters::info`]).
    fn has_task_info(&self) -> bool;
    /// Whether the protocol can express a task's parameters; if not, what to change.
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
    /// Associated data of an aggregate share of a batch that was collected with `request`, the collector's encoded
    /// request. The aggregation parameter is the empty one.
    fn aggregate_share_aad(&self, task: &TaskParameters, request: &[u8], batch: &BatchSelector) -> Vec<u8>;

    /// Encodes a list of HPKE configurations.
    fn encode_hpke_configs(&self, configs: &[HpkeConfig]) -> Vec<u8>;
    /// Decodes a list of HPKE configurations.
    fn decode_hpke_configs(&self, bytes: &Bytes) -> Result<Vec<HpkeConfig>, Malformed>;
    /// The most reports that are uploaded in one request.
    fn reports_per_upload(&self) -> usize;
    /// Encodes an upload of at most as many reports as [`reports_per_upload`](Wire::reports_per_upload) says.
    fn encode_upload(&self, task: &TaskParameters, reports: &[Report]) -> Vec<u8>;
    /// Decodes a whole upload.
    fn decode_upload(&self, task: &TaskParameters, bytes: &Bytes) -> Result<Vec<Report>, Malformed>;
    /// Decodes the body of the answer to an upload: which of its reports were not taken, in order.
    fn decode_upload_answer(&self, bytes: &Bytes) -> Result<Vec<(ReportId, ReportError)>, Malformed>;
    /// Encodes what is sealed for one aggregator.
    fn encode_plaintext(&self, share: &PlaintextInputShare) -> Vec<u8>;
    /// Decodes what was sealed for one aggregator.
    fn decode_plaintext(&self, bytes: &Bytes) -> Result<PlaintextInputShare, Malformed>;
    /// Encodes the leader's request for an aggregation job.
    fn encode_job_init(&self, task: &TaskParameters, init: &AggregationJobInitReq) -> Vec<u8>;
    /// Decodes the leader's request for an aggregation job of at most `max_reports`.
    fn decode_job_init(
        &self,
        task: &TaskParameters,
        bytes: &Bytes,
        max_reports: usize,
    ) -> Result<AggregationJobInitReq, Malformed>;
    /// Encodes the helper's answer to an aggregation job.
    fn encode_job_resp(&self, resps: &[PrepareResp]) -> Vec<u8>;
    /// Decodes the helper's answer to an aggregation job of at most `max_reports`.
    fn decode_job_resp(&self, bytes: &Bytes, max_reports: usize) -> Result<Vec<PrepareResp>, Malformed>;
    /// Encodes a collector's request, or says why the protocol has no such request.
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

    /// Asks an aggregator for its HPKE configurations; those for a task, if one is given and the protocol tells tasks apart.
    fn hpke_config_request(&self, task: Option<&TaskId>) -> RequestSpec;
    /// Uploads reports to the leader.
    fn upload_request(&self, task: &TaskId) -> RequestSpec;
    /// Creates a resource. `id` is what we call it, should the protocol leave that to us.
    fn create_request(&self, interaction: ResourceKind, task: &TaskId, id: &[u8; 16]) -> RequestSpec;
    /// Asks how a resource is, by the path that it has; `None` if it is always ready at once.
    fn poll_request(&self, interaction: ResourceKind, resource_path: &str) -> Option<RequestSpec>;
    /// Says that a resource is not needed any more, by the path that it has; `None` if it cannot be deleted.
    fn delete_request(&self, interaction: ResourceKind, resource_path: &str) -> Option<RequestSpec>;
    /// Whether a successful answer to a poll says that the resource was deleted, by its HTTP status.
    fn is_deleted_status(&self, status: u16) -> bool;
}

/// The encodings of a revision.
pub fn for_revision(revision: Revision) -> &'static dyn Wire {
    match revision {
        Revision::Dap09 => &dap09::Dap09,
        Revision::Dap18 => &dap18::Dap18,
    }
}
