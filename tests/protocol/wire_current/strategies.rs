//! Arbitrary messages.

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchId, BatchSelector, Checksum, Collection, CollectionReq,
        Duration, Extension, FixedSizeQuery, ForwardedCollectionReq, HpkeCiphertext, HpkeConfig, Interval,
        PartialBatchSelector, PlaintextInputShare, PrepareInit, PrepareOutcome, PrepareResp, Query, Report,
        ReportError, ReportId, ReportMetadata, ReportShare, Time,
    },
    wire::current::{AggregationJobContinueReq, PrepareContinue},
};
use proptest::{
    collection::{btree_map, hash_map, vec},
    prelude::*,
};

use super::codecs::{COLLECTION_REQ, UNIT};

/// The errors that decode to what was encoded.
pub const REPORT_ERRORS: [ReportError; 10] = [
    ReportError::BatchCollected,
    ReportError::ReportReplayed,
    ReportError::ReportDropped,
    ReportError::HpkeDecryptError,
    ReportError::VdafPrepError,
    ReportError::TaskExpired,
    ReportError::InvalidMessage,
    ReportError::ReportTooEarly,
    ReportError::TaskNotStarted,
    ReportError::OutdatedConfig,
];

fn bytes(min: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), min..24).prop_map(Bytes::from)
}

fn report_id() -> impl Strategy<Value = ReportId> {
    any::<[u8; 16]>().prop_map(ReportId::new)
}

fn batch_id() -> impl Strategy<Value = BatchId> {
    any::<[u8; 32]>().prop_map(BatchId::new)
}

fn units() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, 0..=u64::MAX / UNIT]
}

fn interval() -> impl Strategy<Value = Interval> {
    (units(), units()).prop_map(|(a, b)| {
        let (start, end) = (a.min(b) * UNIT, a.max(b) * UNIT);
        Interval::new(Time(start), Duration(end - start)).unwrap()
    })
}

fn ciphertext() -> impl Strategy<Value = HpkeCiphertext> {
    (any::<u8>(), bytes(1), bytes(1)).prop_map(|(config_id, enc, payload)| HpkeCiphertext { config_id, enc, payload })
}

fn metadata() -> impl Strategy<Value = ReportMetadata> {
    (report_id(), units()).prop_map(|(id, units)| ReportMetadata { id, time: Time(units * UNIT) })
}

/// In any order, with or without repetitions.
fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    vec((0..4u16, bytes(0)).prop_map(|(kind, data)| Extension { kind, data }), 0..4)
}

/// In strictly increasing order, without the known one.
fn unknown_job_extensions() -> impl Strategy<Value = Vec<Extension>> {
    let kind = any::<u16>().prop_filter("is the batch", |kind| *kind != 1);
    let kind = prop_oneof![Just(0), Just(2), kind];
    btree_map(kind, bytes(0), 0..4)
        .prop_map(|extensions| extensions.into_iter().map(|(kind, data)| Extension { kind, data }).collect())
}

fn partial_batch() -> impl Strategy<Value = PartialBatchSelector> {
    prop_oneof![Just(PartialBatchSelector::TimeInterval), batch_id().prop_map(PartialBatchSelector::FixedSize)]
}

fn batch_selector() -> impl Strategy<Value = BatchSelector> {
    prop_oneof![interval().prop_map(BatchSelector::TimeInterval), batch_id().prop_map(BatchSelector::FixedSize)]
}

fn report_error() -> impl Strategy<Value = ReportError> {
    proptest::sample::select(REPORT_ERRORS.as_slice())
}

pub fn hpke_configs() -> impl Strategy<Value = Vec<HpkeConfig>> {
    let config = (any::<(u16, u16, u16)>(), bytes(1));
    hash_map(any::<u8>(), config, 1..6).prop_map(|configs| {
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

pub fn upload() -> impl Strategy<Value = Vec<Report>> {
    let report = (metadata(), extensions(), bytes(0), ciphertext(), ciphertext()).prop_map(
        |(metadata, extensions, public_share, leader_share, helper_share)| Report {
            metadata,
            extensions,
            public_share,
            leader_share,
            helper_share,
        },
    );
    vec(report, 1..5)
}

pub fn upload_errors() -> impl Strategy<Value = Vec<(ReportId, ReportError)>> {
    vec((report_id(), report_error()), 0..6)
}

pub fn plaintext() -> impl Strategy<Value = PlaintextInputShare> {
    (extensions(), bytes(1)).prop_map(|(extensions, payload)| PlaintextInputShare { extensions, payload })
}

pub fn job_init() -> impl Strategy<Value = AggregationJobInitReq> {
    let share = (metadata(), extensions(), bytes(0), ciphertext()).prop_map(
        |(metadata, extensions, public_share, input_share)| ReportShare {
            metadata,
            extensions,
            public_share,
            input_share,
        },
    );
    let init = (share, bytes(1)).prop_map(|(share, message)| PrepareInit { share, message });
    (any::<u8>(), bytes(0), partial_batch(), unknown_job_extensions(), vec(init, 1..5)).prop_map(
        |(key, aggregation_parameter, batch, extensions, prepare_inits)| AggregationJobInitReq {
            verify_key_id: Some(key),
            aggregation_parameter,
            batch,
            extensions,
            prepare_inits,
        },
    )
}

pub fn job_resp() -> impl Strategy<Value = Vec<PrepareResp>> {
    let outcome = prop_oneof![
        bytes(1).prop_map(PrepareOutcome::Continue),
        Just(PrepareOutcome::Finished),
        report_error().prop_map(PrepareOutcome::Reject),
    ];
    vec((report_id(), outcome).prop_map(|(report_id, outcome)| PrepareResp { report_id, outcome }), 1..6)
}

pub fn job_continue() -> impl Strategy<Value = AggregationJobContinueReq> {
    let continued = (report_id(), bytes(1)).prop_map(|(report_id, message)| PrepareContinue { report_id, message });
    (any::<u16>(), vec(continued, 1..5)).prop_map(|(step, continues)| AggregationJobContinueReq { step, continues })
}

pub fn collection_req() -> impl Strategy<Value = CollectionReq> {
    let query =
        prop_oneof![interval().prop_map(Query::TimeInterval), Just(Query::FixedSize(FixedSizeQuery::CurrentBatch)),];
    (query, bytes(0), extensions()).prop_map(|(query, aggregation_parameter, extensions)| CollectionReq {
        query,
        aggregation_parameter,
        extensions,
    })
}

pub fn collection() -> impl Strategy<Value = Collection> {
    (any::<u64>(), interval(), ciphertext(), ciphertext()).prop_map(
        |(report_count, interval, leader_share, helper_share)| Collection {
            batch: None,
            report_count,
            interval,
            leader_share,
            helper_share,
        },
    )
}

pub fn aggregate_share_req() -> impl Strategy<Value = AggregateShareReq> {
    (collection_req(), batch_selector(), any::<u64>(), any::<[u8; 32]>()).prop_map(
        |(request, batch, report_count, checksum)| AggregateShareReq {
            batch,
            aggregation_parameter: request.aggregation_parameter.clone(),
            report_count,
            checksum: Checksum::new(checksum),
            collection: Some(ForwardedCollectionReq { bytes: (COLLECTION_REQ.encode)(&request).into(), request }),
        },
    )
}

pub fn aggregate_share() -> impl Strategy<Value = HpkeCiphertext> {
    ciphertext()
}
