//! What differs between the drafts: byte fixtures of DAP-19 in `fixtures/dap19`, and answers read by the wrong draft.

use std::{collections::BTreeSet, fs, path::PathBuf};

use bytes::Bytes;
use dapbox::{
    model::{
        BatchSelector, Interval, PrepareOutcome, PrepareResp, ReportError, ReportId, ReportMetadata, Revision, Role,
        Time,
    },
    wire::{
        Wire,
        current::{DAP_18, DAP_19},
    },
};
use proptest::prelude::*;

use super::{
    codecs::{MAX_REPORTS, task},
    strategies,
};

/// The errors of DAP-19, in the order of their codes, from 1.
const ERRORS: [ReportError; 10] = [
    ReportError::BatchCollected,
    ReportError::ReportReplayed,
    ReportError::ReportDropped,
    ReportError::HpkeUnknownConfigId,
    ReportError::HpkeDecryptError,
    ReportError::VdafPrepError,
    ReportError::InvalidMessage,
    ReportError::ReportTooEarly,
    ReportError::UnknownVerificationKeyId,
    ReportError::UnsupportedExtension,
];

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", "dap19"].iter().collect()
}

fn fixture(name: &str) -> Bytes {
    let text = fs::read_to_string(folder().join(name).with_extension("txt")).unwrap();
    let bytes = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn id(code: usize) -> ReportId {
    ReportId::new([0x11 + code as u8; 16])
}

fn resp(report_id: ReportId, outcome: PrepareOutcome) -> PrepareResp {
    PrepareResp { report_id, outcome }
}

#[test]
fn encodes_what_differs_in_dap19() {
    let mut used = BTreeSet::new();
    let mut is = |name: &'static str, bytes: Vec<u8>| {
        assert_eq!(bytes, fixture(name)[..], "{name}");
        used.insert(name.to_owned());
    };
    is("input_share_info_leader", DAP_19.input_share_info(Role::Leader));
    is("input_share_info_helper", DAP_19.input_share_info(Role::Helper));
    is("aggregate_share_info_leader", DAP_19.aggregate_share_info(Role::Leader));
    is("aggregate_share_info_helper", DAP_19.aggregate_share_info(Role::Helper));
    is("vdaf_context", DAP_19.vdaf_context(&task().id));

    let errors: Vec<_> = ERRORS.into_iter().enumerate().map(|(code, error)| (id(code), error)).collect();
    is("upload_errors", DAP_19.encode_upload_answer(&errors));
    assert_eq!(DAP_19.decode_upload_answer(&fixture("upload_errors")), Ok(errors.clone()));

    let accepts = [
        resp(ReportId::new([1; 16]), PrepareOutcome::Continue(Bytes::from_static(b"\x02\0\0\0\x017"))),
        resp(ReportId::new([2; 16]), PrepareOutcome::Finished),
    ];
    let rejects = errors.into_iter().map(|(id, error)| resp(id, PrepareOutcome::Reject(error)));
    let resps: Vec<_> = accepts.into_iter().chain(rejects).collect();
    is("aggregation_job_resp", DAP_19.encode_job_resp(&resps));
    assert_eq!(DAP_19.decode_job_resp(&fixture("aggregation_job_resp"), MAX_REPORTS), Ok(resps));

    let files = fs::read_dir(folder()).unwrap();
    let names = files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), used);
}

/// The same byte means different errors, so an answer is read by the draft of its task only.
#[test]
fn codes_belong_to_their_draft() {
    let answer = |code: u8| Bytes::from([&[7; 16][..], &[code]].concat());
    let read = |wire: &dyn Wire, code| wire.decode_upload_answer(&answer(code)).unwrap()[0].1;
    assert_eq!((read(&DAP_18, 7), read(&DAP_19, 7)), (ReportError::TaskExpired, ReportError::InvalidMessage));
    assert_eq!(
        (read(&DAP_18, 9), read(&DAP_19, 9)),
        (ReportError::ReportTooEarly, ReportError::UnknownVerificationKeyId)
    );
    assert_eq!((read(&DAP_18, 11), read(&DAP_19, 11)), (ReportError::OutdatedConfig, ReportError::Unknown(11)));
}

#[test]
fn sends_errors_that_the_draft_has() {
    let sent = |error| DAP_19.encode_upload_answer(&[(ReportId::new([7; 16]), DAP_19.upload_error(error))])[16];
    for (inside, code) in [
        (ReportError::TaskExpired, 3),
        (ReportError::TaskNotStarted, 3),
        (ReportError::BatchSaturated, 3),
        (ReportError::OutdatedConfig, 4),
        (ReportError::HpkeUnknownConfigId, 4),
    ] {
        assert_eq!(sent(inside), code, "{inside}");
    }
    let in_job =
        DAP_19.encode_job_resp(&[resp(ReportId::new([7; 16]), PrepareOutcome::Reject(ReportError::TaskExpired))]);
    assert_eq!(in_job[17..], [3]);
}

/// Task parameters and messages are the same, so what both sign differs in the version only.
#[test]
fn binds_shares_to_the_same_parameters() {
    let [of_18, of_19] = [Revision::Dap18, Revision::Dap19].map(|revision| {
        let mut task = task();
        task.revision = revision;
        let batch = BatchSelector::TimeInterval(Interval::new(Time(0), task.time_precision).unwrap());
        let metadata = ReportMetadata { id: ReportId::new([1; 16]), time: Time(3600) };
        let wire = dapbox::wire::for_revision(revision);
        (wire.input_share_aad(&task, &metadata, &[], b"public"), wire.aggregate_share_aad(&task, b"request", &batch))
    });
    assert_eq!(of_18, of_19);
}

proptest! {
    #[test]
    fn round_trips_answers_of_dap19(codes in prop::collection::vec(0..10_usize, 1..MAX_REPORTS), damage in any::<u8>()) {
        let errors: Vec<_> = codes.iter().map(|code| (id(*code), ERRORS[*code])).collect();
        let encoded = Bytes::from(DAP_19.encode_upload_answer(&errors));
        prop_assert_eq!(DAP_19.decode_upload_answer(&encoded), Ok(errors.clone()));
        let resps: Vec<_> = errors.into_iter().map(|(id, error)| resp(id, PrepareOutcome::Reject(error))).collect();
        let encoded = DAP_19.encode_job_resp(&resps);
        prop_assert_eq!(DAP_19.decode_job_resp(&Bytes::from(encoded.clone()), MAX_REPORTS), Ok(resps));
        // Any other code rejects its report only, and stays what it is.
        let mut damaged = encoded;
        *damaged.last_mut().unwrap() = damage;
        let decoded = DAP_19.decode_job_resp(&Bytes::from(damaged.clone()), MAX_REPORTS).unwrap();
        prop_assert_eq!(DAP_19.encode_job_resp(&decoded), damaged);
    }

    #[test]
    fn all_other_messages_are_equal(job in strategies::job_init(), upload in strategies::upload(), plain in strategies::plaintext()) {
        let task = task();
        prop_assert_eq!(DAP_18.encode_job_init(&task, &job), DAP_19.encode_job_init(&task, &job));
        prop_assert_eq!(DAP_18.encode_upload(&task, &upload), DAP_19.encode_upload(&task, &upload));
        prop_assert_eq!(DAP_18.encode_plaintext(&plain), DAP_19.encode_plaintext(&plain));
    }
}
