//! Aggregation jobs that are invalid as a whole, repeated, or impossible to continue.

use bytes::Bytes;
use dapbox::{
    config::{Config, Seconds},
    model::{
        AggregationJobInitReq, BatchId, BatchMode, BatchSelector, Interval, PartialBatchSelector, PrepareOutcome,
        ReportError, ReportId, Revision, Time, VdafConfig,
    },
    support::clock,
    vdaf::Measurement,
    wire::{
        ProblemType, ResourceKind, current,
        dap09::{self, AggregationJobContinueReq, PrepareContinue},
    },
};
use rstest::rstest;

use crate::common::{
    Pair, Parties,
    calls::{assert_accepted, assert_rejected, problem},
    report_builder::{Draft, ReportBuilder},
    resources::resources,
};

fn good(builder: &ReportBuilder) -> Draft {
    builder.draft(&Measurement::Flag(true), Time(1_600_000_000))
}

/// Jobs that the helper rejects as a whole (DAP-09 section 4.5.1.2, DAP-18 section 4.5.3.2).
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_job_as_a_whole(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let batch = PartialBatchSelector::TimeInterval;
    let init = builder.init(&good(&builder));
    let right = builder.job_of(batch, vec![init.clone()]);
    let twice = builder.job_of(batch, vec![init.clone(), init.clone()]);
    let in_batch = AggregationJobInitReq { batch: PartialBatchSelector::FixedSize(BatchId::random()), ..right.clone() };
    let with_parameter = AggregationJobInitReq { aggregation_parameter: Bytes::from_static(b"p"), ..right.clone() };
    for (request, kind) in [
        (builder.job_of(batch, Vec::new()), ProblemType::InvalidMessage),
        (twice, ProblemType::InvalidMessage),
        (in_batch, ProblemType::InvalidMessage),
        (with_parameter, ProblemType::InvalidAggregationParameter),
    ] {
        assert_rejected(&parties.send_new_job(&request).await.answer, parties, kind);
    }
    // Every vector's length is wrong by one, in either direction.
    let whole = parties.wire().encode_job_init(parties.task(), &right);
    let head = match revision {
        Revision::Dap09 => [3, 8],
        Revision::Dap18 | Revision::Dap19 => [4, 6],
    };
    let positions = [head[0], head[1], whole.len() - init.message.len() - 1];
    for (position, by) in positions.into_iter().flat_map(|position| [(position, 1), (position, 0xff)]) {
        let mut lying = whole.clone();
        lying[position] = lying[position].wrapping_add(by);
        let answer = parties.send_job_bytes(&[1; 16], lying).await.answer;
        assert_rejected(&answer, parties, ProblemType::InvalidMessage);
    }
    for length in (0..whole.len()).step_by(5) {
        let answer = parties.send_job_bytes(&[2; 16], whole[..length].to_vec()).await.answer;
        assert_rejected(&answer, parties, ProblemType::InvalidMessage);
    }
    let answer = parties.send_job_bytes(&[3; 16], more_than_a_million(revision)).await.answer;
    // The status tells a leader that fewer reports may succeed.
    assert_eq!((problem(&answer).kind, answer.status), (ProblemType::InvalidMessage, 413));
    assert!(problem(&answer).detail.contains("too many items"), "{answer:?}");
    // The rejected report was never aggregated.
    let resps = parties.run_job(&right).await;
    assert!(matches!(resps[0].outcome, PrepareOutcome::Continue(_)));
    pair.stop().await;
}

/// A job of more than a million reports, each as short as possible.
fn more_than_a_million(revision: Revision) -> Vec<u8> {
    const COUNT: u32 = 1_000_001;
    // Id, time, no public share, a ciphertext of one byte to one byte, no message.
    let mut report = vec![0; 41];
    (report[30], report[35]) = (1, 1);
    // No aggregation parameter, time interval, and the length of all reports.
    let mut body = [&[0, 0, 0, 0, 1][..], &(COUNT * 41).to_be_bytes()].concat();
    if revision != Revision::Dap09 {
        // No extensions, and each message has one byte.
        report = vec![0; 44];
        (report[32], report[37], report[42]) = (1, 1, 1);
        // A key id, no aggregation parameter, no extensions.
        body = vec![0; 7];
    }
    for n in 0..COUNT {
        report[..4].copy_from_slice(&n.to_be_bytes());
        body.extend_from_slice(&report);
    }
    body
}

/// A repeated request gets the same bytes. Another request with the same id is rejected (DAP-09 section 4.5.1.2, DAP-18
/// section 4.5.3.2), and aggregated reports are never aggregated again.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn answers_repeated_job_with_same_bytes(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let drafts: Vec<_> = (0..20).map(|_| good(&builder)).collect();
    let request = builder.job(PartialBatchSelector::TimeInterval, &drafts);
    let id = ReportId::random();

    let ask = async || parties.send_job(id.as_bytes(), &request).await;
    let (a, b) = tokio::join!(ask(), ask());
    let media_type = parties.wire().create_request(ResourceKind::AggregationJob, &parties.id(), &[0; 16]).accept;
    assert_eq!(a.answer.content_type.as_deref(), media_type);
    assert_eq!((a.resource_path(), &a.answer.body), (b.resource_path(), &b.answer.body));
    let again = ask().await;
    assert_eq!((again.resource_path(), &again.answer.body), (a.resource_path(), &a.answer.body));
    let successes = pair.helper.counter(&parties.id(), "aggregate_success").await;
    assert_eq!((successes, pair.helper.counter(&parties.id(), "report_replayed").await), (20, 0));
    let shorter = builder.job_of(PartialBatchSelector::TimeInterval, request.prepare_inits[..19].to_vec());
    let other = parties.send_job(id.as_bytes(), &shorter).await;
    if parties.requester_chooses_ids() {
        assert_eq!((other.answer.status, problem(&other.answer).aggregation_job_id.is_some()), (409, true));
    } else {
        assert_ne!(other.resource_path(), a.resource_path());
    }

    continuations(parties, a.resource_path()).await;

    assert!(parties.delete_job(a.resource_path()).await.is_success());
    let unknown = parties.delete_job(&parties.missing_path(ResourceKind::AggregationJob)).await;
    assert_rejected(&unknown, parties, ProblemType::UnrecognizedAggregationJob);
    stays_deleted(parties, &id, a.resource_path(), &request).await;
    let Pair { leader, mut helper, parties } = pair;
    helper.restart().await;
    stays_deleted(&parties, &id, a.resource_path(), &request).await;
    // The deletion removed nothing from the batch.
    let precision = parties.task().time_precision;
    let interval = Interval::new(drafts[0].metadata.time.truncate(precision), precision).unwrap();
    let answer = parties.request_share(&parties.share_request(BatchSelector::TimeInterval(interval), &drafts)).await;
    assert!(answer.is_success(), "{answer:?}");
    Pair { leader, helper, parties }.stop().await;
}

/// A deleted job is not found by the same request, and its reports stay aggregated.
async fn stays_deleted(parties: &Parties, id: &ReportId, path: &str, request: &AggregationJobInitReq) {
    let again = parties.send_job(id.as_bytes(), request).await;
    if parties.requester_chooses_ids() {
        assert_eq!(again.answer.status, 410, "a deleted job stays deleted");
    } else {
        assert_ne!(again.resource_path(), path);
        let gone = parties.poll_at(ResourceKind::AggregationJob, path).await;
        assert_rejected(&gone, parties, ProblemType::UnrecognizedAggregationJob);
    }
    let resps = parties.run_job(request).await;
    let replayed = PrepareOutcome::Reject(ReportError::ReportReplayed);
    assert!(resps.iter().all(|resp| resp.outcome == replayed));
}

/// A VDAF of one round never continues (DAP-09 section 4.5.2.2, DAP-18 section 4.5.4.2).
async fn continuations(parties: &Parties, job: &str) {
    let resource = resources(parties, parties.id()).remove(2);
    let send = async |job: &str, step| {
        let message = Bytes::from_static(b"message");
        let request = AggregationJobContinueReq {
            step,
            continues: vec![PrepareContinue { report_id: ReportId::random(), message }],
        };
        let body = match parties.revision() {
            Revision::Dap09 => dap09::encode_job_continue(&request),
            Revision::Dap18 | Revision::Dap19 => current::encode_job_continue(&request),
        };
        resource.send(&parties.at_helper(job), &[("authorization", &resource.bearer())], body).await
    };
    send(job, 0).await.assert_problem(400, "invalidMessage");
    let nowhere = parties.missing_path(ResourceKind::AggregationJob);
    send(&nowhere, 1).await.assert_problem(400, "unrecognizedAggregationJob");
    for step in [1, 2, u16::MAX] {
        let document = send(job, step).await.assert_problem(400, "stepMismatch");
        assert!(job.ends_with(document["aggregation_job_id"].as_str().unwrap()), "{document}");
    }
}

/// Report ids are unique in a task (DAP-18 section 4.5.4.3). The same id with a time on another day is a replay, at the
/// helper in a job and at the leader in an upload.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn rejects_known_report_id_with_another_time(
    #[values(Revision::Dap09, Revision::Dap18, Revision::Dap19)] revision: Revision,
) {
    let quick = |config: &mut Config| {
        (config.leader.min_job_size, config.leader.max_job_delay) = (1, Seconds::millis(5));
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, quick, |_| {}).await;
    let (parties, builder) = (&pair.parties, ReportBuilder::new(&pair.parties).await);
    let now = clock::now();
    let again = |first: &Draft, days: u64| {
        let mut draft = builder.draft(&Measurement::Flag(true), Time(now.0 - days * 86_400));
        draft.metadata.id = first.metadata.id;
        draft.set_shares(builder.shard(&Measurement::Flag(true), &first.metadata.id));
        draft
    };
    let outcome = async |draft: &Draft| {
        let job = builder.job(PartialBatchSelector::TimeInterval, std::slice::from_ref(draft));
        parties.run_job(&job).await.remove(0).outcome
    };
    let first = builder.draft(&Measurement::Flag(true), now);
    assert!(matches!(outcome(&first).await, PrepareOutcome::Continue(_)));
    for days in [0, 1, 400] {
        assert_eq!(outcome(&again(&first, days)).await, PrepareOutcome::Reject(ReportError::ReportReplayed), "{days}");
    }

    let first = builder.draft(&Measurement::Flag(true), now);
    parties.upload_all([&builder.seal(&first)]).await;
    pair.leader.until(&parties.id(), |status| status.aggregated == 1).await;
    for days in [1, 400] {
        assert_accepted(&parties.upload(&builder.seal(&again(&first, days))).await);
    }
    assert_eq!(pair.leader.counter(&parties.id(), "upload_repeated").await, 2);
    assert_eq!(pair.leader.status(&parties.id()).await.waiting, 0);
    pair.stop().await;
}
