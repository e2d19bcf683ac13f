//! A disk that fills up. New work is refused early, other work continues, and nothing acknowledged is lost, even on a
//! completely full disk.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    time::{Duration as Span, Instant},
};

use dapbox::{
    config::{Config, Seconds},
    model::{BatchMode, Duration, Interval, PartialBatchSelector, Query, ReportId, Revision, Task, Time, VdafConfig},
    peer::Answer,
    support::clock,
    vdaf::{AggregateResult, Measurement},
    views::status::Health,
};
use rstest::rstest;

use crate::common::{
    Node, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, problem},
    child::{Running, Signal},
    report_builder::ReportBuilder,
    volume::Volume,
};

const MIB: u64 = 1 << 20;
const RESERVE: u64 = 8 * MIB;
const BALLAST: u64 = 16 * MIB;
const HOUR: u64 = 3600;

fn dapbox(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).env_remove("DAPBOX_CONFIG").env("RUST_BACKTRACE", "0").env("DAPBOX_MONITOR__LISTEN", "");
    command
}

/// The exit code and all output.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = dapbox(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The middle of the hour this many hours ago.
fn hours_ago(hours: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours * HOUR - HOUR / 2))
}

/// A query for the hour of a time.
fn hour_of(time: Time) -> Query {
    Query::TimeInterval(Interval::new(time.truncate(Duration(HOUR)), Duration(HOUR)).unwrap())
}

fn assert_short(answer: &Answer, parties: &Parties) {
    let problem = problem(answer);
    assert_eq!((problem.status, problem.task_id), (507, Some(parties.id())), "{problem}");
    assert!(problem.detail.contains("low on disk space"), "{problem}");
    assert_eq!(answer.retry_after, Some(Span::from_secs(1)), "{problem}");
}

async fn collect(parties: &Parties, time: Time) -> (u64, AggregateResult) {
    let collected = parties.collector().collect(hour_of(time), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    (collected.report_count, collected.result)
}

async fn until_short(node: &Node, is_short: bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while node.health().await.disk.is_short != is_short {
        assert!(Instant::now() < deadline, "{:?}", node.health().await);
        tokio::time::sleep(Span::from_millis(10)).await;
    }
}

/// Both aggregators run short of space. New work is refused until space is freed, and other work continues.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn refuses_new_work_before_disk_is_full(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let (Some(at_leader), Some(at_helper)) = (Volume::mount(80), Volume::mount(80)) else { return };
    let mut leader = start_on(&at_leader).await;
    let mut helper = start_on(&at_helper).await;
    let parties = Parties::between(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, [&leader, &helper]).await;
    let (client, builder, task) = (parties.client(), ReportBuilder::new(&parties).await, parties.id());
    let count = Measurement::Flag(true);
    let (first, second) = (hours_ago(9), hours_ago(5));
    for _ in 0..5 {
        client.upload(count.clone(), Some(first)).await.unwrap();
    }
    leader.until(&task, |status| status.counters.get("aggregate_success") == Some(&5)).await;
    let job = || builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&count, hours_ago(20))]);
    let (id, request) = (ReportId::random(), job());
    let known = parties.send_job(id.as_bytes(), &request).await;
    assert!(known.answer.is_success());

    at_leader.fill(RESERVE / 2);
    at_helper.fill(RESERVE / 2);
    until_short(&leader, true).await;
    until_short(&helper, true).await;
    let report = client.prepare(count.clone(), second).await.unwrap();
    assert_short(&parties.upload(&report).await, &parties);
    assert_short(&parties.send_new_job(&job()).await.answer, &parties);
    let again = parties.send_job(id.as_bytes(), &request).await;
    assert_eq!((again.resource_path(), &again.answer.body), (known.resource_path(), &known.answer.body));
    for node in [&leader, &helper] {
        let dir = node.data_dir().to_str().unwrap();
        let (code, said) = run(&["doctor", "--data-dir", dir]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("failed   disk space") && said.contains("dapbox compact"), "{said}");
        let (code, said) = run(&["task", "list", "--data-dir", dir]);
        assert!(code == Some(0) && said.contains("warning: low on disk space"), "{said}");
    }
    assert_eq!(collect(&parties, first).await, (5, AggregateResult::Number(5)));
    assert!(parties.delete_job(known.resource_path()).await.is_success());

    // A client that retries as told succeeds when space is freed, and so does a leader.
    let patient = tokio::spawn(async move { client.upload(Measurement::Flag(true), Some(second)).await });
    at_leader.clear();
    patient.await.unwrap().unwrap();
    leader.until(&task, |status| status.last_error.as_ref().is_some_and(|text| text.contains("507"))).await;
    assert_accepted(&parties.upload(&report).await);
    at_helper.clear();
    assert_eq!(collect(&parties, second).await, (2, AggregateResult::Number(2)));
    for node in [&leader, &helper] {
        until_short(node, false).await;
        assert!(node.health().await.disk.has_ballast);
    }
    leader.stop().await;
    helper.stop().await;
}

/// An aggregator with its data on a volume.
async fn start_on(volume: &Volume) -> Node {
    Node::start_with(|config: &mut Config| {
        config.data_dir = volume.path().join("data");
        (config.disk.reserve_bytes, config.disk.ballast_bytes) = (RESERVE, BALLAST);
        (config.disk.check_interval, config.disk.retry_after) = (Seconds::millis(20), Seconds::new(1));
        config.leader.min_job_size = 1;
    })
    .await
}

/// `dapbox serve` in a process.
struct Process {
    child: Running,
    /// Log lines before the server is ready, and those after.
    start: String,
    log: BufReader<ChildStderr>,
    address: String,
    data: PathBuf,
}

impl Process {
    fn start(data: &Path, address: &str) -> Self {
        let mut command = dapbox(&["serve", "--listen", address, "--data-dir", data.to_str().unwrap()]);
        let options = [
            ("DAPBOX_DISK__RESERVE_BYTES", (24 * MIB).to_string()),
            ("DAPBOX_DISK__BALLAST_BYTES", BALLAST.to_string()),
            ("DAPBOX_DISK__RETRY_AFTER", "1s".to_owned()),
            // Another process may fill the disk faster than the server checks it.
            ("DAPBOX_DISK__CHECK_INTERVAL", "1d".to_owned()),
            ("DAPBOX_LEADER__MAX_JOB_DELAY", "1d".to_owned()),
        ];
        let mut child = Running::spawn(command.envs(options).stderr(Stdio::piped()));
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut all) = (String::new(), String::new());
        while !line.contains("\"serving\"") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it served: {all}");
            all.push_str(&line);
        }
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = line["address"].as_str().unwrap().to_owned();
        Self { child, start: all, log, address, data: data.to_owned() }
    }

    fn url(&self, revision: Revision) -> String {
        format!("http://{}/{}/", self.address, dapbox::wire::for_revision(revision).path_prefix())
    }

    fn control(&self) -> reqwest::Client {
        reqwest::Client::builder().unix_socket(self.data.join("control.sock")).build().unwrap()
    }

    async fn add(&self, task: &Task) {
        let answer = self.control().post("http://control/tasks").json(task).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    }

    async fn health(&self) -> Health {
        self.control().get("http://control/health").send().await.unwrap().json().await.unwrap()
    }

    /// Waits for the exit; returns its code and the log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = self.start;
        self.log.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }

    fn stop(self) -> (Option<i32>, String) {
        self.child.signal(Signal::TERM);
        self.end()
    }
}

/// Another process fills the disk completely. A commit fails and the server stops. It restarts with the disk still
/// full, and collections succeed.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn survives_disk_that_is_full_to_the_last_byte(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let Some(volume) = Volume::mount(96) else { return };
    let (data, mut helper) = (volume.path().join("data"), Node::start().await);
    let leader = Process::start(&data, "127.0.0.1:0");
    let (address, url) = (leader.address.clone(), leader.url(revision));
    let parties = Parties::new(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, url, helper.url(revision));
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    let (client, count) = (parties.client(), Measurement::Flag(true));
    let (first, second) = (hours_ago(9), hours_ago(5));
    let upload = async |time: Time| {
        let report = client.prepare(count.clone(), time).await.unwrap();
        parties.try_upload(&report).await
    };
    let mut taken = 0;
    for _ in 0..5 {
        assert!(upload(first).await.unwrap().is_success());
        taken += 1;
    }
    assert!(leader.health().await.disk.has_ballast);

    volume.fill(0);
    let deadline = Instant::now() + TEST_TIMEOUT;
    while upload(first).await.is_some_and(|answer| answer.is_success()) {
        taken += 1;
        assert!(Instant::now() < deadline, "{taken} reports go on a disk that is full");
    }
    let (code, log) = leader.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("error: the server failed: the disk is full"), "{log}");

    // Twice: a single release of the ballast is enough.
    for _ in 0..2 {
        let leader = Process::start(&data, &address);
        let disk = leader.health().await.disk;
        assert!(disk.is_short && !disk.has_ballast, "{disk:?}");
        assert_short(&upload(second).await.unwrap(), &parties);
        let (code, log) = leader.stop();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("disk space low") && !log.contains("panicked"), "{log}");
    }
    let leader = Process::start(&data, &address);
    // The unanswered report may or may not be stored.
    let (collected, result) = collect(&parties, first).await;
    assert!([taken, taken + 1].contains(&collected), "{collected} of {taken}");
    assert_eq!(result, AggregateResult::Number(collected.into()));
    leader.stop();

    volume.clear();
    let leader = Process::start(&data, &address);
    let disk = leader.health().await.disk;
    assert!(!disk.is_short && disk.has_ballast, "{disk:?}");
    for _ in 0..3 {
        assert!(upload(second).await.unwrap().is_success());
    }
    assert_eq!(collect(&parties, second).await, (3, AggregateResult::Number(3)));
    assert_eq!(leader.stop().0, Some(0));
    helper.stop().await;
}
