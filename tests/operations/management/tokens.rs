//! API tokens: several at a time, rotated without a gap, expired, and revoked, with and without a running server.

use dapbox::{
    model::{Time, TokenHash},
    store::api_token::ApiToken,
    support::clock,
};
use serde_json::Value;

use super::control_plane::{ControlPlane, managed, new_token, token};
use crate::common::Node;

async fn is_taken(node: &Node, token: &str) -> bool {
    let plane = ControlPlane { url: format!("http://{}/api", node.config.listen), token: token.to_owned() };
    match plane.send("GET", "", None).await.status().as_u16() {
        200 => true,
        401 => false,
        status => panic!("{status}"),
    }
}

fn listed(node: &Node) -> Vec<Value> {
    serde_json::from_str(&token(node, &["list", "-o", "json"]).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn replaces_token_without_gap() {
    let mut node = managed(|_| {}).await;
    let old = new_token(&node, "old");
    assert!(is_taken(&node, &old).await && !is_taken(&node, "").await);
    let new = new_token(&node, "new");
    assert!(is_taken(&node, &old).await && is_taken(&node, &new).await);
    let tokens = listed(&node);
    assert_eq!(tokens.len(), 2, "{tokens:?}");
    assert!(tokens.iter().all(|token| token["last_used"].is_u64() && token["until"].is_null()), "{tokens:?}");
    assert!(!format!("{tokens:?}").contains(&old));
    let again = token(&node, &["new", "new"]).unwrap_err();
    assert!(again.contains("already"), "{again}");

    token(&node, &["revoke", "old"]).unwrap();
    assert!(!is_taken(&node, &old).await && is_taken(&node, &new).await);
    node.restart().await;
    assert!(!is_taken(&node, &old).await && is_taken(&node, &new).await);
    let unknown = token(&node, &["revoke", "old"]).unwrap_err();
    assert!(unknown.contains("does not exist"), "{unknown}");

    // Without a server.
    node.stop().await;
    let third = new_token(&node, "third");
    token(&node, &["revoke", "new"]).unwrap();
    assert_eq!(listed(&node).len(), 1);
    node.resume().await;
    assert!(!is_taken(&node, &new).await && is_taken(&node, &third).await);
    // No file contains a token.
    for entry in std::fs::read_dir(node.data_dir().join("tables")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        for token in [&old, &new, &third] {
            assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_expired_token_and_frees_its_slot() {
    let node = managed(|_| {}).await;
    let add = async |name: &str, until: u64| {
        let token = ApiToken {
            name: name.to_owned(),
            hash: TokenHash::of(format!("{name} {until}").as_bytes()),
            created: Time(1),
            until: Some(Time(until)),
        };
        let control = reqwest::Client::builder().unix_socket(node.config.control_socket()).build().unwrap();
        control.post("http://control/api_tokens").json(&token).send().await.unwrap().status().as_u16()
    };
    let (past, future) = (clock::now().0 - 1, clock::now().0 + 3600);
    assert_eq!(add("a", past).await, 201);
    assert_eq!(add("b", future).await, 201);
    assert_eq!(
        (is_taken(&node, &format!("a {past}")).await, is_taken(&node, &format!("b {future}")).await),
        (false, true)
    );
    // Its name is free again.
    assert_eq!((add("a", future).await, add("a", future).await, listed(&node).len()), (201, 201, 2));
    assert_eq!((add("a", future + 1).await, add("a/b", future).await), (409, 400));
    for n in 2..dapbox::store::api_token::MAX_API_TOKENS {
        assert_eq!(add(&format!("n{n}"), future).await, 201);
    }
    assert_eq!(add("last", future).await, 409);

    let made = token(&node, &["new", "-x"]).unwrap_err();
    assert!(made.contains("-x"), "{made}");
    let text = token(&node, &["revoke", "b"]).unwrap();
    assert!(text.contains("revoked"), "{text}");
    let text = token(&node, &["new", "b", "--expires-in", "1h"]).unwrap();
    assert!(text.contains("SECRET") && text.contains("until 20"), "{text}");
}
