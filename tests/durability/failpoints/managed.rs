//! A task that a control plane provisions. It repeats unanswered requests and gets the same answers.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dapbox::{
    config::{Config, Seconds},
    model::{KeyState, Secret, TaskId, Time, TokenHash},
    store::api_token::ApiToken,
    support::clock,
};
use serde_json::{Value, json};

use super::{
    fixture::{Fixture, FixtureParams, NUMBERS},
    machine::Machine,
};

pub const TOKEN: &str = "what-the-control-plane-shows";

pub fn manageable(config: &mut Config) {
    config.public_url = format!("http://{}", config.listen);
    config.management.path = "/api".to_owned();
    config.provisioning.min_batch_size = NUMBERS.len() as u64;
    config.hpke.pending_time = Seconds::new(600);
}

/// The control plane's request for a task like the fixture's, for each aggregator, with the id of the task.
fn order(fixture: &Fixture) -> (Value, TaskId) {
    let (task, key) = (&fixture.parties.leader, Secret::random(16));
    let config = &task.collector_hpke_config;
    let order = json!({
        "query_type": "TimeInterval",
        "vdaf": { "Prio3Sum": { "bits": 8 } },
        "max_batch_query_count": 1,
        "min_batch_size": NUMBERS.len(),
        "time_precision": task.public.time_precision,
        "collector_hpke_config": {
            "id": config.id,
            "kem_id": "X25519HkdfSha256",
            "kdf_id": "HkdfSha256",
            "aead_id": "Aes128Gcm",
            "public_key": URL_SAFE_NO_PAD.encode(&config.public_key),
        },
        "vdaf_verify_key": URL_SAFE_NO_PAD.encode(key.expose()),
    });
    (order, TaskId::new(*TokenHash::of(key.expose()).as_bytes()))
}

/// Provisions a task at the helper and returns the issued token.
async fn provision_helper(fixture: &Fixture, mut order: Value) -> Value {
    order["role"] = json!("Helper");
    order["peer_aggregator_endpoint"] = json!(fixture.parties.task().leader_url);
    create(&fixture.helper, &order).await["aggregator_auth_token"].clone()
}

/// Provisions the fixture's task with a control plane: at the helper first, then at the leader.
async fn provision(fixture: &mut Fixture) {
    let (order, id) = order(fixture);
    let helper_token = provision_helper(fixture, order.clone()).await;
    let mut for_leader = order;
    for_leader["role"] = json!("Leader");
    for_leader["peer_aggregator_endpoint"] = json!(fixture.parties.task().helper_url);
    for_leader["aggregator_auth_token"] = helper_token.clone();
    let collector_token = TokenHash::of(fixture.parties.collector_token.expose());
    for_leader["collector_auth_token_hash"] = json!({ "type": "Bearer", "hash": collector_token });
    create(&fixture.leader, &for_leader).await;

    fixture.parties.helper_token = Secret::new(helper_token["token"].as_str().unwrap().as_bytes().to_vec());
    fixture.parties = fixture.parties.clone().with(|task| task.public.id = id);
}

/// A task that is provisioned at the helper and never contacted is removed. The fixture's task stays.
async fn sweep(fixture: &Fixture) {
    let (order, forgotten) = order(fixture);
    provision_helper(fixture, order).await;
    let helper = &fixture.helper;
    // Its first request was recorded, or its effects show it.
    assert!(!is_never_contacted(helper, &fixture.parties.id()).await);
    assert!(is_never_contacted(helper, &forgotten).await);
    let removed = helper.remove_never_contacted(clock::now()).await;
    // Empty: the answer to its removal was lost.
    assert!(removed.is_empty() || removed == [forgotten], "{removed:?}");
    assert_eq!(helper.remove_never_contacted(clock::now()).await, []);
    let path = |id| format!("/tasks/{id}");
    assert_eq!(helper.manage(TOKEN, "GET", &path(forgotten), None).await.0, 404);
    assert_eq!(helper.manage(TOKEN, "GET", &path(fixture.parties.id()), None).await.0, 200);
}

async fn is_never_contacted(machine: &Machine, id: &TaskId) -> bool {
    machine.status(id).await.provisioned.unwrap().is_never_contacted
}

/// Posts a task twice; both answers are the same.
async fn create(machine: &Machine, order: &Value) -> Value {
    let (status, first) = machine.manage(TOKEN, "POST", "/tasks", Some(order)).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(machine.manage(TOKEN, "POST", "/tasks", Some(order)).await, (200, first.clone()));
    first
}

/// Makes both aggregators accept the token.
pub async fn accept_token(fixture: &Fixture) {
    let token =
        ApiToken { name: "plane".to_owned(), hash: TokenHash::of(TOKEN.as_bytes()), created: Time(1), until: None };
    let token = serde_json::to_string(&token).unwrap();
    for machine in [&fixture.leader, &fixture.helper] {
        assert_eq!(machine.api_token("POST", "", &token).await, 201);
    }
}

pub async fn run(params: FixtureParams) {
    let mut fixture = Fixture::build(params, None, manageable, manageable, |_| {}).await;
    accept_token(&fixture).await;
    fixture.discard().await;
    provision(&mut fixture).await;
    let path = format!("/tasks/{}", fixture.parties.id());

    for machine in [&fixture.leader, &fixture.helper] {
        for end in [json!(5), json!(null)] {
            let change = json!({ "task_expiration": end });
            let (status, changed) = machine.manage(TOKEN, "PATCH", &path, Some(&change)).await;
            assert_eq!((status, &changed["task_expiration"]), (200, &end));
            let (_, shown) = machine.manage(TOKEN, "GET", &path, None).await;
            assert_eq!(shown, changed);
        }
        // Activates a new key.
        let before = machine.keys(KeyState::Active).await;
        let (status, made) = machine.manage(TOKEN, "PUT", "/hpke_configs", None).await;
        assert!(matches!(status, 200 | 201), "{made}");
        let key = format!("/hpke_configs/{}", made["config"]["id"]);
        let (_, active) = machine.manage(TOKEN, "PATCH", &key, Some(&json!({ "state": "active" }))).await;
        assert_eq!(active["state"], "active");
        assert_ne!(machine.keys(KeyState::Active).await, before);
    }
    fixture.upload_numbers(clock::now()).await;
    fixture.collect(fixture.parties.query_now()).await;
    fixture.check_counts().await;
    sweep(&fixture).await;

    for machine in [&fixture.leader, &fixture.helper] {
        assert_eq!(machine.manage(TOKEN, "DELETE", &path, None).await.0, 204);
        assert_eq!(machine.manage(TOKEN, "GET", &path, None).await.0, 404);
        // Already gone: the answer to its revocation was lost.
        assert!(matches!(machine.api_token("DELETE", "/plane", "").await, 204 | 404));
        assert_eq!(machine.manage(TOKEN, "GET", "", None).await.0, 401);
    }
    fixture.stop().await;
}
