//! Bytes and the nouns of [`model`](crate::model): the only place with message layouts.
//!
//! A protocol revision is one implementation of [`Wire`] in a file of its own. The rest of the code asks
//! [`of`] for the one that a task is pinned to and never learns which it got.

pub mod codec;
pub mod dap09;
pub mod problem;

use bytes::Bytes;

use crate::model::{
    AggregateShareReq, AggregationJobId, BatchSelector, Collection, CollectionJobId, CollectionReq, HpkeCiphertext,
    HpkeConfig, JobInit, PlaintextInputShare, PrepareResp, Report, ReportMetadata, Revision, Role, TaskId,
};
pub use codec::Malformed;
pub use problem::{Problem, ProblemType};

/// A request to a peer: everything but its address, credentials and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// HTTP method.
    pub method: &'static str,
    /// Path below the peer's base URL, with query, without a leading slash.
    pub path: String,
    /// Media type of the request's body, if it has one.
    pub content_type: Option<&'static str>,
    /// Media type of a successful answer's body, if it has one.
    pub accept: Option<&'static str>,
}

/// What a protocol revision looks like from outside: encodings, labels and resources.
///
/// Decoders are total: they consume every byte, never panic, and never allocate more than the input justifies.
pub trait Wire: Sync {
    /// The path that the revision's resources are mounted under, such as `dap-09`.
    fn prefix(&self) -> &'static str;

    /// HPKE application info for input shares, from the client to `recipient`.
    fn input_share_info(&self, recipient: Role) -> Vec<u8>;
    /// HPKE application info for aggregate shares, from `sender` to the collector.
    fn aggregate_share_info(&self, sender: Role) -> Vec<u8>;
    /// The VDAF's application context for a task; empty where the revision's VDAF has none.
    fn vdaf_context(&self, task: &TaskId) -> Vec<u8>;
    /// Associated data of an input share.
    fn input_share_aad(&self, task: &TaskId, metadata: &ReportMetadata, public_share: &[u8]) -> Vec<u8>;
    /// Associated data of an aggregate share.
    fn aggregate_share_aad(&self, task: &TaskId, parameter: &[u8], batch: &BatchSelector) -> Vec<u8>;

    /// Encodes a list of HPKE configurations.
    fn encode_hpke_configs(&self, configs: &[HpkeConfig]) -> Vec<u8>;
    /// Decodes a list of HPKE configurations.
    fn decode_hpke_configs(&self, bytes: &Bytes) -> Result<Vec<HpkeConfig>, Malformed>;
    /// Encodes an upload.
    fn encode_report(&self, report: &Report) -> Vec<u8>;
    /// Decodes an upload.
    fn decode_report(&self, bytes: &Bytes) -> Result<Report, Malformed>;
    /// Encodes what is sealed for one aggregator.
    fn encode_plaintext(&self, share: &PlaintextInputShare) -> Vec<u8>;
    /// Decodes what was sealed for one aggregator.
    fn decode_plaintext(&self, bytes: &Bytes) -> Result<PlaintextInputShare, Malformed>;
    /// Encodes the leader's request for an aggregation job.
    fn encode_job_init(&self, init: &JobInit) -> Vec<u8>;
    /// Decodes the leader's request for an aggregation job of at most `max_reports`.
    fn decode_job_init(&self, bytes: &Bytes, max_reports: usize) -> Result<JobInit, Malformed>;
    /// Encodes the helper's answer to an aggregation job.
    fn encode_job_resp(&self, resps: &[PrepareResp]) -> Vec<u8>;
    /// Decodes the helper's answer to an aggregation job of at most `max_reports`.
    fn decode_job_resp(&self, bytes: &Bytes, max_reports: usize) -> Result<Vec<PrepareResp>, Malformed>;
    /// Encodes a collector's request.
    fn encode_collection_req(&self, request: &CollectionReq) -> Vec<u8>;
    /// Decodes a collector's request.
    fn decode_collection_req(&self, bytes: &Bytes) -> Result<CollectionReq, Malformed>;
    /// Encodes the result for a collector.
    fn encode_collection(&self, collection: &Collection) -> Vec<u8>;
    /// Decodes the result for a collector.
    fn decode_collection(&self, bytes: &Bytes) -> Result<Collection, Malformed>;
    /// Encodes the leader's request for an aggregate share.
    fn encode_aggregate_share_req(&self, request: &AggregateShareReq) -> Vec<u8>;
    /// Decodes the leader's request for an aggregate share.
    fn decode_aggregate_share_req(&self, bytes: &Bytes) -> Result<AggregateShareReq, Malformed>;
    /// Encodes the helper's aggregate share.
    fn encode_aggregate_share(&self, share: &HpkeCiphertext) -> Vec<u8>;
    /// Decodes the helper's aggregate share.
    fn decode_aggregate_share(&self, bytes: &Bytes) -> Result<HpkeCiphertext, Malformed>;

    /// Asks an aggregator for its HPKE configurations.
    fn hpke_config_call(&self, task: &TaskId) -> Call;
    /// Uploads a report to the leader.
    fn upload_call(&self, task: &TaskId) -> Call;
    /// Starts an aggregation job at the helper.
    fn job_init_call(&self, task: &TaskId, job: &AggregationJobId) -> Call;
    /// Tells the helper that an aggregation job is abandoned.
    fn job_delete_call(&self, task: &TaskId, job: &AggregationJobId) -> Call;
    /// Asks the helper for its aggregate share.
    fn aggregate_share_call(&self, task: &TaskId) -> Call;
    /// Starts a collection job at the leader.
    fn collection_create_call(&self, task: &TaskId, job: &CollectionJobId) -> Call;
    /// Asks the leader how a collection job is.
    fn collection_poll_call(&self, task: &TaskId, job: &CollectionJobId) -> Call;
    /// Tells the leader that a collection job's result is not needed any more.
    fn collection_delete_call(&self, task: &TaskId, job: &CollectionJobId) -> Call;
}

/// The encodings of a revision.
pub fn of(revision: Revision) -> &'static dyn Wire {
    match revision {
        Revision::Dap09 => &dap09::Dap09,
    }
}
