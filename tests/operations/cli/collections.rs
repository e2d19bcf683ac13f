//! Interrupted collections, and chosen intervals.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Pair, dapbox, run, stderr_of_failure, stdout, text};
use crate::common::child::{Running, Signal};

/// The revisions, each with its options for a sum of bytes, in both batch modes.
const KINDS: [[&str; 8]; 4] = [
    ["--dap", "09", "--query", "time-interval", "--time-precision", "1h", "--bits", "8"],
    ["--dap", "18", "--query", "time-interval", "--time-precision", "1h", "--max-measurement", "255"],
    ["--dap", "09", "--query", "fixed-size", "--max-batch-size", "2", "--bits", "8"],
    ["--dap", "18", "--query", "leader-selected", "--time-precision", "1h", "--max-measurement", "255"],
];

/// A pair with a task of at least two reports in a batch.
struct Setting {
    dir: TempDir,
    kind: [&'static str; 8],
    pair: Pair,
}

impl Setting {
    fn start(kind: [&'static str; 8]) -> Self {
        let dir = TempDir::new().unwrap();
        let pair = start(dir.path(), kind);
        Self { dir, kind, pair }
    }

    fn file(&self, name: &str) -> String {
        text(&self.dir.path().join(name)).to_owned()
    }

    /// Uploads numbers measured an hour ago, in a complete unit of the precision.
    fn upload(&self, numbers: &[u64]) {
        let time = hours_ago(1);
        for number in numbers {
            stdout(&["upload", "--task", &self.file("client.toml"), "--time", &time, &number.to_string()]);
        }
    }

    fn collect<'a>(&'a self, arguments: &[&'a str]) -> Vec<String> {
        let file = self.file("collector.toml");
        ["collect", "--task", &file].iter().chain(arguments).map(|&argument| argument.to_owned()).collect()
    }

    /// Collects successfully; returns the result.
    fn result(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&stdout(&borrowed(&self.collect(&[arguments, &["-o", "json"]].concat())))).unwrap()
    }

    fn failure(&self, arguments: &[&str], code: i32) -> String {
        stderr_of_failure(&borrowed(&self.collect(arguments)), code)
    }

    fn outstanding(&self) -> Vec<Value> {
        self.result(&["--list"])["outstanding"].as_array().unwrap().clone()
    }

    /// Starts a collection and waits until the collector reports that it resumes a job.
    fn resume(&self) -> (Running, String) {
        let mut command = dapbox(&borrowed(&self.collect(&[])));
        let mut child = Running::spawn(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        child.stderr = Some(stderr.into_inner());
        (child, line)
    }

    fn batches_collected(&self) -> u64 {
        let listed = stdout(&["task", "list", "--data-dir", &self.file("leader"), "-o", "json"]);
        serde_json::from_str::<Value>(&listed).unwrap()[0]["batches_collected"].as_u64().unwrap()
    }

    fn restart(&mut self) {
        self.pair.interrupt();
        self.pair = start(self.dir.path(), self.kind);
    }
}

fn start(dir: &Path, kind: [&'static str; 8]) -> Pair {
    Pair::start(&[&["--dir", text(dir), "--vdaf", "sum", "--min-batch-size", "2"], &kind[..]].concat())
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn hours_ago(hours: u64) -> String {
    (now() - hours * 3600).to_string()
}

#[test]
fn resumes_collection_after_interruption() {
    for kind in KINDS {
        let setting = Setting::start(kind);
        setting.upload(&[100]);
        let error = setting.failure(&["--timeout", "1s"], 1);
        assert!(error.contains("stays outstanding") && error.contains("--resume"), "{kind:?}: {error}");
        let outstanding = setting.outstanding();
        assert_eq!(outstanding.len(), 1, "{kind:?}: {outstanding:?}");
        assert_eq!(outstanding[0]["state"], "accepted by the leader", "{kind:?}");

        let (mut child, line) = setting.resume();
        assert!(line.contains("resuming the collection of"), "{kind:?}: {line}");
        let second = setting.failure(&[], 1);
        assert!(second.contains("another collector"), "one collector at a time: {kind:?}: {second}");
        child.signal(Signal::KILL);
        child.wait().unwrap();
        assert_eq!(setting.outstanding(), outstanding, "{kind:?}");

        let (mut child, _) = setting.resume();
        child.signal(Signal::INT);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{kind:?}: {said}");
        assert!(said.contains("interrupted") && said.contains("stays outstanding"), "{kind:?}: {said}");
        assert_eq!(setting.outstanding(), outstanding, "{kind:?}");

        setting.upload(&[23]);
        let collected = setting.result(&["--resume"]);
        assert_eq!((&collected["result"], &collected["report_count"]), (&json!(123), &json!(2)), "{kind:?}");
        assert_eq!(setting.outstanding(), [] as [Value; 0], "{kind:?}");
        assert_eq!(setting.batches_collected(), 1, "{kind:?}");
        assert!(setting.failure(&["--resume"], 1).contains("no outstanding collection"), "{kind:?}");
        assert!(!setting.dir.path().join("collector.jobs.json.lock").exists(), "{kind:?}");
    }
}

#[test]
fn keeps_result_that_cannot_be_written() {
    for kind in KINDS {
        let mut setting = Setting::start(kind);
        setting.upload(&[1, 2]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = dapbox(&borrowed(&setting.collect(&[]))).stdout(writer).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("could not be written"), "{kind:?}: {said}");
        assert_eq!(setting.outstanding()[0]["state"], "received, not delivered", "{kind:?}");

        // The result was stored locally: no leader is needed to print it, unless it must release the batch afterwards.
        let is_named_by_content = kind[1] == "18" && kind[3] == "leader-selected";
        if !is_named_by_content {
            setting.pair.interrupt();
        }
        let collected = setting.result(&["--resume"]);
        assert_eq!((&collected["result"], &collected["report_count"]), (&json!(3), &json!(2)), "{kind:?}");
        assert_eq!(setting.outstanding(), [] as [Value; 0], "{kind:?}");

        if !is_named_by_content {
            setting.pair = start(setting.dir.path(), kind);
        }
        if kind[3] != "time-interval" {
            // The next batch, not the same one again.
            setting.upload(&[10, 20]);
            assert_eq!(setting.result(&[])["result"], json!(30), "{kind:?}");
        }
    }
}

#[test]
fn cancelled_collection_leaves_reports_to_next_one() {
    for kind in KINDS {
        let mut setting = Setting::start(kind);
        setting.upload(&[5]);
        setting.failure(&["--timeout", "1s"], 1);
        assert!(setting.failure(&["--cancel"], 2).contains("--yes"), "{kind:?}");
        let id = setting.outstanding()[0]["id"].as_str().unwrap().to_owned();
        // An id may begin with a hyphen.
        stdout(&borrowed(&setting.collect(&[&format!("--cancel={id}"), "--yes"])));
        assert_eq!(setting.outstanding(), [] as [Value; 0], "{kind:?}");
        setting.restart();
        setting.upload(&[6]);
        assert_eq!(setting.result(&[])["result"], json!(11), "{kind:?}");
    }
}

#[test]
fn replaces_waiting_default_collection_with_longer_one() {
    let setting = Setting::start(KINDS[1]);
    // Outstanding from an earlier hour, without reports.
    let start = (now() / 3600 - 5) * 3600;
    let [since, until] = [start, start + 3600].map(|time| time.to_string());
    setting.failure(&["--since", &since, "--until", &until, "--timeout", "1s"], 1);
    let overlapping = setting.failure(&["--since", &since], 1);
    assert!(overlapping.contains("overlaps") && overlapping.contains("--cancel"), "{overlapping}");
    setting.upload(&[7, 8]);
    assert_eq!(setting.result(&[])["result"], json!(15));
    assert_eq!(setting.outstanding(), [] as [Value; 0]);
}

#[test]
fn includes_current_interval_only_on_request() {
    for kind in &KINDS[..2] {
        let setting = Setting::start(*kind);
        let client = setting.file("client.toml");
        let upload = |number: &str| run(&["upload", "--task", &client, number]);
        // Long before the task was made, in the last hour, and now.
        for time in [hours_ago(48), hours_ago(1)] {
            stdout(&["upload", "--task", &client, "--time", &time, "10"]);
        }
        assert!(upload("1").status.success());
        let hour = now() / 3600;
        let collected = setting.result(&["--next"]);
        if now() / 3600 != hour {
            return; // What was uploaded now may have finished.
        }
        assert_eq!(collected["result"], json!(20), "{kind:?}");
        assert_eq!(
            collected["asked"]["start"].as_u64().unwrap() + collected["asked"]["duration"].as_u64().unwrap(),
            hour * 3600
        );
        assert!(upload("2").status.success(), "the hour is still open: {kind:?}");
        let error = setting.failure(&[], 1);
        assert!(error.contains("nothing to collect") && error.contains("--include-current"), "{kind:?}: {error}");
        let error = setting.failure(&["--include-current"], 2);
        assert!(error.contains("refuses further reports") && error.contains("--yes"), "{kind:?}: {error}");
        assert_eq!(setting.result(&["--include-current", "--yes"])["result"], json!(3), "{kind:?}");
        assert!(!upload("4").status.success(), "the hour is closed: {kind:?}");
        let listed = setting.result(&["--list"]);
        assert_eq!(listed["next"], json!((hour + 1) * 3600), "{kind:?}: {listed}");
    }
}

#[test]
fn rejects_overlap_and_lists_free_intervals() {
    let setting = Setting::start(KINDS[1]);
    setting.upload(&[1, 2]);
    let hour = now() / 3600;
    let at = |hours_before: u64| ((hour - hours_before) * 3600).to_string();
    setting.result(&["--since", &at(2), "--until", &at(0)]);
    let error = setting.failure(&["--since", &at(4), "--until", &at(0)], 1);
    assert!(error.contains("batchOverlap") && error.contains("Uncollected parts"), "{error}");
    let free = error.lines().filter(|line| line.starts_with("  ")).count();
    assert_eq!(free, 1, "{error}");
    assert_eq!(setting.outstanding(), [] as [Value; 0], "what was refused is not outstanding");
}

#[test]
fn requires_only_task_option() {
    let error = stderr_of_failure(&["collect"], 2);
    assert!(error.contains("--task <FILE>"), "{error}");
    for other in ["--leader", "--task-id", "--time-precision"] {
        assert!(!error.contains(&format!("{other} <")), "{error}");
    }
}

#[test]
fn checks_output_directory_before_collection() {
    let setting = Setting::start(KINDS[0]);
    setting.upload(&[1, 2]);
    let nowhere = setting.file("nowhere/jobs.json");
    let error = setting.failure(&["--jobs-file", &nowhere], 1);
    assert!(error.contains(&nowhere) && error.contains("--jobs-file"), "{error}");
    assert_eq!(setting.batches_collected(), 0);
    let elsewhere = setting.file("elsewhere.json");
    assert_eq!(setting.result(&["--jobs-file", &elsewhere])["result"], json!(3));
    assert!(fs::exists(&elsewhere).unwrap() && !fs::exists(setting.file("collector.jobs.json")).unwrap());
}
