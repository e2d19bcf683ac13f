//! Byte fixtures in `fixtures/dap09`, written from the draft's presentation language.

use std::{collections::BTreeSet, fmt::Debug, fs, path::PathBuf};

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchId, BatchSelector, Checksum, Collection, CollectionReq,
        Duration, Extension, FixedSizeQuery, HpkeCiphertext, HpkeConfig, Interval, PartialBatchSelector,
        PlaintextInputShare, PrepareInit, PrepareOutcome, PrepareResp, Query, Report, ReportError, ReportId,
        ReportMetadata, ReportShare, Role, TaskId, Time,
    },
    wire::dap09::{AggregationJobContinueReq, PrepareContinue},
};

use super::{
    codecs::{self, Codec, dap09},
    janus,
};

const TASK: TaskId = TaskId::new([0xaa; 32]);
const BATCH: BatchId = BatchId::new([0xbb; 32]);
const NOW: u64 = 1_700_000_000;

/// Every file of the directory is read by a test below.
const FILES: [&str; 24] = [
    "aggregate_share",
    "aggregate_share_aad_fixed_size",
    "aggregate_share_aad_time_interval",
    "aggregate_share_info_helper",
    "aggregate_share_info_leader",
    "aggregate_share_req_fixed_size",
    "aggregate_share_req_time_interval",
    "aggregation_job_continue_req",
    "aggregation_job_init_req_fixed_size",
    "aggregation_job_init_req_time_interval",
    "aggregation_job_resp",
    "collection_fixed_size",
    "collection_req_by_batch_id",
    "collection_req_current_batch",
    "collection_req_time_interval",
    "collection_time_interval",
    "hpke_config_list",
    "input_share_aad",
    "input_share_info_helper",
    "input_share_info_leader",
    "plaintext_input_share",
    "plaintext_input_share_with_extensions",
    "report",
    "report_without_public_share",
];

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", "dap09"].iter().collect()
}

/// The bytes of a fixture: hexadecimal, with comments from `#` to the end of a line.
fn fixture(name: &str) -> Bytes {
    assert!(FILES.contains(&name), "{name} is not in the list of fixtures");
    let text = fs::read_to_string(folder().join(name).with_extension("txt")).unwrap();
    let bytes = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The fixture is exactly the message, for us and for Janus.
fn is<T: PartialEq + Debug>(name: &str, codec: Codec<T>, check: fn(&T), message: T) {
    let bytes = fixture(name);
    assert_eq!((codec.decode)(&bytes).as_ref(), Ok(&message), "{name}");
    assert_eq!((codec.encode)(&message), bytes[..], "{name}");
    check(&message);
}

fn ciphertext(config_id: u8, enc: &'static str, payload: &'static str) -> HpkeCiphertext {
    HpkeCiphertext { config_id, enc: enc.into(), payload: payload.into() }
}

fn leader_share() -> HpkeCiphertext {
    ciphertext(42, "enc", "leader")
}

fn helper_share() -> HpkeCiphertext {
    ciphertext(13, "EN", "h")
}

fn metadata(id: u8, time: u64) -> ReportMetadata {
    ReportMetadata { id: ReportId::new([id; 16]), time: Time(time) }
}

fn interval(start: u64, duration: u64) -> Interval {
    Interval::new(Time(start), Duration(duration)).unwrap()
}

#[test]
fn lists_each_fixture() {
    let files = fs::read_dir(folder()).unwrap();
    let names = files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), FILES.map(String::from).into());
}

#[test]
fn decodes_hpke_configs() {
    let list = vec![
        HpkeConfig { id: 42, kem_id: 0x20, kdf_id: 1, aead_id: 1, public_key: b"0123456789".to_vec() },
        HpkeConfig { id: 0, kem_id: 0x10, kdf_id: 2, aead_id: 3, public_key: b"abcdefghijkl".to_vec() },
    ];
    is("hpke_config_list", codecs::HPKE_CONFIGS, janus::check_hpke_configs, list);
}

#[test]
fn decodes_reports() {
    let report = Report {
        metadata: metadata(1, NOW),
        extensions: vec![],
        public_share: "publ".into(),
        leader_share: leader_share(),
        helper_share: helper_share(),
    };
    is("report", codecs::REPORT, janus::check_report, report);

    let byte = |byte| HpkeCiphertext { config_id: byte, enc: vec![byte].into(), payload: vec![byte].into() };
    let report = Report {
        metadata: ReportMetadata { id: ReportId::new(std::array::from_fn(|i| i as u8)), time: Time(u64::MAX) },
        extensions: vec![],
        public_share: Bytes::new(),
        leader_share: byte(0),
        helper_share: byte(255),
    };
    is("report_without_public_share", codecs::REPORT, janus::check_report, report);
}

#[test]
fn decodes_plaintexts() {
    let plain = PlaintextInputShare { extensions: vec![], payload: "share".into() };
    is("plaintext_input_share", codecs::PLAINTEXT, janus::check_plaintext, plain);

    let extensions = vec![Extension { kind: 0, data: "foo".into() }, Extension { kind: 0xff00, data: Bytes::new() }];
    let extended = PlaintextInputShare { extensions, payload: Bytes::new() };
    is("plaintext_input_share_with_extensions", codecs::PLAINTEXT, janus::check_plaintext, extended);
}

#[test]
fn decodes_aggregation_jobs() {
    let first = ReportShare {
        metadata: metadata(1, NOW),
        extensions: vec![],
        public_share: "publ".into(),
        input_share: ciphertext(13, "enc", "sealed"),
    };
    let second = ReportShare {
        metadata: metadata(2, NOW + 1),
        extensions: vec![],
        public_share: Bytes::new(),
        input_share: ciphertext(14, "E", "SE"),
    };
    let init = |share: &ReportShare, message: &'static [u8]| PrepareInit {
        share: share.clone(),
        message: Bytes::from_static(message),
    };

    let job = AggregationJobInitReq {
        verify_key_id: None,
        aggregation_parameter: Bytes::new(),
        batch: PartialBatchSelector::TimeInterval,
        extensions: vec![],
        prepare_inits: vec![init(&first, b"\0\0\0\0\x03123"), init(&second, b"\x01\0\0\0\x0245\0\0\0\x016")],
    };
    is("aggregation_job_init_req_time_interval", codecs::JOB_INIT, janus::check_job_init, job);

    let job = AggregationJobInitReq {
        verify_key_id: None,
        aggregation_parameter: "ag".into(),
        batch: PartialBatchSelector::FixedSize(BATCH),
        extensions: vec![],
        prepare_inits: vec![init(&second, b"\x02\0\0\0\x017")],
    };
    is("aggregation_job_init_req_fixed_size", codecs::JOB_INIT, janus::check_job_init, job);
}

#[test]
fn decodes_aggregation_job_answers() {
    let resp = |id, outcome| PrepareResp { report_id: ReportId::new([id; 16]), outcome };
    let reject = |id, error| resp(id, PrepareOutcome::Reject(error));
    let resps = vec![
        resp(1, PrepareOutcome::Continue(Bytes::from_static(b"\x02\0\0\0\x017"))),
        resp(2, PrepareOutcome::Finished),
        reject(0x10, ReportError::BatchCollected),
        reject(0x11, ReportError::ReportReplayed),
        reject(0x12, ReportError::ReportDropped),
        reject(0x13, ReportError::HpkeUnknownConfigId),
        reject(0x14, ReportError::HpkeDecryptError),
        reject(0x15, ReportError::VdafPrepError),
        reject(0x16, ReportError::BatchSaturated),
        reject(0x17, ReportError::TaskExpired),
        reject(0x18, ReportError::InvalidMessage),
        reject(0x19, ReportError::ReportTooEarly),
    ];
    is("aggregation_job_resp", codecs::JOB_RESP, janus::check_job_resp, resps);
}

#[test]
fn decodes_aggregation_job_continuations() {
    let continued = |id, message: &'static [u8]| PrepareContinue {
        report_id: ReportId::new([id; 16]),
        message: Bytes::from_static(message),
    };
    let continues = vec![continued(1, b"\0\0\0\0\x03123"), continued(2, b"\x02\0\0\0\x017")];
    let request = AggregationJobContinueReq { step: 258, continues };
    is("aggregation_job_continue_req", codecs::JOB_CONTINUE, janus::check_job_continue, request);
}

#[test]
fn decodes_collection_requests() {
    for (name, query, parameter) in [
        ("collection_req_time_interval", Query::TimeInterval(interval(NOW, 3600)), ""),
        ("collection_req_by_batch_id", Query::FixedSize(FixedSizeQuery::ByBatchId(BATCH)), "ag"),
        ("collection_req_current_batch", Query::FixedSize(FixedSizeQuery::CurrentBatch), ""),
    ] {
        let request = CollectionReq { query, aggregation_parameter: parameter.into(), extensions: vec![] };
        is(name, codecs::COLLECTION_REQ, janus::check_collection_req, request);
    }
}

#[test]
fn decodes_collections() {
    for (name, batch, report_count, interval) in [
        ("collection_time_interval", PartialBatchSelector::TimeInterval, 1000, interval(NOW, 3600)),
        ("collection_fixed_size", PartialBatchSelector::FixedSize(BATCH), 0, interval(u64::MAX - 1, 1)),
    ] {
        let (leader_share, helper_share) = (leader_share(), helper_share());
        let collection = Collection { batch: Some(batch), report_count, interval, leader_share, helper_share };
        is(name, codecs::COLLECTION, janus::check_collection, collection);
    }
}

#[test]
fn decodes_aggregate_shares() {
    let request = AggregateShareReq {
        batch: BatchSelector::TimeInterval(interval(NOW, 3600)),
        aggregation_parameter: Bytes::new(),
        report_count: 439,
        checksum: Checksum::new([0xcc; 32]),
        collection: None,
    };
    let codec = codecs::AGGREGATE_SHARE_REQ;
    is("aggregate_share_req_time_interval", codec, janus::check_aggregate_share_req, request);

    let request = AggregateShareReq {
        batch: BatchSelector::FixedSize(BATCH),
        aggregation_parameter: "ag".into(),
        report_count: u64::MAX,
        checksum: Checksum::default(),
        collection: None,
    };
    let codec = codecs::AGGREGATE_SHARE_REQ;
    is("aggregate_share_req_fixed_size", codec, janus::check_aggregate_share_req, request);

    is("aggregate_share", codecs::AGGREGATE_SHARE, janus::check_aggregate_share, leader_share());
}

#[test]
fn encodes_labels_and_associated_data() {
    let time_interval = BatchSelector::TimeInterval(interval(NOW, 3600));
    let fixed_size = BatchSelector::FixedSize(BATCH);
    let task = codecs::task(TASK);
    for (name, bytes) in [
        ("input_share_info_leader", dap09().input_share_info(Role::Leader)),
        ("input_share_info_helper", dap09().input_share_info(Role::Helper)),
        ("aggregate_share_info_leader", dap09().aggregate_share_info(Role::Leader)),
        ("aggregate_share_info_helper", dap09().aggregate_share_info(Role::Helper)),
        ("input_share_aad", dap09().input_share_aad(&task, &metadata(1, NOW), &[], b"publ")),
        ("aggregate_share_aad_time_interval", dap09().aggregate_share_aad(&task, b"any", &time_interval)),
        ("aggregate_share_aad_fixed_size", dap09().aggregate_share_aad(&task, b"any", &fixed_size)),
    ] {
        assert_eq!(bytes, fixture(name), "{name}");
    }
    assert!(dap09().vdaf_context(&TASK).is_empty());
}
