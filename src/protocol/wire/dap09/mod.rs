//! DAP-09 (draft-ietf-ppm-dap-09): encodings, HPKE labels and resources.

mod messages;
pub mod resources;

use bytes::Bytes;

pub use super::shared::{AggregationJobContinueReq, InvalidPath, PrepareContinue};
use super::{
    CollectedBatchPolicy, ReportPolicy, RequestSpec, ResourceKind, Wire,
    codec::Malformed,
    shared::{
        ciphertext_len, decode, encode, get_ciphertext, get_hpke_configs, label, put_ciphertext, put_hpke_configs,
    },
};
use crate::model::{
    AggregateShareReq, AggregationJobInitReq, BatchSelector, Collection, CollectionReq, Extension, HpkeCiphertext,
    HpkeConfig, PlaintextInputShare, PrepareResp, Report, ReportError, ReportId, ReportMetadata, Role, TaskId,
    TaskParameters, VdafConfig,
};
use messages as m;
pub(super) use messages::query_type;
pub use resources::{Resource, media, parse_hpke_config_query, parse_path};

/// The DAP-09 revision.
#[derive(Clone, Copy, Debug)]
pub struct Dap09;

/// Encodes an `AggregationJobContinueReq`.
pub fn encode_job_continue(request: &AggregationJobContinueReq) -> Vec<u8> {
    encode(6 + request.continues.len() * 32, |w| m::put_job_continue(w, request))
}

/// Decodes an `AggregationJobContinueReq` of at most `max_reports` reports.
pub fn decode_job_continue(bytes: &Bytes, max_reports: usize) -> Result<AggregationJobContinueReq, Malformed> {
    decode("AggregationJobContinueReq", bytes.clone(), |r| m::get_job_continue(r, max_reports))
}

impl Wire for Dap09 {
    fn path_prefix(&self) -> &'static str {
        "dap-09"
    }

    /// Sections 4.6.2 and 4.6.5.
    fn collected_batch_policy(&self) -> CollectedBatchPolicy {
        CollectedBatchPolicy { may_repeat: true, size_before_overlap: true }
    }

    /// Reports have no public extensions, and tasks one verification key.
    fn report_policy(&self) -> ReportPolicy {
        ReportPolicy { extensions_reject_upload: true, unknown_key_aborts_job: true }
    }

    fn has_task_info(&self) -> bool {
        false
    }

    fn check_task(&self, task: &TaskParameters) -> Result<(), String> {
        if !task.info.is_empty() {
            return Err("info is not supported in DAP-09 (hint: omit it)".to_owned());
        }
        if task.task_interval.is_some() {
            return Err("start is not supported in DAP-09, where a task has only an end (hint: omit it)".to_owned());
        }
        match task.vdaf {
            VdafConfig::Prio3Sum { max } | VdafConfig::Prio3SumVec { max, .. } if max.bits().is_none() => {
                let bits = max.bit_length().max(1);
                Err(format!(
                    "maximum {} does not have the form 2^bits - 1, which DAP-09 requires (hint: use {bits} bits)",
                    max.0
                ))
            }
            _ => Ok(()),
        }
    }

    /// Section 4.4.2: the sender is always the client.
    fn input_share_info(&self, recipient: Role) -> Vec<u8> {
        label(b"dap-09 input share", Role::Client, recipient)
    }

    /// Section 4.6.4: the recipient is always the collector.
    fn aggregate_share_info(&self, sender: Role) -> Vec<u8> {
        label(b"dap-09 aggregate share", sender, Role::Collector)
    }

    /// VDAF-08 has no application context.
    fn vdaf_context(&self, _task: &TaskId) -> Vec<u8> {
        Vec::new()
    }

    /// `InputShareAad` (section 4.4.2).
    fn input_share_aad(
        &self,
        task: &TaskParameters,
        metadata: &ReportMetadata,
        _extensions: &[Extension],
        public_share: &[u8],
    ) -> Vec<u8> {
        encode(60 + public_share.len(), |w| {
            w.fixed(task.id.as_bytes());
            m::put_metadata(w, metadata);
            w.opaque32(public_share);
        })
    }

    /// `AggregateShareAad` (section 4.6.4).
    fn aggregate_share_aad(&self, task: &TaskParameters, _request: &[u8], batch: &BatchSelector) -> Vec<u8> {
        encode(69, |w| {
            w.fixed(task.id.as_bytes());
            w.opaque32(&[]);
            m::put_batch_selector(w, batch);
        })
    }

    fn encode_hpke_configs(&self, configs: &[HpkeConfig]) -> Vec<u8> {
        encode(2 + configs.len() * 48, |w| put_hpke_configs(w, configs))
    }

    fn decode_hpke_configs(&self, bytes: &Bytes) -> Result<Vec<HpkeConfig>, Malformed> {
        decode("HpkeConfigList", bytes.clone(), get_hpke_configs)
    }

    fn reports_per_upload(&self) -> usize {
        1
    }

    fn encode_upload(&self, _task: &TaskParameters, reports: &[Report]) -> Vec<u8> {
        let sealed = |report: &Report| ciphertext_len(&report.leader_share) + ciphertext_len(&report.helper_share);
        let len = reports.iter().map(|report| 28 + report.public_share.len() + sealed(report)).sum();
        encode(len, |w| reports.iter().for_each(|report| m::put_report(w, report)))
    }

    fn decode_upload(&self, _task: &TaskParameters, bytes: &Bytes) -> Result<Vec<Report>, Malformed> {
        Ok(vec![decode("Report", bytes.clone(), m::get_report)?])
    }

    /// A response with a success status accepts the upload; its body is ignored.
    fn upload_error(&self, error: ReportError) -> ReportError {
        error
    }

    fn encode_upload_answer(&self, _errors: &[(ReportId, ReportError)]) -> Vec<u8> {
        Vec::new()
    }

    fn decode_upload_answer(&self, _bytes: &Bytes) -> Result<Vec<(ReportId, ReportError)>, Malformed> {
        Ok(Vec::new())
    }

    fn encode_plaintext(&self, share: &PlaintextInputShare) -> Vec<u8> {
        encode(6 + share.payload.len(), |w| m::put_plaintext(w, share))
    }

    fn decode_plaintext(&self, bytes: &Bytes) -> Result<PlaintextInputShare, Malformed> {
        decode("PlaintextInputShare", bytes.clone(), m::get_plaintext)
    }

    fn encode_job_init(&self, _task: &TaskParameters, init: &AggregationJobInitReq) -> Vec<u8> {
        let reports = init.prepare_inits.iter().map(|init| {
            32 + init.share.public_share.len() + ciphertext_len(&init.share.input_share) + init.message.len()
        });
        encode(41 + init.aggregation_parameter.len() + reports.sum::<usize>(), |w| m::put_job_init(w, init))
    }

    fn decode_job_init(
        &self,
        _task: &TaskParameters,
        bytes: &Bytes,
        max_reports: usize,
    ) -> Result<AggregationJobInitReq, Malformed> {
        decode("AggregationJobInitReq", bytes.clone(), |r| m::get_job_init(r, max_reports))
    }

    fn encode_job_resp(&self, resps: &[PrepareResp]) -> Vec<u8> {
        encode(4 + resps.len() * 64, |w| m::put_job_resp(w, resps))
    }

    fn decode_job_resp(&self, bytes: &Bytes, max_reports: usize) -> Result<Vec<PrepareResp>, Malformed> {
        decode("AggregationJobResp", bytes.clone(), |r| m::get_job_resp(r, max_reports))
    }

    fn encode_collection_req(&self, _task: &TaskParameters, request: &CollectionReq) -> Result<Vec<u8>, Malformed> {
        Ok(encode(38 + request.aggregation_parameter.len(), |w| m::put_collection_req(w, request)))
    }

    fn decode_collection_req(&self, _task: &TaskParameters, bytes: &Bytes) -> Result<CollectionReq, Malformed> {
        decode("CollectionReq", bytes.clone(), m::get_collection_req)
    }

    fn encode_collection(&self, _task: &TaskParameters, collection: &Collection) -> Vec<u8> {
        let len = ciphertext_len(&collection.leader_share) + ciphertext_len(&collection.helper_share);
        encode(57 + len, |w| m::put_collection(w, collection))
    }

    fn decode_collection(&self, _task: &TaskParameters, bytes: &Bytes) -> Result<Collection, Malformed> {
        decode("Collection", bytes.clone(), m::get_collection)
    }

    fn encode_aggregate_share_req(&self, _task: &TaskParameters, request: &AggregateShareReq) -> Vec<u8> {
        encode(77 + request.aggregation_parameter.len(), |w| m::put_aggregate_share_req(w, request))
    }

    fn decode_aggregate_share_req(
        &self,
        _task: &TaskParameters,
        bytes: &Bytes,
    ) -> Result<AggregateShareReq, Malformed> {
        decode("AggregateShareReq", bytes.clone(), m::get_aggregate_share_req)
    }

    fn encode_aggregate_share(&self, share: &HpkeCiphertext) -> Vec<u8> {
        encode(ciphertext_len(share), |w| put_ciphertext(w, share))
    }

    fn decode_aggregate_share(&self, bytes: &Bytes) -> Result<HpkeCiphertext, Malformed> {
        decode("AggregateShare", bytes.clone(), get_ciphertext)
    }

    fn hpke_config_request(&self, task: Option<&TaskId>) -> RequestSpec {
        resources::hpke_config(task)
    }

    fn upload_request(&self, task: &TaskId) -> RequestSpec {
        resources::upload(task)
    }

    /// The client chooses the ids of jobs. Aggregate shares have no id.
    fn create_request(&self, kind: ResourceKind, task: &TaskId, id: &[u8; 16]) -> RequestSpec {
        resources::create(kind, task, id)
    }

    /// Only collection jobs are asynchronous.
    fn poll_request(&self, kind: ResourceKind, resource_path: &str) -> Option<RequestSpec> {
        (kind == ResourceKind::CollectionJob).then(|| resources::collection_poll(resource_path))
    }

    fn delete_request(&self, kind: ResourceKind, resource_path: &str) -> Option<RequestSpec> {
        (kind != ResourceKind::AggregateShare).then(|| resources::delete(resource_path))
    }

    /// Section 4.6.1.
    fn is_deleted_status(&self, status: u16) -> bool {
        status == 204
    }
}
