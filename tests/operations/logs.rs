//! Secrets are never logged at any level, and report ids only at the debugging levels.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use dapbox::{
    config::Config,
    model::{BatchMode, Revision, Task, VdafConfig},
    server::store_options,
    support::clock,
    vdaf::{AggregateResult, Measurement},
    views::status::TaskStatus,
    wire,
};
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    Parties, TEST_TIMEOUT,
    child::{Running, Signal},
    open_store,
    report_builder::{ReportBuilder, flipped},
    resources::resources,
};

/// `dapbox serve` with its most verbose log in a file.
struct Process {
    child: Running,
    address: String,
    data: PathBuf,
    log: PathBuf,
}

impl Process {
    fn start(dir: &Path, name: &str, address: &str) -> Self {
        let (data, log) = (dir.join(name), dir.join(format!("{name}.log")));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
        command.args(["serve", "--listen", address, "--data-dir", data.to_str().unwrap()]).env_remove("DAPBOX_CONFIG");
        let options = [
            ("LOG__LEVEL", "trace"),
            ("LOG__FORMAT", "json"),
            ("MONITOR__LISTEN", ""),
            ("LEADER__MIN_JOB_SIZE", "1"),
            ("LEADER__RETRY_INITIAL", "20ms"),
            ("LEADER__RETRY_MAX", "100ms"),
            ("DISK__RESERVE_BYTES", "0"),
            ("DISK__BALLAST_BYTES", "0"),
        ];
        command.envs(options.map(|(name, value)| (format!("DAPBOX_{name}"), value)));
        let before = fs::read_to_string(&log).unwrap().len();
        let child = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file));
        let deadline = Instant::now() + TEST_TIMEOUT;
        let address = loop {
            let text = fs::read_to_string(&log).unwrap();
            // The last line may be incomplete.
            let lines = text[before..].lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.into_iter().find(|line| line["message"] == "serving") {
                break line["address"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < deadline, "it does not serve: {text}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        Self { child, address, data, log }
    }

    fn url(&self, revision: Revision) -> String {
        format!("http://{}/{}/", self.address, wire::for_revision(revision).path_prefix())
    }

    fn control(&self) -> reqwest::Client {
        reqwest::Client::builder().unix_socket(self.data.join("control.sock")).build().unwrap()
    }

    async fn add(&self, task: &Task) {
        assert_eq!(self.control().post("http://control/tasks").json(task).send().await.unwrap().status(), 201);
    }

    async fn until(&self, task: &Task, is_right: impl Fn(&TaskStatus) -> bool) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let url = format!("http://control/tasks/{}", task.public.id);
            let status: TaskStatus = self.control().get(url).send().await.unwrap().json().await.unwrap();
            if is_right(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "still not so: {status:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn stop(&mut self) {
        self.child.signal(Signal::TERM);
        let (status, log) = (self.child.wait().unwrap(), fs::read_to_string(&self.log).unwrap());
        assert!(status.success(), "{status}: {}", &log[log.floor_char_boundary(log.len().saturating_sub(4000))..]);
    }

    /// Private keys and other secrets of the data directory.
    async fn own_secrets(&self) -> Vec<Vec<u8>> {
        let config = Config { data_dir: self.data.clone(), ..Config::default() };
        let store = open_store(&self.data, store_options(&config)).await;
        let keys = |view: &dapbox::store::View<'_>| {
            Ok(view.keys().values().map(|key| key.private_key.expose().to_vec()).collect::<Vec<_>>())
        };
        let mut secrets = store.read(keys).unwrap();
        store.close().await;
        assert_eq!(secrets.len(), 1);
        secrets.push(fs::read(self.data.join("secrets.key")).unwrap());
        secrets
    }
}

/// The encodings in which a secret could be logged.
fn forms(secret: &[u8]) -> Vec<String> {
    let hex = data_encoding::HEXLOWER.encode(secret);
    let list = secret[..12].iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let text = std::str::from_utf8(secret).map(|text| text.trim().to_owned());
    let mut forms = vec![STANDARD.encode(secret), URL_SAFE_NO_PAD.encode(secret), hex.to_uppercase(), hex, list];
    forms.extend(text.ok().filter(|text| text.len() >= 12));
    forms
}

/// The life of a task with an unreachable helper, an invalid report, a malformed request, and requests with a wrong
/// token.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn logs_no_secrets(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let dir = TempDir::new().unwrap();
    let mut leader = Process::start(dir.path(), "leader", "127.0.0.1:0");
    let mut helper = Process::start(dir.path(), "helper", "127.0.0.1:0");
    let (mode, urls) = (BatchMode::TimeInterval, [leader.url(revision), helper.url(revision)]);
    let [leader_url, helper_url] = urls;
    let parties = Parties::new(revision, VdafConfig::Prio3Count, mode, leader_url, helper_url);
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    let (builder, yes) = (ReportBuilder::new(&parties).await, Measurement::Flag(true));
    helper.stop();
    let mut reports: Vec<_> = (0..3).map(|_| builder.report(&yes, clock::now())).collect();
    let mut spoilt = builder.report(&yes, clock::now());
    spoilt.helper_share.payload = flipped(&spoilt.helper_share.payload);
    reports.push(spoilt);
    for report in &reports {
        assert!(parties.upload(report).await.is_success());
    }
    leader.until(&parties.leader, |status| status.last_error.is_some()).await;
    let mut helper = Process::start(dir.path(), "helper", &helper.address);
    parties.upload_bytes(vec![7; 10]).await;
    for resource in resources(&parties, parties.id()) {
        let wrong = resource.send(&resource.url, &[("authorization", "Bearer wrong")], vec![7; 10]).await;
        assert!(wrong.status >= 400, "{wrong:?}");
        resource.send_authorized(vec![7; 10]).await;
    }
    leader.until(&parties.leader, |status| status.counters.get("aggregate_success") == Some(&3)).await;
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!(collected.result, AggregateResult::Number(3));
    leader.stop();
    helper.stop();

    let logs = [&leader, &helper].map(|process| fs::read_to_string(&process.log).unwrap()).concat();
    for level in ["DEBUG", "INFO", "WARN"] {
        assert!(logs.contains(&format!(r#""level":"{level}""#)), "nothing is logged at {level}");
    }
    // The database would log while threads end, when the log is already gone.
    assert!(!logs.contains("sled::"), "the database is in the log");
    let mut secrets = [leader.own_secrets().await, helper.own_secrets().await].concat();
    secrets.push(parties.leader.verify_key.expose().to_vec());
    secrets.push(parties.keypair.private_key().expose().to_vec());
    secrets.push(parties.helper_token.expose().to_vec());
    secrets.push(parties.collector_token.expose().to_vec());
    for form in secrets.iter().flat_map(|secret| forms(secret)) {
        let line = logs.lines().find(|line| line.contains(&form));
        assert_eq!(line, None, "a secret is logged");
    }
    let quiet = [r#""level":"DEBUG""#, r#""level":"TRACE""#];
    let loud: Vec<_> = logs.lines().filter(|line| !quiet.iter().any(|level| line.contains(level))).collect();
    assert!(loud.iter().any(|line| line.contains("helper request retried")), "the failed request is not logged");
    for report in &reports {
        let line = loud.iter().find(|line| forms(report.metadata.id.as_bytes()).iter().any(|form| line.contains(form)));
        assert_eq!(line, None, "a report's id is logged");
    }
}
