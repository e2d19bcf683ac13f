//! One pair of functions for each message, so that a test can be written once for all.

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, Collection, CollectionReq, HpkeCiphertext, HpkeConfig, JobInit, PlaintextInputShare,
        PrepareResp, Report, Revision,
    },
    wire::{
        self, Malformed, Wire,
        dap09::{JobContinue, decode_job_continue, encode_job_continue},
    },
};

/// The most reports that the tests' jobs have.
pub const MAX_REPORTS: usize = 16;

/// How to write and read a message.
pub struct Codec<T> {
    pub encode: fn(&T) -> Vec<u8>,
    pub decode: fn(&Bytes) -> Result<T, Malformed>,
}

pub fn dap09() -> &'static dyn Wire {
    wire::of(Revision::Dap09)
}

pub const HPKE_CONFIGS: Codec<Vec<HpkeConfig>> =
    Codec { encode: |list| dap09().encode_hpke_configs(list), decode: |bytes| dap09().decode_hpke_configs(bytes) };

pub const REPORT: Codec<Report> =
    Codec { encode: |report| dap09().encode_report(report), decode: |bytes| dap09().decode_report(bytes) };

pub const PLAINTEXT: Codec<PlaintextInputShare> =
    Codec { encode: |share| dap09().encode_plaintext(share), decode: |bytes| dap09().decode_plaintext(bytes) };

pub const JOB_INIT: Codec<JobInit> =
    Codec { encode: |init| dap09().encode_job_init(init), decode: |bytes| dap09().decode_job_init(bytes, MAX_REPORTS) };

pub const JOB_RESP: Codec<Vec<PrepareResp>> = Codec {
    encode: |resps| dap09().encode_job_resp(resps),
    decode: |bytes| dap09().decode_job_resp(bytes, MAX_REPORTS),
};

pub const JOB_CONTINUE: Codec<JobContinue> =
    Codec { encode: encode_job_continue, decode: |bytes| decode_job_continue(bytes, MAX_REPORTS) };

pub const COLLECTION_REQ: Codec<CollectionReq> = Codec {
    encode: |request| dap09().encode_collection_req(request),
    decode: |bytes| dap09().decode_collection_req(bytes),
};

pub const COLLECTION: Codec<Collection> = Codec {
    encode: |collection| dap09().encode_collection(collection),
    decode: |bytes| dap09().decode_collection(bytes),
};

pub const AGGREGATE_SHARE_REQ: Codec<AggregateShareReq> = Codec {
    encode: |request| dap09().encode_aggregate_share_req(request),
    decode: |bytes| dap09().decode_aggregate_share_req(bytes),
};

pub const AGGREGATE_SHARE: Codec<HpkeCiphertext> = Codec {
    encode: |share| dap09().encode_aggregate_share(share),
    decode: |bytes| dap09().decode_aggregate_share(bytes),
};
