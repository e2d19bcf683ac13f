//! A running server applies the reloadable options of a changed configuration and names the others.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    iter,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use dapbox::{
    client::Client,
    config::{self, Aead, Config, Kdf, Kem, Seconds, changes::ReloadResult},
    model::{
        self, BatchMode, Interval, KeyState, PartialBatchSelector, Query, ReportError, Revision, Secret, Time,
        VdafConfig,
    },
    peer::RetryPolicy,
    support::clock,
    vdaf::Measurement,
    wire::{ProblemType, ResourceKind},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
};

use crate::common::{
    Node, Pair, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, assert_rejected, problem, upload_errors},
    child::{Running, Signal},
    raw::{begin_request, send_raw, status},
    relay::{RelayAction, pair_through_relay},
    report_builder::{ReportBuilder, flipped},
    tls::Authority,
};

/// Reloadable options that [`applies_reloadable_options`] does not show, with the reason.
const NOT_SHOWN: &[(&str, &str)] = &[
    ("public_url", "control planes are told it; else the command line alone reads it"),
    ("tls.check_interval", "it is read before each pause, and a pause that has begun goes on"),
    ("disk.check_interval", "the same"),
    ("retention.sweep_interval", "the same"),
    ("retention.answer_age", "answers are forgotten a day at a time"),
    (
        "provisioning.min_batch_size",
        "it is for control planes: see rejects_too_small_min_batch_size of tests/management",
    ),
    ("provisioning.report_expiry_age", "the same"),
    ("provisioning.never_contacted_age", "see removes_never_contacted_tasks_when_configured there"),
    ("taskprov.peers", "no task is set up in-band here: see uses_current_tokens_of_peer_files of tests/taskprov"),
    ("taskprov.max_tasks", "the same: see leader_limits_tasks_from_clients"),
    ("proxy.trusted", "only the log shows where a request comes from"),
    ("limits.max_body_silence", "memory has to be short: see reclaims_memory_of_silent_uploads of tests/memory"),
    ("limits.max_backup_tracking_bytes", "a backup has to meet with very many writes"),
    (
        "leader.next_batch_after",
        "batches go by time here: see gives_next_batch_without_deletion of tests/dap18_collections",
    ),
    ("helper.max_deferred_jobs", "a job that is put off does not wait for long"),
    ("results.max_requests", "these servers collect nothing; the collector reads its options before each request"),
    ("results.max_task_requests", "the same"),
    ("results.leader_timeout", "the same"),
    ("results.retry_max", "the same"),
    ("results.webhook_timeout", "the same"),
    ("results.webhook_retry_age", "the same"),
    ("results.max_webhook_queue", "the same"),
    ("log.level", "it is what is logged: see changes_log_level_until_reload"),
];

/// A node whose configuration changes while it runs.
struct Changing<'a> {
    node: &'a Node,
    config: Config,
    /// The options applied so far.
    taken: BTreeSet<String>,
}

impl<'a> Changing<'a> {
    fn new(node: &'a Node) -> Self {
        // The configuration of its start: the system chose its port.
        let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..node.config.clone() };
        Self { node, config, taken: BTreeSet::new() }
    }

    /// Reloads the node with some options changed, and checks the answer.
    async fn to(&mut self, change: impl FnOnce(&mut Config)) -> ReloadResult {
        let old = self.config.clone();
        change(&mut self.config);
        let reloaded = self.node.server().reload(self.config.clone()).await.unwrap();
        assert!(reloaded.errors.is_empty(), "{reloaded:?}");
        let told: BTreeSet<_> = reloaded.changed.iter().map(|change| change.key.clone()).collect();
        let wanted: BTreeSet<_> = old.changes(&self.config).unwrap().into_iter().map(|change| change.key).collect();
        let can = |key: &String| config::reloadable().contains(&key.as_str());
        assert_eq!(told, wanted.into_iter().filter(can).collect());
        self.taken.extend(told);
        reloaded
    }
}

/// For each reloadable option, observes its effect after the reload, where the previous value would have another effect
/// or none.
#[tokio::test(flavor = "multi_thread")]
async fn applies_reloadable_options() {
    let (requests, jobs, helper, connections, keys) =
        tokio::join!(limits_of_requests(), jobs_of_a_leader(), answers_of_a_helper(), connections(), keys());
    let shown: BTreeSet<_> = [requests, jobs, helper, connections, keys].into_iter().flatten().collect();
    let not_shown: BTreeSet<_> = NOT_SHOWN.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(shown.intersection(&not_shown).count(), 0, "{shown:?}");
    let all: BTreeSet<_> = config::reloadable().iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(shown.union(&not_shown).cloned().collect::<BTreeSet<_>>(), all);
}

/// Limits of requests.
async fn limits_of_requests() -> BTreeSet<String> {
    let mut pair = Pair::start(Revision::Dap18, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let mut leader = Changing::new(&pair.leader);
    let report = |time| builder.report(&Measurement::Flag(true), time);
    let now = || report(clock::now());

    // Maximum ages of answers, and the permitted clock difference.
    let keys = parties.at_leader("hpke_config");
    assert_eq!(send_raw("GET", &keys, &[], Vec::new()).await.header("cache-control"), "max-age=86400");
    leader.to(|config| config.hpke.cache_max_age = Seconds::new(60)).await;
    assert_eq!(send_raw("GET", &keys, &[], Vec::new()).await.header("cache-control"), "max-age=60");
    let early = report(Time(clock::now().0 + 7200));
    let refused = upload_errors(&parties.upload(&early).await, parties);
    assert_eq!(refused, [(early.metadata.id, ReportError::ReportTooEarly)]);
    leader.to(|config| config.limits.clock_skew = Seconds::new(10_000)).await;
    assert!(parties.upload(&early).await.body.is_empty());

    // Maximum lengths.
    leader.to(|config| config.limits.max_upload_bytes = 20).await;
    assert_eq!(problem(&parties.upload(&now()).await).status, 413);
    let long_upload = |config: &mut Config| {
        (config.limits.max_upload_bytes, config.limits.max_report_bytes) = (1 << 20, 20);
    };
    leader.to(long_upload).await;
    assert_eq!(problem(&parties.upload(&now()).await).status, 413);
    leader.to(|config| config.limits.max_report_bytes = 1 << 20).await;
    assert!(parties.upload(&now()).await.is_success());
    leader.to(|config| config.limits.max_message_bytes = 10).await;
    assert_eq!(problem(&parties.create_collection(parties.query_now()).await.answer).status, 413);
    leader.to(|config| config.limits.max_message_bytes = 1 << 16).await;
    // Times without reports.
    let hour = |n: u64| Query::TimeInterval(Interval::new(Time(3600 * n), model::Duration(3600)).unwrap());
    let known = parties.start_collection(hour(1)).await;
    leader.to(|config| config.leader.max_collections = 1).await;
    assert_eq!(problem(&parties.create_collection(hour(2)).await.answer).status, 503);
    leader.to(|config| config.leader.max_collections = 10).await;
    leader.to(|config| config.leader.max_interval_units = 1).await;
    let refused = parties.create_collection(parties.query_now()).await.answer;
    assert_rejected(&refused, parties, ProblemType::BatchInvalid);

    // Reasons and times of refusals.
    leader.to(|config| config.limits.max_waiting_reports = 0).await;
    assert_eq!(problem(&parties.upload(&now()).await).status, 503);
    leader.to(|config| config.limits.max_waiting_reports = 1000).await;
    let long_ago = report(Time(clock::now().0 - 50 * 3600));
    leader.to(|config| config.limits.max_open_buckets = 1).await;
    let refused = upload_errors(&parties.upload(&long_ago).await, parties);
    assert_eq!(refused, [(long_ago.metadata.id, ReportError::ReportDropped)]);
    leader.to(|config| config.limits.max_open_buckets = 1000).await;
    assert_accepted(&parties.upload(&long_ago).await);
    leader.to(|config| config.leader.upload_sample_ratio = 1).await;
    let mut unopenable = now();
    unopenable.leader_share.payload = flipped(&unopenable.leader_share.payload);
    let refused = upload_errors(&parties.upload(&unopenable).await, parties);
    assert_eq!(refused, [(unopenable.metadata.id, ReportError::HpkeDecryptError)]);
    let no_room = |config: &mut Config| {
        (config.disk.reserve_bytes, config.disk.retry_after) = (1 << 60, Seconds::new(77));
    };
    leader.to(no_room).await;
    let short = parties.upload(&now()).await;
    assert_eq!((problem(&short).status, short.retry_after.unwrap().as_secs()), (507, 77));
    assert_eq!(problem(&parties.create_collection(hour(2)).await.answer).status, 507);
    assert_eq!(parties.start_collection(hour(1)).await, known);
    leader.to(|config| config.disk.reserve_bytes = 0).await;
    assert_accepted(&parties.upload(&now()).await);

    // The timeout of a request, and how long a shutdown waits for an unfinished one.
    let call = parties.wire().upload_request(&parties.id());
    let headers = [("content-type", call.content_type.unwrap()), ("content-length", "400")];
    let slow = || async { begin_request(call.method, &parties.at_leader(&call.path), &headers).await };
    leader.to(|config| config.limits.request_timeout = Seconds::millis(30)).await;
    assert_eq!(status(&mut slow().await).await, Some(408));
    leader.to(|config| config.limits.request_timeout = Seconds(TEST_TIMEOUT)).await;
    let usual = *leader.config.limits.stop_timeout;
    leader.to(|config| config.limits.stop_timeout = Seconds::millis(20)).await;
    let (taken, _in_progress, begun) = (leader.taken, slow().await, Instant::now());
    pair.leader.stop().await;
    assert!(begun.elapsed() < usual / 2, "{:?}", begun.elapsed());
    taken
}

/// Options of a leader's jobs.
async fn jobs_of_a_leader() -> BTreeSet<String> {
    let slow = |config: &mut Config| {
        let leader = &mut config.leader;
        (leader.max_job_size, leader.min_job_size, leader.jobs_in_flight) = (2, 2, 1);
        for span in [
            &mut leader.max_job_delay,
            &mut leader.peer_timeout,
            &mut leader.retry_initial,
            &mut leader.retry_max,
            &mut leader.collection_retry_after,
        ] {
            *span = Seconds::new(3600);
        }
    };
    let (pair, relay) = pair_through_relay(Revision::Dap18, BatchMode::TimeInterval, slow).await;
    let (node, parties) = (&pair.leader, &pair.parties);
    let builder = ReportBuilder::new(parties).await;
    let mut leader = Changing::new(node);
    let upload = async |count| {
        let reports: Vec<_> = (0..count).map(|_| builder.report(&Measurement::Number(1), clock::now())).collect();
        assert_accepted(&parties.upload_together(&reports).await);
    };
    let aggregated = async |count| {
        node.until(&parties.id(), |status| status.aggregated == count).await;
    };

    // The helper never answers these; they keep the timeouts of their start.
    relay.plan(|_, _| RelayAction::Hang);
    upload(4).await;
    node.until(&parties.id(), |status| (status.jobs, status.waiting) == (1, 2)).await;
    leader.to(|config| config.leader.jobs_in_flight = 2).await;
    // Not only picked: the requests sent from here on are compared with the next ones.
    node.until(&parties.id(), |_| relay.creations(ResourceKind::AggregationJob).len() == 2).await;
    leader.to(|config| config.leader.jobs_in_flight = 8).await;

    relay.plan(|_, before| if before == 0 { RelayAction::Hang } else { RelayAction::Pass });
    let hurried = |config: &mut Config| {
        config.leader.peer_timeout = Seconds::millis(500);
        (config.leader.retry_initial, config.leader.retry_max) = (Seconds::millis(10), Seconds::millis(20));
    };
    leader.to(hurried).await;
    upload(2).await;
    aggregated(2).await;

    relay.plan(|_, _| RelayAction::Pass);
    let terse = |config: &mut Config| {
        (config.leader.peer_timeout, config.limits.max_answer_bytes) = (Seconds(TEST_TIMEOUT), 1);
    };
    leader.to(terse).await;
    upload(2).await;
    let is_too_long = |trouble: &String| trouble.contains("exceeds 1 bytes");
    node.until(&parties.id(), |status| status.last_error.as_ref().is_some_and(is_too_long)).await;
    leader.to(|config| config.limits.max_answer_bytes = 1 << 20).await;
    aggregated(4).await;

    // The size and the start of a job.
    upload(1).await;
    leader.to(|config| config.leader.min_job_size = 1).await;
    aggregated(5).await;
    leader.to(|config| (config.leader.max_job_size, config.leader.min_job_size) = (5, 5)).await;
    let before = relay.creations(ResourceKind::AggregationJob).len();
    upload(5).await;
    aggregated(10).await;
    assert_eq!(relay.creations(ResourceKind::AggregationJob).len(), before + 1);
    upload(1).await;
    leader.to(|config| config.leader.max_job_delay = Seconds::millis(0)).await;
    aggregated(11).await;

    // The unanswered reports keep the batch open.
    let collection = parties.start_collection(parties.query_now()).await;
    assert_eq!(parties.poll(&collection).await.retry_after.unwrap().as_secs(), 3600);
    leader.to(|config| config.leader.collection_retry_after = Seconds::new(55)).await;
    assert_eq!(parties.poll(&collection).await.retry_after.unwrap().as_secs(), 55);
    leader.taken
}

/// Options of a helper's answers.
async fn answers_of_a_helper() -> BTreeSet<String> {
    let pair = Pair::start(Revision::Dap18, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let builder = ReportBuilder::new(parties).await;
    let mut helper = Changing::new(&pair.helper);
    let job = |count| {
        let drafts: Vec<_> = (0..count).map(|_| builder.draft(&Measurement::Flag(true), Time(1_600_000_000))).collect();
        builder.job(PartialBatchSelector::TimeInterval, &drafts)
    };
    assert!(!parties.send_new_job(&job(2)).await.answer.body.is_empty(), "answered without deferral");
    let later = |config: &mut Config| {
        (config.helper.synchronous_reports, config.helper.retry_after) = (1, Seconds::new(33));
    };
    helper.to(later).await;
    let put_off = parties.send_new_job(&job(2)).await.answer;
    assert_eq!((put_off.body.len(), put_off.retry_after.unwrap().as_secs()), (0, 33));
    helper.to(|config| config.limits.max_job_reports = 1).await;
    assert_eq!(problem(&parties.send_new_job(&job(2)).await.answer).status, 413);
    helper.to(|config| config.limits.max_job_reports = 1000).await;
    helper.to(|config| config.limits.max_job_bytes = 10).await;
    assert_eq!(problem(&parties.send_new_job(&job(1)).await.answer).status, 413);
    helper.taken
}

/// Idle timeouts and trusted roots.
async fn connections() -> BTreeSet<String> {
    let (authority, hour) = (Authority::new(), Seconds::new(3600));
    let patient = |config: &mut Config| {
        authority.equip(config);
        (config.tls.handshake_timeout, config.limits.head_timeout) = (hour, hour);
    };
    let node = Node::start_with(patient).await;
    let mut server = Changing::new(&node);
    server.to(|config| config.tls.handshake_timeout = Seconds::millis(20)).await;
    closed(TcpStream::connect(node.config.listen).await.unwrap()).await;
    server.to(|config| config.tls.handshake_timeout = hour).await;
    server.to(|config| config.limits.head_timeout = Seconds::millis(20)).await;
    closed(authority.connect(node.config.listen, &["http/1.1"]).await).await;
    server.to(|config| config.limits.head_timeout = hour).await;

    // A leader that does not trust its helper's certificate until a reload.
    let leader = Node::start_with(|config| config.leader.min_job_size = 1).await;
    let (revision, nodes) = (Revision::Dap18, [&leader, &node]);
    let parties = Parties::between(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
    let client = Client::new(parties.leader.public.clone(), authority.peer(), RetryPolicy::default()).unwrap();
    client.upload(Measurement::Flag(true), None).await.unwrap();
    let distrusts = |trouble: &String| trouble.contains("untrusted certificate");
    leader.until(&parties.id(), |status| status.last_error.as_ref().is_some_and(distrusts)).await;
    let mut leader = Changing { taken: server.taken, ..Changing::new(&leader) };
    leader.to(|config| config.peer.ca_file = authority.file()).await;
    leader.node.until(&parties.id(), |status| status.aggregated == 1).await;
    leader.taken
}

/// Waits until the other end closes a connection without sending anything.
async fn closed(mut stream: impl AsyncRead + Unpin) {
    let read = tokio::time::timeout(TEST_TIMEOUT, stream.read(&mut [0])).await;
    assert!(!matches!(read.expect("it stays open"), Ok(1..)));
}

/// Options of the offered keys.
async fn keys() -> BTreeSet<String> {
    let node = Node::start().await;
    let mut server = Changing::new(&node);
    let until = async |wanted: &dyn Fn(&[&str]) -> bool| {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let keys = node.keys().await;
            let active = keys.iter().map(|key| &key.status).filter(|key| key.state == KeyState::Active);
            let active: Vec<_> = active.map(|key| key.suite.as_str()).collect();
            if wanted(&active) {
                return keys.len();
            }
            assert!(Instant::now() < deadline, "{active:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // A new key is activated immediately instead of after a day.
    server.to(|config| config.hpke.pending_time = Seconds::new(0)).await;
    let other = |config: &mut Config| {
        (config.hpke.kem, config.hpke.kdf, config.hpke.aead) = (Kem::P256, Kdf::HkdfSha512, Aead::ChaCha20Poly1305);
    };
    server.to(other).await;
    until(&|active| active == [server.config.hpke.suite().to_string()]).await;
    server.to(|config| config.hpke.post_quantum = true).await;
    let before = until(&|active| active.len() == 2).await;
    // Both keys are rotated when they are a second old.
    server.to(|config| config.hpke.rotate_every = Seconds::new(1)).await;
    let deadline = Instant::now() + TEST_TIMEOUT;
    while node.keys().await.len() < before + 2 {
        assert!(Instant::now() < deadline, "no key is replaced");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.taken
}

#[tokio::test(flavor = "multi_thread")]
async fn names_options_that_need_restart() {
    let node = Node::start().await;
    let mut server = Changing::new(&node);
    let change = |config: &mut Config| {
        config.limits.workers = 3;
        config.limits.max_requests = 1;
        config.leader.jobs_in_flight = 2;
        config.secrets.key = Secret::random(32);
    };
    let reloaded = server.to(change).await;
    let named: Vec<_> = reloaded.needs_restart.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(named, ["limits.max_requests", "limits.workers", "secrets.key"]);
    assert!(reloaded.needs_restart.iter().all(|change| change.key != "secrets.key" || change.to == "(not shown)"));
    // Ignored options are named on each reload; applied ones no longer differ.
    let mut config = server.config;
    let again = node.server().reload(config.clone()).await.unwrap();
    assert_eq!((again.changed.len(), again.needs_restart.len()), (0, 3));
    // Values that are consistent only after a restart are refused as a whole.
    config.limits.request_memory_bytes <<= 3;
    config.limits.max_job_bytes = config.limits.request_memory_bytes;
    let refused = node.server().reload(config).await.unwrap_err();
    assert!(refused.contains("request_memory_bytes") && refused.contains("restart"), "{refused}");
}

/// `dapbox serve` with a configuration file in its working directory.
struct Served {
    process: Running,
    /// The lines of its log. A thread reads them, because a full pipe would block the server.
    log: mpsc::Receiver<String>,
    file: PathBuf,
    data_dir: PathBuf,
    /// Its address.
    address: String,
}

impl Served {
    fn start(dir: &Path) -> Self {
        let (file, data_dir) = (dir.join("appliance.toml"), dir.join("data"));
        fs::write(&file, text(&data_dir, "")).unwrap();
        let mut process = Running::spawn(dapbox(&["serve"]).current_dir(dir).stderr(Stdio::piped()));
        let (stderr, (lines, log)) = (process.stderr.take().unwrap(), mpsc::channel());
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        let mut served = Self { process, log, file, data_dir, address: String::new() };
        let line: Value = serde_json::from_str(&served.until_logged(r#""message":"serving""#)).unwrap();
        line["address"].as_str().unwrap().clone_into(&mut served.address);
        served
    }

    /// Waits for a log line that contains a text.
    fn until_logged(&self, wanted: &str) -> String {
        let found = |line: Result<String, _>| line.unwrap_or_else(|_| panic!("the server does not say {wanted}"));
        iter::repeat_with(|| found(self.log.recv_timeout(TEST_TIMEOUT))).find(|line| line.contains(wanted)).unwrap()
    }

    fn write(&self, more: &str) {
        fs::write(&self.file, text(&self.data_dir, more)).unwrap();
    }

    /// Runs a command on the server; returns its exit code and its output.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } =
            dapbox(arguments).args(["--data-dir", self.data_dir.to_str().unwrap()]).output().unwrap();
        (status.code().unwrap(), String::from_utf8(if status.success() { stdout } else { stderr }).unwrap())
    }

    fn hang_up(&self) {
        self.process.signal(Signal::HUP);
    }
}

fn text(data_dir: &Path, more: &str) -> String {
    format!("data_dir = {data_dir:?}\nlisten = \"127.0.0.1:0\"\n[monitor]\nlisten = \"\"\n{more}")
}

fn dapbox(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).env_remove("DAPBOX_CONFIG").env("RUST_BACKTRACE", "0");
    command
}

#[test]
fn reloads_by_command_and_signal() {
    let dir = TempDir::new().unwrap();
    let server = Served::start(dir.path());
    assert_eq!(server.run(&["reload"]), (0, "No change.\n".to_owned()));

    server.write("[leader]\nmax_job_size = 400\n[limits]\nworkers = 2\n");
    let (code, said) = server.run(&["reload", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["changed"][0]["key"], "leader.max_job_size", "{said}");
    assert_eq!(said["needs_restart"][0]["key"], "limits.workers", "{said}");
    let (_, said) = server.run(&["reload"]);
    assert!(said.contains("Requires a restart") && said.contains("limits.workers: 0 -> 2"), "{said}");

    // An invalid file is refused with the line, and changes nothing.
    server.write("[leader]\nmax_job_sise = 400\n");
    let (code, said) = server.run(&["reload"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("appliance.toml:6") && said.contains("did you mean 'leader.max_job_size'?"), "{said}");
    server.until_logged("configuration reload failed");
    server.hang_up();
    server.until_logged("configuration reload failed");

    server.write("[leader]\nmax_job_size = 300\n");
    server.hang_up();
    let line = server.until_logged("configuration option changed");
    assert!(line.contains("leader.max_job_size") && line.contains("400") && line.contains("300"), "{line}");

    // A missing file does not reset options to their defaults.
    fs::remove_file(&server.file).unwrap();
    let (code, said) = server.run(&["reload"]);
    assert_eq!((code, said.contains("appliance.toml")), (1, true), "{said}");
}

#[test]
fn changes_log_level_until_reload() {
    let dir = TempDir::new().unwrap();
    let server = Served::start(dir.path());
    assert_eq!(server.run(&["log"]), (0, "info\n".to_owned()));
    assert_eq!(server.run(&["log", "info,dapbox_server=debug"]), (0, "dapbox_server=debug,info\n".to_owned()));
    let mut client = std::net::TcpStream::connect(&server.address).unwrap();
    client.write_all(b"GET /nowhere HTTP/1.1\r\nhost: here\r\n\r\n").unwrap();
    server.until_logged(r#""level":"DEBUG""#);
    let (code, said) = server.run(&["log", "debgu"]);
    assert_eq!((code, said.contains("invalid log.level 'debgu'")), (1, true), "{said}");

    server.write("[log]\nlevel = \"warn\"\n");
    assert_eq!(server.run(&["reload"]).0, 0);
    assert_eq!(server.run(&["log", "-o", "json"]).1.replace(char::is_whitespace, ""), r#"{"level":"warn"}"#);
    // An invalid level is refused together with the other changes, before any is applied.
    server.write("[log]\nlevel = \"inof\"\n[leader]\nmax_job_size = 400\n");
    let (code, said) = server.run(&["reload"]);
    assert_eq!((code, said.contains("invalid log.level 'inof'")), (1, true), "{said}");
    assert_eq!(server.run(&["log"]).1, "warn\n");
}

#[test]
fn fails_without_running_server() {
    let dir = TempDir::new().unwrap();
    let output = dapbox(&["reload", "--data-dir", dir.path().to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains("no server is running")), (Some(1), true), "{said}");
}
