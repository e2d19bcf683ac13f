//! HPKE keys in the management API: they follow the server's lifecycle, whatever a control plane requests.

use dapbox::model::KeyState;
use serde_json::{Value, json};

use super::control_plane::{ControlPlane, managed};

fn ids(keys: &Value, state: &str) -> Vec<u64> {
    let is_it = |key: &&Value| key["state"] == state;
    keys.as_array().unwrap().iter().filter(is_it).map(|key| key["config"]["id"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_activates_rotates_and_deletes_key() {
    let node = managed(|config| config.hpke.post_quantum = true).await;
    let plane = ControlPlane::of(&node);
    // X-Wing has no name there.
    let keys = plane.get("/hpke_configs").await;
    assert_eq!((keys.as_array().unwrap().len(), node.key_ids(KeyState::Active).await.len()), (1, 2));
    let first = ids(&keys, "active")[0];
    let config = &keys[0]["config"];
    assert_eq!(
        ["kem_id", "kdf_id", "aead_id"].map(|name| config[name].as_str().unwrap()),
        ["X25519HkdfSha256", "HkdfSha256", "Aes128Gcm"]
    );
    assert_eq!(plane.get(&format!("/hpke_configs/{first}")).await, keys[0]);

    // A second request finds the pending key.
    let made = plane.expect("PUT", "/hpke_configs", Some(json!({ "kem_id": "X25519HkdfSha256" })), 201).await;
    assert_eq!(made["state"], "pending");
    assert_eq!(plane.expect("PUT", "/hpke_configs", None, 200).await, made);
    let other = json!({ "kem_id": "P256HkdfSha256" });
    let problem = plane.expect("PUT", "/hpke_configs", Some(other), 400).await;
    assert!(problem["detail"].as_str().unwrap().contains("[hpke]"), "{problem}");

    let (second, state) = (made["config"]["id"].as_u64().unwrap(), |state: &str| Some(json!({ "state": state })));
    let path = |id: u64| format!("/hpke_configs/{id}");
    plane.expect("PATCH", path(first), state("pending"), 409).await;
    assert_eq!(plane.expect("PATCH", path(second), state("pending"), 200).await, made);
    for _ in 0..2 {
        assert_eq!(plane.expect("PATCH", path(second), state("active"), 200).await["state"], "active");
    }
    let keys = plane.get("/hpke_configs").await;
    assert_eq!((ids(&keys, "active"), ids(&keys, "expired")), (vec![second], vec![first]));
    assert!(node.key_ids(KeyState::Active).await.contains(&u8::try_from(second).unwrap()));
    plane.expect("PATCH", path(first), state("active"), 409).await;
    plane.expect("PATCH", path(first), state("stolen"), 400).await;

    // One key is always active.
    assert_eq!(plane.expect("PATCH", path(second), state("expired"), 200).await["state"], "expired");
    assert_eq!(ids(&plane.get("/hpke_configs").await, "active").len(), 1);
    for _ in 0..2 {
        plane.expect("DELETE", path(first), None, 204).await;
    }
    plane.expect("GET", path(first), None, 404).await;
    plane.expect("PATCH", path(first), state("active"), 404).await;
    let known: Vec<_> = node.keys().await.iter().map(|key| u64::from(key.status.id)).collect();
    let unknown = (0..256).find(|id| !known.contains(id) && *id != first).unwrap();
    plane.expect("DELETE", path(unknown), None, 404).await;
    plane.expect("GET", "/hpke_configs/256", None, 400).await;
}
