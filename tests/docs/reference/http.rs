//! What a server answers to, asked from a server.

use dapbox::{
    config::{Config, OptionalAddress},
    server::Server,
    wire::{dap09, dap18},
};
use tempfile::TempDir;

use super::{code, table};

/// An id as it stands in a path.
const TASK: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const JOB: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A resource below a revision's path: who comes, what is sent, what is answered.
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
    ("hpke_config", "clients", "", dap18::resources::media::HPKE_CONFIG_LIST),
    (
        "tasks/{task}/reports",
        "clients, at the leader",
        dap18::resources::media::UPLOAD_REQ,
        dap18::resources::media::UPLOAD_ERRORS,
    ),
    (
        "tasks/{task}/aggregation_jobs",
        "the leader, at the helper",
        dap18::resources::media::AGGREGATION_JOB_INIT_REQ,
        dap18::resources::media::AGGREGATION_JOB_RESP,
    ),
    (
        "tasks/{task}/aggregation_jobs/{job}",
        "the leader, at the helper",
        dap18::resources::media::AGGREGATION_JOB_CONTINUE_REQ,
        dap18::resources::media::AGGREGATION_JOB_RESP,
    ),
    (
        "tasks/{task}/collection_jobs",
        "the collector, at the leader",
        dap18::resources::media::COLLECTION_JOB_REQ,
        dap18::resources::media::COLLECTION_JOB_RESP,
    ),
    (
        "tasks/{task}/collection_jobs/{job}",
        "the collector, at the leader",
        "",
        dap18::resources::media::COLLECTION_JOB_RESP,
    ),
    (
        "tasks/{task}/aggregate_shares",
        "the leader, at the helper",
        dap18::resources::media::AGGREGATE_SHARE_REQ,
        dap18::resources::media::AGGREGATE_SHARE,
    ),
    ("tasks/{task}/aggregate_shares/{job}", "the leader, at the helper", "", dap18::resources::media::AGGREGATE_SHARE),
];

/// The resources of the private listener.
const PRIVATE: [(&str, &str); 5] = [
    ("/", "the status page, for people"),
    ("/status.json", "the same for programs; also what `dapbox status -o json` prints"),
    ("/metrics", "metrics"),
    ("/healthz", "200 while the process works; 503, with the reason, if nothing but a restart helps"),
    ("/readyz", "200 while the server does its work; 503, with the reasons, if not: that may be over by itself"),
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
        Self { server: Server::start(config).await.unwrap(), _dir: dir }
    }

    pub async fn stop(self) {
        self.server.stop().await.unwrap();
    }

    /// The methods that a resource says it has.
    async fn methods(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.server.address());
        let answer = reqwest::Client::new().patch(&url).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{url} is no resource");
        answer.headers()["allow"].to_str().unwrap().to_owned()
    }

    /// What somebody who watches is answered.
    async fn watched(&self, path: &str) -> reqwest::Response {
        let url = format!("http://{}{path}", self.server.monitor_address().unwrap());
        let answer = reqwest::get(&url).await.unwrap();
        assert!(answer.status().is_success(), "{url}: {}", answer.status());
        answer
    }

    /// The resources of the private listener.
    pub async fn private(&self) -> String {
        let mut rows = Vec::new();
        for (path, what) in PRIVATE {
            let answer = self.watched(path).await;
            let media = answer.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
            rows.push(vec![code(path), code(&media), what.to_owned()]);
        }
        format!(
            "At `monitor.listen`, by plain HTTP, to whoever asks: there is no password, so keep it on a loopback address. There \
            it answers to `localhost` or its literal address only, so that no web site can read it through a browser. \
            Nothing can be changed here.\n\n{}",
            table(&["path", "is answered", "what it is"], rows)
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
            "At `/metrics` of the private listener, in the formats of Prometheus and OpenMetrics.\n\n{}",
            table(&["name", "type", "what it is"], rows)
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
            "Everything is below `/dap-09/` or `/dap-18/` at `listen`. `hpke_config` and `reports` answer browsers too (CORS), \
            with errors as well. Leader and collector show a token: `Authorization: Bearer`, or `DAP-Auth-Token`; without \
            the right one they are answered 403. Ids are base64url without padding.\n\n{}",
            table(&["path", "methods", "who", "sends", "is answered"], rows)
        )
    }
}
