//! Properties of every message: it survives a round trip, has one encoding, and no input panics.

use std::fmt::Debug;

use bytes::Bytes;
use dapbox::{
    model::{HpkeCiphertext, PrepareInit, PrepareOutcome, ReportError, ReportId, ReportMetadata, ReportShare, Time},
    wire::{Problem, ProblemType},
};
use proptest::prelude::*;

use super::{
    codecs::{self, Codec, MAX_REPORTS},
    strategies,
};

/// Round trip; every strict prefix and every longer input is rejected.
fn is_exact<T: PartialEq + Debug>(codec: Codec<T>, message: &T) {
    let encoded = Bytes::from((codec.encode)(message));
    assert_eq!((codec.decode)(&encoded).as_ref(), Ok(message));
    for len in 0..encoded.len() {
        (codec.decode)(&encoded.slice(..len)).expect_err("a prefix is not a message");
    }
    for byte in [0, 1, 2, 0xff] {
        let longer = [&encoded[..], &[byte]].concat();
        (codec.decode)(&longer.into()).expect_err("a message with something after it is not a message");
    }
}

/// Decoded input encodes to the same bytes: each message has one encoding.
fn is_canonical<T: PartialEq + Debug>(codec: &Codec<T>, bytes: &Bytes) {
    if let Ok(message) = (codec.decode)(bytes) {
        assert_eq!((codec.encode)(&message), bytes[..]);
    }
}

/// As [`is_canonical`], for a message with some bytes replaced.
fn survives_damage<T: PartialEq + Debug>(codec: Codec<T>, message: &T, damage: &[(prop::sample::Index, u8)]) {
    let mut bytes = (codec.encode)(message);
    for (index, value) in damage {
        let at = index.index(bytes.len());
        bytes[at] = *value;
    }
    is_canonical(&codec, &bytes.into());
}

fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4)
}

proptest! {
    #[test]
    fn round_trips_hpke_configs(message in strategies::hpke_configs(), damage in damage()) {
        is_exact(codecs::HPKE_CONFIGS, &message);
        survives_damage(codecs::HPKE_CONFIGS, &message, &damage);
    }

    #[test]
    fn round_trips_reports(message in strategies::report(), damage in damage()) {
        is_exact(codecs::REPORT, &message);
        survives_damage(codecs::REPORT, &message, &damage);
    }

    #[test]
    fn round_trips_plaintexts(message in strategies::plaintext(), damage in damage()) {
        is_exact(codecs::PLAINTEXT, &message);
        survives_damage(codecs::PLAINTEXT, &message, &damage);
    }

    #[test]
    fn round_trips_job_init(message in strategies::job_init(), damage in damage()) {
        is_exact(codecs::JOB_INIT, &message);
        survives_damage(codecs::JOB_INIT, &message, &damage);
    }

    #[test]
    fn round_trips_job_resp(message in strategies::job_resp(), damage in damage()) {
        is_exact(codecs::JOB_RESP, &message);
        survives_damage(codecs::JOB_RESP, &message, &damage);
    }

    #[test]
    fn round_trips_job_continue(message in strategies::job_continue(), damage in damage()) {
        is_exact(codecs::JOB_CONTINUE, &message);
        survives_damage(codecs::JOB_CONTINUE, &message, &damage);
    }

    #[test]
    fn round_trips_collection_req(message in strategies::collection_req(), damage in damage()) {
        is_exact(codecs::COLLECTION_REQ, &message);
        survives_damage(codecs::COLLECTION_REQ, &message, &damage);
    }

    #[test]
    fn round_trips_collections(message in strategies::collection(), damage in damage()) {
        is_exact(codecs::COLLECTION, &message);
        survives_damage(codecs::COLLECTION, &message, &damage);
    }

    #[test]
    fn round_trips_aggregate_share_req(message in strategies::aggregate_share_req(), damage in damage()) {
        is_exact(codecs::AGGREGATE_SHARE_REQ, &message);
        survives_damage(codecs::AGGREGATE_SHARE_REQ, &message, &damage);
    }

    #[test]
    fn round_trips_aggregate_shares(message in strategies::aggregate_share(), damage in damage()) {
        is_exact(codecs::AGGREGATE_SHARE, &message);
        survives_damage(codecs::AGGREGATE_SHARE, &message, &damage);
    }

    #[test]
    fn survives_random_bytes(bytes in prop::collection::vec(prop_oneof![Just(0), Just(1), Just(2), any::<u8>()], 0..200)) {
        let bytes = Bytes::from(bytes);
        is_canonical(&codecs::HPKE_CONFIGS, &bytes);
        is_canonical(&codecs::REPORT, &bytes);
        is_canonical(&codecs::PLAINTEXT, &bytes);
        is_canonical(&codecs::JOB_INIT, &bytes);
        is_canonical(&codecs::JOB_RESP, &bytes);
        is_canonical(&codecs::JOB_CONTINUE, &bytes);
        is_canonical(&codecs::COLLECTION_REQ, &bytes);
        is_canonical(&codecs::COLLECTION, &bytes);
        is_canonical(&codecs::AGGREGATE_SHARE_REQ, &bytes);
        is_canonical(&codecs::AGGREGATE_SHARE, &bytes);
    }
}

fn why<T: Debug>(codec: Codec<T>, bytes: &[u8]) -> String {
    (codec.decode)(&Bytes::copy_from_slice(bytes)).unwrap_err().to_string()
}

#[test]
fn rejects_empty_or_long_report_lists() {
    let nothing = [0, 0, 0, 0];
    assert!(why(codecs::JOB_RESP, &nothing).ends_with("is shorter than its minimum"));
    assert!(why(codecs::JOB_INIT, &[&nothing[..], &[1], &nothing].concat()).ends_with("is shorter than its minimum"));
    assert!(why(codecs::JOB_CONTINUE, &[0, 1, 0, 0, 0, 0]).ends_with("is shorter than its minimum"));

    let finished = [&[7; 16][..], &[1]].concat();
    let list = |len: usize| [&(17 * len as u32).to_be_bytes()[..], &finished.repeat(len)].concat();
    assert_eq!((codecs::JOB_RESP.decode)(&list(MAX_REPORTS).into()).unwrap().len(), MAX_REPORTS);
    assert!(why(codecs::JOB_RESP, &list(MAX_REPORTS + 1)).ends_with("has too many items"));
}

#[test]
fn rejects_undefined_values() {
    let undefined = "has an undefined value";
    for query_type in [0, 3, 255] {
        let rest = [0; 64];
        let message = [&[query_type][..], &rest].concat();
        assert_eq!(why(codecs::COLLECTION_REQ, &message), format!("malformed Query.query_type: {undefined}"));
        assert!(why(codecs::AGGREGATE_SHARE_REQ, &message).ends_with(undefined));
        assert!(why(codecs::COLLECTION, &message).ends_with(undefined));
        assert!(why(codecs::JOB_INIT, &[&[0; 4], &message[..]].concat()).ends_with(undefined));
    }
    assert!(why(codecs::COLLECTION_REQ, &[2, 2, 0, 0, 0, 0]).ends_with(undefined));

    let resp = |end: &[u8]| [&[0, 0, 0, 16 + end.len() as u8][..], &[7; 16], end].concat();
    assert!(why(codecs::JOB_RESP, &resp(&[3])).ends_with(undefined));
}

/// An unknown error code rejects its report only.
#[test]
fn keeps_unknown_error_codes() {
    for code in [10, 255] {
        let answer = [&[0, 0, 0, 35][..], &[7; 16], &[2, code], &[8; 16], &[1]].concat();
        let found = (codecs::JOB_RESP.decode)(&answer.clone().into()).unwrap();
        assert_eq!(found[0].outcome, PrepareOutcome::Reject(ReportError::Unknown(code)));
        assert_eq!(found[1].outcome, PrepareOutcome::Finished);
        assert_eq!((codecs::JOB_RESP.encode)(&found), answer);
    }
}

#[test]
fn rejects_batch_interval_that_overflows() {
    let request = [&[1][..], &[0xff; 8], &[0, 0, 0, 0, 0, 0, 0, 1], &[0; 4]].concat();
    let refusal = (codecs::COLLECTION_REQ.decode)(&request.into()).unwrap_err();
    assert!(refusal.to_string().ends_with("ends after the last representable time"));
    assert_eq!(Problem::from(refusal).kind, ProblemType::BatchInvalid);
}

#[test]
fn rejects_duplicate_key_ids_and_empty_list() {
    let config = [9, 0, 0x20, 0, 1, 0, 1, 0, 1, 42];
    let list = |len: usize| [&[0, 10 * len as u8][..], &config.repeat(len)].concat();
    assert!((codecs::HPKE_CONFIGS.decode)(&list(1).into()).is_ok());
    assert!(why(codecs::HPKE_CONFIGS, &list(2)).ends_with("has duplicate ids"));
    assert!(why(codecs::HPKE_CONFIGS, &list(0)).ends_with("is shorter than its minimum"));
}

/// A client must not spoil the other reports of a job through a leader that validates little.
#[test]
fn rejects_empty_ciphertext_in_upload_only() {
    let empty = HpkeCiphertext { config_id: 1, enc: Bytes::new(), payload: Bytes::new() };
    assert!(why(codecs::AGGREGATE_SHARE, &dapbox_encoded(&empty)).ends_with("is shorter than its minimum"));

    let share = ReportShare {
        metadata: ReportMetadata { id: ReportId::new([1; 16]), time: Time(0) },
        extensions: vec![],
        public_share: Bytes::new(),
        input_share: empty.clone(),
    };
    let report = dapbox::model::Report {
        metadata: share.metadata,
        extensions: vec![],
        public_share: Bytes::new(),
        leader_share: empty.clone(),
        helper_share: empty,
    };
    assert!(why(codecs::REPORT, &(codecs::REPORT.encode)(&report)).ends_with("is shorter than its minimum"));

    let init = dapbox::model::AggregationJobInitReq {
        verify_key_id: None,
        extensions: vec![],
        aggregation_parameter: Bytes::new(),
        batch: dapbox::model::PartialBatchSelector::TimeInterval,
        prepare_inits: vec![PrepareInit { share, message: Bytes::new() }],
    };
    assert_eq!((codecs::JOB_INIT.decode)(&(codecs::JOB_INIT.encode)(&init).into()), Ok(init));
}

fn dapbox_encoded(share: &HpkeCiphertext) -> Vec<u8> {
    (codecs::AGGREGATE_SHARE.encode)(share)
}
