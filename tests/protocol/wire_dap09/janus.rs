//! The published Janus crates as an independent implementation: the same message has the same bytes.

use std::fmt::Debug;

use bytes::Bytes;
use dapbox::{
    model::{
        self, AggregateShareReq, AggregationJobInitReq, BatchSelector, Collection, CollectionReq, FixedSizeQuery,
        HpkeCiphertext, HpkeConfig, PartialBatchSelector, PlaintextInputShare, PrepareOutcome, PrepareResp, Query,
        Report, ReportError, ReportMetadata, Role, TaskId,
    },
    wire::dap09::AggregationJobContinueReq,
};
use janus_core::hpke::{HpkeApplicationInfo, Label};
use janus_messages::{
    self as janus,
    codec::{Decode, Encode},
    query_type::{FixedSize, TimeInterval},
};
use prio16::topology::ping_pong::PingPongMessage;
use proptest::prelude::*;

use super::{
    codecs::{self, Codec, dap09},
    strategies,
};

/// Both encode to the same bytes, and each decodes the other's bytes to its own value.
fn agree<T: PartialEq + Debug, J: Encode + Decode + PartialEq + Debug>(codec: &Codec<T>, ours: &T, theirs: &J) {
    let encoded = (codec.encode)(ours);
    assert_eq!(theirs.get_encoded().unwrap(), encoded);
    assert_eq!(J::get_decoded(&encoded).as_ref().unwrap(), theirs);
    assert_eq!((codec.decode)(&theirs.get_encoded().unwrap().into()).as_ref(), Ok(ours));
}

// The messages, each compared with its Janus counterpart.

pub fn check_hpke_configs(ours: &Vec<HpkeConfig>) {
    let config = |config: &HpkeConfig| {
        janus::HpkeConfig::new(
            config.id.into(),
            config.kem_id.into(),
            config.kdf_id.into(),
            config.aead_id.into(),
            config.public_key.clone().into(),
        )
    };
    agree(&codecs::HPKE_CONFIGS, ours, &janus::HpkeConfigList::new(ours.iter().map(config).collect()));
}

pub fn check_report(ours: &Report) {
    let theirs = janus::Report::new(
        metadata(&ours.metadata),
        ours.public_share.to_vec(),
        ciphertext(&ours.leader_share),
        ciphertext(&ours.helper_share),
    );
    agree(&codecs::REPORT, ours, &theirs);
}

pub fn check_plaintext(ours: &PlaintextInputShare) {
    let extension = |extension: &model::Extension| {
        let kind = janus::ExtensionType::try_from(extension.kind).unwrap();
        janus::Extension::new(kind, extension.data.to_vec())
    };
    let extensions = ours.extensions.iter().map(extension).collect();
    agree(&codecs::PLAINTEXT, ours, &janus::PlaintextInputShare::new(extensions, ours.payload.to_vec()));
}

pub fn check_job_init(ours: &AggregationJobInitReq) {
    let parameter = ours.aggregation_parameter.to_vec();
    let prepare_inits = || {
        let init = |init: &model::PrepareInit| {
            let share = janus::ReportShare::new(
                metadata(&init.share.metadata),
                init.share.public_share.to_vec(),
                ciphertext(&init.share.input_share),
            );
            janus::PrepareInit::new(share, ping_pong(&init.message))
        };
        ours.prepare_inits.iter().map(init).collect()
    };
    match ours.batch {
        PartialBatchSelector::TimeInterval => {
            let batch = janus::PartialBatchSelector::new_time_interval();
            let theirs = janus::AggregationJobInitializeReq::<TimeInterval>::new(parameter, batch, prepare_inits());
            agree(&codecs::JOB_INIT, ours, &theirs);
        }
        PartialBatchSelector::FixedSize(id) => {
            let batch = janus::PartialBatchSelector::new_fixed_size((*id.as_bytes()).into());
            let theirs = janus::AggregationJobInitializeReq::<FixedSize>::new(parameter, batch, prepare_inits());
            agree(&codecs::JOB_INIT, ours, &theirs);
        }
    }
}

pub fn check_job_resp(ours: &Vec<PrepareResp>) {
    let resp = |resp: &PrepareResp| {
        let result = match &resp.outcome {
            PrepareOutcome::Continue(message) => janus::PrepareStepResult::Continue { message: ping_pong(message) },
            PrepareOutcome::Finished => janus::PrepareStepResult::Finished,
            PrepareOutcome::Reject(error) => janus::PrepareStepResult::Reject(prepare_error(*error)),
        };
        janus::PrepareResp::new((*resp.report_id.as_bytes()).into(), result)
    };
    agree(&codecs::JOB_RESP, ours, &janus::AggregationJobResp::new(ours.iter().map(resp).collect()));
}

pub fn check_job_continue(ours: &AggregationJobContinueReq) {
    let continues = ours.continues.iter().map(|continued| {
        janus::PrepareContinue::new((*continued.report_id.as_bytes()).into(), ping_pong(&continued.message))
    });
    let theirs = janus::AggregationJobContinueReq::new(ours.step.into(), continues.collect());
    agree(&codecs::JOB_CONTINUE, ours, &theirs);
}

pub fn check_collection_req(ours: &CollectionReq) {
    let parameter = ours.aggregation_parameter.to_vec();
    match ours.query {
        Query::TimeInterval(interval_) => {
            let query = janus::Query::new_time_interval(interval(&interval_));
            agree(&codecs::COLLECTION_REQ, ours, &janus::CollectionReq::<TimeInterval>::new(query, parameter));
        }
        Query::FixedSize(query) => {
            let query = janus::Query::new_fixed_size(match query {
                FixedSizeQuery::ByBatchId(id) => janus::FixedSizeQuery::ByBatchId { batch_id: (*id.as_bytes()).into() },
                FixedSizeQuery::CurrentBatch => janus::FixedSizeQuery::CurrentBatch,
            });
            agree(&codecs::COLLECTION_REQ, ours, &janus::CollectionReq::<FixedSize>::new(query, parameter));
        }
    }
}

pub fn check_collection(ours: &Collection) {
    let (leader, helper) = (ciphertext(&ours.leader_share), ciphertext(&ours.helper_share));
    let (count, interval) = (ours.report_count, interval(&ours.interval));
    match ours.batch.expect("every collection names its batch") {
        PartialBatchSelector::TimeInterval => {
            let batch = janus::PartialBatchSelector::new_time_interval();
            let theirs = janus::Collection::<TimeInterval>::new(batch, count, interval, leader, helper);
            agree(&codecs::COLLECTION, ours, &theirs);
        }
        PartialBatchSelector::FixedSize(id) => {
            let batch = janus::PartialBatchSelector::new_fixed_size((*id.as_bytes()).into());
            let theirs = janus::Collection::<FixedSize>::new(batch, count, interval, leader, helper);
            agree(&codecs::COLLECTION, ours, &theirs);
        }
    }
}

pub fn check_aggregate_share_req(ours: &AggregateShareReq) {
    let (parameter, count) = (ours.aggregation_parameter.to_vec(), ours.report_count);
    let checksum = janus::ReportIdChecksum::from(*ours.checksum.as_bytes());
    match ours.batch {
        BatchSelector::TimeInterval(interval_) => {
            let batch = janus::BatchSelector::new_time_interval(interval(&interval_));
            let theirs = janus::AggregateShareReq::<TimeInterval>::new(batch, parameter, count, checksum);
            agree(&codecs::AGGREGATE_SHARE_REQ, ours, &theirs);
        }
        BatchSelector::FixedSize(id) => {
            let batch = janus::BatchSelector::new_fixed_size((*id.as_bytes()).into());
            let theirs = janus::AggregateShareReq::<FixedSize>::new(batch, parameter, count, checksum);
            agree(&codecs::AGGREGATE_SHARE_REQ, ours, &theirs);
        }
    }
}

pub fn check_aggregate_share(ours: &HpkeCiphertext) {
    agree(&codecs::AGGREGATE_SHARE, ours, &janus::AggregateShare::new(ciphertext(ours)));
}

fn check_input_share_aad(task: &TaskId, ours: &Report) {
    let public_share = ours.public_share.to_vec();
    let theirs = janus::InputShareAad::new((*task.as_bytes()).into(), metadata(&ours.metadata), public_share);
    let aad = dap09().input_share_aad(&codecs::task(*task), &ours.metadata, &[], &ours.public_share);
    assert_eq!(aad, theirs.get_encoded().unwrap());
}

fn check_aggregate_share_aad(task: &TaskId, request: &AggregateShareReq) {
    let their_task = janus::TaskId::from(*task.as_bytes());
    let theirs = match request.batch {
        BatchSelector::TimeInterval(interval_) => {
            let batch = janus::BatchSelector::new_time_interval(interval(&interval_));
            janus::AggregateShareAad::<TimeInterval>::new(their_task, vec![], batch).get_encoded()
        }
        BatchSelector::FixedSize(id) => {
            let batch = janus::BatchSelector::new_fixed_size((*id.as_bytes()).into());
            janus::AggregateShareAad::<FixedSize>::new(their_task, vec![], batch).get_encoded()
        }
    };
    let aad = dap09().aggregate_share_aad(&codecs::task(*task), b"", &request.batch);
    assert_eq!(aad, theirs.unwrap());
}

#[test]
fn agrees_on_labels() {
    use janus::Role as Theirs;

    // Their bytes are private, but printed.
    let theirs = |label, sender, recipient| format!("{:?}", HpkeApplicationInfo::new(&label, &sender, &recipient));
    let ours = |bytes: Vec<u8>| format!("HpkeApplicationInfo({bytes:?})");
    for (role, their_role) in [(Role::Leader, Theirs::Leader), (Role::Helper, Theirs::Helper)] {
        assert_eq!(ours(dap09().input_share_info(role)), theirs(Label::InputShare, Theirs::Client, their_role));
        assert_eq!(
            ours(dap09().aggregate_share_info(role)),
            theirs(Label::AggregateShare, their_role, Theirs::Collector)
        );
    }
}

#[test]
fn agrees_on_media_types() {
    use dapbox::wire::dap09::media;

    type Req<Q> = janus::AggregationJobInitializeReq<Q>;
    for (ours, theirs) in [
        (media::HPKE_CONFIG_LIST, janus::HpkeConfigList::MEDIA_TYPE),
        (media::REPORT, janus::Report::MEDIA_TYPE),
        (media::AGGREGATION_JOB_INIT_REQ, Req::<TimeInterval>::MEDIA_TYPE),
        (media::AGGREGATION_JOB_CONTINUE_REQ, janus::AggregationJobContinueReq::MEDIA_TYPE),
        (media::AGGREGATION_JOB_RESP, janus::AggregationJobResp::MEDIA_TYPE),
        (media::AGGREGATE_SHARE_REQ, janus::AggregateShareReq::<TimeInterval>::MEDIA_TYPE),
        (media::AGGREGATE_SHARE, janus::AggregateShare::MEDIA_TYPE),
        (media::COLLECT_REQ, janus::CollectionReq::<TimeInterval>::MEDIA_TYPE),
        (media::COLLECTION, janus::Collection::<TimeInterval>::MEDIA_TYPE),
    ] {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn agrees_on_problem_types() {
    use dapbox::wire::ProblemType;
    use janus::problem_type::DapProblemType;

    let later =
        [ProblemType::InvalidAggregationParameter, ProblemType::UnsupportedExtension, ProblemType::InvalidExtension];
    for kind in ProblemType::DEFINED.into_iter().filter(|kind| !later.contains(kind)) {
        let theirs: DapProblemType = kind.urn().parse().expect("Janus knows every type of the draft");
        assert_eq!(theirs.type_uri(), kind.urn());
        assert!(format!("{theirs:?}").eq_ignore_ascii_case(kind.name().unwrap()));
    }
}

proptest! {
    #[test]
    fn agrees_on_hpke_configs(ours in strategies::hpke_configs()) {
        check_hpke_configs(&ours);
    }

    #[test]
    fn agrees_on_reports(ours in strategies::report(), task: [u8; 32]) {
        check_report(&ours);
        check_input_share_aad(&TaskId::new(task), &ours);
    }

    #[test]
    fn agrees_on_plaintexts(ours in strategies::plaintext()) {
        check_plaintext(&ours);
    }

    #[test]
    fn agrees_on_job_init(ours in strategies::job_init()) {
        check_job_init(&ours);
    }

    #[test]
    fn agrees_on_job_resp(ours in strategies::job_resp()) {
        check_job_resp(&ours);
    }

    #[test]
    fn agrees_on_job_continue(ours in strategies::job_continue()) {
        check_job_continue(&ours);
    }

    #[test]
    fn agrees_on_collection_req(ours in strategies::collection_req()) {
        check_collection_req(&ours);
    }

    #[test]
    fn agrees_on_collections(ours in strategies::collection()) {
        check_collection(&ours);
    }

    #[test]
    fn agrees_on_aggregate_share_req(ours in strategies::aggregate_share_req(), task: [u8; 32]) {
        check_aggregate_share_req(&ours);
        check_aggregate_share_aad(&TaskId::new(task), &ours);
    }

    #[test]
    fn agrees_on_aggregate_shares(ours in strategies::aggregate_share()) {
        check_aggregate_share(&ours);
    }
}

// The parts of messages in Janus's types.

fn metadata(ours: &ReportMetadata) -> janus::ReportMetadata {
    janus::ReportMetadata::new((*ours.id.as_bytes()).into(), janus::Time::from_seconds_since_epoch(ours.time.0))
}

fn ciphertext(ours: &HpkeCiphertext) -> janus::HpkeCiphertext {
    janus::HpkeCiphertext::new(ours.config_id.into(), ours.enc.to_vec(), ours.payload.to_vec())
}

fn interval(ours: &model::Interval) -> janus::Interval {
    let start = janus::Time::from_seconds_since_epoch(ours.start().0);
    janus::Interval::new(start, janus::Duration::from_seconds(ours.duration().0)).unwrap()
}

fn ping_pong(ours: &Bytes) -> PingPongMessage {
    PingPongMessage::get_decoded(ours).unwrap()
}

fn prepare_error(ours: ReportError) -> janus::PrepareError {
    match ours {
        ReportError::BatchCollected => janus::PrepareError::BatchCollected,
        ReportError::ReportReplayed => janus::PrepareError::ReportReplayed,
        ReportError::ReportDropped => janus::PrepareError::ReportDropped,
        ReportError::HpkeUnknownConfigId => janus::PrepareError::HpkeUnknownConfigId,
        ReportError::HpkeDecryptError => janus::PrepareError::HpkeDecryptError,
        ReportError::VdafPrepError => janus::PrepareError::VdafPrepError,
        ReportError::BatchSaturated => janus::PrepareError::BatchSaturated,
        ReportError::TaskExpired => janus::PrepareError::TaskExpired,
        ReportError::InvalidMessage => janus::PrepareError::InvalidMessage,
        ReportError::ReportTooEarly => janus::PrepareError::ReportTooEarly,
        ReportError::TaskNotStarted
        | ReportError::OutdatedConfig
        | ReportError::UnknownVerificationKeyId
        | ReportError::UnsupportedExtension
        | ReportError::Unknown(_) => {
            unreachable!("DAP-09 has no number for it")
        }
    }
}
