//! What differs from DAP-18: errors of single reports, verification keys that a helper does not have, and empty task infos.

use dapbox::{
    config::{Config, Seconds},
    model::{
        AggregationJobInitReq, BatchMode, Duration, PartialBatchSelector, PrepareOutcome, Report, ReportError,
        Revision, Task, Time, VdafConfig,
    },
    support::clock,
    vdaf::{AggregateResult, Measurement},
    wire::ProblemType,
};

use crate::common::{
    Node, Pair, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, assert_rejected, upload_errors},
    report_builder::{ReportBuilder, extension, other_config_id},
};

const HOUR: u64 = 3600;

fn yes() -> Measurement {
    Measurement::Flag(true)
}

fn ago(hours: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours * HOUR))
}

fn quick(config: &mut Config) {
    config.leader.min_job_size = 1;
    config.leader.retry_initial = Seconds::millis(20);
    config.leader.retry_max = Seconds::millis(50);
}

async fn pair_with(task: impl Fn(&mut Task)) -> (Pair, ReportBuilder) {
    let pair = Pair::start_with(Revision::Dap19, VdafConfig::Prio3Count, BatchMode::TimeInterval, quick, task).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    (pair, builder)
}

/// An upload is answered report by report. None of them is stored.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_single_reports_for_their_extensions() {
    let (pair, builder) = pair_with(|task| task.report_expiry_age = Some(Duration(8 * HOUR))).await;
    let parties = &pair.parties;
    let with = |kinds: &[u16]| -> Report {
        let extensions = kinds.iter().map(|kind| extension(*kind)).collect();
        builder.spoilt(&yes(), ago(1), |draft| draft.extensions = extensions)
    };
    let good = || builder.report(&yes(), ago(1));
    let mut to_another_key = good();
    to_another_key.leader_share.config_id = other_config_id(&builder.keys.leader);
    let bad = [
        (with(&[42]), ReportError::UnsupportedExtension),
        (with(&[5, 5]), ReportError::InvalidMessage),
        (to_another_key, ReportError::HpkeUnknownConfigId),
        (builder.report(&yes(), ago(24)), ReportError::ReportDropped),
    ];
    let mut upload = vec![good()];
    upload.extend(bad.iter().map(|(report, _)| report.clone()));
    upload.push(good());
    let answer = parties.upload_together(&upload).await;
    let expected: Vec<_> = bad.iter().map(|(report, error)| (report.metadata.id, *error)).collect();
    assert_eq!(upload_errors(&answer, parties), expected);
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (2, AggregateResult::Number(2)));
    pair.stop().await;
}

/// A helper answers a job with an unknown verification key: each report is rejected. The job has no other effect.
#[tokio::test(flavor = "multi_thread")]
async fn helper_rejects_reports_of_unknown_verification_key() {
    let (pair, builder) = pair_with(|_| {}).await;
    let parties = &pair.parties;
    let drafts = [builder.draft(&yes(), ago(1)), builder.draft(&yes(), ago(1))];
    let right = builder.job(PartialBatchSelector::TimeInterval, &drafts);
    let outcomes = async |request: &AggregationJobInitReq| {
        let resps = parties.run_job(request).await;
        resps.into_iter().map(|resp| resp.outcome).collect::<Vec<_>>()
    };
    let unknown = AggregationJobInitReq { verify_key_id: Some(1), ..right.clone() };
    let rejected = PrepareOutcome::Reject(ReportError::UnknownVerificationKeyId);
    assert_eq!(outcomes(&unknown).await, [rejected.clone(), rejected]);

    let mut sealed_to_unknown = right.clone();
    sealed_to_unknown.prepare_inits[0].share.input_share.config_id = other_config_id(&builder.keys.helper);
    let answers = outcomes(&sealed_to_unknown).await;
    assert_eq!(answers[0], PrepareOutcome::Reject(ReportError::HpkeUnknownConfigId));
    assert!(matches!(answers[1], PrepareOutcome::Continue(_)), "{answers:?}");

    let extended = AggregationJobInitReq { extensions: vec![extension(2)], ..right.clone() };
    assert_rejected(&parties.send_new_job(&extended).await.answer, parties, ProblemType::UnsupportedExtension);
    // The first report was not aggregated by any of them.
    let again = builder.job(PartialBatchSelector::TimeInterval, &drafts[..1]);
    assert!(matches!(outcomes(&again).await[..], [PrepareOutcome::Continue(_)]));
    pair.stop().await;
}

/// A leader keeps the reports of a job whose verification key the helper does not have, and puts them into later jobs.
#[tokio::test(flavor = "multi_thread")]
async fn leader_keeps_reports_of_unknown_verification_key() {
    let (leader, helper) = (Node::start_with(quick).await, Node::start_with(quick).await);
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let urls = [&leader, &helper].map(|node| node.url(Revision::Dap19));
    let mut parties = Parties::new(Revision::Dap19, vdaf, mode, urls[0].clone(), urls[1].clone());
    parties.leader.verify_key_id = 7;
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    let id = parties.id();
    parties.client().upload(yes(), None).await.unwrap();
    let rejected = |count: Option<&u64>| count.is_some_and(|count| *count >= 2);
    helper.until(&id, |status| rejected(status.counters.get("unknown_verification_key_id"))).await;
    let status = leader.until(&id, |status| status.jobs == 0 && status.waiting == 1).await;
    let counters: Vec<_> = status.counters.iter().filter(|(_, count)| **count > 0).collect();
    assert_eq!(counters, [(&"report_success".to_owned(), &1)], "no report is given up");
    assert!(status.last_error.unwrap().contains("verification key with the id 7"));
    let (mut leader, mut helper) = (leader, helper);
    leader.stop().await;
    helper.stop().await;
}

/// The task info may be empty.
#[tokio::test(flavor = "multi_thread")]
async fn runs_task_without_info() {
    let (pair, builder) = pair_with(|task| task.public.info.clear()).await;
    assert_accepted(&pair.parties.upload(&builder.report(&yes(), ago(1))).await);
    let collected = pair.parties.collector().collect(pair.parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await;
    assert_eq!(collected.unwrap().result, AggregateResult::Number(1));
    pair.stop().await;
}
