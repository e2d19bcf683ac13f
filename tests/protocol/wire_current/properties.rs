//! Properties of every message: it survives a round trip, has one encoding, and no input panics.

use std::fmt::Debug;

use bytes::Bytes;
use dapbox::{
    model::{
        BatchId, CollectionReq, Duration, FixedSizeQuery, HpkeCiphertext, Interval, PrepareInit, PrepareOutcome,
        PrepareResp, Query, ReportError, ReportId, ReportMetadata, ReportShare, TaskParameters, Time,
    },
    wire::{Problem, ProblemType, Wire, current::DAP_18},
};
use proptest::prelude::*;

use super::{
    codecs::{self, Codec, MAX_REPORTS, UNIT, dap18, task},
    strategies,
};

/// Round trip; every longer input is rejected, and every strict prefix unless it is a message with fewer items.
fn is_exact<T: PartialEq + Debug>(codec: Codec<T>, message: &T) {
    let encoded = Bytes::from((codec.encode)(message));
    assert_eq!((codec.decode)(&encoded).as_ref(), Ok(message));
    for len in 0..encoded.len() {
        let prefix = encoded.slice(..len);
        if let Ok(shorter) = (codec.decode)(&prefix) {
            assert!(codec.is_open, "a prefix is not a message");
            assert_eq!((codec.encode)(&shorter), prefix[..]);
        }
    }
    for byte in [0, 1, 2, 0xff] {
        let longer = [&encoded[..], &[byte]].concat();
        (codec.decode)(&longer.into()).expect_err("a message with something after it is not a message");
    }
}

/// Decoded input encodes to the same bytes: each message has one encoding.
fn is_canonical<T: PartialEq + Debug>(codec: &Codec<T>, bytes: &Bytes) {
    if let Ok(message) = (codec.decode)(bytes) {
        let encoded = Bytes::from((codec.encode)(&message));
        // An unknown key has two codes, of which the other one is sent. A time after the last one decodes to the last
        // one.
        let shown = format!("{message:?}");
        if !["HpkeUnknownConfigId", &format!("{:?}", Time(u64::MAX))].iter().any(|other| shown.contains(other)) {
            assert_eq!(encoded, bytes);
        }
    }
}

/// As [`is_canonical`], for a message with some bytes replaced.
fn survives_damage<T: PartialEq + Debug>(codec: Codec<T>, message: &T, damage: &[(prop::sample::Index, u8)]) {
    let mut bytes = (codec.encode)(message);
    for (index, value) in damage {
        if !bytes.is_empty() {
            let at = index.index(bytes.len());
            bytes[at] = *value;
        }
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
    fn round_trips_uploads(message in strategies::upload(), damage in damage()) {
        is_exact(codecs::UPLOAD, &message);
        survives_damage(codecs::UPLOAD, &message, &damage);
    }

    #[test]
    fn round_trips_upload_errors(message in strategies::upload_errors(), damage in damage()) {
        is_exact(codecs::UPLOAD_ERRORS, &message);
        survives_damage(codecs::UPLOAD_ERRORS, &message, &damage);
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
        is_canonical(&codecs::UPLOAD, &bytes);
        is_canonical(&codecs::UPLOAD_ERRORS, &bytes);
        is_canonical(&codecs::PLAINTEXT, &bytes);
        is_canonical(&codecs::JOB_INIT, &bytes);
        is_canonical(&codecs::JOB_RESP, &bytes);
        is_canonical(&codecs::JOB_CONTINUE, &bytes);
        is_canonical(&codecs::COLLECTION_REQ, &bytes);
        is_canonical(&codecs::COLLECTION, &bytes);
        is_canonical(&codecs::AGGREGATE_SHARE_REQ, &bytes);
        is_canonical(&codecs::AGGREGATE_SHARE, &bytes);
    }

    /// A report's time decodes exactly, or to the last time if it is later.
    #[test]
    fn rejects_times_that_overflow(units: u64, precision in prop_oneof![1..100_000u64, any::<u64>()]) {
        let message = [&[7; 16][..], &units.to_be_bytes(), &REST_OF_REPORT].concat();
        let task = TaskParameters { time_precision: Duration(precision), ..task() };
        let found = dap18().decode_upload(&task, &message.into());
        let seconds = u128::from(units) * u128::from(precision.max(1));
        prop_assert_eq!(u128::from(found.unwrap()[0].metadata.time.0), seconds.min(u64::MAX.into()));
    }

    #[test]
    fn rejects_intervals_that_overflow(start: u64, duration: u64, precision in prop_oneof![Just(1), 1..100_000u64]) {
        let interval = [start.to_be_bytes(), duration.to_be_bytes()].concat();
        let message = [&[1, 0, 16][..], &interval, &[0; 6]].concat();
        let task = TaskParameters { time_precision: Duration(precision), ..task() };
        let end = (u128::from(start) + u128::from(duration)) * u128::from(precision);
        let found = dap18().decode_collection_req(&task, &message.into());
        prop_assert_eq!(found.is_ok(), end <= u128::from(u64::MAX));
    }
}

/// No extensions, no public share, and two ciphertexts.
const REST_OF_REPORT: [u8; 24] = [0, 0, 0, 0, 0, 0, 1, 0, 1, 9, 0, 0, 0, 1, 9, 1, 0, 1, 9, 0, 0, 0, 1, 9];

fn why<T: Debug>(codec: Codec<T>, bytes: &[u8]) -> String {
    (codec.decode)(&Bytes::copy_from_slice(bytes)).unwrap_err().to_string()
}

#[test]
fn rejects_empty_or_long_report_lists() {
    let too_short = "is shorter than its minimum";
    assert!(why(codecs::UPLOAD, &[]).ends_with(too_short));
    assert!(why(codecs::JOB_RESP, &[]).ends_with(too_short));
    assert!(why(codecs::JOB_INIT, &[7, 0, 0, 0, 0, 0, 0]).ends_with(too_short));
    assert!(why(codecs::JOB_CONTINUE, &[0, 1]).ends_with(too_short));
    assert_eq!((codecs::UPLOAD_ERRORS.decode)(&Bytes::new()), Ok(vec![]));

    let finished = [&[7; 16][..], &[1]].concat();
    assert_eq!((codecs::JOB_RESP.decode)(&finished.repeat(MAX_REPORTS).into()).unwrap().len(), MAX_REPORTS);
    let too_long = (codecs::JOB_RESP.decode)(&finished.repeat(MAX_REPORTS + 1).into()).unwrap_err();
    assert!(too_long.is_too_long());
    let continued = [&[7; 16][..], &[0, 0, 0, 1, 9]].concat();
    let too_long = [&[0, 1][..], &continued.repeat(MAX_REPORTS + 1)].concat();
    assert!((codecs::JOB_CONTINUE.decode)(&too_long.into()).unwrap_err().is_too_long());
}

#[test]
fn rejects_undefined_values() {
    let undefined = "has an undefined value";
    for mode in [0, 3, 255] {
        let request = [mode, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(why(codecs::COLLECTION_REQ, &request), format!("malformed Query.batch_mode: {undefined}"));
        assert!(why(codecs::AGGREGATE_SHARE_REQ, &request).ends_with(undefined));
        let request = [&[2, 0, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0][..], &[0; 40]].concat();
        assert_eq!(
            why(codecs::AGGREGATE_SHARE_REQ, &request),
            format!("malformed BatchSelector.batch_mode: {undefined}")
        );
    }
    let resp = |end: &[u8]| [&[7; 16], end].concat();
    assert!(why(codecs::JOB_RESP, &resp(&[3])).ends_with(undefined));
}

/// Section 4.5.3.1: an unknown error code rejects its report only.
#[test]
fn keeps_unknown_error_codes() {
    let resp = |id: u8, end: &[u8]| [&[id; 16], end].concat();
    for code in [0, 12, 255] {
        let answer = [resp(7, &[2, code]), resp(8, &[2, 9]), resp(9, &[0, 0, 0, 0, 1, 5])].concat();
        let found = (codecs::JOB_RESP.decode)(&answer.clone().into()).unwrap();
        let outcomes: Vec<_> = found.iter().map(|resp| resp.outcome.clone()).collect();
        let expected = [
            PrepareOutcome::Reject(ReportError::Unknown(code)),
            PrepareOutcome::Reject(ReportError::ReportTooEarly),
            PrepareOutcome::Continue(Bytes::from_static(&[5])),
        ];
        assert_eq!(outcomes, expected);
        assert_eq!((codecs::JOB_RESP.encode)(&found), answer);
        let refused = [resp(7, &[code]), resp(8, &[3])].concat();
        let expected = [ReportError::Unknown(code), ReportError::ReportDropped];
        let found = (codecs::UPLOAD_ERRORS.decode)(&refused.into()).unwrap();
        assert_eq!(found.iter().map(|(_, error)| *error).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn rejects_batch_mode_config_of_wrong_length() {
    let request = |mode: u8, len: u8| [&[mode, 0, len][..], &vec![0; usize::from(len)], &[0; 6]].concat();
    for (mode, right) in [(1, 16), (2, 0)] {
        for len in [0, 1, 8, 15, 16, 17, 32] {
            let found = (codecs::COLLECTION_REQ.decode)(&request(mode, len).into());
            assert_eq!(found.is_ok(), len == right, "{mode} {len}");
        }
    }
    let selector = |mode: u8, len: u8| [&[2, 0, 0, 0, 0, 0, 0, 0, 0][..], &request(mode, len), &[0; 34]].concat();
    for (mode, right) in [(1, 16), (2, 32)] {
        for len in [0, 1, 15, 16, 17, 31, 32, 33] {
            let found = (codecs::AGGREGATE_SHARE_REQ.decode)(&selector(mode, len).into());
            assert_eq!(found.is_ok(), len == right, "{mode} {len}");
        }
    }
}

#[test]
fn rejects_batch_interval_beyond_last_time() {
    let interval = |start: u64, duration: u64| [start.to_be_bytes(), duration.to_be_bytes()].concat();
    let last = u64::MAX / UNIT;
    for (start, duration, refusal) in [
        (last, 0, None),
        (0, last, None),
        (last, 1, Some("malformed Interval: ends after the last representable time")),
        (last + 1, 0, Some("malformed Interval.start: ends after the last representable time")),
        (0, last + 1, Some("malformed Interval.duration: ends after the last representable time")),
        (u64::MAX, u64::MAX, Some("malformed Interval.start: ends after the last representable time")),
    ] {
        let message = [&[1, 0, 16][..], &interval(start, duration), &[0; 6]].concat();
        let found = (codecs::COLLECTION_REQ.decode)(&message.into());
        assert_eq!(found.as_ref().err().map(ToString::to_string).as_deref(), refusal);
        let kind = found.err().map(|malformed| Problem::from(malformed).kind);
        assert_eq!(kind, refusal.map(|_| ProblemType::BatchInvalid));
    }
}

#[test]
fn cannot_express_other_revisions_queries() {
    let encode = |query| {
        let request = CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: vec![] };
        dap18().encode_collection_req(&task(), &request).map_err(|error| error.to_string())
    };
    let interval = |start, duration| Query::TimeInterval(Interval::new(Time(start), Duration(duration)).unwrap());
    let by_id = encode(Query::FixedSize(FixedSizeQuery::ByBatchId(BatchId::new([1; 32]))));
    assert!(by_id.unwrap_err().contains("a batch by its id"));
    for between in [interval(1, UNIT), interval(UNIT, UNIT - 1), interval(UNIT - 1, 1)] {
        assert!(encode(between).unwrap_err().contains("multiple of the time precision"));
    }
    // The encoding permits an empty interval.
    assert!(encode(interval(UNIT, 0)).is_ok());
}

#[test]
fn rejects_unordered_extensions_and_duplicate_batch() {
    let job = |extensions: &[u8]| {
        let len = (extensions.len() as u16).to_be_bytes();
        let report = [&[7; 24][..], &[0, 0, 0, 0, 0, 0, 1, 0, 1, 9, 0, 0, 0, 1, 9, 0, 0, 0, 1, 9]].concat();
        [&[7, 0, 0, 0, 0][..], &len, extensions, &report].concat()
    };
    let is_in_order = |extensions: &[u8]| (codecs::JOB_INIT.decode)(&job(extensions).into()).is_ok();
    let out_of_order = "malformed AggregationJobInitReq.extensions: are not in strictly increasing order";
    let no_batch = "malformed leader_selected_batch_id: is not a batch id of 32 bytes";
    let batch = |len: u8| [&[0, 1, 0, len][..], &vec![9; usize::from(len)]].concat();
    assert!(is_in_order(&[]) && is_in_order(&[0, 0, 0, 0, 0, 2, 0, 0]) && is_in_order(&batch(32)));
    assert_eq!(why(codecs::JOB_INIT, &job(&[0, 2, 0, 0, 0, 2, 0, 0])), out_of_order);
    assert_eq!(why(codecs::JOB_INIT, &job(&[0, 3, 0, 0, 0, 2, 0, 0])), out_of_order);
    assert_eq!(why(codecs::JOB_INIT, &job(&[batch(32), batch(32)].concat())), out_of_order);
    assert_eq!(why(codecs::JOB_INIT, &job(&[&[0, 2, 0, 0], &batch(32)[..]].concat())), out_of_order);
    for len in [0, 31, 33] {
        assert_eq!(why(codecs::JOB_INIT, &job(&batch(len))), no_batch);
    }
}

#[test]
fn maps_errors_without_code() {
    let id = ReportId::new([7; 16]);
    let number =
        |error| dap18().encode_job_resp(&[PrepareResp { report_id: id, outcome: PrepareOutcome::Reject(error) }])[17];
    assert_eq!(number(ReportError::HpkeUnknownConfigId), 5);
    assert_eq!(number(ReportError::BatchSaturated), 3);
    let reject = PrepareResp { report_id: id, outcome: PrepareOutcome::Reject(ReportError::HpkeUnknownConfigId) };
    let encoded = (codecs::JOB_RESP.encode)(&vec![reject.clone()]);
    assert_eq!(encoded[16..], [2, 5]);
    // A peer may send it nevertheless.
    let peers = [&encoded[..17], &[4]].concat();
    assert_eq!((codecs::JOB_RESP.decode)(&peers.into()), Ok(vec![reject]));
}

#[test]
fn upload_errors_reveal_less_than_job_errors() {
    for (inside, outside) in [
        (ReportError::TaskExpired, ReportError::ReportDropped),
        (ReportError::TaskNotStarted, ReportError::ReportDropped),
        (ReportError::BatchCollected, ReportError::BatchCollected),
        (ReportError::HpkeUnknownConfigId, ReportError::OutdatedConfig),
        (ReportError::OutdatedConfig, ReportError::OutdatedConfig),
        (ReportError::ReportTooEarly, ReportError::ReportTooEarly),
        (ReportError::ReportDropped, ReportError::ReportDropped),
        (ReportError::InvalidMessage, ReportError::InvalidMessage),
    ] {
        assert_eq!(DAP_18.upload_error(inside), outside);
    }
}

#[test]
fn rejects_duplicate_key_ids_and_empty_list() {
    let config = [9, 0, 0x20, 0, 1, 0, 1, 0, 1, 42];
    let list = |len: usize| [&[0, 10 * len as u8][..], &config.repeat(len)].concat();
    assert!((codecs::HPKE_CONFIGS.decode)(&list(1).into()).is_ok());
    assert!(why(codecs::HPKE_CONFIGS, &list(2)).ends_with("has duplicate ids"));
    assert!(why(codecs::HPKE_CONFIGS, &list(0)).ends_with("is shorter than its minimum"));
}

#[test]
fn rejects_empty_shares_and_messages() {
    let too_short = "is shorter than its minimum";
    assert!(why(codecs::PLAINTEXT, &[0, 0, 0, 0, 0, 0]).ends_with(too_short));
    assert!(why(codecs::JOB_CONTINUE, &[&[0, 1][..], &[7; 16], &[0; 4]].concat()).ends_with(too_short));
    assert!(why(codecs::JOB_RESP, &[&[7; 16][..], &[0, 0, 0, 0, 0]].concat()).ends_with(too_short));
}

/// A client must not spoil the other reports of a job through a leader that validates little.
#[test]
fn rejects_empty_ciphertext_in_upload_only() {
    let empty = HpkeCiphertext { config_id: 1, enc: Bytes::new(), payload: Bytes::new() };
    let report = dapbox::model::Report {
        metadata: ReportMetadata { id: ReportId::new([1; 16]), time: Time(0) },
        extensions: vec![],
        public_share: Bytes::new(),
        leader_share: empty.clone(),
        helper_share: empty.clone(),
    };
    let share =
        ReportShare { metadata: report.metadata, extensions: vec![], public_share: Bytes::new(), input_share: empty };
    assert!(why(codecs::UPLOAD, &(codecs::UPLOAD.encode)(&vec![report])).ends_with("is shorter than its minimum"));

    let init = dapbox::model::AggregationJobInitReq {
        verify_key_id: Some(0),
        aggregation_parameter: Bytes::new(),
        batch: dapbox::model::PartialBatchSelector::TimeInterval,
        extensions: vec![],
        prepare_inits: vec![PrepareInit { share, message: "m".into() }],
    };
    assert_eq!((codecs::JOB_INIT.decode)(&(codecs::JOB_INIT.encode)(&init).into()), Ok(init));
}

#[test]
fn states_collection_policy() {
    let rules = dap18().collected_batch_policy();
    assert!(!rules.may_repeat && !rules.size_before_overlap);
    assert_eq!(dap18().path_prefix(), "dap-18");
    assert!((200..600).all(|status| !dap18().is_deleted_status(status)));
}
