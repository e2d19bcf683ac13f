//! Two organisations, a client and a collector, with only the binary and the files that they exchange.

mod collections;
mod results;
mod uploads;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::child::{Running, Signal};

fn dapbox(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).env("RUST_BACKTRACE", "0").env_remove("DAPBOX_CONFIG").env("DAPBOX_MONITOR__LISTEN", "");
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

/// `dapbox serve` in a process.
struct Server {
    process: Running,
    log: BufReader<ChildStderr>,
    url: String,
}

impl Server {
    fn start(data_dir: &Path) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()];
        let mut process = Running::spawn(dapbox(&arguments).stderr(Stdio::piped()));
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it served");
        }
        // Without a terminal the log is JSON.
        let line: Value = serde_json::from_str(&line).unwrap();
        let address = line["fields"]["address"].as_str().or(line["address"].as_str()).unwrap();
        Self { url: format!("http://{address}"), process, log }
    }

    /// Sends SIGTERM and returns the log.
    fn stop(mut self) -> String {
        self.process.terminate();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        log
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The secrets of a task, from the parties' files.
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
fn two_organisations_exchange_task_files() {
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

    // Each organisation adds its own file to the running server; adding it twice is permitted.
    let add = |party: &str, data: &Path| {
        let file = files.join(format!("{party}.toml"));
        let added = stdout(&["task", "add", text(&file), "--data-dir", text(data), "-o", "json"]);
        assert_eq!(serde_json::from_str::<Value>(&added).unwrap()["done"], "added");
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
    // The third row has no bin: nothing is sent.
    let output = run(&["upload", "--task", text(&client), "--csv", text(&csv), "--column", "bin"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(&csv, "name,bin\na,0\nb,3\nd,2\n").unwrap();
    let summary = stdout(&["upload", "--task", text(&client), "--csv", text(&csv), "--column", "bin", "-o", "json"]);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["accepted"], 3, "{summary}");

    let collected = stdout(&["collect", "--task", text(&collector), "--include-current", "--yes", "-o", "json"]);
    let collected: Value = serde_json::from_str(&collected).unwrap();
    let count = collected["report_count"].as_u64().unwrap();
    let bins: Vec<u64> = collected["result"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!((count, bins), (4, vec![1, 0, 1, 2]), "{collected}");

    let status = stdout(&["task", "list", "--data-dir", text(&leader_data), "-o", "json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status[0]["batches_collected"], 1, "{status}");
    let id = status[0]["id"].as_str().unwrap();
    let shown = stdout(&["task", "show", id, "--data-dir", text(&helper_data)]);
    assert!(shown.contains("helper") && shown.contains("aggregate_success"), "{shown}");

    let logs = leader.stop() + helper.stop().as_str();
    for secret in secrets(&files) {
        assert!(!logs.contains(&secret) && !shown.contains(&secret), "a secret was shown");
    }

    // The same commands work on a data directory without a server.
    let removed = stdout(&["task", "remove", id, "--yes", "--data-dir", text(&leader_data)]);
    assert!(!removed.is_empty());
    assert_eq!(stdout(&["task", "list", "--data-dir", text(&leader_data), "-o", "json"]).trim(), "[]");
    let file = files.join("leader.toml");
    let add = ["task", "add", text(&file), "--role", "leader", "--data-dir", text(&leader_data)];
    let refused = stderr_of_failure(&add, 1);
    assert!(refused.contains("removed"), "{refused}");
}

#[test]
fn rejects_configuration_with_line_and_suggestion() {
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
fn refuses_second_server_of_data_directory() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    let error = stderr_of_failure(&["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data)], 1);
    assert!(error.contains("process") || error.contains("use"), "{error}");
    server.stop();
}

/// `dapbox pair` in a process.
struct Pair {
    process: Running,
    /// The suggested commands.
    commands: Vec<String>,
}

impl Pair {
    /// Without a collector, whose windows a test would collect a second time.
    fn start(arguments: &[&str]) -> Self {
        Self::start_collecting(&[&["--no-collector"], arguments].concat())
    }

    fn start_collecting(arguments: &[&str]) -> Self {
        let mut process = Running::spawn(dapbox(&[&["pair"], arguments].concat()).stdout(Stdio::piped()));
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut introduction = String::new();
        while !introduction.contains("Ctrl-C") {
            assert!(out.read_line(&mut introduction).unwrap() > 0, "the pair ended: {introduction}");
        }
        let commands = introduction.lines().filter(|line| line.contains(env!("CARGO_BIN_EXE_dapbox")));
        Self { commands: commands.map(str::to_owned).collect(), process }
    }

    /// Runs one of the commands in a shell, from another directory.
    fn try_out(&self, name: &str) -> String {
        let command = self.commands.iter().find(|command| command.contains(&format!(" {name} "))).unwrap();
        let output = Command::new("sh").args(["-c", command]).current_dir("/").output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn interrupt(&mut self) {
        self.process.signal(Signal::INT);
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn pair_prints_commands_and_resumes() {
    let dir = TempDir::new().unwrap();
    let kept = dir.path().join("it's my pair");
    let arguments = ["--dir", text(&kept), "--vdaf", "histogram", "--length", "3"];
    let mut pair = Pair::start(&arguments);
    assert!(pair.try_out("upload").contains("1 report accepted"));
    let collected = pair.try_out("collect");
    assert!(collected.contains("1 report from"), "{collected}");
    let bins = collected.lines().filter(|line| line.starts_with("  "));
    let bins: Vec<_> = bins.filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(bins, ["0", "1", "0"], "{collected}");
    assert!(pair.try_out("task show").contains("1 batch"));
    let first = pair.commands.clone();
    pair.interrupt();

    // Again, with the first arguments and without any: the same task on the same ports.
    for arguments in [&arguments[..], &arguments[..2]] {
        let mut pair = Pair::start(arguments);
        assert_eq!(pair.commands, first);
        assert!(pair.try_out("task show").contains("1 batch"));
        pair.interrupt();
    }
    // With JSON output.
    let mut command = dapbox(&["pair", "--no-collector", "--dir", text(&kept), "-o", "json"]);
    let mut process = Running::spawn(command.stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(first[2].contains(told["task"].as_str().unwrap()), "{told}");
    assert!(first[0].contains("client.toml") && told["files"]["client"] == text(&kept.join("client.toml")), "{told}");
    for party in ["leader", "helper"] {
        let monitor = told[party]["monitor"].as_str().unwrap();
        assert!(
            told[party]["url"].as_str().unwrap().ends_with("/dap-09/") && monitor.starts_with("http://127."),
            "{told}"
        );
        assert_eq!(told[party]["data_dir"], text(&kept.join(party)));
    }
    process.signal(Signal::INT);
    assert_eq!(process.wait().unwrap().code(), Some(0));
    for (flags, named) in [
        (&["--vdaf", "count"][..], "the VDAF"),
        (&["--vdaf", "histogram", "--length", "4"], "the VDAF"),
        (&["--query", "fixed-size"], "--query"),
        (&["--min-batch-size", "2"], "--min-batch-size"),
        (&["--max-batch-size", "2"], "--max-batch-size"),
        (&["--time-precision", "1h"], "--time-precision"),
        (&["--dap", "18"], "--dap"),
        (&["--port-base", "1"], "--port-base"),
    ] {
        let refused = stderr_of_failure(&[&["pair", "--dir", text(&kept)], flags].concat(), 2);
        assert!(refused.contains(&format!("{named} contradicts")), "{refused}");
    }
}

#[test]
fn collects_intervals_and_batches_as_csv() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let upload = |task: &str, measurements: &[&str]| {
        for measurement in measurements {
            let file = format!("{task}/client.toml");
            stdout(&["upload", "--task", &file, "--time", "now", measurement]);
        }
    };

    let by_time = path("by-time");
    let _first = Pair::start(&["--dir", &by_time, "--vdaf", "sumvec", "--bits", "4", "--length", "2"]);
    upload(&by_time, &["1,2", "3,4"]);
    let file = format!("{by_time}/collector.toml");
    let collect = |arguments: &[&str]| run(&[&["collect", "--task", &file], arguments].concat());
    let hour = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 3600;
    let start = ((hour - 1) * 3600).to_string();
    // Three hours, in case the hour has changed since.
    let collected = collect(&["--interval", &start, "3h", "-o", "csv"]);
    assert!(collected.status.success(), "{collected:?}");
    assert_eq!(String::from_utf8(collected.stdout).unwrap(), "index,value\n0,4\n1,6\n");
    let cases = [
        (&["--interval", &start, "1d"][..], 1, "Uncollected parts"),
        (&["--since", "2000-01-01", "--until", "2000-01-02", "--timeout", "1s"], 1, "too few"),
        (&["--since", "2000-01-01T00:00:01", "--until", "2000-01-02"], 2, "use --since 2000-01-01T00:00:00Z"),
        (&["--current-batch"], 2, "--interval"),
        (&["--interval", "yesterday", "1d"], 2, "invalid time"),
    ];
    for (arguments, code, says) in cases {
        let output = collect(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }

    let by_size = path("by-size");
    let flags = ["--query", "fixed-size", "--min-batch-size", "2", "--max-batch-size", "2", "--vdaf", "sum"];
    let _second = Pair::start(&[&["--dir", &by_size, "--bits", "8"], &flags[..]].concat());
    upload(&by_size, &["100", "50"]);
    let file = format!("{by_size}/collector.toml");
    let collected = stdout(&["collect", "--task", &file, "--current-batch", "-o", "json"]);
    let collected: Value = serde_json::from_str(&collected).unwrap();
    assert_eq!((&collected["result"], &collected["report_count"]), (&150.into(), &2.into()));
    let batch = collected["batch_id"].as_str().unwrap();
    assert_eq!(stdout(&["collect", "--task", &file, "--batch-id", batch, "-o", "csv"]), "index,value\n0,150\n");
    stderr_of_failure(&["collect", "--task", &file, "--since", "2000-01-01"], 2);
    stderr_of_failure(&["collect", "--task", &format!("{by_size}/client.toml")], 2);
    let error = stderr_of_failure(&["collect", "--task", &file, "--timeout", "1s"], 1);
    assert!(error.contains("1s") || error.contains("No batch is ready"), "{error}");
}

/// The arguments of `task new` with two servers that need not exist, and the output directory.
fn new_task<'a>(out: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    let urls = ["--leader", "https://a.example", "--helper", "https://b.example/x/"];
    [&["task", "new", "--out", out], &urls[..], arguments].concat()
}

#[test]
fn writes_revision_to_all_task_files() {
    let dir = TempDir::new().unwrap();
    let files = dir.path().join("task");
    let seed = "c2VlZHNlZWRzZWVkc2VlZA";
    let arguments = ["--dap", "18", "--vdaf", "sum", "--max-measurement", "100", "--verify-key-id", "7"];
    let times = ["--starts", "2027-01-01T00:10", "--expires", "2027-04-01T00:10", "--verify-key-seed", seed];
    stdout(&new_task(text(&files), &[&arguments[..], &times].concat()));
    for party in ["leader", "helper", "client", "collector"] {
        let file = fs::read_to_string(files.join(format!("{party}.toml"))).unwrap();
        for line in [
            "revision = \"dap-18\"",
            "leader_url = \"https://a.example/dap-18/\"",
            "helper_url = \"https://b.example/x/dap-18/\"",
            // Rounded outward to the hour.
            "starts = \"2027-01-01T00:00:00Z\"",
            "expires = \"2027-04-01T01:00:00Z\"",
            "max_measurement = 100",
        ] {
            assert!(file.lines().any(|found| found == line), "{party}: {line}: {file}");
        }
        let id = file.lines().find_map(|line| line.strip_prefix("id = \"")).unwrap();
        assert!(file.contains(&format!("info = \"{}\"", &id[..8])), "{file}");
        assert_eq!(file.contains("verify_key_id = 7"), ["leader", "helper"].contains(&party), "{file}");
        assert!(!file.contains(seed), "{file}");
    }

    // The same seed and another task give another key. The seed may be in the environment, where it is not visible.
    let key = |dir: &Path| {
        let file = fs::read_to_string(dir.join("helper.toml")).unwrap();
        file.lines().find(|line| line.starts_with("verify_key = ")).unwrap().to_owned()
    };
    let other = dir.path().join("other");
    let output = dapbox(&new_task(text(&other), &["--vdaf", "count"])).env("DAPBOX_VERIFY_KEY_SEED", seed).output();
    assert!(output.unwrap().status.success());
    assert_ne!(key(&files), key(&other));
    let help = dapbox(&["task", "new", "--help"]).env("DAPBOX_VERIFY_KEY_SEED", seed).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("DAPBOX_VERIFY_KEY_SEED") && !help.contains(seed), "{help}");
}

#[test]
fn rejects_inexpressible_task_before_writing_files() {
    let dir = TempDir::new().unwrap();
    let files = dir.path().join("task");
    let sum = ["--vdaf", "sum", "--max-measurement", "100"];
    let sized = ["--query", "leader-selected", "--max-batch-size", "200", "--vdaf", "count"];
    for (arguments, says) in [
        (&sum[..], "7 bits"),
        (&["--vdaf", "count", "--info", "x"], "not supported in DAP-09"),
        (&["--vdaf", "count", "--starts", "2027-01-01", "--expires", "2027-02-01"], "not supported in DAP-09"),
        (&["--vdaf", "count", "--starts", "2027-01-01"], "--expires"),
        (&["--dap", "18", "--vdaf", "count", "--expires", "2027-02-01"], "start"),
        (&["--dap", "18", "--vdaf", "count", "--starts", "2027-02-01", "--expires", "2027-01-01"], "before it starts"),
        (&["--dap", "18", "--vdaf", "count", "--info", ""], "info"),
        (&[&["--dap", "18"], &sized[..]].concat(), "maximum batch size"),
        (&["--dap", "18", "--vdaf", "sumvec-hmac", "--bits", "1", "--length", "2"], "DAP-09 only"),
        (&["--dap", "09", "--vdaf", "l1-bound-sum", "--max-value", "9", "--length", "2"], "use --dap 18"),
        (
            &["--dap", "18", "--vdaf", "l1-bound-sum", "--max-value", "0", "--length", "2"],
            "max_value must be at least 1",
        ),
        (&["--dap", "18", "--vdaf", "l1-bound-sum", "--bits", "4", "--length", "2"], "requires `max_value`"),
        (&["--dap", "17", "--vdaf", "count"], "09, 18"),
        (&["--vdaf", "sum", "--bits", "7", "--max-measurement", "127"], "both"),
        (&["--vdaf", "count", "--verify-key-seed", "tooshort"], "16 bytes"),
    ] {
        let error = stderr_of_failure(&new_task(text(&files), arguments), 2);
        assert!(error.contains(says), "{arguments:?}: {error}");
        assert!(!error.contains("tooshort"), "a secret is not repeated: {error}");
        assert!(!files.exists(), "{arguments:?}");
    }
}

#[test]
fn pair_of_newest_revision_gives_batches_in_sequence() {
    let dir = TempDir::new().unwrap();
    let kept = text(dir.path()).to_owned();
    let flags = ["--query", "leader-selected", "--min-batch-size", "2", "--vdaf", "sum", "--max-measurement", "100"];
    let mut pair = Pair::start(&[&["--dap", "18", "--dir", &kept], &flags[..]].concat());
    let (client, collector) = (format!("{kept}/client.toml"), format!("{kept}/collector.toml"));
    let collect =
        || -> Value { serde_json::from_str(&stdout(&["collect", "--task", &collector, "-o", "json"])).unwrap() };
    for numbers in [[100, 50], [1, 2]] {
        for number in numbers {
            stdout(&["upload", "--task", &client, &number.to_string()]);
        }
        let collected = collect();
        let expected = (Value::from(numbers.iter().sum::<u64>()), Value::from(2), Value::Null);
        assert_eq!((&collected["result"], &collected["report_count"], &collected["batch_id"]), {
            (&expected.0, &expected.1, &expected.2)
        });
    }
    assert!(stderr_of_failure(&["upload", "--task", &client, "101"], 2).contains("100"));
    let id = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert!(stderr_of_failure(&["collect", "--task", &collector, "--batch-id", id], 2).contains("query"));
    let shown = pair.try_out("task show");
    assert!(shown.contains("dap-18") && shown.contains("2 batches"), "{shown}");
    pair.interrupt();
}

#[test]
fn batches_measurements_and_counts_each() {
    let dir = TempDir::new().unwrap();
    let kept = text(dir.path()).to_owned();
    let _pair = Pair::start(&["--dap", "18", "--dir", &kept, "--vdaf", "histogram", "--length", "3"]);
    let csv = dir.path().join("data.csv");
    let rows: String = (0..500).map(|n| format!("{}\n", n % 4)).collect();
    fs::write(&csv, format!("bin\n{rows}")).unwrap();
    let client = format!("{kept}/client.toml");
    let upload = ["upload", "--task", &client, "--csv", text(&csv), "--column", "bin", "-o", "json"];
    let refused = stderr_of_failure(&upload, 1);
    assert!(
        refused.contains("125 of 500 rows") && refused.contains("line 5: "),
        "a bin of four is not there: {refused}"
    );
    let output = run(&[&upload[..], &["--skip-invalid"]].concat());
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "not all were accepted: {summary}");
    assert_eq!((&summary["accepted"], &summary["invalid"]), (&375.into(), &125.into()), "{summary}");
    let collector = format!("{kept}/collector.toml");
    let collected = stdout(&["collect", "--task", &collector, "--include-current", "--yes", "-o", "csv"]);
    assert_eq!(collected, "index,value\n0,125\n1,125\n2,125\n");
}

#[test]
fn survives_closed_output() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    Server::start(&data).stop();
    let files = dir.path().join("task");
    let urls = ["--leader", "https://a.example", "--helper", "https://b.example"];
    for arguments in [
        &["task", "list", "--data-dir", text(&data)][..],
        &[&["task", "new", "--vdaf", "count", "--out", text(&files)], &urls[..]].concat(),
        &["demo", "--rows", "20"],
        &["task", "new", "--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = dapbox(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
    assert!(files.join("collector.toml").exists());
}

/// After a restore of the other aggregator, an operator closes everything that the two may disagree about, for one task
/// or all shared ones, with and without a running server.
#[test]
fn closes_past_from_command_line() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let data = text(&data);
    let mut ids = Vec::new();
    for (helper, age) in [("https://one.example", "90d"), ("https://two.example", "never"), ("https://two.example", "")]
    {
        let files = dir.path().join(format!("task{}", ids.len()));
        let mut new = vec!["task", "new", "--leader", "https://a.example", "--helper", helper, "--vdaf", "count"];
        new.extend(["--out", text(&files)]);
        if !age.is_empty() {
            new.extend(["--report-expiry-age", age]);
        }
        let printed = stdout(&new);
        ids.push(printed.lines().next().unwrap().strip_prefix("Task ").unwrap().to_owned());
        let file = fs::read_to_string(files.join("leader.toml")).unwrap();
        let expected = [Some("90d"), None, Some("30d")][ids.len() - 1];
        let kept = file.lines().find_map(|line| line.strip_prefix("report_expiry_age = "));
        assert_eq!(kept.map(|text| text.trim_matches('"')), expected, "{file}");
        stdout(&["task", "add", text(&files.join("leader.toml")), "--role", "leader", "--data-dir", data]);
    }
    let horizons = || -> Vec<Value> {
        let shown = |id: &String| stdout(&["task", "show", id, "--data-dir", data, "-o", "json"]);
        ids.iter().map(|id| serde_json::from_str::<Value>(&shown(id)).unwrap()["horizon"].clone()).collect()
    };

    let before = ["--before", "2026-01-01T00:30", "--data-dir", data];
    let close = |which: &[&'static str], more: &[&'static str]| -> Vec<&str> {
        ["task", "close"].iter().chain(which).chain(&before).chain(more).copied().collect()
    };
    assert!(stderr_of_failure(&close(&[], &["--yes"]), 2).contains("--peer"));
    assert!(stderr_of_failure(&close(&["--all"], &[]), 2).contains("--yes"));
    assert!(
        stderr_of_failure(&close(&["--peer", "https://three.example"], &["--yes"]), 1).contains("no matching task")
    );
    let later = ["task", "close", "--all", "--before", "2999-01-01", "--yes", "--data-dir", data];
    assert!(stderr_of_failure(&later, 2).contains("ahead"));
    assert_eq!(horizons(), [Value::Null, Value::Null, Value::Null]);

    // The current hour is closed with it.
    let closed = stdout(&close(&["--peer", "https://two.example"], &["--yes"]));
    assert!(closed.contains("2026-01-01T01:00:00Z"), "{closed}");
    let hour = Value::from(1_767_229_200);
    assert_eq!(horizons(), [Value::Null, hour.clone(), hour.clone()]);
    let server = Server::start(Path::new(data));
    stdout(&[&["task", "close", &ids[0], "--yes"], &before[..]].concat());
    // A running server also closes what exceeds the tasks' own retention.
    let (now, hour) = (horizons(), hour.as_u64());
    assert!(now[0].as_u64() >= hour && now[1].as_u64() == hour, "{now:?}");
    let shown = stdout(&["task", "show", &ids[0], "--data-dir", data]);
    assert!(shown.contains("closed before"), "{shown}");
    server.stop();
}
