//! A control plane that behaves as Divvi Up's.

use std::process::{Command, Stdio};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dapbox::{
    config::Config,
    hpke::{Keypair, Suite},
    model::{self, BatchMode, Party, Revision, Secret, Task, TaskId, TaskParameters, Time, TokenHash, VdafConfig},
    wire::management::MEDIA_TYPE,
};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::common::{Node, Parties};

/// A node whose management API is at `/api` of its public URL.
pub async fn managed(change: impl FnOnce(&mut Config)) -> Node {
    let mut node = Node::start_with(|config| {
        config.public_url = "http://127.0.0.1".to_owned();
        config.management.path = "/api".to_owned();
        config.provisioning.min_batch_size = 1;
        (config.leader.min_job_size, config.leader.max_job_delay) = (1, dapbox::config::Seconds::millis(50));
        change(config);
    })
    .await;
    node.config.public_url = format!("http://{}", node.config.listen);
    node.restart().await;
    node
}

/// Runs `dapbox token …` on a node's data directory.
pub fn token(node: &Node, arguments: &[&str]) -> Result<String, String> {
    run(&[&["token"], arguments, &["--data-dir", node.config.data_dir.to_str().unwrap()]].concat())
}

/// Runs `dapbox`; returns its output or its error.
pub fn run(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    let output = command.args(arguments).env_remove("DAPBOX_CONFIG").stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Creates an API token.
pub fn new_token(node: &Node, name: &str) -> String {
    let made = token(node, &["new", name, "-o", "json"]).unwrap();
    let made: Value = serde_json::from_str(&made).unwrap();
    made["token"].as_str().unwrap().to_owned()
}

/// The access of a control plane to an aggregator.
pub struct ControlPlane {
    pub url: String,
    pub token: String,
}

impl ControlPlane {
    /// Pairs with a node.
    pub fn of(node: &Node) -> Self {
        Self { url: format!("http://{}/api", node.config.listen), token: new_token(node, "control-plane") }
    }

    /// Sends a request exactly as given.
    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let method: Method = method.parse().unwrap();
        let mut request =
            reqwest::Client::builder().no_proxy().build().unwrap().request(method, format!("{}{path}", self.url));
        request = request.bearer_auth(&self.token).header("accept", MEDIA_TYPE);
        if let Some(body) = body {
            request = request.header("content-type", MEDIA_TYPE).body(body.to_string());
        }
        request.send().await.unwrap()
    }

    /// Gets a resource that must exist.
    #[track_caller]
    pub fn get(&self, path: &str) -> impl Future<Output = Value> {
        self.expect("GET", path.to_owned(), None, 200)
    }

    /// Sends a request and asserts its status. The answer has the API's media type, unless it is a problem or empty.
    #[track_caller]
    pub fn expect(
        &self,
        method: &'static str,
        path: impl Into<String>,
        body: Option<Value>,
        status: u16,
    ) -> impl Future<Output = Value> {
        let (path, place) = (path.into(), std::panic::Location::caller());
        async move {
            let answer = self.send(method, &path, body.as_ref()).await;
            let (found, media_type) = (answer.status().as_u16(), answer.headers().get("content-type").cloned());
            assert_eq!(answer.headers()["cache-control"], "no-store");
            let text = answer.text().await.unwrap();
            assert_eq!(found, status, "{place}: {text}");
            let wanted = if status < 300 { MEDIA_TYPE } else { "application/problem+json" };
            if text.is_empty() {
                return Value::Null;
            }
            assert_eq!(media_type.unwrap(), wanted, "{place}");
            serde_json::from_str(&text).unwrap()
        }
    }
}

/// A task that a control plane is about to provision: generated values and settings of the account's owner.
pub struct Draft {
    pub verify_key: Secret,
    pub collector_token: Secret,
    pub keypair: Keypair,
    pub query_type: Value,
    pub vdaf: Value,
    pub end: Option<u64>,
}

impl Draft {
    pub fn new(query_type: Value, vdaf: Value) -> Self {
        let keypair = Keypair::generate(7, Suite::DEFAULT).unwrap();
        let (verify_key, collector_token) = (Secret::random(16), Secret::random_token());
        Self { verify_key, collector_token, keypair, query_type, vdaf, end: None }
    }

    pub fn count() -> Self {
        Self::new(json!("TimeInterval"), json!("Prio3Count"))
    }

    /// SHA-256 of the verification key.
    pub fn id(&self) -> TaskId {
        TaskId::new(*TokenHash::of(self.verify_key.expose()).as_bytes())
    }

    fn request(&self, role: &str, peer: &str) -> Value {
        let config = self.keypair.config();
        json!({
            "peer_aggregator_endpoint": peer,
            "query_type": self.query_type,
            "vdaf": self.vdaf,
            "role": role,
            "max_batch_query_count": 1,
            "task_expiration": self.end,
            "min_batch_size": 3,
            "time_precision": 3600,
            "collector_hpke_config": {
                "id": config.id,
                "kem_id": "X25519HkdfSha256",
                "kdf_id": "HkdfSha256",
                "aead_id": "Aes128Gcm",
                "public_key": URL_SAFE_NO_PAD.encode(&config.public_key),
            },
            "vdaf_verify_key": URL_SAFE_NO_PAD.encode(self.verify_key.expose()),
        })
    }

    /// The request to the helper.
    pub fn for_helper(&self, leader: &str) -> Value {
        self.request("Helper", leader)
    }

    /// The following request to the leader.
    pub fn for_leader(&self, helper: &str, helper_token: &Value) -> Value {
        let mut request = self.request("Leader", helper);
        request["aggregator_auth_token"] = helper_token.clone();
        let hash = TokenHash::of(self.collector_token.expose()).to_string();
        request["collector_auth_token_hash"] = json!({ "type": "Bearer", "hash": hash });
        request
    }

    /// The parties of the provisioned task, as clients and the collector see them.
    pub fn parties(&self, mode: BatchMode, vdaf: VdafConfig, urls: [&str; 2], helper_token: &Value) -> Parties {
        let token = |text: &str| Secret::new(text.as_bytes().to_vec());
        let helper_token = token(helper_token["token"].as_str().unwrap());
        let [leader_url, helper_url] = urls.map(str::to_owned);
        let public = TaskParameters {
            id: self.id(),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url,
            helper_url,
            batch_mode: mode,
            vdaf,
            min_batch_size: 3,
            time_precision: model::Duration(3600),
            task_expiration: self.end.map(Time),
            task_interval: None,
            noise: None,
        };
        let collector_token = TokenHash::of(self.collector_token.expose());
        let leader = Task {
            public,
            verify_key: self.verify_key.clone(),
            verify_key_id: 0,
            max_batch_query_count: 1,
            report_expiry_age: None,
            collector_hpke_config: self.keypair.config().clone(),
            party: Party::Leader { helper_token: helper_token.clone(), collector_token },
        };
        let leader_token = TokenHash::of(helper_token.expose());
        Parties {
            helper: Task { party: Party::Helper { leader_token }, ..leader.clone() },
            leader,
            helper_token,
            collector_token: self.collector_token.clone(),
            keypair: self.keypair.clone(),
        }
    }
}
