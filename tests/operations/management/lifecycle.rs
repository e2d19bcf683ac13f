//! The lifecycle of a provisioned task, from pairing to removal.

use dapbox::{
    model::{
        self, BatchMode, BatchSelector, FixedSizeQuery, PartialBatchSelector, PrepareOutcome, Query, ReportError, Time,
        VdafConfig,
    },
    support::clock,
    vdaf::{AggregateResult, Measurement},
};
use rstest::rstest;
use serde_json::{Value, json};

use super::control_plane::{ControlPlane, Draft, managed};
use crate::common::{
    Node,
    calls::{assert_accepted, assert_rejected, problem},
    report_builder::ReportBuilder,
    restore::{back_up, restore_from},
};

const COUNT: VdafConfig = VdafConfig::Prio3Count;

/// The answer without the token that only the answer to a POST has.
fn without_token(mut answer: Value) -> Value {
    answer["aggregator_auth_token"] = Value::Null;
    answer
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn provisions_uses_and_removes_task(
    #[values(BatchMode::TimeInterval, BatchMode::fixed_size(Some(10)))] mode: BatchMode,
) {
    let (mut leader, mut helper) = (managed(|_| {}).await, managed(|_| {}).await);
    // Pairing: the control plane reads the configuration at the operator's URL.
    let [at_leader, at_helper] = [&leader, &helper].map(ControlPlane::of);
    let mut urls = Vec::new();
    for (side, node) in [(&at_leader, &leader), (&at_helper, &helper)] {
        let configuration = side.get("").await;
        assert_eq!(side.get("/").await, configuration);
        let fixture: Value =
            serde_json::from_str(include_str!("../../../fixtures/management/configuration.json")).unwrap();
        for (name, value) in fixture.as_object().unwrap() {
            assert_eq!(&configuration[name], value, "{name}");
        }
        assert_eq!(configuration["dap_url"], format!("http://{}/dap-09/", node.config.listen));
        assert!(configuration["software_version"].is_string());
        urls.push(configuration["dap_url"].as_str().unwrap().to_owned());
    }
    let [leader_url, helper_url] = [&urls[0], &urls[1]];

    // The helper first, which creates the token. The answer may be lost, and the helper may restart in between.
    let query_type = match mode {
        BatchMode::TimeInterval => json!("TimeInterval"),
        BatchMode::FixedSize { max_batch_size, .. } => json!({ "FixedSize": { "max_batch_size": max_batch_size } }),
    };
    let draft = Draft::new(query_type.clone(), json!("Prio3Count"));
    let (id, request) = (draft.id(), draft.for_helper(leader_url));
    let answer = at_helper.expect("POST", "/tasks", Some(request.clone()), 200).await;
    assert_eq!(at_helper.expect("POST", "/tasks", Some(request.clone()), 200).await, answer);
    helper.restart().await;
    assert_eq!(at_helper.expect("POST", "/tasks", Some(request.clone()), 200).await, answer);
    let helper_token = &answer["aggregator_auth_token"];
    assert_eq!((answer["task_id"].as_str(), &answer["query_type"]), (Some(&*id.to_string()), &query_type));
    assert_eq!((&answer["role"], &helper_token["type"]), (&json!("Helper"), &json!("Bearer")));
    assert_eq!(answer["aggregator_hpke_configs"].as_array().unwrap().len(), 1);

    // Then the leader, with that token.
    let request = draft.for_leader(helper_url, helper_token);
    let told = at_leader.expect("POST", "/tasks", Some(request.clone()), 200).await;
    assert_eq!(at_leader.expect("POST", "/tasks", Some(request), 200).await, told);
    assert_eq!((&told["aggregator_auth_token"], told.get("collector_auth_token_hash")), (&Value::Null, None));
    let path = format!("/tasks/{id}");
    assert_eq!(at_leader.get(&path).await, told);
    assert_eq!(at_helper.get(&path).await, without_token(answer.clone()));
    for node in [&leader, &helper] {
        let provisioned = node.status(&id).await.provisioned.unwrap();
        assert!(provisioned.is_never_contacted && provisioned.by == "control-plane");
    }

    // Clients fetch keys and upload, both aggregate, and the collector collects.
    let parties = draft.parties(mode, COUNT, [leader_url, helper_url], helper_token);
    let builder = ReportBuilder::new(&parties).await;
    for value in [1, 0, 1] {
        assert_accepted(&parties.upload(&builder.report(&Measurement::Number(value), clock::now())).await);
    }
    leader.until(&id, |status| status.counters.get("aggregate_success") == Some(&3) && status.jobs == 0).await;
    let query = match mode {
        BatchMode::TimeInterval => parties.query_now(),
        BatchMode::FixedSize { .. } => Query::FixedSize(FixedSizeQuery::CurrentBatch),
    };
    let collected = parties.collector().collect(query, None, |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (3, AggregateResult::Number(2)));
    assert!(!leader.status(&id).await.provisioned.unwrap().is_never_contacted);

    // The counters, by the names of the API.
    let uploads = at_leader.get(&format!("{path}/metrics/uploads")).await;
    assert_eq!((&uploads["report_success"], uploads.as_object().unwrap().len()), (&json!(3), 8));
    for side in [&at_leader, &at_helper] {
        let aggregations = side.get(&format!("{path}/metrics/aggregations")).await;
        assert_eq!((&aggregations["success"], aggregations.as_object().unwrap().len()), (&json!(3), 21));
        assert_eq!(aggregations["helper_vdaf_prep_error"], 0);
    }

    // A restart keeps everything.
    leader.restart().await;
    helper.restart().await;
    assert_eq!((at_leader.get(&path).await, at_helper.get(&path).await), (told, without_token(answer)));

    // Removed for good; repeating the removal succeeds.
    for side in [&at_leader, &at_helper] {
        for _ in 0..2 {
            side.expect("DELETE", path.clone(), None, 204).await;
        }
        side.expect("GET", path.clone(), None, 404).await;
        assert_eq!(side.get("/task_ids").await, json!({ "task_ids": [] }));
    }
    at_helper.expect("POST", "/tasks", Some(draft.for_helper(leader_url)), 409).await;
    let report = builder.report(&Measurement::Number(1), clock::now());
    assert_eq!(problem(&parties.upload(&report).await).task_id, Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_expiration_of_task() {
    let (mut leader, helper) = (managed(|_| {}).await, managed(|_| {}).await);
    let [at_leader, at_helper] = [&leader, &helper].map(ControlPlane::of);
    let mut draft = Draft::count();
    draft.end = Some(u64::MAX);
    let urls = [&leader, &helper].map(|node| node.url(dapbox::model::Revision::Dap09));
    let answer = at_helper.expect("POST", "/tasks", Some(draft.for_helper(&urls[0])), 200).await;
    let order = draft.for_leader(&urls[1], &answer["aggregator_auth_token"]);
    let told = at_leader.expect("POST", "/tasks", Some(order.clone()), 200).await;
    assert_eq!(told["task_expiration"], u64::MAX);

    let [leader_url, helper_url] = [&*urls[0], &*urls[1]];
    let token = &answer["aggregator_auth_token"];
    let parties = draft.parties(BatchMode::TimeInterval, COUNT, [leader_url, helper_url], token);
    let (builder, path) = (ReportBuilder::new(&parties).await, format!("/tasks/{}", draft.id()));
    let upload = || async { parties.upload(&builder.report(&Measurement::Number(1), clock::now())).await };
    assert_accepted(&upload().await);

    let past = clock::now().0 - 7200;
    for (change, end) in [
        (json!({ "task_expiration": past }), json!(past)),
        (json!({}), json!(past)),
        (json!({ "task_expiration": null }), Value::Null),
        (json!({}), Value::Null),
        (json!({ "task_expiration": past }), json!(past)),
    ] {
        let changed = at_leader.expect("PATCH", path.clone(), Some(change.clone()), 200).await;
        assert_eq!(changed["task_expiration"], end, "{change}");
        let mut expected = told.clone();
        expected["task_expiration"] = end.clone();
        assert_eq!((at_leader.get(&path).await, changed), (expected.clone(), expected));
        match end {
            Value::Null => assert_accepted(&upload().await),
            _ => assert_rejected(&upload().await, &parties, dapbox::wire::ProblemType::ReportRejected),
        }
    }
    leader.restart().await;
    assert_eq!(at_leader.get(&path).await["task_expiration"], past);
    assert_eq!(leader.status(&draft.id()).await.task_expiration, Some(Time(past)));
    // Posted again as at first: it is the same task, with its current expiration.
    assert_eq!(at_leader.expect("POST", "/tasks", Some(order), 200).await["task_expiration"], past);
    let unknown = format!("/tasks/{}", dapbox::model::TaskId::random());
    at_leader.expect("PATCH", unknown, Some(json!({ "task_expiration": 5 })), 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_only_managed_tasks() {
    let node = managed(|_| {}).await;
    let plane = ControlPlane::of(&node);
    assert_eq!(plane.get("/task_ids").await, json!({ "task_ids": [] }));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let draft = Draft::count();
        plane.expect("POST", "/tasks", Some(draft.for_helper("https://leader.example")), 200).await;
        ids.push(draft.id().to_string());
    }
    ids.sort_by_key(|id| id.parse::<dapbox::model::TaskId>().unwrap());
    // An operator's task with the id that a control plane's task would have.
    let draft = Draft::count();
    let token = json!({ "token": "x" });
    let urls = ["https://leader.example", "https://helper.example"];
    let own = draft.parties(BatchMode::TimeInterval, COUNT, urls, &token).helper;
    node.add(&own).await;

    let page = plane.get("/task_ids").await;
    assert_eq!(page, json!({ "task_ids": ids, "pagination_token": ids[2] }));
    let next = plane.get(&format!("/task_ids?pagination_token={}", ids[0])).await;
    assert_eq!(next, json!({ "task_ids": ids[1..], "pagination_token": ids[2] }));
    let end = plane.get(&format!("/task_ids?pagination_token={}", ids[2])).await;
    assert_eq!(end, json!({ "task_ids": [] }));
    plane.expect("GET", "/task_ids?pagination_token=nonsense", None, 400).await;

    let path = format!("/tasks/{}", draft.id());
    for (method, path, body, status) in [
        ("GET", path.clone(), None, 404),
        ("GET", format!("{path}/metrics/uploads"), None, 404),
        ("PATCH", path.clone(), Some(json!({ "task_expiration": 5 })), 404),
        ("DELETE", path, None, 404),
        ("POST", "/tasks".to_owned(), Some(draft.for_helper("https://leader.example")), 409),
    ] {
        plane.expect(method, path, body, status).await;
    }
    assert_eq!(node.status(&draft.id()).await.provisioned, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_return_replaced_token() {
    let node = managed(|_| {}).await;
    let (plane, draft) = (ControlPlane::of(&node), Draft::count());
    let order = draft.for_helper("https://leader.example");
    let answer = plane.expect("POST", "/tasks", Some(order.clone()), 200).await;
    let change = json!({
        "task": draft.id(),
        "new": { "accepted": dapbox::model::TokenHash::of(b"another") },
        "keep_old": 0,
    });
    let control = reqwest::Client::builder().unix_socket(node.config.control_socket()).build().unwrap();
    assert_eq!(control.post("http://control/tokens").json(&change).send().await.unwrap().status(), 200);
    let problem = plane.expect("POST", "/tasks", Some(order), 409).await;
    assert!(problem["detail"].as_str().unwrap().contains("replaced"), "{problem}");
    assert_eq!(plane.get(&format!("/tasks/{}", draft.id())).await, without_token(answer));
}

/// A control plane repeats its POST to a helper that was restored from a backup older than the task. The answer is the
/// same, and aggregated reports are not aggregated again.
#[tokio::test(flavor = "multi_thread")]
async fn closes_past_of_task_posted_again_after_restore() {
    let (leader, mut helper) = (Node::start().await, managed(|_| {}).await);
    let at_helper = ControlPlane::of(&helper);
    let dap09 = model::Revision::Dap09;
    let draft = Draft::count();
    let request = draft.for_helper(&leader.url(dap09));
    // The first task creates the secret from which tokens are derived, so that the backup has it.
    at_helper.expect("POST", "/tasks", Some(Draft::count().for_helper("https://leader.example/")), 200).await;
    let backup = back_up(&helper).await;

    let answer = at_helper.expect("POST", "/tasks", Some(request.clone()), 200).await;
    let urls = [&*leader.url(dap09), &*helper.url(dap09)];
    let parties = draft.parties(BatchMode::TimeInterval, COUNT, urls, &answer["aggregator_auth_token"]);
    leader.add(&parties.leader).await;
    let builder = ReportBuilder::new(&parties).await;
    let drafts: Vec<_> = (0..4).map(|_| builder.draft(&Measurement::Flag(true), clock::now())).collect();
    let outcomes = parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, &drafts)).await;
    assert!(outcomes.iter().all(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))), "{outcomes:?}");
    let batch = BatchSelector::TimeInterval(parties.interval(0));
    assert!(parties.request_share(&parties.share_request(batch, &drafts)).await.is_success());

    let restored = restore_from(&mut helper, &backup).await;
    assert_eq!(at_helper.expect("POST", "/tasks", Some(request), 200).await, answer);
    assert!(helper.status(&parties.id()).await.horizon >= Some(restored.closed_before));
    let outcomes = parties.run_job(&builder.job(PartialBatchSelector::TimeInterval, &drafts[1..])).await;
    let dropped = PrepareOutcome::Reject(ReportError::ReportDropped);
    assert!(outcomes.iter().all(|resp| resp.outcome == dropped), "{outcomes:?}");
    let share = parties.request_share(&parties.share_request(batch, &drafts[1..])).await;
    assert!(!share.is_success(), "{share:?}");
}
