//! Rejected requests, the order of checks, and the reasons.

use dapbox::{
    config::{Config, OptionalAddress, Provisioning, Seconds},
    model::{Epsilon, Secret},
    wire::management::{MEDIA_TYPE, read_task},
};
use reqwest::Method;
use serde_json::{Value, json};

use super::control_plane::{ControlPlane, Draft, managed, new_token};
use crate::common::{Node, tls::Authority};

const HELPER_REQUEST: &str = include_str!("../../../fixtures/management/helper_request.json");
const HELPER_ANSWER: &str = include_str!("../../../fixtures/management/helper_answer.json");
const LEADER_REQUEST: &str = include_str!("../../../fixtures/management/leader_request.json");
const LEADER_ANSWER: &str = include_str!("../../../fixtures/management/leader_answer.json");

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn returns_task_as_posted() {
    for (request, answer, own) in [
        (HELPER_REQUEST, HELPER_ANSWER, ["aggregator_auth_token", "Bearer"]),
        (LEADER_REQUEST, LEADER_ANSWER, ["", ""]),
    ] {
        let node = managed(|_| {}).await;
        let plane = ControlPlane::of(&node);
        let mut told = plane.expect("POST", "/tasks", Some(read(request)), 200).await;
        let told = told.as_object_mut().unwrap();
        let token = told.remove("aggregator_auth_token").unwrap();
        assert_eq!(token["type"].as_str().unwrap_or_default(), own[1]);
        let keys = told.remove("aggregator_hpke_configs").unwrap();
        assert_eq!(keys[0]["kem_id"], "X25519HkdfSha256");
        assert_eq!(Value::from(told.clone()), read(answer));
    }
}

/// Noise and time windows are permitted for both roles.
#[tokio::test(flavor = "multi_thread")]
async fn returns_noise_and_time_windows() {
    let laplace = json!({ "dp_strategy": "PureDpDiscreteLaplace", "budget": { "epsilon": [[1], [3, 7]] } });
    let windows = json!({ "FixedSize": { "max_batch_size": 500, "batch_time_window_size": 7200 } });
    for request in [HELPER_REQUEST, LEADER_REQUEST] {
        let node = managed(|_| {}).await;
        let plane = ControlPlane::of(&node);
        for (name, parameters) in [
            ("Prio3Histogram", json!({ "length": 4, "chunk_length": 2 })),
            ("Prio3SumVec", json!({ "bits": 2, "length": 4, "chunk_length": 2 })),
            (
                "Prio3SumVecField64MultiproofHmacSha256Aes128",
                json!({ "bits": 2, "length": 4, "chunk_length": 2, "proofs": 2 }),
            ),
        ] {
            let mut request = read(request);
            let mut parameters = parameters;
            parameters["dp_strategy"] = laplace.clone();
            let is_hmac = name.contains("Hmac");
            let key = if is_hmac { Secret::random(32) } else { Secret::random(16) };
            (request["vdaf"], request["query_type"]) = (json!({ name: parameters }), windows.clone());
            request["vdaf_verify_key"] = json!(key);
            let told = plane.expect("POST", "/tasks", Some(request.clone()), 200).await;
            assert_eq!((&told["vdaf"], &told["query_type"]), (&request["vdaf"], &request["query_type"]));
            let id = told["task_id"].as_str().unwrap();
            assert_eq!(plane.get(&format!("/tasks/{id}")).await["vdaf"], request["vdaf"]);
            let status = node.status(&id.parse().unwrap()).await;
            assert_eq!(status.noise, Epsilon::new(1, 3 + (7 << 32)));
            // The same request again is the same task; without noise it is another one.
            plane.expect("POST", "/tasks", Some(request.clone()), 200).await;
            request["vdaf"][name].as_object_mut().unwrap().remove("dp_strategy");
            plane.expect("POST", "/tasks", Some(request), 409).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_token_then_media_types() {
    let node = managed(|_| {}).await;
    let plane = ControlPlane::of(&node);
    let wrong = format!("{}x", plane.token);
    let good = format!("Bearer {}", plane.token);
    let json_type = "application/json";
    // Token, Accept, Content-Type, method, path: status.
    type Headers<'a> = [Option<&'a str>; 3];
    let cases: [(Headers<'_>, &str, &str, u16); 15] = [
        ([None, None, None], "GET", "", 401),
        ([Some("Bearer "), Some(MEDIA_TYPE), None], "GET", "", 401),
        ([Some(&format!("Bearer {wrong}")), None, None], "POST", "/nowhere", 401),
        ([Some(&format!("Basic {}", plane.token)), Some(MEDIA_TYPE), None], "GET", "", 401),
        ([Some(&good), None, None], "GET", "", 406),
        ([Some(&good), Some(json_type), None], "POST", "/nowhere", 406),
        ([Some(&good), Some("application/vnd.janus.aggregator+json; version=0.1"), None], "GET", "", 406),
        ([Some(&good), Some(MEDIA_TYPE), None], "POST", "/nowhere", 415),
        ([Some(&good), Some(MEDIA_TYPE), Some(json_type)], "PATCH", "/tasks/x", 415),
        ([Some(&good), Some(MEDIA_TYPE), Some(json_type)], "PUT", "/hpke_configs", 415),
        ([Some(&good), Some(MEDIA_TYPE), None], "GET", "/nowhere", 404),
        ([Some(&good), Some(MEDIA_TYPE), None], "GET", "/taskprov/peers", 404),
        ([Some(&good), Some(MEDIA_TYPE), None], "DELETE", "/tasks", 405),
        ([Some(&good), Some(MEDIA_TYPE), None], "GET", "/", 200),
        ([Some(&good), Some(MEDIA_TYPE), None], "HEAD", "/", 200),
    ];
    for (headers, method, path, status) in cases {
        let mut request = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .request(method.parse::<Method>().unwrap(), format!("{}{path}", plane.url));
        for (name, value) in ["authorization", "accept", "content-type"].into_iter().zip(headers) {
            request = value.into_iter().fold(request, |request, value| request.header(name, value));
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path} {headers:?}");
        assert_eq!(answer.headers().contains_key("www-authenticate"), status == 401);
        assert_eq!(answer.headers().contains_key("allow"), status == 405);
        let wanted = if status == 200 { MEDIA_TYPE } else { "application/problem+json" };
        assert_eq!(answer.headers()["content-type"], wanted);
    }
    // Tokens of the protocol's parties are invalid here, and so is the protocol's header.
    let request = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .get(&plane.url)
        .header("dap-auth-token", &plane.token)
        .header("accept", MEDIA_TYPE);
    assert_eq!(request.send().await.unwrap().status(), 401);
}

/// A valid request with one member changed.
fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut request = Draft::count().for_helper("https://leader.example");
    change(&mut request);
    request
}

fn vdaf(name: &str, parameters: Value) -> Value {
    with(|request| request["vdaf"] = json!({ name: parameters }))
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_task_with_reason() {
    let node = managed(|_| {}).await;
    let plane = ControlPlane::of(&node);
    let laplace = json!({
        "dp_strategy": "PureDpDiscreteLaplace",
        "budget": { "epsilon": [[0], [1]] },
    });
    let token = json!({ "type": "Bearer", "token": "abc" });
    let hash = json!({ "type": "Bearer", "hash": "TRVmodffQqhRdFbWDqBu0oTlNc_kyVaqbuFy2835Rfc" });
    let leader = |token: Option<&Value>, hash: Option<&Value>| {
        with(|request| {
            request["role"] = json!("Leader");
            token.into_iter().for_each(|token| request["aggregator_auth_token"] = token.clone());
            hash.into_iter().for_each(|hash| request["collector_auth_token_hash"] = hash.clone());
        })
    };
    let cases = [
        (json!([]), "invalid body"),
        (with(|request| drop(request.as_object_mut().unwrap().remove("min_batch_size"))), "min_batch_size"),
        (with(|request| request["role"] = json!("Collector")), "Collector"),
        (with(|request| request["peer_aggregator_endpoint"] = json!("leader.example")), "peer_aggregator_endpoint"),
        (with(|request| request["peer_aggregator_endpoint"] = json!("https://leader.example/?x")), "query"),
        (with(|request| request["peer_aggregator_endpoint"] = json!("https://u:p@leader.example/")), "password"),
        (with(|request| request["vdaf_verify_key"] = json!("AAAA")), "verification key"),
        (with(|request| request["vdaf_verify_key"] = json!("not base64")), "base64url"),
        (with(|request| request["min_batch_size"] = json!(0)), "provisioning.min_batch_size"),
        (with(|request| request["time_precision"] = json!(0)), "time precision"),
        (with(|request| request["task_expiration"] = json!(-1)), "-1"),
        (with(|request| request["max_batch_query_count"] = json!(0)), "query count"),
        (with(|request| request["collector_hpke_config"]["aead_id"] = json!("Rot13")), "Rot13"),
        (with(|request| request["collector_hpke_config"]["public_key"] = json!("AAAA")), "collector HPKE"),
        (with(|request| request["query_type"] = json!("LeaderSelected")), "LeaderSelected"),
        (
            with(|request| {
                let window = json!({ "FixedSize": { "max_batch_size": null, "batch_time_window_size": 1 } });
                request["query_type"] = window;
            }),
            "batch time window must be a multiple",
        ),
        (vdaf("Prio3CountVec", json!({ "length": 4 })), "Prio3CountVec"),
        (vdaf("Prio3L1BoundSum", json!({ "max_value": 3, "length": 4, "chunk_length": 2 })), "Prio3L1BoundSum"),
        (vdaf("Prio3Sum", json!({ "bits": 65 })), "VDAF"),
        (vdaf("Prio3Histogram", json!({ "length": 0, "chunk_length": 1 })), "VDAF"),
        (vdaf("Prio3Histogram", json!({ "length": 4, "chunk_length": null })), "null"),
        (
            vdaf("Prio3Histogram", json!({ "length": 4, "chunk_length": 2, "dp_strategy": laplace })),
            "positive fraction",
        ),
        (with(|request| request["aggregator_auth_token"] = token.clone()), "a helper generates aggregator_auth_token"),
        (with(|request| request["collector_auth_token_hash"] = hash.clone()), "a helper does not use"),
        (leader(None, Some(&hash)), "a leader needs aggregator_auth_token"),
        (leader(Some(&token), None), "a leader needs collector_auth_token_hash"),
        (leader(Some(&json!({ "type": "Bearer", "token": "a b" })), Some(&hash)), "invalid token: only letters"),
        (leader(Some(&json!({ "type": "DapAuth", "token": "ab" })), Some(&hash)), "DapAuth"),
    ];
    for (request, why) in cases {
        let problem = plane.expect("POST", "/tasks", Some(request.clone()), 400).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(why), "{request}\n{detail}");
    }
    for change in [json!({ "task_expiration": "soon" }), json!({ "task_expiration": [] }), json!([])] {
        plane.expect("PATCH", format!("/tasks/{}", Draft::count().id()), Some(change), 400).await;
    }
    plane.expect("GET", "/tasks/short", None, 400).await;
    assert_eq!(plane.get("/task_ids").await, json!({ "task_ids": [] }), "something was set up all the same");

    // The same verification key with any other value is another task.
    let draft = Draft::count();
    let first = draft.for_helper("https://leader.example/");
    plane.expect("POST", "/tasks", Some(first.clone()), 200).await;
    for (name, value) in [
        ("peer_aggregator_endpoint", json!("https://other.example/")),
        ("vdaf", json!({ "Prio3Sum": { "bits": 8 } })),
        ("min_batch_size", json!(2)),
        ("task_expiration", json!(5)),
        ("query_type", json!({ "FixedSize": { "max_batch_size": null } })),
    ] {
        let mut other = first.clone();
        other[name] = value;
        plane.expect("POST", "/tasks", Some(other), 409).await;
    }
    let mut as_leader = draft.for_leader("https://leader.example/", &token);
    as_leader["peer_aggregator_endpoint"] = first["peer_aggregator_endpoint"].clone();
    plane.expect("POST", "/tasks", Some(as_leader), 409).await;

    let long = with(|request| request["peer_aggregator_endpoint"] = json!(format!("https://{}/", "x".repeat(70_000))));
    plane.expect("POST", "/tasks", Some(long), 413).await;
}

/// Control planes add members over time. An aggregator that does not know them provisions the task without them.
#[tokio::test(flavor = "multi_thread")]
async fn ignores_unknown_members() {
    let node = managed(|_| {}).await;
    let plane = ControlPlane::of(&node);
    for request in [HELPER_REQUEST, LEADER_REQUEST] {
        let mut known = read(request);
        known["vdaf_verify_key"] = json!(Secret::random(16));
        known["vdaf"] = json!({ "Prio3Histogram": {
            "length": 4, "chunk_length": 2,
            "dp_strategy": { "dp_strategy": "PureDpDiscreteLaplace", "budget": { "epsilon": [[1], [3]] } },
        } });
        known["query_type"] = json!({ "FixedSize": { "max_batch_size": 500 } });
        let mut more = known.clone();
        let mut paths = vec![
            "/new",
            "/query_type/FixedSize/new",
            "/vdaf/Prio3Histogram/new",
            "/vdaf/Prio3Histogram/dp_strategy/new",
            "/vdaf/Prio3Histogram/dp_strategy/budget/new",
            "/collector_hpke_config/new",
        ];
        if known["role"] == "Leader" {
            paths.extend(["/aggregator_auth_token/new", "/collector_auth_token_hash/new"]);
        }
        for path in &paths {
            let (parent, name) = path.rsplit_once('/').unwrap();
            more.pointer_mut(parent).unwrap()[name] = json!({ "anything": [1] });
        }
        let mut ignored = Vec::new();
        read_task(more.to_string().as_bytes(), &mut |path| ignored.push(path.to_owned())).unwrap();
        // Names of variants are not part of a path.
        let expected =
            |path: &&str| path.replace("/FixedSize", "").replace("/Prio3Histogram", "")[1..].replace('/', ".");
        let mut expected: Vec<_> = paths.iter().map(expected).collect();
        ignored.sort();
        expected.sort();
        assert_eq!(ignored, expected);
        let told = plane.expect("POST", "/tasks", Some(more), 200).await;
        assert_eq!(plane.expect("POST", "/tasks", Some(known), 200).await, told, "it is the same task");

        let task = format!("/tasks/{}", told["task_id"].as_str().unwrap());
        let change = json!({ "task_expiration": 1_900_000_000_u64, "new": 1 });
        let changed = plane.expect("PATCH", &task, Some(change), 200).await;
        assert_eq!(changed["task_expiration"], 1_900_000_000_u64);
        plane.expect("PATCH", &task, Some(json!({ "new": 1 })), 200).await;
    }
}

#[test]
fn bounds_reading_of_body() {
    let request = LEADER_REQUEST.as_bytes();
    assert!(read_task(request, &mut |_| {}).is_ok());
    for end in 0..request.trim_ascii_end().len() {
        assert!(read_task(&request[..end], &mut |_| {}).is_err(), "{end}");
    }
    let deep = "[".repeat(60_000);
    assert!(read_task(deep.as_bytes(), &mut |_| {}).is_err());
}

/// The operator sets the minimum, which is not low by default. Existing tasks are unaffected.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_too_small_min_batch_size() {
    let node = managed(|config| config.provisioning = Provisioning::default()).await;
    let plane = ControlPlane::of(&node);
    let order = |size: u64| {
        let mut order = Draft::count().for_helper("https://leader.example");
        order["min_batch_size"] = json!(size);
        order
    };
    let (few, enough) = (order(99), order(100));
    let refused = plane.expect("POST", "/tasks", Some(few.clone()), 400).await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("99 is below the minimum") && detail.contains("100"), "{detail}");
    let made = plane.expect("POST", "/tasks", Some(enough), 200).await;
    assert_eq!(made["report_expiry_age"], json!(30 * 86_400));

    let mut config = node.config.clone();
    config.listen = "127.0.0.1:0".parse().unwrap();
    (config.provisioning.min_batch_size, config.provisioning.report_expiry_age) = (99, Seconds::new(0));
    assert_eq!(node.server().reload(config).await.unwrap().changed.len(), 2);
    let made = plane.expect("POST", "/tasks", Some(few), 200).await;
    assert_eq!(made["report_expiry_age"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn is_off_by_default_and_listens_separately() {
    let off = Node::start().await;
    let asked = |url: String| {
        reqwest::Client::builder().no_proxy().build().unwrap().get(url).header("accept", MEDIA_TYPE).send()
    };
    for path in ["api", "task_ids"] {
        assert_eq!(asked(format!("http://{}/{path}", off.config.listen)).await.unwrap().status(), 404);
    }
    let root = asked(format!("http://{}/", off.config.listen)).await.unwrap();
    assert_eq!(root.headers()["content-type"], "text/html; charset=utf-8", "a page for people, and no API");
    assert_eq!(off.server().management_address(), None);

    let own = |config: &mut Config| {
        config.management.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
        config.management.path = String::new();
    };
    let node = managed(own).await;
    let address = node.server().management_address().unwrap();
    let plane = ControlPlane { url: format!("http://{address}"), token: new_token(&node, "own") };
    let configuration = plane.get("").await;
    assert_eq!(plane.get("/").await, configuration);
    let dap_url = configuration["dap_url"].as_str().unwrap();
    assert_eq!(asked(format!("{dap_url}hpke_config")).await.unwrap().status(), 200);
    plane.expect("POST", "/tasks", Some(Draft::count().for_helper("https://leader.example")), 200).await;
    // Neither is at the other's address.
    assert_eq!(asked(format!("http://{}/task_ids", node.config.listen)).await.unwrap().status(), 404);
    assert_eq!(asked(format!("http://{address}/dap-09/hpke_config")).await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_same_certificate_on_both_addresses() {
    let authority = Authority::new();
    let node = managed(|config| {
        authority.equip(config);
        config.management.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    })
    .await;
    let (token, http) = (new_token(&node, "secure"), authority.http().build().unwrap());
    let own = node.server().management_address().unwrap();
    for url in [format!("https://{}/api/", node.config.listen), format!("https://{own}/")] {
        let answer = http.get(&url).bearer_auth(&token).header("accept", MEDIA_TYPE).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
    }
}
