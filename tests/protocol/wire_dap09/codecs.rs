//! A codec for each message, so that one test covers all messages.

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchMode, Collection, CollectionReq, Duration, HpkeCiphertext,
        HpkeConfig, PlaintextInputShare, PrepareResp, Report, Revision, TaskId, TaskParameters, VdafConfig,
    },
    wire::{
        self, Malformed, Wire,
        dap09::{AggregationJobContinueReq, decode_job_continue, encode_job_continue},
    },
};

/// The maximum number of reports in a job.
pub const MAX_REPORTS: usize = 16;

/// Encodes and decodes a message.
pub struct Codec<T> {
    pub encode: fn(&T) -> Vec<u8>,
    pub decode: fn(&Bytes) -> Result<T, Malformed>,
}

pub fn dap09() -> &'static dyn Wire {
    wire::for_revision(Revision::Dap09)
}

/// A task. DAP-09 messages contain at most its id.
pub fn task(id: TaskId) -> TaskParameters {
    TaskParameters {
        id,
        revision: Revision::Dap09,
        info: String::new(),
        leader_url: "https://leader.example/".to_owned(),
        helper_url: "https://helper.example/".to_owned(),
        batch_mode: BatchMode::TimeInterval,
        vdaf: VdafConfig::Prio3Count,
        min_batch_size: 1,
        time_precision: Duration(3600),
        task_expiration: None,
        task_interval: None,
        noise: None,
    }
}

fn any_task() -> TaskParameters {
    task(TaskId::new([0; 32]))
}

pub const HPKE_CONFIGS: Codec<Vec<HpkeConfig>> =
    Codec { encode: |list| dap09().encode_hpke_configs(list), decode: |bytes| dap09().decode_hpke_configs(bytes) };

pub const REPORT: Codec<Report> = Codec {
    encode: |report| dap09().encode_upload(&any_task(), std::slice::from_ref(report)),
    decode: |bytes| {
        let reports = dap09().decode_upload(&any_task(), bytes)?;
        let [report] = reports.try_into().expect("an upload is one report");
        Ok(report)
    },
};

pub const PLAINTEXT: Codec<PlaintextInputShare> =
    Codec { encode: |share| dap09().encode_plaintext(share), decode: |bytes| dap09().decode_plaintext(bytes) };

pub const JOB_INIT: Codec<AggregationJobInitReq> = Codec {
    encode: |init| dap09().encode_job_init(&any_task(), init),
    decode: |bytes| dap09().decode_job_init(&any_task(), bytes, MAX_REPORTS),
};

pub const JOB_RESP: Codec<Vec<PrepareResp>> = Codec {
    encode: |resps| dap09().encode_job_resp(resps),
    decode: |bytes| dap09().decode_job_resp(bytes, MAX_REPORTS),
};

pub const JOB_CONTINUE: Codec<AggregationJobContinueReq> =
    Codec { encode: encode_job_continue, decode: |bytes| decode_job_continue(bytes, MAX_REPORTS) };

pub const COLLECTION_REQ: Codec<CollectionReq> = Codec {
    encode: |request| dap09().encode_collection_req(&any_task(), request).expect("every query can be written"),
    decode: |bytes| dap09().decode_collection_req(&any_task(), bytes),
};

pub const COLLECTION: Codec<Collection> = Codec {
    encode: |collection| dap09().encode_collection(&any_task(), collection),
    decode: |bytes| dap09().decode_collection(&any_task(), bytes),
};

pub const AGGREGATE_SHARE_REQ: Codec<AggregateShareReq> = Codec {
    encode: |request| dap09().encode_aggregate_share_req(&any_task(), request),
    decode: |bytes| dap09().decode_aggregate_share_req(&any_task(), bytes),
};

pub const AGGREGATE_SHARE: Codec<HpkeCiphertext> = Codec {
    encode: |share| dap09().encode_aggregate_share(share),
    decode: |bytes| dap09().decode_aggregate_share(bytes),
};
