//! A codec for each message, so that one test covers all messages.

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchMode, Collection, CollectionReq, Duration, HpkeCiphertext,
        HpkeConfig, PlaintextInputShare, PrepareResp, Report, ReportError, ReportId, Revision, TaskId, TaskParameters,
        VdafConfig,
    },
    wire::{
        self, Malformed, Wire,
        current::{AggregationJobContinueReq, decode_job_continue, encode_job_continue},
    },
};

/// The maximum number of reports in a job.
pub const MAX_REPORTS: usize = 16;

/// The time precision of the tests' task, in seconds.
pub const UNIT: u64 = 3600;

/// Encodes and decodes a message.
pub struct Codec<T> {
    pub encode: fn(&T) -> Vec<u8>,
    pub decode: fn(&Bytes) -> Result<T, Malformed>,
    /// Whether the message ends with a vector without a length, so that fewer items form a valid message.
    pub is_open: bool,
}

pub fn dap18() -> &'static dyn Wire {
    wire::for_revision(Revision::Dap18)
}

/// The task of the fixtures.
pub fn task() -> TaskParameters {
    TaskParameters {
        id: TaskId::new([0xaa; 32]),
        revision: Revision::Dap18,
        info: "info".to_owned(),
        leader_url: "https://l.example/".to_owned(),
        helper_url: "http://h.example/dap".to_owned(),
        batch_mode: BatchMode::TimeInterval,
        vdaf: VdafConfig::Prio3Count,
        min_batch_size: 100,
        time_precision: Duration(UNIT),
        task_expiration: None,
        task_interval: None,
        noise: None,
    }
}

pub const HPKE_CONFIGS: Codec<Vec<HpkeConfig>> = Codec {
    encode: |list| dap18().encode_hpke_configs(list),
    decode: |bytes| dap18().decode_hpke_configs(bytes),
    is_open: false,
};

pub const UPLOAD: Codec<Vec<Report>> = Codec {
    encode: |reports| dap18().encode_upload(&task(), reports),
    decode: |bytes| dap18().decode_upload(&task(), bytes),
    is_open: true,
};

pub const UPLOAD_ERRORS: Codec<Vec<(ReportId, ReportError)>> = Codec {
    encode: |errors| dap18().encode_upload_answer(errors),
    decode: |bytes| dap18().decode_upload_answer(bytes),
    is_open: true,
};

pub const PLAINTEXT: Codec<PlaintextInputShare> = Codec {
    encode: |share| dap18().encode_plaintext(share),
    decode: |bytes| dap18().decode_plaintext(bytes),
    is_open: false,
};

pub const JOB_INIT: Codec<AggregationJobInitReq> = Codec {
    encode: |init| dap18().encode_job_init(&task(), init),
    decode: |bytes| dap18().decode_job_init(&task(), bytes, MAX_REPORTS),
    is_open: true,
};

pub const JOB_RESP: Codec<Vec<PrepareResp>> = Codec {
    encode: |resps| dap18().encode_job_resp(resps),
    decode: |bytes| dap18().decode_job_resp(bytes, MAX_REPORTS),
    is_open: true,
};

pub const JOB_CONTINUE: Codec<AggregationJobContinueReq> =
    Codec { encode: encode_job_continue, decode: |bytes| decode_job_continue(bytes, MAX_REPORTS), is_open: true };

pub const COLLECTION_REQ: Codec<CollectionReq> = Codec {
    encode: |request| dap18().encode_collection_req(&task(), request).expect("what decodes can be encoded"),
    decode: |bytes| dap18().decode_collection_req(&task(), bytes),
    is_open: false,
};

pub const COLLECTION: Codec<Collection> = Codec {
    encode: |collection| dap18().encode_collection(&task(), collection),
    decode: |bytes| dap18().decode_collection(&task(), bytes),
    is_open: false,
};

pub const AGGREGATE_SHARE_REQ: Codec<AggregateShareReq> = Codec {
    encode: |request| dap18().encode_aggregate_share_req(&task(), request),
    decode: |bytes| dap18().decode_aggregate_share_req(&task(), bytes),
    is_open: false,
};

pub const AGGREGATE_SHARE: Codec<HpkeCiphertext> = Codec {
    encode: |share| dap18().encode_aggregate_share(share),
    decode: |bytes| dap18().decode_aggregate_share(bytes),
    is_open: false,
};
