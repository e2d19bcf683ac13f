//! DAP-18 (draft-ietf-ppm-dap-18): its encodings, labels and resources.
#![allow(unused_variables)]

use bytes::Bytes;

use super::{Call, Interaction, Rules, Wire, codec::Malformed};
use crate::model::{
    AggregateShareReq, BatchSelector, Collection, CollectionReq, Extension, HpkeCiphertext, HpkeConfig, JobInit,
    PlaintextInputShare, PrepareResp, Report, ReportError, ReportId, ReportMetadata, Role, TaskId, TaskParameters,
};

/// DAP-18.
#[derive(Clone, Copy, Debug)]
pub struct Dap18;

impl Wire for Dap18 {
    fn prefix(&self) -> &'static str {
        "dap-18"
    }

    fn rules(&self) -> Rules {
        unimplemented!()
    }
    fn check_task(&self, task: &TaskParameters) -> Result<(), String> {
        unimplemented!()
    }

    fn input_share_info(&self, recipient: Role) -> Vec<u8> {
        unimplemented!()
    }
    fn aggregate_share_info(&self, sender: Role) -> Vec<u8> {
        unimplemented!()
    }
    fn vdaf_context(&self, task: &TaskId) -> Vec<u8> {
        unimplemented!()
    }
    fn input_share_aad(
        &self,
        task: &TaskParameters,
        metadata: &ReportMetadata,
        extensions: &[Extension],
        public_share: &[u8],
    ) -> Vec<u8> {
        unimplemented!()
    }
    fn aggregate_share_aad(&self, task: &TaskParameters, request: &[u8], batch: &BatchSelector) -> Vec<u8> {
        unimplemented!()
    }

    fn encode_hpke_configs(&self, configs: &[HpkeConfig]) -> Vec<u8> {
        unimplemented!()
    }
    fn decode_hpke_configs(&self, bytes: &Bytes) -> Result<Vec<HpkeConfig>, Malformed> {
        unimplemented!()
    }
    fn reports_per_upload(&self) -> usize {
        unimplemented!()
    }
    fn encode_upload(&self, task: &TaskParameters, reports: &[Report]) -> Vec<u8> {
        unimplemented!()
    }
    fn decode_upload(&self, task: &TaskParameters, bytes: &Bytes) -> Result<Vec<Report>, Malformed> {
        unimplemented!()
    }
    fn decode_upload_answer(&self, bytes: &Bytes) -> Result<Vec<(ReportId, ReportError)>, Malformed> {
        unimplemented!()
    }
    fn encode_plaintext(&self, share: &PlaintextInputShare) -> Vec<u8> {
        unimplemented!()
    }
    fn decode_plaintext(&self, bytes: &Bytes) -> Result<PlaintextInputShare, Malformed> {
        unimplemented!()
    }
    fn encode_job_init(&self, task: &TaskParameters, init: &JobInit) -> Vec<u8> {
        unimplemented!()
    }
    fn decode_job_init(&self, task: &TaskParameters, bytes: &Bytes, max_reports: usize) -> Result<JobInit, Malformed> {
        unimplemented!()
    }
    fn encode_job_resp(&self, resps: &[PrepareResp]) -> Vec<u8> {
        unimplemented!()
    }
    fn decode_job_resp(&self, bytes: &Bytes, max_reports: usize) -> Result<Vec<PrepareResp>, Malformed> {
        unimplemented!()
    }
    fn encode_collection_req(&self, task: &TaskParameters, request: &CollectionReq) -> Result<Vec<u8>, Malformed> {
        unimplemented!()
    }
    fn decode_collection_req(&self, task: &TaskParameters, bytes: &Bytes) -> Result<CollectionReq, Malformed> {
        unimplemented!()
    }
    fn encode_collection(&self, task: &TaskParameters, collection: &Collection) -> Vec<u8> {
        unimplemented!()
    }
    fn decode_collection(&self, task: &TaskParameters, bytes: &Bytes) -> Result<Collection, Malformed> {
        unimplemented!()
    }
    fn encode_aggregate_share_req(&self, task: &TaskParameters, request: &AggregateShareReq) -> Vec<u8> {
        unimplemented!()
    }
    fn decode_aggregate_share_req(&self, task: &TaskParameters, bytes: &Bytes) -> Result<AggregateShareReq, Malformed> {
        unimplemented!()
    }
    fn encode_aggregate_share(&self, share: &HpkeCiphertext) -> Vec<u8> {
        unimplemented!()
    }
    fn decode_aggregate_share(&self, bytes: &Bytes) -> Result<HpkeCiphertext, Malformed> {
        unimplemented!()
    }

    fn hpke_config_call(&self, task: &TaskId) -> Call {
        unimplemented!()
    }
    fn upload_call(&self, task: &TaskId) -> Call {
        unimplemented!()
    }
    fn create_call(&self, interaction: Interaction, task: &TaskId, id: &[u8; 16]) -> Call {
        unimplemented!()
    }
    fn poll_call(&self, interaction: Interaction, place: &str) -> Option<Call> {
        unimplemented!()
    }
    fn delete_call(&self, interaction: Interaction, place: &str) -> Option<Call> {
        unimplemented!()
    }
    fn says_deleted(&self, status: u16) -> bool {
        unimplemented!()
    }
}
