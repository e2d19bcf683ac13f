//! `dapbox partner`: prints the values that a partner enters into its control plane, after a check from the partner's
//! side.

use std::{fs, path::Path, process::Command};

use dapbox::wire::management::MEDIA_TYPE;
use serde_json::{Value, json};

use crate::common::{Node, tls::Authority};

/// A node whose management API is at `/api`, with a certificate of the test's own authority, and its configuration
/// file.
struct Managed {
    node: Node,
    authority: Authority,
    file: std::path::PathBuf,
}

impl Managed {
    async fn start() -> Self {
        let authority = Authority::new();
        let mut node = Node::start_with(|config| {
            config.public_url = "https://127.0.0.1".to_owned();
            config.management.path = "/api".to_owned();
            authority.equip(config);
        })
        .await;
        node.config.public_url = format!("https://{}", node.config.listen);
        node.restart().await;
        let file = node.config.data_dir.with_extension("toml");
        let quoted = |path: &Path| json!(path).to_string();
        let text = format!(
            "data_dir = {}\npublic_url = {}\n[management]\npath = \"/api\"\n[tls]\nmode = \"files\"\ncertificate_file = {}\n\
             key_file = {}\n",
            quoted(&node.config.data_dir),
            json!(node.config.public_url),
            quoted(&node.config.tls.certificate_file),
            quoted(&node.config.tls.key_file),
        );
        fs::write(&file, text).unwrap();
        Self { node, authority, file }
    }

    /// Runs `dapbox` with that configuration; returns its exit code and output.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_with(&self.file, arguments).await
    }

    /// Runs it with another configuration.
    async fn run_with(&self, file: &Path, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
        command.args(arguments).arg("--config").arg(file).env_remove("DAPBOX_CONFIG");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Runs it with JSON output.
    async fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, out, error) = self.run(&[arguments, &["-o", "json"]].concat()).await;
        (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?}: {out}{error}")))
    }

    /// The names of the valid API tokens.
    async fn tokens(&self) -> Vec<String> {
        let (_, listed) = self.json(&["token", "list"]).await;
        listed.as_array().unwrap().iter().map(|token| token["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// The outcome of a check.
fn outcome<'a>(findings: &'a Value, name: &str) -> &'a str {
    let found = findings.as_array().unwrap().iter().find(|finding| finding["name"] == name);
    found.map_or("", |finding| finding["outcome"].as_str().unwrap())
}

const ALL: [&str; 7] =
    ["API URL", "public address", "certificate", "without a token", "with a token", "media types", "DAP URL"];

#[tokio::test(flavor = "multi_thread")]
async fn prints_working_invitation() {
    let managed = Managed::start().await;
    let ca = managed.authority.file();
    let trust = ["--private", "--ca-file", ca.to_str().unwrap()];

    let (code, report) = managed.json(&[&["partner", "check"], &trust[..]].concat()).await;
    for name in ALL {
        assert_eq!(outcome(&report["findings"], name), "ok", "{name}: {report:#}");
    }
    assert_eq!((code, report["not_checked"].as_array().unwrap().len()), (0, 3));
    assert_eq!(managed.tokens().await, [""; 0], "what was made for the check is gone");

    let (code, invitation) = managed.json(&[&["partner", "invite", "divviup"], &trust[..]].concat()).await;
    assert_eq!(code, 0, "{invitation}");
    let (url, token) = (invitation["api_url"].as_str().unwrap(), invitation["token"].as_str().unwrap());
    assert_eq!(url, format!("{}/api", managed.node.config.public_url));
    assert_eq!(invitation["form"]["API Url"], url);
    assert_eq!(managed.tokens().await, ["divviup"]);
    let http = managed.authority.http().build().unwrap();
    let ask = http.get(url).bearer_auth(token).header("accept", MEDIA_TYPE).send().await.unwrap();
    assert_eq!(ask.status(), 200);
    let told: Value = serde_json::from_str(&ask.text().await.unwrap()).unwrap();
    assert_eq!(told["dap_url"], invitation["dap_url"]);

    // With an existing token.
    let file = managed.file.with_extension("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let given = ["partner", "check", "--token-file", file.to_str().unwrap()];
    let (code, report) = managed.json(&[&given[..], &trust[..]].concat()).await;
    assert_eq!((code, outcome(&report["findings"], "with a token")), (0, "ok"), "{report:#}");
    // From another machine that has none of this server's files.
    let empty = managed.file.with_extension("empty");
    let nowhere = json!(managed.file.with_extension("nowhere"));
    fs::write(&empty, format!("data_dir = {nowhere}\n")).unwrap();
    let elsewhere = [&given[..], &["--api-url", url, "-o", "json"], &trust[..]].concat();
    let (code, out, error) = managed.run_with(&empty, &elsewhere).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    assert!(code == 0 && ALL.iter().all(|name| outcome(&report["findings"], name) == "ok"), "{report:#}");
    fs::write(&file, "another").unwrap();
    let (code, report) = managed.json(&[&given[..], &trust[..]].concat()).await;
    assert_eq!((code, outcome(&report["findings"], "with a token")), (1, "failed"), "{report:#}");

    let text = managed.run(&[&["partner", "invite", "next", "--expires-in", "30d"], &trust[..]].concat()).await.1;
    assert!(text.contains("divviup aggregator create") && text.contains("Not covered by these checks"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 90), "{text}");
    let mut node = managed.node;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_unreachable_public_url() {
    let mut managed = Managed::start().await;
    let ca = managed.authority.file();
    let ca = ca.to_str().unwrap().to_owned();

    // The address belongs to another server.
    let (code, report) = managed.json(&["partner", "invite", "divviup", "--ca-file", &ca]).await;
    assert_eq!((code, outcome(&report["findings"], "public address")), (1, "failed"), "{report:#}");
    assert!(report.get("token").is_none());
    // Its certificate authority is unknown.
    let (code, report) = managed.json(&["partner", "invite", "divviup", "--private"]).await;
    assert_eq!((code, outcome(&report["findings"], "certificate")), (1, "failed"), "{report:#}");
    assert_eq!(outcome(&report["findings"], "without a token"), "failed");
    // There is no server.
    let elsewhere = format!("{}/else", managed.node.config.public_url);
    let trust = ["--private", "--ca-file", &ca];
    let (code, report) = managed.json(&[&["partner", "check", "--api-url", &elsewhere], &trust[..]].concat()).await;
    assert_eq!((code, outcome(&report["findings"], "without a token")), (1, "failed"), "{report:#}");
    // Nothing secret is sent without TLS.
    let plain = elsewhere.replace("https://127.0.0.1", "http://0.0.0.0");
    let (code, report) = managed.json(&["partner", "check", "--private", "--api-url", &plain]).await;
    assert_eq!((code, outcome(&report["findings"], "API URL")), (1, "failed"), "{report:#}");
    assert_eq!(managed.tokens().await, [""; 0]);

    managed.node.stop().await;
    let (code, _, error) = managed.run(&[&["partner", "invite", "divviup"], &trust[..]].concat()).await;
    assert!(code == 1 && error.contains("dapbox serve"), "{error}");
    let (code, invitation) = managed.json(&[&["partner", "invite", "divviup", "--force"], &trust[..]].concat()).await;
    assert_eq!((code, &invitation["name"]), (0, &json!("divviup")));
    assert_eq!(managed.tokens().await, ["divviup"]);

    let off = fs::read_to_string(&managed.file).unwrap().replace("path = \"/api\"", "");
    fs::write(&managed.file, off).unwrap();
    let (code, _, error) = managed.run(&["partner", "check"]).await;
    assert!(code == 2 && error.contains("management.path"), "{error}");
}

/// A private authority is named once, in the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn trusts_configured_certificate_authority() {
    let mut managed = Managed::start().await;
    let ca = json!(managed.authority.file()).to_string();
    let text = fs::read_to_string(&managed.file).unwrap();
    let private = ["partner", "invite", "divviup", "--private"];
    let (code, report) = managed.json(&private).await;
    assert_eq!((code, outcome(&report["findings"], "certificate")), (1, "failed"), "{report:#}");
    fs::write(&managed.file, format!("{text}[peer]\nca_file = {ca}\n")).unwrap();
    let (code, invitation) = managed.json(&private).await;
    assert_eq!((code, outcome(&invitation["findings"], "certificate")), (0, "ok"), "{invitation:#}");
    managed.node.stop().await;
}
