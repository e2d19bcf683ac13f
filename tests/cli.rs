//! Two organisations, a client and a collector, with nothing but the binary and the files that they exchange.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

fn dapbox(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).env("RUST_BACKTRACE", "0").env_remove("DAPBOX_CONFIG");
    command
}

fn run(arguments: &[&str]) -> Output {
    dapbox(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn stderr_of_failure(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

/// `dapbox serve` in a process of its own.
struct Server {
    process: Child,
    log: BufReader<ChildStderr>,
    url: String,
}

impl Server {
    fn start(data_dir: &Path) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()];
        let mut process = dapbox(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it served");
        }
        // Not a terminal, so the log is JSON.
        let line: Value = serde_json::from_str(&line).unwrap();
        let address = line["fields"]["address"].as_str().or(line["address"].as_str()).unwrap();
        Self { url: format!("http://{address}"), process, log }
    }

    /// Asks the server to stop, and returns what it logged.
    fn stop(mut self) -> String {
        Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(self.process.wait().unwrap().success());
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The secrets of a task, as the parties' files have them.
fn secrets(files: &Path) -> Vec<String> {
    let all: String = ["leader", "helper", "collector"]
        .map(|party| fs::read_to_string(files.join(format!("{party}.toml"))).unwrap())
        .concat();
    let is_secret = |name: &str| ["verify_key", "token", "private_key"].iter().any(|word| name.contains(word));
    let pairs = all.lines().filter_map(|line| line.split_once('='));
    let values = pairs.filter(|(name, _)| is_secret(name.trim()) && !name.trim_start().starts_with('#'));
    let found: Vec<String> = values.map(|(_, value)| value.trim().trim_matches('"').to_owned()).collect();
    assert!(found.len() >= 5, "the files have other names for their secrets: {all}");
    found
}

#[test]
fn two_organisations_set_up_a_task_by_exchanging_files() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let (leader_data, helper_data, files) = (path("leader"), path("helper"), path("task"));
    let (leader, helper) = (Server::start(&leader_data), Server::start(&helper_data));

    stdout(&[
        "task",
        "new",
        "--leader",
        &leader.url,
        "--helper",
        &helper.url,
        "--vdaf",
        "histogram",
        "--length",
        "4",
        "--min-batch-size",
        "3",
        "--out",
        text(&files),
    ]);
    for party in ["leader", "helper", "collector"] {
        let mode = fs::metadata(files.join(format!("{party}.toml"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{party}.toml holds secrets");
    }
    let client = fs::read_to_string(files.join("client.toml")).unwrap();
    assert!(secrets(&files).iter().all(|secret| !client.contains(secret.as_str())), "a client needs no secret");
    let again =
        ["task", "new", "--leader", &leader.url, "--helper", &helper.url, "--vdaf", "count", "--out", text(&files)];
    stderr_of_failure(&again, 1);

    // Each organisation adds its own file, to the running server; twice is as good as once.
    let add = |party: &str, data: &Path| {
        let file = files.join(format!("{party}.toml"));
        stdout(&["task", "add", text(&file), "--data-dir", text(data)]);
    };
    add("leader", &leader_data);
    add("leader", &leader_data);
    add("helper", &helper_data);
    let wrong =
        stderr_of_failure(&["task", "add", text(&files.join("client.toml")), "--data-dir", text(&leader_data)], 2);
    assert!(wrong.contains("client"), "{wrong}");

    let (client, collector) = (files.join("client.toml"), files.join("collector.toml"));
    stdout(&["upload", "--task", text(&client), "3"]);
    fs::write(path("data.csv"), "name,bin\na,0\nb,3\nc,9\nd,2\n").unwrap();
    let csv = path("data.csv");
    // The third row has no bin: it is refused before anything is uploaded, or counted as rejected.
    let output = run(&["upload", "--task", text(&client), "--csv", text(&csv), "--column", "bin"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(&csv, "name,bin\na,0\nb,3\nd,2\n").unwrap();
    let summary = stdout(&["upload", "--task", text(&client), "--csv", text(&csv), "--column", "bin", "-o", "json"]);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["accepted"], 3, "{summary}");

    let collected = stdout(&["collect", "--task", text(&collector), "-o", "json"]);
    let collected: Value = serde_json::from_str(&collected).unwrap();
    let count = collected["report_count"].as_u64().unwrap();
    let bins: Vec<u64> = collected["result"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    // What was uploaded before the refused row may have been accepted; the rest is exact.
    assert!(count >= 4 && bins.iter().sum::<u64>() == count, "{collected}");
    assert!(bins[0] >= 1 && bins[1] == 0 && bins[2] >= 1 && bins[3] >= 2, "{collected}");

    let status = stdout(&["task", "list", "--data-dir", text(&leader_data), "-o", "json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status[0]["batches_collected"], 1, "{status}");
    let id = status[0]["id"].as_str().unwrap();
    let shown = stdout(&["task", "show", id, "--data-dir", text(&helper_data)]);
    assert!(shown.contains("helper") && shown.contains("aggregate_success"), "{shown}");

    let logs = leader.stop() + &helper.stop();
    for secret in secrets(&files) {
        assert!(!logs.contains(&secret) && !shown.contains(&secret), "a secret was shown");
    }

    // The same commands work on a data directory that no server runs on.
    let removed = stdout(&["task", "remove", id, "--yes", "--data-dir", text(&leader_data)]);
    assert!(!removed.is_empty());
    assert_eq!(stdout(&["task", "list", "--data-dir", text(&leader_data), "-o", "json"]).trim(), "[]");
    let file = files.join("leader.toml");
    let refused = stderr_of_failure(&["task", "add", text(&file), "--data-dir", text(&leader_data)], 1);
    assert!(refused.contains("removed"), "{refused}");
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_its_line_and_a_suggestion() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("appliance.toml");
    fs::write(&file, "[leader]\nmax_job_size = 10\nmin_job_sise = 5\n").unwrap();
    let error = stderr_of_failure(&["serve", "--config", text(&file)], 1);
    for part in ["appliance.toml:3", "min_job_sise", "min_job_size"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    assert!(stderr_of_failure(&["serve", "--listne", "x"], 2).contains("--listen"));
}

#[test]
fn a_data_directory_has_one_server() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    let error = stderr_of_failure(&["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data)], 1);
    assert!(error.contains("process") || error.contains("use"), "{error}");
    server.stop();
}
