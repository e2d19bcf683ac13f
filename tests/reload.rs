//! A running server takes over what it can of a changed configuration, and says what it cannot.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use common::{
    Pair,
    calls::{problem, upload_errors},
    forge::Forge,
    raw::{ask, begin, status},
};
use dapbox::{
    config::{self, Config, Seconds},
    model::{BatchMode, PartialBatch, ReportError, Revision, Task, Time, VdafConfig, reload::Reloaded},
    vdaf::Measurement,
};
use serde_json::Value;
use tempfile::TempDir;

/// What a node was started with: its port was chosen by the system.
fn as_started(node: &common::Node) -> Config {
    Config { listen: "127.0.0.1:0".parse().unwrap(), ..node.config.clone() }
}

/// Reloads one node with some options changed, and checks what is said of it.
async fn reload(node: &common::Node, config: &mut Config, change: impl FnOnce(&mut Config)) -> Reloaded {
    let old = config.clone();
    change(config);
    let reloaded = node.server().reload(config.clone()).await.unwrap();
    assert!(reloaded.troubles.is_empty(), "{reloaded:?}");
    let told: BTreeSet<_> = reloaded.changed.iter().map(|change| change.key.clone()).collect();
    let wanted: BTreeSet<_> = old.changes(config).unwrap().into_iter().map(|change| change.key).collect();
    let can = |key: &String| config::reloadable().contains(&key.as_str());
    assert_eq!(told, wanted.into_iter().filter(can).collect());
    reloaded
}

/// Each of these is asked for before and after, so that an option that is said to be taken over really is.
#[tokio::test(flavor = "multi_thread")]
async fn what_requests_are_held_against_changes_while_the_server_runs() {
    let revision = Revision::Dap18;
    let pair = Pair::start(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let (leader, parties) = (&pair.leader, &pair.parties);
    let forge = Forge::new(parties).await;
    let mut config = as_started(leader);
    let report = |time| forge.report(&Measurement::Flag(true), time);
    let now = || report(Time::now());

    // How old an answer may be, and how far clocks may differ.
    let keys = parties.at_leader("hpke_config");
    assert_eq!(ask("GET", &keys, &[], Vec::new()).await.header("cache-control"), "max-age=86400");
    reload(leader, &mut config, |config| config.hpke.cache_max_age = Seconds::new(60)).await;
    assert_eq!(ask("GET", &keys, &[], Vec::new()).await.header("cache-control"), "max-age=60");
    let early = report(Time(Time::now().0 + 7200));
    let refused = upload_errors(&parties.upload(&early).await, parties);
    assert_eq!(refused, [(early.metadata.id, ReportError::ReportTooEarly)]);
    reload(leader, &mut config, |config| config.limits.clock_skew = Seconds::new(10_000)).await;
    assert!(parties.upload(&early).await.body.is_empty());

    // How long things may be.
    reload(leader, &mut config, |config| config.limits.max_upload_bytes = 20).await;
    assert_eq!(problem(&parties.upload(&now()).await).status, 413);
    reload(leader, &mut config, |config| {
        (config.limits.max_upload_bytes, config.limits.max_report_bytes) = (1 << 20, 20);
    })
    .await;
    assert_eq!(problem(&parties.upload(&now()).await).status, 413);
    reload(leader, &mut config, |config| config.limits.max_report_bytes = 1 << 20).await;
    assert!(parties.upload(&now()).await.is_success());
    reload(leader, &mut config, |config| config.limits.max_message_bytes = 10).await;
    let query = parties.query_now();
    assert_eq!(problem(&parties.ask_collection(query).await.answer).status, 413);
    reload(leader, &mut config, |config| config.limits.max_message_bytes = 1 << 16).await;

    // Who is sent away, and for how long.
    reload(leader, &mut config, |config| {
        (config.disk.reserve_bytes, config.disk.retry_after) = (1 << 60, Seconds::new(77));
    })
    .await;
    let short = ask("POST", &parties.at_leader(&parties.wire().upload_call(&parties.id()).path), &[], Vec::new()).await;
    assert_eq!(short.status, 415, "what is no upload is no matter of space");
    let short = until_refused(parties, &now()).await;
    assert_eq!((problem(&short).status, short.retry_after.unwrap().as_secs()), (507, 77));
    reload(leader, &mut config, |config| config.disk.reserve_bytes = 0).await;
    let media = parties.wire().upload_call(&parties.id());
    reload(leader, &mut config, |config| config.limits.request_timeout = Seconds::millis(30)).await;
    let headers = [("content-type", media.content_type.unwrap()), ("content-length", "400")];
    let mut slow = begin(media.method, &parties.at_leader(&media.path), &headers).await;
    assert_eq!(status(&mut slow).await, Some(408));
    pair.stop().await;
}

/// The disk is looked at now and then.
async fn until_refused(parties: &common::Parties, report: &dapbox::model::Report) -> dapbox::peer::Answer {
    let deadline = std::time::Instant::now() + common::PATIENCE;
    loop {
        let answer = parties.upload(report).await;
        if !answer.is_success() {
            return answer;
        }
        assert!(std::time::Instant::now() < deadline, "the reserve is not asked for");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// What happens by itself changes too: a report that would have waited for an hour, a collector that is told when to come
/// back, a helper that puts jobs off.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_drivers_do_changes_while_the_server_runs() {
    let patient = |config: &mut Config| config.leader.max_job_delay = Seconds::new(3600);
    let two = |task: &mut Task| task.public.min_batch_size = 2;
    let pair = Pair::start_with(Revision::Dap18, VdafConfig::Prio3Count, BatchMode::TimeInterval, patient, two).await;
    let (leader, helper, parties) = (&pair.leader, &pair.helper, &pair.parties);
    let forge = Forge::new(parties).await;
    let (mut config, mut of_helper) = (as_started(leader), as_started(helper));

    parties.upload_all(&[forge.report(&Measurement::Flag(true), Time::now())]).await;
    assert_eq!(leader.status(&parties.id()).await.waiting, 1);
    reload(leader, &mut config, |config| config.leader.max_job_delay = Seconds::millis(0)).await;
    leader.until(&parties.id(), |status| status.aggregated == 1).await;
    let collection = parties.start_collection(parties.query_now()).await;
    assert_eq!(parties.poll(&collection).await.retry_after.unwrap().as_secs(), 1, "one report is too few");
    reload(leader, &mut config, |config| config.leader.collection_retry_after = Seconds::new(55)).await;
    assert_eq!(parties.poll(&collection).await.retry_after.unwrap().as_secs(), 55);

    let job = |count| {
        let drafts: Vec<_> = (0..count).map(|_| forge.draft(&Measurement::Flag(true), Time(1_600_000_000))).collect();
        forge.job(PartialBatch::TimeInterval, &drafts)
    };
    assert!(!parties.ask_job(&job(2)).await.answer.body.is_empty(), "answered at once");
    reload(helper, &mut of_helper, |config| {
        (config.helper.synchronous_reports, config.helper.retry_after) = (1, Seconds::new(33));
    })
    .await;
    let put_off = parties.ask_job(&job(2)).await.answer;
    assert_eq!((put_off.body.len(), put_off.retry_after.unwrap().as_secs()), (0, 33));
    reload(helper, &mut of_helper, |config| config.limits.max_job_reports = 1).await;
    assert_eq!(problem(&parties.ask_job(&job(2)).await.answer).status, 413);
    reload(helper, &mut of_helper, |config| config.limits.max_job_bytes = 10).await;
    assert_eq!(problem(&parties.ask_job(&job(1)).await.answer).status, 413);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_change_is_named_and_stays() {
    let node = common::Node::start().await;
    let mut config = as_started(&node);
    let reloaded = reload(&node, &mut config, |config| {
        config.limits.workers = 3;
        config.limits.max_requests = 1;
        config.leader.jobs_in_flight = 2;
        config.secrets.key = dapbox::model::Secret::random(32);
    })
    .await;
    let named: Vec<_> = reloaded.needs_restart.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(named, ["limits.max_requests", "limits.workers", "secrets.key"]);
    assert!(reloaded.needs_restart.iter().all(|change| change.key != "secrets.key" || change.to == "(not shown)"));
    // It is said each time, as long as it is so; what was taken over is the same by now.
    let again = node.server().reload(config.clone()).await.unwrap();
    assert_eq!((again.changed.len(), again.needs_restart.len()), (0, 3));
    // Values that only fit together after a restart are refused as a whole.
    config.limits.request_memory_bytes <<= 3;
    config.limits.max_job_bytes = config.limits.request_memory_bytes;
    let refused = node.server().reload(config).await.unwrap_err();
    assert!(refused.contains("request_memory_bytes") && refused.contains("restart"), "{refused}");
}

/// `dapbox serve` with a file.
struct Served {
    process: Child,
    log: BufReader<ChildStderr>,
    file: PathBuf,
    data_dir: PathBuf,
}

impl Served {
    fn start(dir: &Path) -> Self {
        let (file, data_dir) = (dir.join("appliance.toml"), dir.join("data"));
        fs::write(&file, text(&data_dir, "")).unwrap();
        let mut process =
            dapbox(&["serve", "--config", file.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut served = Self { process, log, file, data_dir };
        served.until_logged(r#""message":"serving""#);
        served
    }

    /// Waits until a line of the log has it.
    fn until_logged(&mut self, wanted: &str) -> String {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the server ended before it said {wanted}");
        }
        line
    }

    fn write(&self, more: &str) {
        fs::write(&self.file, text(&self.data_dir, more)).unwrap();
    }

    /// Runs a command on the server: its exit code, and what it said on either output.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } =
            dapbox(arguments).args(["--data-dir", self.data_dir.to_str().unwrap()]).output().unwrap();
        (status.code().unwrap(), String::from_utf8(if status.success() { stdout } else { stderr }).unwrap())
    }

    fn hang_up(&self) {
        Command::new("kill").args(["-HUP", &self.process.id().to_string()]).status().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
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
fn an_operator_reloads_by_command_and_by_signal() {
    let dir = TempDir::new().unwrap();
    let mut server = Served::start(dir.path());
    assert_eq!(server.run(&["reload"]), (0, "Nothing has changed.\n".to_owned()));

    server.write("[leader]\nmax_job_size = 400\n[limits]\nworkers = 2\n");
    let (code, said) = server.run(&["reload", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["changed"][0]["key"], "leader.max_job_size", "{said}");
    assert_eq!(said["needs_restart"][0]["key"], "limits.workers", "{said}");
    let (_, said) = server.run(&["reload"]);
    assert!(said.contains("Needs a restart") && said.contains("limits.workers: 0 -> 2"), "{said}");

    // One that is broken is refused with its line, and changes nothing.
    server.write("[leader]\nmax_job_sise = 400\n");
    let (code, said) = server.run(&["reload"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("appliance.toml:6") && said.contains("did you mean 'leader.max_job_size'?"), "{said}");
    server.hang_up();
    server.until_logged("nothing was reloaded");

    server.write("[leader]\nmax_job_size = 300\n");
    server.hang_up();
    let line = server.until_logged("taken over");
    assert!(line.contains("leader.max_job_size") && line.contains("400") && line.contains("300"), "{line}");
}

#[test]
fn the_log_changes_while_the_server_runs_until_it_reloads() {
    let dir = TempDir::new().unwrap();
    let mut server = Served::start(dir.path());
    assert_eq!(server.run(&["log"]), (0, "info\n".to_owned()));
    assert_eq!(server.run(&["log", "info,sled=trace"]), (0, "sled=trace,info\n".to_owned()));
    server.until_logged(r#""level":"TRACE""#);
    let (code, said) = server.run(&["log", "debgu"]);
    assert_eq!((code, said.contains("'debgu' is no level")), (1, true), "{said}");

    server.write("[log]\nlevel = \"warn\"\n");
    assert_eq!(server.run(&["reload"]).0, 0);
    assert_eq!(server.run(&["log", "-o", "json"]).1.replace(char::is_whitespace, ""), r#"{"level":"warn"}"#);
    // A level that is none is refused with all that came with it, before anything is taken over.
    server.write("[log]\nlevel = \"inof\"\n[leader]\nmax_job_size = 400\n");
    let (code, said) = server.run(&["reload"]);
    assert_eq!((code, said.contains("'inof' is no level")), (1, true), "{said}");
    assert_eq!(server.run(&["log"]).1, "warn\n");
}

#[test]
fn without_a_server_there_is_nothing_to_reload() {
    let dir = TempDir::new().unwrap();
    let output = dapbox(&["reload", "--data-dir", dir.path().to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains("no server is running")), (Some(1), true), "{said}");
}
