//! Uploads of files: validation, skipped rows, and resumption.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Pair, dapbox, run, stderr_of_failure, stdout, text};
use crate::common::child::Running;

fn pair(dir: &Path, arguments: &[&str]) -> Pair {
    Pair::start(&[&["--dir", text(dir), "--time-precision", "1h"], arguments].concat())
}

/// Collects everything.
fn collected(dir: &Path) -> Value {
    let collector = dir.join("collector.toml");
    let arguments = ["collect", "--task", text(&collector), "--include-current", "--yes", "-o", "json"];
    serde_json::from_str(&stdout(&arguments)).unwrap()
}

fn with_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = dapbox(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn validates_all_rows_before_first_upload() {
    for dap in ["09", "18"] {
        let dir = TempDir::new().unwrap();
        let _pair = pair(dir.path(), &["--dap", dap, "--vdaf", "histogram", "--length", "4"]);
        let (client, csv) = (dir.path().join("client.toml"), dir.path().join("data.csv"));
        let rejected = dir.path().join("rejected.csv");
        // From a spreadsheet: a byte order mark, semicolons, Latin-1 in an unused column.
        fs::write(&csv, b"\xef\xbb\xbfname;the bin, from 0\nM\xfcller;0\nb;9\nc;x\nd\ne;3\n").unwrap();
        let base = ["upload", "--task", text(&client), "--csv", text(&csv), "--column", "the bin, from 0"];
        let error = stderr_of_failure(&[&base[..], &["--rejected", text(&rejected)]].concat(), 1);
        for part in ["3 of 5 rows", "nothing was sent", "line 3: ", "line 4: ", "line 5: ", "--skip-invalid"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        let lines = fs::read_to_string(&rejected).unwrap();
        let named: Vec<_> = lines.lines().map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(named, ["line", "3", "4", "5"], "{lines}");
        let again = stderr_of_failure(&[&base[..], &["--rejected", text(&rejected)]].concat(), 1);
        assert!(again.contains("already exists"), "{again}");

        let output = run(&[&base[..], &["--skip-invalid", "-o", "json"]].concat());
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = json!({ "accepted": 2, "invalid": 3, "not_tried": 0 });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&summary[name], value, "{summary}");
        }
        assert_eq!(output.status.code(), Some(1), "not all of them were accepted");
        assert_eq!(collected(dir.path())["result"], json!(["1", "0", "0", "1"].map(|n| n.parse::<u64>().unwrap())));

        // The batch is collected now: rows that the leader rejects are listed with their lines, too.
        let late = dir.path().join("late.csv");
        let output = run(&[&base[..], &["--skip-invalid", "--rejected", text(&late)]].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let lines = fs::read_to_string(&late).unwrap();
        let mut named: Vec<_> = lines.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
        named.sort_unstable();
        assert_eq!(named, ["2", "3", "4", "5", "6"], "{lines}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains(".upload")), "{left:?}");
    }
}

#[test]
fn reads_rows_from_standard_input() {
    let dir = TempDir::new().unwrap();
    let _pair = pair(dir.path(), &["--vdaf", "sum", "--bits", "8"]);
    let client = dir.path().join("client.toml");
    let upload = ["upload", "--task", text(&client), "--csv", "-", "--column", "n", "-o", "json"];
    let bad = with_input(&upload, b"x\tn\na\t1\nb\t256\n");
    let error = String::from_utf8(bad.stderr).unwrap();
    assert!(bad.status.code() == Some(1) && error.contains("line 3: "), "{error}");
    let good = with_input(&upload, b"x\tn\na\t1\nb\t255\n");
    assert_eq!(serde_json::from_slice::<Value>(&good.stdout).unwrap()["accepted"], json!(2), "{good:?}");
    let resumed = with_input(&[&upload[..], &["--resume"]].concat(), b"n\n1\n");
    assert_eq!(resumed.status.code(), Some(2), "a stream cannot be resumed: {resumed:?}");
    assert_eq!(collected(dir.path())["result"], json!(256));
}

#[test]
fn refuses_task_file_with_secrets() {
    let dir = TempDir::new().unwrap();
    let _pair = pair(dir.path(), &["--vdaf", "count"]);
    for party in ["leader", "helper", "collector"] {
        let file = dir.path().join(format!("{party}.toml"));
        let error = stderr_of_failure(&["upload", "--task", text(&file), "true"], 2);
        assert!(error.contains(&format!("the secrets of the {party}")) && error.contains("client.toml"), "{error}");
    }
    stdout(&["upload", "--task", text(&dir.path().join("client.toml")), "true"]);
}

/// The recorded progress of an upload, in bytes.
fn recorded(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let journal: Option<PathBuf> = entries.into_iter().find(|path| text(path).ends_with(".upload"));
    journal.and_then(|journal| fs::metadata(journal.join("log")).ok()).map_or(0, |log| log.len())
}

#[test]
fn resumes_killed_upload_without_duplicates() {
    const ROWS: u64 = 1_500;
    for dap in ["09", "18"] {
        let dir = TempDir::new().unwrap();
        let _pair = pair(dir.path(), &["--dap", dap, "--vdaf", "sum", "--bits", "8"]);
        let (client, csv) = (dir.path().join("client.toml"), dir.path().join("data.csv"));
        let rows: String = (0..ROWS).map(|row| format!("{}\n", row % 200)).collect();
        fs::write(&csv, format!("n\n{rows}")).unwrap();
        let base = ["upload", "--task", text(&client), "--csv", text(&csv), "--column", "n", "--concurrency", "8"];
        let mut arguments = base.to_vec();
        for _ in 0..3 {
            let before = recorded(dir.path());
            let mut command = dapbox(&arguments);
            let mut child = Running::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
            // Killed as soon as the record grows, with requests in flight.
            while recorded(dir.path()) < before + 200 && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                break;
            }
            arguments = [&base[..], &["--resume"]].concat();
        }
        if recorded(dir.path()) > 0 {
            let error = stderr_of_failure(&base, 1);
            assert!(error.contains("was interrupted") && error.contains("--resume"), "{error}");
            stdout(&arguments);
        }
        let (sum, collected) = ((0..ROWS).map(|row| row % 200).sum::<u64>(), collected(dir.path()));
        assert_eq!((&collected["report_count"], &collected["result"]), (&json!(ROWS), &json!(sum)), "DAP-{dap}");
        let error = stderr_of_failure(&[&base[..], &["--resume"]].concat(), 1);
        assert!(error.contains("omit --resume"), "{error}");
    }
}
