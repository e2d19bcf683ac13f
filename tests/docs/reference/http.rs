//! The HTTP resources, queried from a running server.

use dapbox::{
    config::{Config, OptionalAddress},
    model::{Time, TokenHash},
    server::Server,
    store::api_token::ApiToken,
    wire::{current, dap09, management},
};
use tempfile::TempDir;

use super::{code, table};

/// Identifiers in paths.
const TASK: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const JOB: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A resource below a revision's path: client, request type, response type.
type Row = (&'static str, &'static str, &'static str, &'static str);

/// DAP-09's resources.
const DAP09: [Row; 5] = [
    ("hpke_config", "clients", "", dap09::resources::media::HPKE_CONFIG_LIST),
    ("tasks/{task}/reports", "clients, at the leader", dap09::resources::media::REPORT, ""),
    (
        "tasks/{task}/aggregation_jobs/{job}",
        "the leader, at the helper",
        dap09::resources::media::AGGREGATION_JOB_INIT_REQ,
        dap09::resources::media::AGGREGATION_JOB_RESP,
    ),
    (
        "tasks/{task}/collection_jobs/{job}",
        "the collector, at the leader",
        dap09::resources::media::COLLECT_REQ,
        dap09::resources::media::COLLECTION,
    ),
    (
        "tasks/{task}/aggregate_shares",
        "the leader, at the helper",
        dap09::resources::media::AGGREGATE_SHARE_REQ,
        dap09::resources::media::AGGREGATE_SHARE,
    ),
];

/// DAP-18's resources.
const DAP18: [Row; 8] = [
    ("hpke_config", "clients", "", current::resources::media::HPKE_CONFIG_LIST),
    (
        "tasks/{task}/reports",
        "clients, at the leader",
        current::resources::media::UPLOAD_REQ,
        current::resources::media::UPLOAD_ERRORS,
    ),
    (
        "tasks/{task}/aggregation_jobs",
        "the leader, at the helper",
        current::resources::media::AGGREGATION_JOB_INIT_REQ,
        current::resources::media::AGGREGATION_JOB_RESP,
    ),
    (
        "tasks/{task}/aggregation_jobs/{job}",
        "the leader, at the helper",
        current::resources::media::AGGREGATION_JOB_CONTINUE_REQ,
        current::resources::media::AGGREGATION_JOB_RESP,
    ),
    (
        "tasks/{task}/collection_jobs",
        "the collector, at the leader",
        current::resources::media::COLLECTION_JOB_REQ,
        current::resources::media::COLLECTION_JOB_RESP,
    ),
    (
        "tasks/{task}/collection_jobs/{job}",
        "the collector, at the leader",
        "",
        current::resources::media::COLLECTION_JOB_RESP,
    ),
    (
        "tasks/{task}/aggregate_shares",
        "the leader, at the helper",
        current::resources::media::AGGREGATE_SHARE_REQ,
        current::resources::media::AGGREGATE_SHARE,
    ),
    (
        "tasks/{task}/aggregate_shares/{job}",
        "the leader, at the helper",
        "",
        current::resources::media::AGGREGATE_SHARE,
    ),
];

/// The management API's resources: request, response.
const MANAGEMENT: [(&str, &str, &str); 9] = [
    ("", "", "the aggregator's identity and features"),
    ("tasks", "a task", "the task; from a helper, with the leader's token"),
    ("tasks/{task}", "PATCH: a new end", "the task"),
    ("task_ids?pagination_token=", "", "the task IDs after the token, in order"),
    ("tasks/{task}/metrics/uploads", "", "counters of uploads"),
    ("tasks/{task}/metrics/aggregations", "", "counters of aggregation"),
    ("hpke_configs", "PUT: algorithms, or nothing", "HPKE keys with their states; PUT: the new pending key"),
    ("hpke_configs/{key}", "PATCH: a state", "the key"),
    ("taskprov/peer_aggregators", "POST: a peer; DELETE: its endpoint and role", "taskprov peers; POST: the peer"),
];

/// The resources of the monitoring listener.
const PRIVATE: [(&str, &str); 5] = [
    ("/", "the status page"),
    ("/status.json", "the same as JSON; `dapbox status -o json` prints it too"),
    ("/metrics", "metrics"),
    ("/healthz", "200 while the process works; 503, with the reason, if only a restart helps"),
    ("/readyz", "200 while the server is ready; 503, with the reasons, otherwise, which can be temporary"),
];

/// A running server.
pub struct Served {
    server: Server,
    _dir: TempDir,
}

impl Served {
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let mut config = Config { data_dir: dir.path().join("data"), listen: anywhere, ..Config::default() };
        config.monitor.listen = OptionalAddress(Some(anywhere));
        (config.public_url, config.management.path) = ("https://dap.example.org".to_owned(), "/api".to_owned());
        let socket = config.control_socket();
        let server = Server::start(config).await.unwrap();
        let token = ApiToken { name: "docs".to_owned(), hash: TokenHash::of(b"token"), created: Time(1), until: None };
        let control = reqwest::Client::builder().unix_socket(socket).build().unwrap();
        control.post("http://control/api_tokens").json(&token).send().await.unwrap().error_for_status().unwrap();
        Self { server, _dir: dir }
    }

    pub async fn stop(self) {
        self.server.stop().await.unwrap();
    }

    /// The allowed methods of a resource.
    async fn methods(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.server.address());
        let answer = reqwest::Client::builder().no_proxy().build().unwrap().patch(&url).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{url} is no resource");
        answer.headers()["allow"].to_str().unwrap().to_owned()
    }

    /// The allowed methods of a resource of the management API.
    async fn managed(&self, path: &str) -> String {
        let url = format!("http://{}/api/{path}", self.server.address());
        let request = reqwest::Client::builder().no_proxy().build().unwrap().request(reqwest::Method::OPTIONS, &url);
        let request = request.bearer_auth("token").header("accept", management::MEDIA_TYPE);
        let answer = request.send().await.unwrap();
        let allowed = answer.headers().get("allow").map(|allowed| allowed.to_str().unwrap().to_owned());
        assert!(allowed.is_some() || answer.status() == 404, "{url} is no resource");
        allowed.unwrap_or_default()
    }

    /// The management API.
    async fn management(&self) -> String {
        let mut rows = Vec::new();
        for (path, sent, answered) in MANAGEMENT {
            let methods = self.managed(path).await;
            rows.push(vec![code(&format!("/{path}")), methods, sent.to_owned(), answered.to_owned()]);
        }
        format!(
            "The management API is below `management.path` at `listen`, or at the root of `management.listen`. Requests need \
            `Authorization: Bearer` with a token of `dapbox token` (otherwise 401). Bodies are JSON of type `{}`, which \
            `Accept` must name (otherwise 406), and `Content-Type` with POST and PATCH (otherwise 415). Creating a task is \
            idempotent. A different task with the same verification key is answered 409, and so is a removed task.\n\n{}",
            management::MEDIA_TYPE,
            table(&["path", "methods", "request", "response"], rows)
        )
    }

    /// A response of the monitoring listener.
    async fn watched(&self, path: &str) -> reqwest::Response {
        let url = format!("http://{}{path}", self.server.monitor_address().unwrap());
        let answer = reqwest::Client::builder().no_proxy().build().unwrap().get(&url).send().await.unwrap();
        assert!(answer.status().is_success(), "{url}: {}", answer.status());
        answer
    }

    /// The resources of the monitoring listener.
    pub async fn private(&self) -> String {
        let mut rows = Vec::new();
        for (path, what) in PRIVATE {
            let answer = self.watched(path).await;
            let media = answer.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
            rows.push(vec![code(path), code(&media), what.to_owned()]);
        }
        format!(
            "The listener `monitor.listen` serves plain HTTP without authentication: keep it on a loopback address. There it \
            answers only to `localhost` or its literal address, so that no web site can read it through a browser. It is \
            read-only.\n\n{}",
            table(&["path", "type", "content"], rows)
        )
    }

    /// All metrics.
    pub async fn metrics(&self) -> String {
        let text = self.watched("/metrics").await.text().await.unwrap();
        let (mut rows, mut help) = (Vec::new(), "");
        for line in text.lines() {
            if let Some(text) = line.strip_prefix("# HELP ") {
                help = text.split_once(' ').map_or("", |(_, help)| help);
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                rows.push(vec![code(name), kind.to_owned(), help.to_owned()]);
            }
        }
        assert!(rows.len() > 20, "{text}");
        format!(
            "At `/metrics` of the monitoring listener, in the Prometheus and OpenMetrics formats.\n\n{}",
            table(&["name", "type", "meaning"], rows)
        )
    }

    /// All resources.
    pub async fn resources(&self) -> String {
        let mut rows = Vec::new();
        for (prefix, resources) in [("/dap-09/", &DAP09[..]), ("/dap-18/", &DAP18[..])] {
            for (path, who, sent, answered) in resources {
                let path = format!("{prefix}{path}");
                let methods = self.methods(&path.replace("{task}", TASK).replace("{job}", JOB)).await;
                rows.push(vec![code(&path), methods, (*who).to_owned(), code(sent), code(answered)]);
            }
        }
        format!(
            "All resources are below `/dap-09/` or `/dap-18/` at `listen`. `/` and these two paths themselves serve a page for \
            people. `hpke_config` and `reports` support browsers (CORS), also in errors. Leader and collector authenticate \
            with a token in `Authorization: Bearer` or `DAP-Auth-Token`; a wrong or missing one is answered 403. IDs are \
            base64url without padding.\n\n{}",
            table(&["path", "methods", "used by", "request", "response"], rows)
        ) + "\n"
            + self.management().await.as_str()
    }
}
