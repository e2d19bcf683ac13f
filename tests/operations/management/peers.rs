//! Peers of in-band tasks, managed by a control plane.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use dapbox::{
    client::Client,
    collector::{Collector, CollectorTask},
    config::taskprov::{PeerFile, PeerRole},
    hpke::{Keypair, Suite},
    model::{
        BatchMode, Duration, Interval, Query, Revision, Secret, TaskId, TaskParameters, Time, TokenHash, VdafConfig,
    },
    peer::RetryPolicy,
    support::clock,
    vdaf::{AggregateResult, Measurement},
    wire::taskprov::advertise,
};
use serde_json::{Value, json};

use super::control_plane::{ControlPlane, managed, new_token};
use crate::common::peer;

const PATH: &str = "/taskprov/peer_aggregators";

fn bearer(token: &str) -> Value {
    json!({ "type": "Bearer", "token": token })
}

/// A peer in the control plane's format.
fn order(role: &str, endpoint: &str, keypair: &Keypair) -> Value {
    json!({
        "endpoint": endpoint,
        "role": role,
        "collector_hpke_config": {
            "id": keypair.config().id,
            "kem_id": "X25519HkdfSha256",
            "kdf_id": "HkdfSha256",
            "aead_id": "Aes128Gcm",
            "public_key": URL_SAFE_NO_PAD.encode(&keypair.config().public_key),
        },
        "verify_key_init": URL_SAFE_NO_PAD.encode([7; 32]),
        "report_expiry_age": 864_000,
        "tolerable_clock_skew": 60,
        "aggregator_auth_tokens": [bearer("between-aggregators")],
        "collector_auth_tokens": if role == "Leader" { json!([]) } else { json!([bearer("from-the-collector")]) },
    })
}

/// Both sides are introduced to each other, over a restart; a following in-band task is collected.
#[tokio::test(flavor = "multi_thread")]
async fn provisions_in_band_task_of_managed_peer() {
    let mut leader = managed(|_| {}).await;
    let helper = managed(|_| {}).await;
    let keypair = Keypair::generate(4, Suite::DEFAULT).unwrap();
    let urls = [&leader, &helper].map(|node| node.url(Revision::Dap09));
    let named = [order("Helper", &urls[1], &keypair), order("Leader", &urls[0], &keypair)];
    for (node, order) in [&leader, &helper].into_iter().zip(&named) {
        let plane = ControlPlane::of(node);
        let mut told = order.clone();
        for secret in ["verify_key_init", "aggregator_auth_tokens", "collector_auth_tokens"] {
            told.as_object_mut().unwrap().remove(secret);
        }
        for _ in 0..2 {
            assert_eq!(plane.expect("POST", PATH, Some(order.clone()), 201).await, told);
        }
        assert_eq!(plane.get(PATH).await, json!([told]));
    }
    leader.restart().await;

    let public = TaskParameters {
        id: TaskId::random(),
        revision: Revision::Dap09,
        info: String::new(),
        leader_url: urls[0].clone(),
        helper_url: urls[1].clone(),
        batch_mode: BatchMode::TimeInterval,
        vdaf: VdafConfig::Prio3Count,
        min_batch_size: 2,
        time_precision: Duration(3600),
        task_expiration: Some(Time(clock::now().0 + 86_400)),
        task_interval: None,
        noise: None,
    };
    let task = advertise(public, Bytes::from_static(b"named"), 1).unwrap();
    let public = &task.configuration.public;
    let client = Client::new(public.clone(), peer(), RetryPolicy::default()).unwrap().with_advertisement(&task.bytes);
    for flag in [true, true, false] {
        client.upload(Measurement::Flag(flag), None).await.unwrap();
    }
    let token = Secret::new(b"from-the-collector".to_vec());
    let of = CollectorTask { public: public.clone(), token, previous_token: None };
    let collector =
        Collector::new(of, keypair.clone(), peer(), RetryPolicy::default()).unwrap().with_advertisement(&task.bytes);
    let start = clock::now().truncate(Duration(3600)).saturating_sub(Duration(3600));
    let query = Query::TimeInterval(Interval::new(start, Duration(3 * 3600)).unwrap());
    let collected = collector.collect(query, None, |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (3, AggregateResult::Number(2)));

    // It is not listed among the control plane's tasks.
    let (url, token) = (format!("http://{}/api", leader.config.listen), new_token(&leader, "second"));
    let plane = ControlPlane { url, token };
    assert_eq!(plane.get("/task_ids").await["task_ids"], json!([]));
    plane.expect("GET", format!("/tasks/{}", public.id), None, 404).await;
    for _ in 0..2 {
        plane.expect("DELETE", PATH, Some(json!({ "endpoint": urls[1], "role": "Helper" })), 204).await;
    }
    assert_eq!(plane.get(PATH).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_peer_and_keeps_configured_ones() {
    let mut node = managed(|_| {}).await;
    let keypair = Keypair::generate(4, Suite::DEFAULT).unwrap();
    let file = PeerFile {
        role: PeerRole::Leader,
        endpoint: "https://known.example/".to_owned(),
        verify_key_init: Secret::random(32),
        leader_token_hashes: vec![TokenHash::of(b"x")],
        helper_tokens: Vec::new(),
        collector_token_hashes: Vec::new(),
        report_expiry_age: None,
        min_batch_size: None,
        collector_key: keypair.config().clone(),
    };
    let path = node.dir.path().join("peer.toml");
    std::fs::write(&path, file.to_text().unwrap()).unwrap();
    node.config.taskprov.peers = vec![path];
    node.restart().await;
    let plane = ControlPlane::of(&node);
    plane.expect("POST", PATH, Some(order("Leader", "https://known.example", &keypair)), 409).await;
    // The operator's own peers are not listed.
    assert_eq!(plane.get(PATH).await, json!([]));

    let good = order("Leader", "https://leader.example/", &keypair);
    let with = |name: &str, value: Value| {
        let mut order = good.clone();
        order[name] = value;
        order
    };
    for (order, why) in [
        (with("verify_key_init", json!(URL_SAFE_NO_PAD.encode([7; 16]))), "32 bytes"),
        (with("endpoint", json!("leader.example")), "endpoint"),
        (with("aggregator_auth_tokens", json!([])), "aggregator_auth_tokens"),
        (with("aggregator_auth_tokens", json!([bearer("not one")])), "token"),
        (with("collector_auth_tokens", json!([bearer("x")])), "collector_auth_tokens"),
        (with("role", json!("Helper")), "collector_auth_tokens"),
        (with("role", json!("Client")), "Client"),
    ] {
        let problem = plane.expect("POST", PATH, Some(order), 400).await;
        assert!(problem["detail"].as_str().unwrap().contains(why), "{why}: {problem}");
    }
    plane.expect("POST", PATH, Some(good.clone()), 201).await;
    plane.expect("POST", PATH, Some(with("verify_key_init", json!(URL_SAFE_NO_PAD.encode([8; 32])))), 409).await;
    plane.expect("PUT", PATH, None, 405).await;
}
