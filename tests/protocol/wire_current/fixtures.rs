//! Byte fixtures in `fixtures/dap18`, written from the draft's presentation language.
//!
//! They cover every structure of draft-ietf-ppm-dap-18 on the wire and in associated data: sections 4.1 (basic types,
//! report
//! errors, times), 4.2 (task configuration, task extensions, task interval), 4.4.1 (HPKE configurations), 4.4.2
//! (uploads,
//! their errors, input shares), 4.4.3 (report extensions), 4.5.1 and 5.2.2 (aggregation job extensions), 4.5.3
//! (initialization), 4.5.4.1 (continuation), 4.6.1 and 4.6.2 (collection jobs and their extensions), 4.6.4 (aggregate
//! shares), 4.6.7 (encryption of aggregate shares), 5 (queries and batch selectors), and appendix B (VDAF
//! configurations,
//! with the numbers of section 10 of draft-irtf-cfrg-vdaf-18).

use std::{collections::BTreeSet, fmt::Debug, fs, path::PathBuf};

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchId, BatchMode, BatchSelector, Checksum, Collection,
        CollectionReq, Duration, Extension, FixedSizeQuery, ForwardedCollectionReq, HpkeCiphertext, HpkeConfig,
        Interval, MaxMeasurement, PartialBatchSelector, PlaintextInputShare, PrepareInit, PrepareOutcome, PrepareResp,
        Query, Report, ReportId, ReportMetadata, ReportShare, Role, TaskParameters, Time, VdafConfig,
    },
    wire::current::{AggregationJobContinueReq, PrepareContinue},
};

use super::{
    codecs::{self, Codec, UNIT, dap18, task},
    strategies::REPORT_ERRORS,
};

const BATCH: BatchId = BatchId::new([0xbb; 32]);
/// A multiple of the time precision.
const START: u64 = 472_222 * UNIT;
const DAY: u64 = 24 * UNIT;
const LEADER_SELECTED: BatchMode = BatchMode::fixed_size(None);

/// The numbers of [`REPORT_ERRORS`].
const ERROR_NUMBERS: [u8; 10] = [1, 2, 3, 5, 6, 7, 8, 9, 10, 11];

/// Every file of the directory is read by a test below.
const FILES: [&str; 29] = [
    "aggregate_share",
    "aggregate_share_aad_leader_selected",
    "aggregate_share_aad_time_interval",
    "aggregate_share_info_helper",
    "aggregate_share_info_leader",
    "aggregate_share_req_leader_selected",
    "aggregate_share_req_time_interval",
    "aggregation_job_continue_req",
    "aggregation_job_init_req_leader_selected",
    "aggregation_job_init_req_time_interval",
    "aggregation_job_resp",
    "collection_job_req_leader_selected",
    "collection_job_req_time_interval",
    "collection_job_resp",
    "hpke_config_list",
    "input_share_aad",
    "input_share_info_helper",
    "input_share_info_leader",
    "plaintext_input_share",
    "plaintext_input_share_with_extensions",
    "task_configuration_prio3_count",
    "task_configuration_prio3_histogram",
    "task_configuration_prio3_l1_bound_sum",
    "task_configuration_prio3_multihot_count_vec",
    "task_configuration_prio3_sum",
    "task_configuration_prio3_sum_vec",
    "upload_errors",
    "upload_req",
    "vdaf_context",
];

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", "dap18"].iter().collect()
}

/// The bytes of a fixture: hexadecimal, with comments from `#` to the end of a line.
fn fixture(name: &str) -> Bytes {
    assert!(FILES.contains(&name), "{name} is not in the list of fixtures");
    let text = fs::read_to_string(folder().join(name).with_extension("txt")).unwrap();
    let bytes = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The fixture is exactly the message.
fn is<T: PartialEq + Debug>(name: &str, codec: Codec<T>, message: T) {
    let bytes = fixture(name);
    assert_eq!((codec.decode)(&bytes).as_ref(), Ok(&message), "{name}");
    assert_eq!((codec.encode)(&message), bytes[..], "{name}");
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

fn extension(kind: u16, data: &'static str) -> Extension {
    Extension { kind, data: data.into() }
}

fn interval(start: u64, duration: u64) -> Interval {
    Interval::new(Time(start), Duration(duration)).unwrap()
}

fn time_interval_request() -> CollectionReq {
    let query = Query::TimeInterval(interval(START, DAY));
    CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: vec![] }
}

fn leader_selected_request() -> CollectionReq {
    CollectionReq {
        query: Query::FixedSize(FixedSizeQuery::CurrentBatch),
        aggregation_parameter: "ag".into(),
        extensions: vec![extension(2, ""), extension(1, "ext")],
    }
}

#[test]
fn lists_each_fixture() {
    let files = fs::read_dir(folder()).unwrap();
    let names = files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), FILES.map(String::from).into());
}

#[test]
fn encodes_task_configurations() {
    let bounded = TaskParameters { task_interval: Some(interval(START, DAY)), ..task() };
    let sum_vec = VdafConfig::Prio3SumVec { max: MaxMeasurement(255), length: 10, chunk_length: 3 };
    let histogram = VdafConfig::Prio3Histogram { length: 100, chunk_length: 10 };
    let multihot = VdafConfig::Prio3MultihotCountVec { length: 20, max_weight: 3, chunk_length: 5 };
    let l1_bound_sum = VdafConfig::Prio3L1BoundSum { max_value: 0x0001_0000_00f0, length: 10, chunk_length: 9 };
    for (name, task) in [
        ("task_configuration_prio3_count", task()),
        ("task_configuration_prio3_sum", selected_task()),
        ("task_configuration_prio3_sum_vec", TaskParameters { vdaf: sum_vec, ..bounded }),
        ("task_configuration_prio3_histogram", TaskParameters { vdaf: histogram, ..task() }),
        ("task_configuration_prio3_l1_bound_sum", TaskParameters { vdaf: l1_bound_sum, ..task() }),
        (
            "task_configuration_prio3_multihot_count_vec",
            TaskParameters { vdaf: multihot, batch_mode: LEADER_SELECTED, ..task() },
        ),
    ] {
        assert_eq!(dap18().check_task(&task), Ok(()), "{name}");
        // Only ever sent as a part of associated data.
        let aad = dap18().aggregate_share_aad(&task, b"", &BatchSelector::FixedSize(BATCH));
        assert_eq!(aad, [&task.id.as_bytes()[..], &fixture(name)].concat(), "{name}");
    }
}

fn selected_task() -> TaskParameters {
    TaskParameters {
        task_interval: Some(interval(START, DAY)),
        batch_mode: LEADER_SELECTED,
        vdaf: VdafConfig::Prio3Sum { max: MaxMeasurement(1000) },
        ..task()
    }
}

#[test]
fn decodes_hpke_configs() {
    let list = vec![
        HpkeConfig { id: 42, kem_id: 0x20, kdf_id: 1, aead_id: 1, public_key: b"0123456789".to_vec() },
        HpkeConfig { id: 0, kem_id: 0x10, kdf_id: 2, aead_id: 3, public_key: b"abcdefghijk".to_vec() },
    ];
    is("hpke_config_list", codecs::HPKE_CONFIGS, list);
}

#[test]
fn decodes_uploads() {
    let (leader_share, helper_share) = (leader_share(), helper_share());
    let first = Report {
        metadata: metadata(1, START),
        extensions: vec![],
        public_share: "publ".into(),
        leader_share,
        helper_share,
    };
    let second = Report {
        metadata: metadata(2, u64::MAX / UNIT * UNIT),
        extensions: vec![extension(0x1234, "ext"), extension(0, "")],
        public_share: Bytes::new(),
        ..first.clone()
    };
    is("upload_req", codecs::UPLOAD, vec![first, second]);
}

#[test]
fn decodes_upload_errors() {
    let status = |(number, error)| (ReportId::new([0x10 + number; 16]), error);
    is("upload_errors", codecs::UPLOAD_ERRORS, ERROR_NUMBERS.into_iter().zip(REPORT_ERRORS).map(status).collect());
}

#[test]
fn decodes_plaintexts() {
    let plain = PlaintextInputShare { extensions: vec![], payload: "share".into() };
    is("plaintext_input_share", codecs::PLAINTEXT, plain);

    let extensions = vec![extension(1, "foo"), extension(0xffff, "")];
    let extended = PlaintextInputShare { extensions, payload: "s".into() };
    is("plaintext_input_share_with_extensions", codecs::PLAINTEXT, extended);
}

#[test]
fn decodes_aggregation_jobs() {
    let first = ReportShare {
        metadata: metadata(1, START),
        extensions: vec![],
        public_share: "publ".into(),
        input_share: ciphertext(13, "enc", "sealed"),
    };
    let second = ReportShare {
        metadata: metadata(2, START + UNIT),
        extensions: vec![extension(0x1234, "ext")],
        public_share: Bytes::new(),
        input_share: ciphertext(14, "E", "SE"),
    };
    let init = |share: &ReportShare, message: &'static [u8]| PrepareInit {
        share: share.clone(),
        message: Bytes::from_static(message),
    };

    let job = AggregationJobInitReq {
        verify_key_id: Some(7),
        aggregation_parameter: Bytes::new(),
        batch: PartialBatchSelector::TimeInterval,
        extensions: vec![],
        prepare_inits: vec![init(&first, b"\0\0\0\0\x03123"), init(&second, b"7")],
    };
    is("aggregation_job_init_req_time_interval", codecs::JOB_INIT, job);

    let job = AggregationJobInitReq {
        verify_key_id: Some(255),
        aggregation_parameter: "ag".into(),
        batch: PartialBatchSelector::FixedSize(BATCH),
        extensions: vec![extension(0, ""), extension(2, "ext")],
        prepare_inits: vec![init(&second, b"7")],
    };
    is("aggregation_job_init_req_leader_selected", codecs::JOB_INIT, job);
}

#[test]
fn decodes_aggregation_job_answers() {
    let resp = |id, outcome| PrepareResp { report_id: ReportId::new([id; 16]), outcome };
    let rejects = ERROR_NUMBERS.into_iter().zip(REPORT_ERRORS);
    let rejects = rejects.map(|(number, error)| resp(0x10 + number, PrepareOutcome::Reject(error)));
    let accepts =
        [resp(1, PrepareOutcome::Continue(Bytes::from_static(b"\x02\0\0\0\x017"))), resp(2, PrepareOutcome::Finished)];
    is("aggregation_job_resp", codecs::JOB_RESP, accepts.into_iter().chain(rejects).collect());
}

#[test]
fn decodes_aggregation_job_continuations() {
    let continued = |id, message: &'static [u8]| PrepareContinue {
        report_id: ReportId::new([id; 16]),
        message: Bytes::from_static(message),
    };
    let request =
        AggregationJobContinueReq { step: 258, continues: vec![continued(1, b"\0\0\0\0\x03123"), continued(2, b"7")] };
    is("aggregation_job_continue_req", codecs::JOB_CONTINUE, request);
}

#[test]
fn decodes_collection_requests() {
    is("collection_job_req_time_interval", codecs::COLLECTION_REQ, time_interval_request());
    is("collection_job_req_leader_selected", codecs::COLLECTION_REQ, leader_selected_request());
}

#[test]
fn decodes_collections() {
    let collection = Collection {
        batch: None,
        report_count: 1000,
        interval: interval(START, DAY),
        leader_share: leader_share(),
        helper_share: helper_share(),
    };
    is("collection_job_resp", codecs::COLLECTION, collection);
}

#[test]
fn decodes_aggregate_shares() {
    let request = AggregateShareReq {
        batch: BatchSelector::TimeInterval(interval(START + UNIT, 2 * UNIT)),
        aggregation_parameter: Bytes::new(),
        report_count: 439,
        checksum: Checksum::new([0xcc; 32]),
        collection: Some(ForwardedCollectionReq {
            request: time_interval_request(),
            bytes: fixture("collection_job_req_time_interval"),
        }),
    };
    is("aggregate_share_req_time_interval", codecs::AGGREGATE_SHARE_REQ, request);

    let request = AggregateShareReq {
        batch: BatchSelector::FixedSize(BATCH),
        aggregation_parameter: "ag".into(),
        report_count: u64::MAX,
        checksum: Checksum::default(),
        collection: Some(ForwardedCollectionReq {
            request: leader_selected_request(),
            bytes: fixture("collection_job_req_leader_selected"),
        }),
    };
    is("aggregate_share_req_leader_selected", codecs::AGGREGATE_SHARE_REQ, request);

    is("aggregate_share", codecs::AGGREGATE_SHARE, leader_share());
}

#[test]
fn encodes_labels_and_associated_data() {
    let extensions = [extension(0x1234, "ext")];
    // The batch is not part of it.
    let batch = BatchSelector::FixedSize(BATCH);
    let time_interval = fixture("collection_job_req_time_interval");
    let leader_selected = fixture("collection_job_req_leader_selected");
    for (name, bytes) in [
        ("input_share_info_leader", dap18().input_share_info(Role::Leader)),
        ("input_share_info_helper", dap18().input_share_info(Role::Helper)),
        ("aggregate_share_info_leader", dap18().aggregate_share_info(Role::Leader)),
        ("aggregate_share_info_helper", dap18().aggregate_share_info(Role::Helper)),
        ("vdaf_context", dap18().vdaf_context(&task().id)),
        ("input_share_aad", dap18().input_share_aad(&task(), &metadata(1, START), &extensions, b"publ")),
        ("aggregate_share_aad_time_interval", dap18().aggregate_share_aad(&task(), &time_interval, &batch)),
        (
            "aggregate_share_aad_leader_selected",
            dap18().aggregate_share_aad(&selected_task(), &leader_selected, &batch),
        ),
    ] {
        assert_eq!(bytes, fixture(name), "{name}");
    }
}

/// Report times are rounded down. Our client sends multiples of the precision.
#[test]
fn rounds_time_down_to_precision() {
    let aad = |time| dap18().input_share_aad(&task(), &metadata(1, time), &[], b"");
    assert_eq!(aad(START), aad(START + UNIT - 1));
    assert_ne!(aad(START), aad(START + UNIT));
}
