//! From measurement to aggregate, for every VDAF and both batch modes, with valid and invalid reports. The aggregate is
//! that of the valid reports, and both aggregators count why the others were rejected.

use std::collections::BTreeMap;

use bytes::Bytes;
use dapbox::{
    config::{Config, Seconds},
    model::{
        AggregationJobInitReq, BatchId, BatchMode, Duration, FixedSizeQuery, Interval, MaxMeasurement,
        PartialBatchSelector, PrepareOutcome, PrepareResp, Query, Report, ReportError, ReportId, Revision, Time,
        VdafConfig,
    },
    support::clock,
    vdaf::{AggregateResult, Measurement},
    wire::ProblemType,
};
use rstest::rstest;

use crate::common::{
    Node, Pair, Parties, TEST_TIMEOUT, batches_of,
    calls::{assert_rejected, assert_report_rejected},
    end_at,
    report_builder::{ReportBuilder, extension, flipped, other_config_id},
};

const HOUR: u64 = 3600;

/// The number of valid reports.
const GOOD: u64 = 12;

/// A task that ended some hours ago and keeps reports for a day. Valid reports lie in between; reports outside are not
/// too early.
fn start_of_reports() -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(5 * HOUR))
}

/// A valid report every ten minutes for two hours.
fn time_of(i: u64) -> Time {
    start_of_reports().saturating_add(Duration(600 * i))
}

fn counters<const N: usize>(pairs: [(&str, u64); N]) -> BTreeMap<String, u64> {
    pairs.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Reports that the leader stores and one of the aggregators rejects later (DAP-09 sections 4.5.1.3 and 4.5.1.4, DAP-18
/// sections 4.5.3.3 and 4.5.3.4).
fn doomed(builder: &ReportBuilder, one: &Measurement, other: &Measurement, has_joint_randomness: bool) -> Vec<Report> {
    let time = time_of(1);
    let fresh = || builder.report(one, time);
    let mut reports = Vec::new();

    // The leader's share: modified, or of another report.
    let mut report = fresh();
    report.leader_share.payload = flipped(&report.leader_share.payload);
    reports.push(report);
    reports.push(Report { leader_share: fresh().leader_share, ..fresh() });
    // The time is authenticated too, in seconds or in units of the precision.
    let mut report = fresh();
    report.metadata.time = time_of(7);
    reports.push(report);
    // The same for the helper's share.
    let mut report = fresh();
    report.helper_share.payload = flipped(&report.helper_share.payload);
    reports.push(report);
    let mut report = fresh();
    report.helper_share.enc = flipped(&report.helper_share.enc);
    reports.push(report);
    reports.push(Report { helper_share: fresh().helper_share, ..fresh() });
    // Sealed to a key that the helper does not have.
    let mut report = fresh();
    report.helper_share.config_id = other_config_id(&builder.keys.helper);
    reports.push(report);

    // The sealed plaintext does not decode.
    reports.push(builder.spoilt(one, time, |draft| draft.leader.payload = Bytes::from_static(b"no share")));
    reports.push(builder.spoilt(one, time, |draft| draft.helper.payload = Bytes::from_static(b"no share")));
    reports.push(builder.spoilt(one, time, |draft| draft.public_share = Bytes::from_static(b"no public share")));
    // Every extension must be known and unique (section 4.4.3).
    reports.push(builder.spoilt(one, time, |draft| draft.leader.extensions = vec![extension(0xff00)]));
    reports.push(builder.spoilt(one, time, |draft| draft.leader.extensions = vec![extension(1), extension(1)]));
    reports.push(builder.spoilt(one, time, |draft| draft.helper.extensions = vec![extension(0xff00)]));

    // Mismatched shares: the proof is invalid.
    reports.push(builder.spoilt(one, time, |draft| {
        draft.helper.payload = builder.shard(other, &draft.metadata.id).helper_share.into();
    }));
    if has_joint_randomness {
        // The joint randomness is bound to the report id (VDAF-08 section 7.2.1): the leader computes a different part.
        reports.push(builder.spoilt(one, time, |draft| draft.set_shares(builder.shard(one, &ReportId::random()))));
    }
    reports
}

/// Reports that the leader rejects at upload, with the error (DAP-09 section 4.4.2, DAP-18 section 4.4.2.2).
async fn upload_refused_ones(parties: &Parties, builder: &ReportBuilder, one: &Measurement) {
    let expired = time_of(0).saturating_add(Duration(3 * HOUR + 1));
    let ancient = clock::now().saturating_sub(Duration(24 * HOUR + 10));
    let early = clock::now().saturating_add(Duration(10 * HOUR));
    let mut to_another_key = builder.report(one, time_of(0));
    to_another_key.leader_share.config_id = other_config_id(&builder.keys.leader);
    for (report, error) in [
        (builder.report(one, early), ReportError::ReportTooEarly),
        (builder.report(one, expired), ReportError::TaskExpired),
        (builder.report(one, ancient), ReportError::ReportDropped),
        (to_another_key, ReportError::OutdatedConfig),
    ] {
        assert_report_rejected(&parties.upload(&report).await, parties, &report, error);
    }
    // Later than 64 bits of seconds can express.
    let report = builder.report(one, time_of(0));
    let mut latest = parties.wire().encode_upload(parties.task(), std::slice::from_ref(&report));
    latest[16..24].fill(0xff);
    assert_report_rejected(&parties.upload_bytes(latest).await, parties, &report, ReportError::ReportTooEarly);
    let mut cut_off = parties.wire().encode_upload(parties.task(), &[builder.report(one, time_of(0))]);
    cut_off.pop();
    assert_rejected(&parties.upload_bytes(cut_off).await, parties, ProblemType::InvalidMessage);
}

/// Runs the lifecycle of a task. `measurements` has one entry for each valid report, and the first two differ.
async fn lifecycle(
    revision: Revision,
    vdaf: VdafConfig,
    mode: BatchMode,
    measurements: Vec<Measurement>,
    expected: AggregateResult,
) {
    let pair = Pair::start_with(
        revision,
        vdaf,
        mode,
        |config| {
            // Small jobs with short delays: several jobs, some with invalid reports only.
            config.leader.max_job_size = 5;
            config.leader.min_job_size = 4;
            config.leader.max_job_delay = Seconds::millis(200);
        },
        |task| {
            task.public.min_batch_size = GOOD;
            end_at(task, start_of_reports().saturating_add(Duration(3 * HOUR)));
            task.report_expiry_age = Some(Duration(24 * HOUR));
        },
    )
    .await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    // The joint randomness part is in the public share, if the VDAF has one: counts have none, and sums in VDAF-18 have
    // none.
    let has_joint_randomness = !builder.draft(&measurements[0], time_of(0)).public_share.is_empty();
    let doomed = doomed(&builder, &measurements[0], &measurements[1], has_joint_randomness);
    upload_refused_ones(parties, &builder, &measurements[0]).await;
    parties.upload_all(&doomed).await;

    // Some reports are uploaded by the client, which rounds times down. Both aggregators bucket the times of the others
    // as well.
    let client = parties.client();
    let mut kept = Vec::new();
    for (i, measurement) in (0..).zip(&measurements) {
        if i % 3 == 0 {
            client.upload(measurement.clone(), Some(time_of(i))).await.unwrap();
        } else {
            kept.push(builder.report(measurement, time_of(i)));
        }
    }
    parties.upload_all(&kept).await;
    // Duplicates, now and after aggregation (section 4.4.2: ignored).
    parties.upload_all([&kept[0]]).await;

    let query = match mode {
        BatchMode::TimeInterval => {
            let start = start_of_reports().saturating_sub(Duration(HOUR));
            Query::TimeInterval(Interval::new(start, Duration(4 * HOUR)).unwrap())
        }
        BatchMode::FixedSize { .. } => Query::FixedSize(FixedSizeQuery::CurrentBatch),
    };
    let collected = parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, &collected.result), (GOOD, &expected));
    // The smallest aligned interval that holds all reports, not the queried one (section 4.6.1).
    assert_eq!(collected.interval, Interval::new(start_of_reports(), Duration(2 * HOUR)).unwrap());

    parties.upload_all([&kept[0]]).await;
    check_counters(&pair, u64::from(has_joint_randomness)).await;
    pair.stop().await;
}

/// Checks the outcome of all uploads. `joint` is the number of those for VDAFs with joint randomness.
async fn check_counters(pair: &Pair, joint: u64) {
    let id = pair.parties.id();
    let status = pair.leader.until(&id, |status| status.waiting + status.jobs == 0).await;
    // A DAP-18 helper does not distinguish an unknown key from a share that does not open (section 4.5.3.3).
    let unknown_keys = u64::from(pair.parties.revision() != Revision::Dap18);
    let expected = counters([
        ("report_success", GOOD + 14 + joint),
        ("upload_repeated", 2),
        ("upload_too_early", 2),
        ("upload_task_expired", 1),
        ("report_expired", 1),
        ("report_outdated_key", 1),
        ("report_decode_failure", 1),
        ("hpke_decrypt_error", 3),
        ("invalid_message", 4),
        ("helper_hpke_decrypt_error", 4 - unknown_keys),
        ("helper_hpke_unknown_config_id", unknown_keys),
        ("helper_invalid_message", 2),
        ("helper_vdaf_prep_error", 1),
        ("vdaf_prep_error", joint),
        ("aggregate_success", GOOD),
    ]);
    assert_eq!(non_zero(&status.counters), non_zero(&expected), "the leader's counters");
    assert_eq!((status.batches_collected, status.last_error), (1, None));
    let expected = counters([
        ("hpke_decrypt_error", 3),
        ("hpke_unknown_config_id", 1),
        ("invalid_message", 2),
        ("vdaf_prep_error", 1),
        ("aggregate_success", GOOD),
    ]);
    let status = pair.helper.status(&id).await;
    assert_eq!(non_zero(&status.counters), expected, "the helper's counters");
    assert_eq!((status.batches_collected, status.aggregated), (1, 0));
}

fn non_zero(counters: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    counters.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (name.clone(), *count)).collect()
}

/// Both batch modes, one after the other.
async fn both(revision: Revision, vdaf: VdafConfig, measure: impl Fn(u64) -> Measurement) {
    let measurements: Vec<_> = (0..GOOD).map(measure).collect();
    let expected = plain_sum(&vdaf, &measurements);
    for mode in [BatchMode::TimeInterval, batches_of(revision, GOOD)] {
        lifecycle(revision, vdaf.clone(), mode, measurements.clone(), expected.clone()).await;
    }
}

/// The expected aggregate, computed in the clear.
fn plain_sum(vdaf: &VdafConfig, measurements: &[Measurement]) -> AggregateResult {
    if let VdafConfig::Prio3Histogram { length, .. } = vdaf {
        let mut bins = vec![0; *length];
        for measurement in measurements {
            let Measurement::Number(bin) = measurement else { panic!("a histogram takes numbers") };
            bins[usize::try_from(*bin).unwrap()] += 1;
        }
        return AggregateResult::Vector(bins);
    }
    let mut sum = 0;
    let mut sums = Vec::new();
    for measurement in measurements {
        match measurement {
            Measurement::Flag(flag) => sum += u128::from(*flag),
            Measurement::Number(number) => sum += number,
            Measurement::Vector(vector) => {
                sums.resize(vector.len(), 0);
                sums.iter_mut().zip(vector).for_each(|(sum, number)| *sum += number);
            }
        }
    }
    if sums.is_empty() { AggregateResult::Number(sum) } else { AggregateResult::Vector(sums) }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_count(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    both(revision, VdafConfig::Prio3Count, |i| Measurement::Flag(i % 3 != 1)).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_sum(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    both(revision, VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) }, |i| {
        Measurement::Number(u128::from(i * 23 % 256))
    })
    .await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_sum_vec(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let vdaf = VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(3), length: 4, chunk_length: 3 };
    both(revision, vdaf, |i| Measurement::Vector((0..4).map(|j| u128::from((i * 5 + j * 3) % 8)).collect())).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_histogram(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Histogram { length: 5, chunk_length: 2 };
    both(revision, vdaf, |i| Measurement::Number(u128::from(i * i % 5))).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn aggregates_multihot_count_vec(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let vdaf = VdafConfig::Prio3MultihotCountVec { length: 4, max_weight: 2, chunk_length: 2 };
    both(revision, vdaf, |i| Measurement::Vector((0..4).map(|j| u128::from(j == i % 4 || j == i % 3)).collect())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_vectors_with_bound_of_sum() {
    // DAP-09's VDAF draft does not have it. The bound 10 has no form of whole bits.
    let revision = Revision::Dap18;
    let vdaf = VdafConfig::Prio3L1BoundSum { max_value: 10, length: 3, chunk_length: 4 };
    // Sums from zero to the bound, and the bound in one number.
    both(revision, vdaf, |i| {
        let sum = u128::from(i % 11);
        Measurement::Vector(if i == 0 { vec![0, 10, 0] } else { vec![sum / 2, 0, sum - sum / 2] })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_sum_vec_of_several_proofs() {
    // DAP-18 has no code for it.
    let revision = Revision::Dap09;
    let vdaf =
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits: 2, length: 3, chunk_length: 2, proofs: 2 };
    both(revision, vdaf, |i| Measurement::Vector((0..3).map(|j| u128::from((i * 7 + j) % 4)).collect())).await;
}

/// The helper answers for each report separately and in order, with the specified error (DAP-09 sections 4.5.1.3 and
/// 4.5.1.4, DAP-18 sections 4.5.3.2 to 4.5.3.4).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_each_report_of_job(#[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision) {
    let end = start_of_reports().saturating_add(Duration(3 * HOUR));
    let change = |task: &mut dapbox::model::Task| {
        task.public.min_batch_size = 2;
        end_at(task, end);
        task.report_expiry_age = Some(Duration(24 * HOUR));
    };
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(4) };
    let skew = |config: &mut Config| config.limits.clock_skew = Seconds::new(60);
    let pair = Pair::start_with(revision, vdaf, batches_of(revision, 20), skew, change).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    let (one, other) = (Measurement::Number(3), Measurement::Number(9));
    let draft = |time| builder.draft(&one, time);
    let good = |n: usize| (0..n).map(|_| builder.init(&draft(time_of(0)))).collect::<Vec<_>>();
    let batch = PartialBatchSelector::FixedSize(BatchId::random());
    let aggregated = good(1);
    let resps = pair.parties.run_job(&builder.job_of(batch, aggregated.clone())).await;
    assert!(matches!(resps[0].outcome, PrepareOutcome::Continue(_)));

    let mut prepare_inits = Vec::new();
    let mut expected = Vec::new();
    let mut expect = |init: dapbox::model::PrepareInit, error| {
        prepare_inits.push(init);
        expected.push(error);
    };
    expect(good(1).remove(0), None);
    let mut init = good(1).remove(0);
    init.share.input_share.config_id = other_config_id(&builder.keys.helper);
    expect(init, Some(unknown_key(revision)));
    let mut init = good(1).remove(0);
    init.share.input_share.payload = flipped(&init.share.input_share.payload);
    expect(init, Some(ReportError::HpkeDecryptError));
    let mut init = good(1).remove(0);
    init.share.input_share.payload = Bytes::from_static(b"short");
    expect(init, Some(ReportError::HpkeDecryptError));
    let mut init = good(1).remove(0);
    init.message = Bytes::from_static(b"no message");
    expect(init, Some(ReportError::VdafPrepError));
    let mut spoilt = draft(time_of(0));
    spoilt.helper.payload = Bytes::from_static(b"no share");
    expect(builder.init(&spoilt), Some(ReportError::InvalidMessage));
    let mut spoilt = draft(time_of(0));
    spoilt.helper.extensions = vec![extension(0xff00)];
    expect(builder.init(&spoilt), Some(ReportError::InvalidMessage));
    let mut spoilt = draft(time_of(0));
    spoilt.helper.payload = builder.shard(&other, &spoilt.metadata.id).helper_share.into();
    expect(builder.init(&spoilt), Some(ReportError::VdafPrepError));
    let early = clock::now().saturating_add(Duration(10 * HOUR));
    expect(builder.init(&draft(early)), Some(ReportError::ReportTooEarly));
    let expired = if revision == Revision::Dap19 { ReportError::ReportDropped } else { ReportError::TaskExpired };
    expect(builder.init(&draft(end.saturating_add(Duration(1)))), Some(expired));
    let ancient = clock::now().saturating_sub(Duration(24 * HOUR + 10));
    expect(builder.init(&draft(ancient)), Some(ReportError::ReportDropped));
    // Later than 64 bits of seconds can express, see below.
    let latest = good(1).remove(0);
    let latest_id = latest.share.metadata.id;
    expect(latest, Some(ReportError::ReportTooEarly));
    // In another job before: a replay.
    expect(aggregated[0].clone(), Some(ReportError::ReportReplayed));

    let parties = &pair.parties;
    let mut job = parties.wire().encode_job_init(parties.task(), &builder.job_of(batch, prepare_inits.clone()));
    let time = 16 + job.windows(16).position(|bytes| bytes == latest_id.as_bytes()).unwrap();
    job[time..time + 8].fill(0xff);
    let made = parties.send_job_bytes(ReportId::random().as_bytes(), job).await;
    assert!(made.answer.is_success(), "{:?}", made.answer);
    let resps = parties.wire().decode_job_resp(&made.answer.body, prepare_inits.len()).unwrap();
    assert_eq!(errors(&resps), expected);
    let ids = prepare_inits.iter().map(|init| init.share.metadata.id);
    assert!(resps.iter().map(|resp| resp.report_id).eq(ids), "answers are in the order of the request");

    pair.stop().await;
}

/// The helper's error for a report that is sealed to an unknown key.
fn unknown_key(revision: Revision) -> ReportError {
    match revision {
        Revision::Dap09 | Revision::Dap19 => ReportError::HpkeUnknownConfigId,
        Revision::Dap18 => ReportError::HpkeDecryptError,
    }
}

/// The error of each rejected report.
fn errors(resps: &[PrepareResp]) -> Vec<Option<ReportError>> {
    let error = |resp: &PrepareResp| match resp.outcome {
        PrepareOutcome::Reject(error) => Some(error),
        PrepareOutcome::Continue(_) | PrepareOutcome::Finished => None,
    };
    resps.iter().map(error).collect()
}

/// A batch holds no more reports than the task permits (DAP-09 section 4.5.1.4), however many jobs fill it
/// concurrently. DAP-18 has no such limit.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_reports_of_full_batch() {
    let mode = BatchMode::fixed_size(Some(20));
    let pair = Pair::start(Revision::Dap09, VdafConfig::Prio3Count, mode).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    let good = |n: usize| {
        let drafts: Vec<_> = (0..n).map(|_| builder.draft(&Measurement::Flag(true), time_of(0))).collect();
        builder.job(PartialBatchSelector::FixedSize(BatchId::random()), &drafts)
    };
    let saturated = errors(&pair.parties.run_job(&good(21)).await);
    assert_eq!((&saturated[..20], saturated[20]), (&[None; 20][..], Some(ReportError::BatchSaturated)));
    let batch = PartialBatchSelector::FixedSize(BatchId::random());
    let mut jobs = tokio::task::JoinSet::new();
    for request in (0..8).map(|_| AggregationJobInitReq { batch, ..good(11) }).collect::<Vec<_>>() {
        let parties = pair.parties.clone();
        jobs.spawn(async move { parties.run_job(&request).await });
    }
    let resps = jobs.join_all().await.concat();
    let aggregated = errors(&resps).into_iter().filter(Option::is_none).count();
    assert!((11..=20).contains(&aggregated), "{aggregated} of 20");
    pair.stop().await;
}

/// A report that is too early for the helper's clock is not lost: the leader retries it in another job (DAP-09 section
/// 4.5.1.4, DAP-18 section 4.5.3.1).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn delays_report_too_early_for_helper(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let quick = |config: &mut Config| {
        config.leader.min_job_size = 1;
        config.leader.max_job_delay = Seconds::millis(10);
    };
    let leader = Node::start_with(|config| {
        quick(config);
        config.limits.clock_skew = Seconds::new(600);
    })
    .await;
    let helper = Node::start_with(|config| config.limits.clock_skew = Seconds::new(0)).await;
    let (leader_url, helper_url) = (leader.url(revision), helper.url(revision));
    let parties = Parties::new(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, leader_url, helper_url)
        .with(|task| task.public.time_precision = Duration(1));
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;

    let time = clock::now().saturating_add(Duration(4));
    let builder = ReportBuilder::new(&parties).await;
    parties.upload_all([&builder.report(&Measurement::Flag(true), time)]).await;
    helper.until(&parties.id(), |status| status.counters.get("report_too_early") == Some(&1)).await;
    let interval = Interval::new(time, Duration(1)).unwrap();
    let collected =
        parties.collector().collect(Query::TimeInterval(interval), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (1, AggregateResult::Number(1)));
    assert_eq!(leader.counter(&parties.id(), "aggregate_success").await, 1);
    Pair { leader, helper, parties }.stop().await;
}
