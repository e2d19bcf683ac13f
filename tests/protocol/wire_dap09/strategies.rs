//! Arbitrary messages.

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchId, BatchSelector, Checksum, Collection, CollectionReq,
        Duration, Extension, FixedSizeQuery, HpkeCiphertext, HpkeConfig, Interval, PartialBatchSelector,
        PlaintextInputShare, PrepareInit, PrepareOutcome, PrepareResp, Query, Report, ReportError, ReportId,
        ReportMetadata, ReportShare, Time,
    },
    wire::dap09::{AggregationJobContinueReq, PrepareContinue},
};
use prio16::{codec::Encode, topology::ping_pong::PingPongMessage};
use proptest::{collection::vec, prelude::*};

fn bytes(min: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), min..24).prop_map(Bytes::from)
}

fn report_id() -> impl Strategy<Value = ReportId> {
    any::<[u8; 16]>().prop_map(ReportId::new)
}

fn batch_id() -> impl Strategy<Value = BatchId> {
    any::<[u8; 32]>().prop_map(BatchId::new)
}

fn interval() -> impl Strategy<Value = Interval> {
    any::<(u64, u64)>().prop_map(|(a, b)| {
        let (start, end) = (a.min(b), a.max(b));
        Interval::new(Time(start), Duration(end - start)).unwrap()
    })
}

fn ciphertext() -> impl Strategy<Value = HpkeCiphertext> {
    (any::<u8>(), bytes(1), bytes(1)).prop_map(|(config_id, enc, payload)| HpkeCiphertext { config_id, enc, payload })
}

fn metadata() -> impl Strategy<Value = ReportMetadata> {
    (report_id(), any::<u64>()).prop_map(|(id, time)| ReportMetadata { id, time: Time(time) })
}

fn partial_batch() -> impl Strategy<Value = PartialBatchSelector> {
    prop_oneof![Just(PartialBatchSelector::TimeInterval), batch_id().prop_map(PartialBatchSelector::FixedSize)]
}

fn batch_selector() -> impl Strategy<Value = BatchSelector> {
    prop_oneof![interval().prop_map(BatchSelector::TimeInterval), batch_id().prop_map(BatchSelector::FixedSize)]
}

/// An encoded ping-pong message: opaque to dapbox, but decoded by Janus.
fn ping_pong() -> impl Strategy<Value = Bytes> {
    let part = || vec(any::<u8>(), 0..16);
    prop_oneof![
        part().prop_map(|prep_share| PingPongMessage::Initialize { prep_share }),
        (part(), part()).prop_map(|(prep_msg, prep_share)| PingPongMessage::Continue { prep_msg, prep_share }),
        part().prop_map(|prep_msg| PingPongMessage::Finish { prep_msg }),
    ]
    .prop_map(|message| message.get_encoded().unwrap().into())
}

pub fn hpke_configs() -> impl Strategy<Value = Vec<HpkeConfig>> {
    let config = (any::<(u16, u16, u16)>(), bytes(1));
    proptest::collection::hash_map(any::<u8>(), config, 1..6).prop_map(|configs| {
        let config = |(id, ((kem_id, kdf_id, aead_id), key)): (u8, ((u16, u16, u16), Bytes))| HpkeConfig {
            id,
            kem_id,
            kdf_id,
            aead_id,
            public_key: key.to_vec(),
        };
        configs.into_iter().map(config).collect()
    })
}

pub fn report() -> impl Strategy<Value = Report> {
    (metadata(), bytes(0), ciphertext(), ciphertext()).prop_map(
        |(metadata, public_share, leader_share, helper_share)| Report {
            metadata,
            extensions: vec![],
            public_share,
            leader_share,
            helper_share,
        },
    )
}

/// With the extensions that Janus knows.
pub fn plaintext() -> impl Strategy<Value = PlaintextInputShare> {
    let kind = prop_oneof![Just(0), Just(0xff00)];
    let extension = (kind, bytes(0)).prop_map(|(kind, data)| Extension { kind, data });
    (vec(extension, 0..4), bytes(0)).prop_map(|(extensions, payload)| PlaintextInputShare { extensions, payload })
}

pub fn job_init() -> impl Strategy<Value = AggregationJobInitReq> {
    let share = (metadata(), bytes(0), ciphertext()).prop_map(|(metadata, public_share, input_share)| ReportShare {
        metadata,
        extensions: vec![],
        public_share,
        input_share,
    });
    let init = (share, ping_pong()).prop_map(|(share, message)| PrepareInit { share, message });
    (bytes(0), partial_batch(), vec(init, 1..5)).prop_map(|(aggregation_parameter, batch, prepare_inits)| {
        AggregationJobInitReq { verify_key_id: None, aggregation_parameter, batch, extensions: vec![], prepare_inits }
    })
}

pub fn job_resp() -> impl Strategy<Value = Vec<PrepareResp>> {
    let outcome = prop_oneof![
        ping_pong().prop_map(PrepareOutcome::Continue),
        Just(PrepareOutcome::Finished),
        proptest::sample::select(REPORT_ERRORS.as_slice()).prop_map(PrepareOutcome::Reject),
    ];
    vec((report_id(), outcome).prop_map(|(report_id, outcome)| PrepareResp { report_id, outcome }), 1..6)
}

const REPORT_ERRORS: [ReportError; 10] = [
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

pub fn job_continue() -> impl Strategy<Value = AggregationJobContinueReq> {
    let continued = (report_id(), ping_pong()).prop_map(|(report_id, message)| PrepareContinue { report_id, message });
    (any::<u16>(), vec(continued, 1..5)).prop_map(|(step, continues)| AggregationJobContinueReq { step, continues })
}

pub fn collection_req() -> impl Strategy<Value = CollectionReq> {
    let query = prop_oneof![
        interval().prop_map(Query::TimeInterval),
        batch_id().prop_map(|id| Query::FixedSize(FixedSizeQuery::ByBatchId(id))),
        Just(Query::FixedSize(FixedSizeQuery::CurrentBatch)),
    ];
    (query, bytes(0)).prop_map(|(query, aggregation_parameter)| CollectionReq {
        query,
        aggregation_parameter,
        extensions: vec![],
    })
}

pub fn collection() -> impl Strategy<Value = Collection> {
    (partial_batch(), any::<u64>(), interval(), ciphertext(), ciphertext()).prop_map(
        |(batch, report_count, interval, leader_share, helper_share)| Collection {
            batch: Some(batch),
            report_count,
            interval,
            leader_share,
            helper_share,
        },
    )
}

pub fn aggregate_share_req() -> impl Strategy<Value = AggregateShareReq> {
    (batch_selector(), bytes(0), any::<u64>(), any::<[u8; 32]>()).prop_map(
        |(batch, aggregation_parameter, report_count, checksum)| AggregateShareReq {
            batch,
            aggregation_parameter,
            report_count,
            checksum: Checksum::new(checksum),
            collection: None,
        },
    )
}

pub fn aggregate_share() -> impl Strategy<Value = HpkeCiphertext> {
    ciphertext()
}
