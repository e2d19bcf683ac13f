//! The account of a task's noise, and the budget at which an aggregator releases no further batch.

use dapbox::{
    config::{Config, Seconds},
    model::{BatchMode, Duration, Epsilon, Interval, Query, Revision, Task, TaskId, Time, VdafConfig},
    support::clock,
    vdaf::Measurement,
    views::privacy::{BudgetChange, PrivacyChange},
};
use rstest::rstest;

use crate::common::{
    Node, Pair, Parties, TEST_TIMEOUT,
    calls::{is_pending, problem},
};

const HOUR: u64 = 3600;

fn epsilon(text: &str) -> Epsilon {
    text.parse().unwrap()
}

fn with_noise(task: &mut Task) {
    task.public.noise = Some(epsilon("0.5"));
}

fn quick(config: &mut Config) {
    config.leader.retry_initial = Seconds::millis(20);
    config.leader.retry_max = Seconds::millis(50);
}

fn hour(hours_ago: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours_ago * HOUR))
}

fn query(hours_ago: u64) -> Query {
    Query::TimeInterval(Interval::new(hour(hours_ago), Duration(HOUR)).unwrap())
}

async fn set_budget(node: &Node, task: TaskId, budget: &str) {
    let change = PrivacyChange { task, budget: BudgetChange::Set(epsilon(budget)), batches: None };
    assert_eq!(node.change_privacy(&change).await.0, 200);
}

async fn collect(parties: &Parties, hours_ago: u64) {
    let collected = parties.collector().collect(query(hours_ago), Some(TEST_TIMEOUT), |_| {}).await;
    assert_eq!(collected.unwrap().report_count, 1, "{hours_ago}");
}

async fn noisy_pair(revision: Revision) -> Pair {
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, quick, with_noise).await;
    for hours in 1..5 {
        pair.parties.client().upload(Measurement::Number(1), Some(hour(hours))).await.unwrap();
    }
    pair
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn leader_refuses_collections_beyond_its_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let mut pair = noisy_pair(revision).await;
    let (parties, id) = (pair.parties.clone(), pair.parties.id());
    set_budget(&pair.leader, id, "1.4").await;
    collect(&parties, 4).await;
    collect(&parties, 3).await;
    // It is durable.
    pair.leader.restart().await;
    let account = pair.leader.status(&id).await.privacy.unwrap();
    assert_eq!((account.batches, account.spent, account.batches_left), (2, Some(epsilon("1")), Some(0)));

    let refused = parties.create_collection(query(2)).await.answer;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(problem(&refused).detail.contains("privacy budget of the task is used up: 1 of 1.4"), "{refused:?}");
    assert_eq!(pair.helper.status(&id).await.privacy.unwrap().batches, 2, "the helper was not asked");

    set_budget(&pair.leader, id, "1.5").await;
    collect(&parties, 2).await;
    let lowered = PrivacyChange { task: id, budget: BudgetChange::Remove, batches: Some(2) };
    assert_eq!(pair.leader.change_privacy(&lowered).await.0, 400, "three batches were collected");
    let raised = PrivacyChange { batches: Some(7), ..lowered };
    let (_, account) = pair.leader.change_privacy(&raised).await;
    let account = account.unwrap();
    assert_eq!((account.spent, account.budget), (Some(epsilon("3.5")), None));
    collect(&parties, 1).await;
    assert_eq!(pair.leader.status(&id).await.privacy.unwrap().batches, 8);
    pair.stop().await;
}

/// Two collection jobs wait when the budget allows one more batch. The batch of the other one stays open.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn waiting_collections_do_not_exceed_the_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let of_two = |task: &mut Task| {
        with_noise(task);
        task.public.min_batch_size = 2;
    };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, quick, of_two).await;
    let (parties, id) = (pair.parties.clone(), pair.parties.id());
    set_budget(&pair.leader, id, "0.5").await;
    let [first, second] = [parties.start_collection(query(2)).await, parties.start_collection(query(1)).await];
    for hours in [1, 2] {
        for _ in 0..2 {
            parties.client().upload(Measurement::Number(1), Some(hour(hours))).await.unwrap();
        }
    }
    pair.leader.until(&id, |status| status.privacy.unwrap().batches == 1).await;
    pair.leader.until(&id, |status| status.waiting == 0 && status.aggregated == 2).await;
    assert_eq!(pair.leader.status(&id).await.collections_waiting, 1, "the other one waits");

    set_budget(&pair.leader, id, "1").await;
    for job in [first, second] {
        assert!(parties.outcome(&job).await.is_success());
    }
    assert_eq!(pair.leader.status(&id).await.privacy.unwrap().batches, 2);
    pair.stop().await;
}

/// The leader has closed the batch, so it repeats its request until the helper's operator raises the budget.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn helper_releases_no_share_beyond_its_budget(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let pair = noisy_pair(revision).await;
    let (parties, id) = (pair.parties.clone(), pair.parties.id());
    set_budget(&pair.helper, id, "0.5").await;
    collect(&parties, 4).await;
    let job = parties.start_collection(query(3)).await;
    let status = pair.leader.until(&id, |status| status.last_error.is_some()).await;
    assert!(status.last_error.unwrap().contains("privacy budget"));
    assert!(is_pending(&parties.poll(&job).await, &parties));
    assert_eq!(pair.helper.status(&id).await.privacy.unwrap().batches, 1);
    set_budget(&pair.helper, id, "1").await;
    assert!(parties.outcome(&job).await.is_success());
    assert_eq!(pair.helper.status(&id).await.privacy.unwrap().batches_left, Some(0));
    pair.stop().await;
}
