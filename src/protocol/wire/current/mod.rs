//! DAP-18 (draft-ietf-ppm-dap-18) and later drafts: encodings, HPKE labels and resources. [`Draft`] says where they differ.
//! Section numbers are those of DAP-18.

mod draft;
mod messages;
pub mod resources;
mod task;
mod upload;

use bytes::Bytes;

pub use super::shared::{AggregationJobContinueReq, InvalidPath, PrepareContinue};
use super::{
    CollectedBatchPolicy, ReportPolicy, RequestSpec, ResourceKind, Wire,
    codec::{Malformed, Writer},
    shared::{
        ciphertext_len, decode, encode, extensions_len, get_ciphertext, get_hpke_configs, label, put_ciphertext,
        put_hpke_configs,
    },
};
use crate::model::{
    AggregateShareReq, AggregationJobInitReq, BatchSelector, Collection, CollectionReq, Extension, HpkeCiphertext,
    HpkeConfig, PlaintextInputShare, PrepareResp, Report, ReportError, ReportId, ReportMetadata, Role, TaskId,
    TaskParameters,
};
pub use draft::{DAP_18, DAP_19, Draft};
pub(super) use messages::batch_mode;
use messages::{self as m, TimeUnit};
pub use resources::{Resource, media, parse_path, parse_step};
pub(super) use task::{extension as task_extension, read_vdaf};
pub use upload::UploadReader;

/// Number of reports in one upload of a dapbox client. Small, so that a rejected request costs little.
const REPORTS_PER_UPLOAD: usize = 64;

impl Draft {
    /// Encodes the `TaskConfiguration` of a [valid](Wire::check_task) task (section 4.2).
    pub fn task_configuration(&self, task: &TaskParameters) -> Vec<u8> {
        encode(task::len(task), |w| task::put(w, task))
    }
}

/// Encodes an `AggregationJobContinueReq`.
pub fn encode_job_continue(request: &AggregationJobContinueReq) -> Vec<u8> {
    encode(2 + request.continues.len() * 32, |w| m::put_job_continue(w, request))
}

/// Decodes an `AggregationJobContinueReq` of at most `max_reports` reports.
pub fn decode_job_continue(bytes: &Bytes, max_reports: usize) -> Result<AggregationJobContinueReq, Malformed> {
    decode("AggregationJobContinueReq", bytes.clone(), |r| m::get_job_continue(r, max_reports))
}

impl Wire for Draft {
    fn path_prefix(&self) -> &'static str {
        self.version
    }

    /// Sections 4.6.1 and 4.6.4.
    fn collected_batch_policy(&self) -> CollectedBatchPolicy {
        CollectedBatchPolicy { may_repeat: false, size_before_overlap: false }
    }

    fn report_policy(&self) -> ReportPolicy {
        self.report_policy
    }

    fn has_task_info(&self) -> bool {
        true
    }

    fn check_task(&self, task: &TaskParameters) -> Result<(), String> {
        task::check(self, task)
    }

    /// Section 4.4.2.1: the sender is always the client.
    fn input_share_info(&self, recipient: Role) -> Vec<u8> {
        label(&[self.version.as_bytes(), b" input share"].concat(), Role::Client, recipient)
    }

    /// Section 4.6.7: the recipient is always the collector.
    fn aggregate_share_info(&self, sender: Role) -> Vec<u8> {
        label(&[self.version.as_bytes(), b" aggregate share"].concat(), sender, Role::Collector)
    }

    /// Section 4.4.2.1.
    fn vdaf_context(&self, task: &TaskId) -> Vec<u8> {
        [self.version.as_bytes(), &task.as_bytes()[..]].concat()
    }

    /// `InputShareAad` (section 4.4.2.1).
    fn input_share_aad(
        &self,
        task: &TaskParameters,
        metadata: &ReportMetadata,
        extensions: &[Extension],
        public_share: &[u8],
    ) -> Vec<u8> {
        encode(60 + task::len(task) + extensions_len(extensions) + public_share.len(), |w| {
            w.fixed(task.id.as_bytes());
            task::put(w, task);
            m::put_metadata(w, TimeUnit::of(task), metadata, extensions);
            w.opaque32(public_share);
        })
    }

    /// `AggregateShareAad` (section 4.6.7). The batch is part of the request.
    fn aggregate_share_aad(&self, task: &TaskParameters, request: &[u8], _batch: &BatchSelector) -> Vec<u8> {
        encode(32 + task::len(task) + request.len(), |w| {
            w.fixed(task.id.as_bytes());
            task::put(w, task);
            w.fixed(request);
        })
    }

    fn encode_hpke_configs(&self, configs: &[HpkeConfig]) -> Vec<u8> {
        encode(2 + configs.len() * 48, |w| put_hpke_configs(w, configs))
    }

    fn decode_hpke_configs(&self, bytes: &Bytes) -> Result<Vec<HpkeConfig>, Malformed> {
        decode("HpkeConfigList", bytes.clone(), get_hpke_configs)
    }

    fn reports_per_upload(&self) -> usize {
        REPORTS_PER_UPLOAD
    }

    fn encode_upload(&self, task: &TaskParameters, reports: &[Report]) -> Vec<u8> {
        let len = |report: &Report| {
            let sealed = ciphertext_len(&report.leader_share) + ciphertext_len(&report.helper_share);
            28 + extensions_len(&report.extensions) + report.public_share.len() + sealed
        };
        let unit = TimeUnit::of(task);
        encode(reports.iter().map(len).sum(), |w| reports.iter().for_each(|report| m::put_report(w, unit, report)))
    }

    fn decode_upload(&self, task: &TaskParameters, bytes: &Bytes) -> Result<Vec<Report>, Malformed> {
        decode("UploadRequest", bytes.clone(), |r| m::get_reports(r, TimeUnit::of(task)))
    }

    fn upload_error(&self, error: ReportError) -> ReportError {
        self.sent_for_upload(error)
    }

    fn encode_upload_answer(&self, errors: &[(ReportId, ReportError)]) -> Vec<u8> {
        encode(errors.len() * 17, |w| m::put_upload_errors(self, w, errors))
    }

    fn decode_upload_answer(&self, bytes: &Bytes) -> Result<Vec<(ReportId, ReportError)>, Malformed> {
        decode("UploadErrors", bytes.clone(), |r| m::get_upload_errors(self, r))
    }

    fn encode_plaintext(&self, share: &PlaintextInputShare) -> Vec<u8> {
        encode(4 + extensions_len(&share.extensions) + share.payload.len(), |w| m::put_plaintext(w, share))
    }

    fn decode_plaintext(&self, bytes: &Bytes) -> Result<PlaintextInputShare, Malformed> {
        decode("PlaintextInputShare", bytes.clone(), m::get_plaintext)
    }

    fn encode_job_init(&self, task: &TaskParameters, init: &AggregationJobInitReq) -> Vec<u8> {
        let reports = init.prepare_inits.iter().map(|init| {
            let share = &init.share;
            let sealed = ciphertext_len(&share.input_share);
            32 + extensions_len(&share.extensions) + share.public_share.len() + sealed + init.message.len()
        });
        let len = 41 + init.aggregation_parameter.len() + extensions_len(&init.extensions) + reports.sum::<usize>();
        encode(len, |w| m::put_job_init(w, TimeUnit::of(task), init))
    }

    fn decode_job_init(
        &self,
        task: &TaskParameters,
        bytes: &Bytes,
        max_reports: usize,
    ) -> Result<AggregationJobInitReq, Malformed> {
        decode("AggregationJobInitReq", bytes.clone(), |r| m::get_job_init(r, TimeUnit::of(task), max_reports))
    }

    fn encode_job_resp(&self, resps: &[PrepareResp]) -> Vec<u8> {
        encode(resps.len() * 64, |w| m::put_job_resp(self, w, resps))
    }

    fn decode_job_resp(&self, bytes: &Bytes, max_reports: usize) -> Result<Vec<PrepareResp>, Malformed> {
        decode("AggregationJobResp", bytes.clone(), |r| m::get_job_resp(self, r, max_reports))
    }

    fn encode_collection_req(&self, task: &TaskParameters, request: &CollectionReq) -> Result<Vec<u8>, Malformed> {
        let len = 23 + request.aggregation_parameter.len() + extensions_len(&request.extensions);
        let mut writer = Writer::with_capacity(len);
        m::put_collection_req(&mut writer, TimeUnit::of(task), request)?;
        Ok(writer.finish())
    }

    fn decode_collection_req(&self, task: &TaskParameters, bytes: &Bytes) -> Result<CollectionReq, Malformed> {
        decode("CollectionJobReq", bytes.clone(), |r| m::get_collection_req(r, TimeUnit::of(task)))
    }

    fn encode_collection(&self, task: &TaskParameters, collection: &Collection) -> Vec<u8> {
        let len = ciphertext_len(&collection.leader_share) + ciphertext_len(&collection.helper_share);
        encode(24 + len, |w| m::put_collection(w, TimeUnit::of(task), collection))
    }

    fn decode_collection(&self, task: &TaskParameters, bytes: &Bytes) -> Result<Collection, Malformed> {
        decode("CollectionJobResp", bytes.clone(), |r| m::get_collection(r, TimeUnit::of(task)))
    }

    fn encode_aggregate_share_req(&self, task: &TaskParameters, request: &AggregateShareReq) -> Vec<u8> {
        let len = request.collection.as_ref().map_or(0, |collection| collection.bytes.len());
        encode(75 + len, |w| m::put_aggregate_share_req(w, TimeUnit::of(task), request))
    }

    fn decode_aggregate_share_req(&self, task: &TaskParameters, bytes: &Bytes) -> Result<AggregateShareReq, Malformed> {
        decode("AggregateShareReq", bytes.clone(), |r| m::get_aggregate_share_req(r, TimeUnit::of(task)))
    }

    fn encode_aggregate_share(&self, share: &HpkeCiphertext) -> Vec<u8> {
        encode(ciphertext_len(share), |w| put_ciphertext(w, share))
    }

    fn decode_aggregate_share(&self, bytes: &Bytes) -> Result<HpkeCiphertext, Malformed> {
        decode("AggregateShare", bytes.clone(), get_ciphertext)
    }

    /// All tasks share the same configurations.
    fn hpke_config_request(&self, _task: Option<&TaskId>) -> RequestSpec {
        resources::hpke_config()
    }

    fn upload_request(&self, task: &TaskId) -> RequestSpec {
        resources::upload(task)
    }

    /// The server chooses the id.
    fn create_request(&self, kind: ResourceKind, task: &TaskId, _id: &[u8; 16]) -> RequestSpec {
        resources::create(kind, task)
    }

    /// Section 3.1: every asynchronous resource can be polled.
    fn poll_request(&self, kind: ResourceKind, resource_path: &str) -> Option<RequestSpec> {
        Some(resources::poll(kind, resource_path))
    }

    fn delete_request(&self, _interaction: ResourceKind, resource_path: &str) -> Option<RequestSpec> {
        Some(resources::delete(resource_path))
    }

    /// A deleted resource returns an error status.
    fn is_deleted_status(&self, _status: u16) -> bool {
        false
    }
}
