//! Leader and helper restart between any two steps of a batch. Nothing is lost or repeated, and clients continue
//! without noticing.

use std::time::{Duration as Span, Instant};

use bytes::Bytes;
use dapbox::{
    config::{Config, Seconds},
    model::{
        AggregationJobInitReq, BatchMode, FixedSizeQuery, PartialBatchSelector, PrepareOutcome, Query, Report,
        ReportError, ReportId, Revision,
    },
    support::clock,
    vdaf::Measurement,
    wire::ResourceKind,
};
use rstest::rstest;

use crate::common::{
    self, Node, Pair, TEST_TIMEOUT,
    calls::is_pending,
    peer,
    relay::{
        MEASUREMENTS, Relay, RelayAction, RelayedAnswer, RelayedRequest, assert_whole, modes, pair_through_relay, query,
    },
};

/// The aggregator to restart.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Restarted {
    Leader,
    Helper,
    Both,
}

/// The maximum duration of a shutdown, well below the time after which it is forced.
const MAX_STOP: Span = Span::from_secs(5);

async fn restart(pair: &mut Pair, who: Restarted) {
    let begun = Instant::now();
    if who != Restarted::Helper {
        pair.leader.stop().await;
    }
    if who != Restarted::Leader {
        pair.helper.stop().await;
    }
    assert!(begun.elapsed() < MAX_STOP, "stopping {who:?} took {:?}", begun.elapsed());
    if who != Restarted::Helper {
        pair.leader.resume().await;
    }
    if who != Restarted::Leader {
        pair.helper.resume().await;
    }
}

async fn keys(revision: Revision, node: &Node) -> Bytes {
    let url = format!("{}hpke_config", node.url(revision));
    common::get(url).await.unwrap().error_for_status().unwrap().bytes().await.unwrap()
}

/// Runs the life of a batch with a restart after every step.
async fn live_through(revision: Revision, who: Restarted, mode: BatchMode) {
    let name = format!("{who:?} {mode:?}");
    let patient = |config: &mut Config| config.leader.max_job_delay = Seconds(TEST_TIMEOUT);
    let (mut pair, relay) = pair_through_relay(revision, mode, patient).await;
    let (id, query) = (pair.parties.id(), query(&pair.parties));
    let old_keys = [keys(revision, &pair.leader).await, keys(revision, &pair.helper).await];
    let unavailable = || RelayAction::Answer(RelayedAnswer::new(503, "text/plain", ""));

    // Uploads before and after a restart; the client repeats none.
    let client = pair.parties.client();
    let mut reports: Vec<Report> = Vec::new();
    for number in MEASUREMENTS {
        reports.push(client.prepare(Measurement::Number(number), clock::now()).await.unwrap());
    }
    pair.parties.upload_all(&reports[..2]).await;
    restart(&mut pair, who).await;
    pair.parties.upload_all(&reports[2..]).await;
    restart(&mut pair, who).await;
    assert_eq!(pair.leader.status(&id).await.waiting, 5, "{name}");
    assert_eq!([keys(revision, &pair.leader).await, keys(revision, &pair.helper).await], old_keys, "{name}");

    // A collection is requested; the jobs that it waits for reach no helper.
    relay.plan(move |_, _| unavailable());
    let job = pair.parties.start_collection(query).await;
    pair.leader.until(&id, |status| status.last_error.is_some()).await;
    restart(&mut pair, who).await;
    assert!(is_pending(&pair.parties.poll(&job).await, &pair.parties), "{name}");

    // The helper aggregates, but its answers are lost.
    relay.plan(|_, _| RelayAction::LoseAnswer);
    pair.helper.until(&id, |status| status.counters.get("aggregate_success") == Some(&5)).await;
    restart(&mut pair, who).await;
    assert!(is_pending(&pair.parties.poll(&job).await, &pair.parties), "{name}");
    assert_eq!(pair.leader.counter(&id, "aggregate_success").await, 0, "{name}");

    // The leader gets the answers, but not yet the helper's aggregate share.
    relay.plan(
        move |asked, _| if asked.creates(ResourceKind::AggregateShare) { unavailable() } else { RelayAction::Pass },
    );
    pair.leader.until(&id, |status| status.counters.get("aggregate_success") == Some(&5)).await;
    restart(&mut pair, who).await;
    pair.leader.until(&id, |status| status.batches_collected == 1 && status.last_error.is_some()).await;
    restart(&mut pair, who).await;
    assert!(is_pending(&pair.parties.poll(&job).await, &pair.parties), "{name}");

    // The helper sends its share, but the answer is lost.
    relay.plan(|_, _| RelayAction::LoseAnswer);
    pair.helper.until(&id, |status| status.batches_collected == 1).await;
    restart(&mut pair, who).await;
    assert!(is_pending(&pair.parties.poll(&job).await, &pair.parties), "{name}");

    // The result is available and does not change.
    relay.plan(|_, _| RelayAction::Pass);
    let result = pair.parties.outcome(&job).await;
    assert_eq!(result.status, 200, "{name}: {result:?}");
    restart(&mut pair, who).await;
    let again = pair.parties.poll(&job).await;
    assert_eq!((again.status, again.body), (200, result.body.clone()), "{name}");
    relay.check_repeats(&pair.parties);

    check_aftermath(&name, &pair, &relay, &reports).await;
    check_result(&name, &pair, query, &result.body).await;
    pair.stop().await;
}

/// Repeated reports are not counted, and repeated requests get the same answers.
async fn check_aftermath(name: &str, pair: &Pair, relay: &Relay, reports: &[Report]) {
    let (id, parties) = (pair.parties.id(), &pair.parties);
    // The leader ignores aggregated reports (DAP-09 section 4.4.2).
    parties.upload_all(reports).await;
    let status = pair.leader.status(&id).await;
    assert_eq!((status.waiting, status.counters["upload_repeated"]), (0, 5), "{name}");

    let mut jobs: Vec<RelayedRequest> = relay.creations(ResourceKind::AggregationJob);
    jobs.sort_by(|a, b| a.body.cmp(&b.body));
    jobs.dedup_by(|a, b| a.body == b.body);
    assert_eq!(jobs.len(), 3, "{name}: five reports make three jobs of two");
    let (wire, task) = (parties.wire(), parties.task());
    let mut all: Option<AggregationJobInitReq> = None;
    for RelayedRequest { path, body, .. } in &jobs {
        // The same job gets the same answer (DAP-09 section 4.5.1.2, DAP-18 section 4.5.3.2).
        let id: Option<ReportId> = path.rsplit('/').next().unwrap().parse().ok();
        let id = id.unwrap_or_else(ReportId::random);
        let first = parties.send_job_bytes(id.as_bytes(), body.clone()).await;
        let second = parties.send_job_bytes(id.as_bytes(), body.clone()).await;
        assert_eq!(
            (first.resource_path(), &first.answer.body),
            (second.resource_path(), &second.answer.body),
            "{name}"
        );
        let resps = wire.decode_job_resp(&first.answer.body, 2).unwrap();
        assert!(resps.iter().all(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))), "{name}: {resps:?}");
        let init = wire.decode_job_init(task, &body.clone().into(), 2).unwrap();
        match &mut all {
            None => all = Some(init),
            Some(all) => all.prepare_inits.extend(init.prepare_inits),
        }
    }
    // Another job with the same reports gets them all rejected (DAP-09 section 4.5.1.4, DAP-18 section 4.5.4.3).
    let resps = parties.run_job(&all.unwrap()).await;
    let replayed = PrepareOutcome::Reject(ReportError::ReportReplayed);
    assert!(resps.len() == 5 && resps.iter().all(|resp| resp.outcome == replayed), "{name}: {resps:?}");
    assert_eq!(pair.helper.counter(&id, "aggregate_success").await, 5, "{name}");
    assert_eq!(pair.helper.status(&id).await.aggregated, 0, "{name}");
}

/// The collector can open the result. A repeated request gets the same bytes, also under another id where it chooses
/// ids.
async fn check_result(name: &str, pair: &Pair, query: Query, body: &Bytes) {
    let parties = &pair.parties;
    let collection = parties.wire().decode_collection(parties.task(), body).unwrap();
    assert_eq!(collection.report_count, 5, "{name}");
    let query = match collection.batch {
        Some(PartialBatchSelector::FixedSize(id)) => Query::FixedSize(FixedSizeQuery::ByBatchId(id)),
        Some(PartialBatchSelector::TimeInterval) | None => query,
    };
    assert_eq!(&parties.outcome_of(query).await.body, body, "{name}");
    assert_whole(name, parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn survives_restarts_of_leader(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    restarts(revision, Restarted::Leader).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn survives_restarts_of_helper(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    restarts(revision, Restarted::Helper).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn survives_restarts_of_both(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    restarts(revision, Restarted::Both).await;
}

async fn restarts(revision: Revision, who: Restarted) {
    let [one, other] = modes(revision);
    tokio::join!(live_through(revision, who, one), live_through(revision, who, other));
}

/// A leader stops promptly with jobs at a helper that is down or never answers, and resumes them after its start.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn stops_promptly_while_helper_hangs(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    for is_share_stuck in [false, true] {
        let (mut pair, relay) = pair_through_relay(revision, BatchMode::TimeInterval, |config| {
            config.leader.min_job_size = 1;
            config.leader.peer_timeout = Seconds(TEST_TIMEOUT);
            config.limits.stop_timeout = Seconds(TEST_TIMEOUT);
        })
        .await;
        let stuck_at = if is_share_stuck { ResourceKind::AggregateShare } else { ResourceKind::AggregationJob };
        relay.plan(move |asked, before| match before {
            0 if asked.creates(stuck_at) => RelayAction::Hang,
            _ => RelayAction::Pass,
        });
        let client = pair.parties.client();
        for number in MEASUREMENTS {
            client.upload(Measurement::Number(number), None).await.unwrap();
        }
        let job = pair.parties.start_collection(query(&pair.parties)).await;
        pair.leader.until(&pair.parties.id(), |_| !relay.creations(stuck_at).is_empty()).await;
        pair.helper.stop().await;
        restart(&mut pair, Restarted::Leader).await;

        // In the second round the helper is down.
        pair.leader.until(&pair.parties.id(), |status| status.last_error.is_some()).await;
        restart(&mut pair, Restarted::Leader).await;
        pair.helper.resume().await;
        assert_eq!(pair.parties.outcome(&job).await.status, 200);
        assert_whole("stuck", pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await);
        relay.check_repeats(&pair.parties);
        pair.stop().await;
    }
}

/// A client that retries while the aggregator is down loses nothing.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn client_retries_over_restart(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let (mut pair, _relay) = pair_through_relay(revision, BatchMode::TimeInterval, |_| {}).await;
    let client = pair.parties.client();
    client.keys().await.unwrap();
    pair.leader.stop().await;
    let uploads = tokio::spawn(async move {
        for number in MEASUREMENTS {
            client.upload(Measurement::Number(number), None).await.unwrap();
        }
    });
    let call = pair.parties.wire().upload_request(&pair.parties.id());
    let refused = peer().call(&pair.leader.url(revision), &call, None, Bytes::new()).await;
    assert!(refused.is_err());
    pair.leader.resume().await;
    uploads.await.unwrap();
    assert_whole("away", pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await);
    pair.stop().await;
}
