//! How a DAP-18 helper validates an aggregation job and its reports (DAP-18 sections 4.5.1 and 4.5.3).

use bytes::Bytes;
use dapbox::{
    model::{
        AggregationJobInitReq, BatchId, BatchMode, Duration, Extension, Interval, PartialBatchSelector, PrepareOutcome,
        ReportError, ReportId, Revision, Task, Time, VdafConfig,
    },
    support::clock,
    vdaf::Measurement,
    wire::ProblemType,
};

use crate::common::{
    Pair, Parties, batches_of,
    calls::{assert_rejected, problem},
    report_builder::{Draft, ReportBuilder, extension, other_config_id},
};

const HOUR: u64 = 3600;

/// The number of the extension with the batch id (section 5.2.2).
const BATCH_ID: u16 = 1;

fn ago(hours: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours * HOUR))
}

fn yes() -> Measurement {
    Measurement::Flag(true)
}

async fn pair_with(mode: BatchMode, task: impl Fn(&mut Task)) -> (Pair, ReportBuilder) {
    let pair = Pair::start_with(Revision::Dap18, VdafConfig::Prio3Count, mode, |_| {}, task).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    (pair, builder)
}

async fn is_aggregated(parties: &Parties, request: &AggregationJobInitReq) {
    for resp in parties.run_job(request).await {
        assert!(matches!(resp.outcome, PrepareOutcome::Continue(_)), "{resp:?}");
    }
}

/// Job extensions must be known and in order (sections 4.5.1 and 4.5.3.2).
#[tokio::test(flavor = "multi_thread")]
async fn validates_job_extensions() {
    let (pair, builder) = pair_with(BatchMode::TimeInterval, |_| {}).await;
    let parties = &pair.parties;
    let right = builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&yes(), ago(1))]);
    let with = |kinds: &[u16]| {
        let extensions = kinds.iter().map(|kind| extension(*kind)).collect();
        AggregationJobInitReq { extensions, ..right.clone() }
    };
    for kinds in [&[7][..], &[7, 0xff00]] {
        let answer = parties.send_new_job(&with(kinds)).await.answer;
        assert_rejected(&answer, parties, ProblemType::UnsupportedExtension);
        assert_eq!(problem(&answer).unsupported_extensions, kinds);
    }
    for kinds in [[9, 7], [7, 7], [0xff00, 2]] {
        let answer = parties.send_new_job(&with(&kinds)).await.answer;
        assert_rejected(&answer, parties, ProblemType::InvalidMessage);
    }
    // The rejected jobs had no effect.
    is_aggregated(parties, &right).await;
    pair.stop().await;
}

/// A job of a leader-selected task names its batch (section 5.2.2).
#[tokio::test(flavor = "multi_thread")]
async fn job_names_its_batch() {
    let (pair, builder) = pair_with(batches_of(Revision::Dap18, 1), |_| {}).await;
    let parties = &pair.parties;
    let batch = PartialBatchSelector::FixedSize(BatchId::random());
    let right = builder.job(batch, &[builder.draft(&yes(), ago(1))]);
    let without = AggregationJobInitReq { batch: PartialBatchSelector::TimeInterval, ..right.clone() };
    assert_rejected(&parties.send_new_job(&without).await.answer, parties, ProblemType::InvalidMessage);
    for length in [0, 31, 33] {
        let extensions = vec![Extension { kind: BATCH_ID, data: vec![1; length].into() }];
        let request = AggregationJobInitReq { extensions, ..without.clone() };
        assert_rejected(&parties.send_new_job(&request).await.answer, parties, ProblemType::InvalidMessage);
    }
    let with_more = AggregationJobInitReq { extensions: vec![extension(2)], ..right.clone() };
    let answer = parties.send_new_job(&with_more).await.answer;
    assert_rejected(&answer, parties, ProblemType::UnsupportedExtension);
    assert_eq!(problem(&answer).unsupported_extensions, [2]);
    is_aggregated(parties, &right).await;
    pair.stop().await;
}

/// There is one verification key, with an id (section 4.5.3.1).
#[tokio::test(flavor = "multi_thread")]
async fn rejects_job_with_unknown_verification_key() {
    let (pair, builder) = pair_with(BatchMode::TimeInterval, |_| {}).await;
    let parties = &pair.parties;
    let right = builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&yes(), ago(1))]);
    for id in [1, 255] {
        let request = AggregationJobInitReq { verify_key_id: Some(id), ..right.clone() };
        assert_rejected(&parties.send_new_job(&request).await.answer, parties, ProblemType::InvalidMessage);
    }
    // Our leader and helper may agree on another id.
    let eager = |config: &mut dapbox::config::Config| config.leader.min_job_size = 1;
    let seven = |task: &mut Task| task.verify_key_id = 7;
    let mode = BatchMode::TimeInterval;
    let other = Pair::start_with(Revision::Dap18, VdafConfig::Prio3Count, mode, eager, seven).await;
    other.parties.client().upload(yes(), None).await.unwrap();
    other.leader.until(&other.parties.id(), |status| status.counters.get("aggregate_success") == Some(&1)).await;
    other.stop().await;

    let parameter = AggregationJobInitReq { aggregation_parameter: Bytes::from_static(b"p"), ..right.clone() };
    let answer = parties.send_new_job(&parameter).await.answer;
    assert_rejected(&answer, parties, ProblemType::InvalidAggregationParameter);
    is_aggregated(parties, &right).await;
    pair.stop().await;
}

/// A time that overflows in seconds (section 4.1.1) makes the job malformed. It must not wrap.
#[tokio::test(flavor = "multi_thread")]
async fn report_times_do_not_wrap() {
    let (pair, builder) = pair_with(BatchMode::TimeInterval, |_| {}).await;
    let parties = &pair.parties;
    let right = builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&yes(), ago(1))]);
    let body = parties.wire().encode_job_init(parties.task(), &right);
    // A key id, no aggregation parameter, no extensions, and the report's id.
    let at = 1 + 4 + 2 + 16;
    assert_eq!(body[at..at + 8], (ago(1).0 / HOUR).to_be_bytes());
    for units in [u64::MAX, u64::MAX / HOUR + 1, (1 << 63) / HOUR * 2 + 1] {
        let mut late = body.clone();
        late[at..at + 8].copy_from_slice(&units.to_be_bytes());
        let answer = parties.send_job_bytes(ReportId::random().as_bytes(), late).await.answer;
        assert!(answer.is_success(), "{answer:?}");
        let resps = parties.wire().decode_job_resp(&answer.body, 1).unwrap();
        assert_eq!(resps[0].outcome, PrepareOutcome::Reject(ReportError::ReportTooEarly), "{units}");
    }
    is_aggregated(parties, &right).await;
    pair.stop().await;
}

/// The task interval has a first and a last moment, with different errors outside of them (section 4.5.3.4).
#[tokio::test(flavor = "multi_thread")]
async fn rejects_reports_outside_task_interval() {
    let change = |task: &mut Task| task.public.task_interval = Interval::new(ago(10), Duration(8 * HOUR));
    let (pair, builder) = pair_with(BatchMode::TimeInterval, change).await;
    let times = [
        (Time(ago(10).0 - 1), Some(ReportError::TaskNotStarted)),
        (ago(10), None),
        (Time(ago(2).0 - 1), None),
        (ago(2), Some(ReportError::TaskExpired)),
        (Time(0), Some(ReportError::TaskNotStarted)),
    ];
    let drafts: Vec<_> = times.iter().map(|(time, _)| builder.draft(&yes(), *time)).collect();
    let resps = pair.parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, &drafts)).await;
    for (resp, (time, error)) in resps.iter().zip(times) {
        let found = match resp.outcome {
            PrepareOutcome::Reject(error) => Some(error),
            _ => None,
        };
        assert_eq!(found, error, "{time:?}");
    }
    pair.stop().await;
}

/// Report extensions, public and private, must be known, distinct and in order (section 4.5.3.4). Public parts cannot
/// be changed in transit (section 4.5.3.3).
#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_report_with_its_error() {
    let (pair, builder) = pair_with(BatchMode::TimeInterval, |_| {}).await;
    let list = |kinds: &[u16]| -> Vec<Extension> { kinds.iter().map(|kind| extension(*kind)).collect() };
    let with = |public: &[u16], private: &[u16]| -> Draft {
        let mut draft = builder.draft(&yes(), ago(1));
        (draft.extensions, draft.helper.extensions) = (list(public), list(private));
        draft
    };
    let mut prepare_inits = Vec::new();
    for (public, private) in
        [(&[7][..], &[][..]), (&[], &[7]), (&[7], &[7]), (&[9, 7], &[]), (&[], &[9, 7]), (&[7, 7], &[]), (&[], &[7, 7])]
    {
        prepare_inits.push((builder.init(&with(public, private)), ReportError::InvalidMessage));
    }
    // Added or removed after the report was sealed.
    let mut added = builder.init(&with(&[], &[]));
    added.share.extensions = list(&[7]);
    let mut taken_away = builder.init(&with(&[7], &[]));
    taken_away.share.extensions = Vec::new();
    let mut later = builder.init(&with(&[], &[]));
    later.share.metadata.time = ago(2);
    let mut unknown_key = builder.init(&with(&[], &[]));
    unknown_key.share.input_share.config_id = other_config_id(&builder.keys.helper);
    prepare_inits.extend([taken_away, later, unknown_key].map(|init| (init, ReportError::HpkeDecryptError)));
    let (prepare_inits, expected): (Vec<_>, Vec<_>) = prepare_inits.into_iter().unzip();
    let resps = pair.parties.run_job(&builder.job_of(PartialBatchSelector::TimeInterval, prepare_inits)).await;
    let found: Vec<_> = resps.into_iter().map(|resp| resp.outcome).collect();
    assert_eq!(found, expected.into_iter().map(PrepareOutcome::Reject).collect::<Vec<_>>());
    // Two errors apply to this report: the extension is unknown, and it was not there when the report was sealed.
    let resps = pair.parties.run_job(&builder.job_of(PartialBatchSelector::TimeInterval, vec![added])).await;
    let PrepareOutcome::Reject(error) = resps[0].outcome else { panic!("{resps:?}") };
    assert!(matches!(error, ReportError::InvalidMessage | ReportError::HpkeDecryptError), "{error}");
    pair.stop().await;
}
