//! `dapbox bench` on a small scale: each measurement is present, and the numbers are consistent.

use std::{path::Path, process::Command};

use rstest::rstest;
use serde_json::Value;

use crate::common::process::{self, Process};

/// Runs `dapbox bench` with these arguments and parses its JSON.
fn bench(args: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_dapbox")).arg("bench").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("{name}: {row:#}"))
}

fn assert_all_positive(row: &Value, names: &[&str]) {
    for name in names {
        assert!(number(row, name) > 0.0, "{name}: {row:#}");
    }
}

/// Asserts that `whole` is the product of the two parts.
fn assert_product(row: &Value, whole: &str, parts: [&str; 2]) {
    let product: f64 = parts.iter().map(|part| number(row, part)).product();
    assert!((product / number(row, whole) - 1.0).abs() < 1e-6, "{whole} is not {parts:?}: {row:#}");
}

#[test]
fn measures_growth_at_each_size_and_after_compaction() {
    let rows = bench("growth --reports 20000 --per-day 8000 --pause 0s -o json");
    let rows = rows.as_array().unwrap();
    let compacted: Vec<_> = rows.iter().map(|row| row["compacted"].as_bool().unwrap()).collect();
    assert_eq!(compacted, [false, false, true]);
    assert_eq!(number(&rows[0], "reports"), 0.0);
    assert!(number(&rows[1], "reports") >= 20_000.0, "{rows:#?}");
    assert!(number(&rows[2], "reports") > number(&rows[1], "reports"), "{rows:#?}");
    for row in rows {
        assert_all_positive(row, &["reports_per_second", "speed", "start_seconds", "resident_bytes", "disk_bytes"]);
    }
}

#[rstest]
#[case("09", "sumvec:5x2")]
#[case("18", "l1-bound-sum:5x9")]
fn measures_helper_jobs_against_limit(#[case] dap: &str, #[case] vector: &str) {
    let measured = bench(&format!(
        "helper --vdaf histogram:4,{vector} --job-size 3,5 --in-flight 1,2 --seconds 0.1 --json --dap {dap}"
    ));
    assert_all_positive(&measured["machine"], &["cores", "fdatasync_us"]);
    let vdafs = measured["helper"].as_array().unwrap();
    assert_eq!(vdafs.len(), 2);
    for vdaf in vdafs {
        assert_eq!(vdaf["revision"], format!("dap-{dap}"));
        let runs = vdaf["runs"].as_array().unwrap();
        let shapes: Vec<_> =
            runs.iter().map(|run| (number(run, "job_size") as u64, number(run, "jobs_in_flight") as u64)).collect();
        assert_eq!(shapes, [(3, 1), (3, 2), (5, 1), (5, 2)]);
        for run in runs {
            assert_all_positive(run, &["limit_us_per_report", "limit_cores_share", "server_cpu_us_per_report"]);
            assert_product(run, "reports_per_second", ["ratio", "bound_reports_per_second"]);
            assert_product(run, "reports", ["jobs", "job_size"]);
            assert_product(run, "reports", ["commits", "reports_per_commit"]);
            assert!(number(run, "jobs") >= 3.0 * number(run, "jobs_in_flight"), "{run:#}");
            // Each job is durable before it is answered, so that sequential jobs need a commit each.
            if number(run, "jobs_in_flight") == 1.0 {
                assert!(number(run, "commits") >= number(run, "jobs"), "{run:#}");
                assert!(number(run, "bound_reports_per_second") < number(run, "limit_reports_per_second"), "{run:#}");
            } else {
                let [bound, limit] = ["bound", "limit"].map(|name| number(run, &format!("{name}_reports_per_second")));
                assert!((bound / limit - 1.0).abs() < 1e-9, "{run:#}");
            }
            assert_all_positive(&run["hpke_config"], &["answers", "median_ms", "p99_ms", "max_ms"]);
        }
    }
}

#[rstest]
#[case::one_by_one("09", 1)]
#[case::several_in_a_request("18", 3)]
fn counts_durable_uploads(#[case] dap: &str, #[case] together: u64) {
    let measured = bench(&format!(
        "upload --vdaf count --connections 1,5 --seconds 0.1 -o json --dap {dap} --reports-per-upload {together}"
    ));
    let runs = measured["upload"][0]["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_all_positive(run, &["reports_per_second", "server_cpu_us_per_report", "generator_cpu_us_per_request"]);
        assert_product(run, "reports", ["commits", "reports_per_commit"]);
        assert_eq!(number(run, "reports") as u64, together * number(&run["latency"], "answers") as u64);
        assert!(number(&run["latency"], "median_ms") <= number(&run["latency"], "p99_ms"), "{run:#}");
    }
    assert!(number(&runs[0], "commits") >= number(&runs[0]["latency"], "answers"), "{runs:#?}");
}

#[test]
fn rejects_batched_uploads_for_dap09() {
    let args = ["bench", "upload", "--reports-per-upload", "2"];
    let output = Command::new(env!("CARGO_BIN_EXE_dapbox")).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[rstest]
fn aggregation_ends_when_both_have_all_reports(#[values("09", "18")] dap: &str) {
    let measured = bench(&format!("aggregation --vdaf sum:8 --reports 250 --seconds 0.1 --json --dap {dap}"));
    let row = &measured["aggregation"][0];
    assert_eq!(number(row, "reports"), 250.0);
    assert_product(row, "reports", ["reports_per_second", "seconds"]);
    assert_product(row, "reports_per_second", ["ratio", "limit_reports_per_second"]);
    assert_all_positive(row, &["leader_us_per_report", "helper_us_per_report", "leader_commits", "helper_commits"]);
}

#[test]
fn measures_everything_without_subcommand() {
    let args = "--vdaf count --job-size 2 --in-flight 1 --connections 2 --reports 100 --seconds 0.1";
    let output = Command::new(env!("CARGO_BIN_EXE_dapbox")).arg("bench").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["fdatasync", "helper, count, dap-09", "upload, count, dap-09", "aggregation"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 104), "a line is too wide:\n{text}");
}

/// Runs `dapbox` and returns its output.
fn dapbox(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dapbox")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The helper is a process unaware of the benchmark. With DAP-18 it defers larger jobs.
#[rstest]
#[case::where_the_task_says("09", "fixed-size", false)]
#[case::elsewhere("18", "time-interval", true)]
#[tokio::test(flavor = "multi_thread")]
async fn measures_remote_helper(#[case] dap: &str, #[case] query: &str, #[case] is_elsewhere: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (data, files) = (dir.path().join("data"), dir.path().join("task"));
    let mut helper = Process::new("helper", process::dapbox, dir.path(), data.clone());
    let origin = format!("http://{}/", helper.address);
    let named = if is_elsewhere { "https://helper.example" } else { &origin };
    let task = ["task", "new", "--leader", "https://leader.example", "--helper", named, "--vdaf", "multihot"];
    let more = ["--length", "4", "--max-weight", "2", "--dap", dap, "--query", query, "--out", text(&files)];
    dapbox(&[&task[..], &more[..]].concat());
    let [leader_file, helper_file] = ["leader.toml", "helper.toml"].map(|name| files.join(name));
    helper.spawn();
    helper.ready().await.unwrap();
    dapbox(&["task", "add", text(&helper_file), "--role", "helper", "--data-dir", text(&data)]);

    let mut args = format!("peer --task {} --reports 30 --job-size 3,16 --in-flight 1,4 -o json", text(&leader_file));
    if is_elsewhere {
        args += &format!(" --helper-url {origin}dap-{dap}/");
    }
    let measured = bench(&args);
    assert_eq!(
        (&measured["vdaf"], &measured["revision"]),
        (&"count of each of 4 flags, at most 2 set".into(), &format!("dap-{dap}").into())
    );
    let runs = measured["runs"].as_array().unwrap();
    let shape = |run| ["job_size", "jobs_in_flight", "jobs", "reports"].map(|name| number(run, name) as u64);
    let shapes: Vec<_> = runs.iter().map(shape).collect();
    assert_eq!(shapes, [[3, 1, 10, 30], [3, 4, 10, 30], [16, 1, 2, 32], [16, 4, 2, 32]]);
    for run in runs {
        assert_product(run, "reports", ["reports_per_second", "seconds"]);
        assert_eq!((&run["refused"], number(&run["job"], "answers")), (&serde_json::json!({}), number(run, "jobs")));
    }
    helper.kill().unwrap();
    let tasks: Value =
        serde_json::from_str(&dapbox(&["task", "list", "--data-dir", text(&data), "-o", "json"])).unwrap();
    assert_eq!(number(&tasks[0], "aggregated"), 124.0, "{tasks:#}");
}

#[test]
fn measures_remote_helper_with_leader_file_only() {
    let dir = tempfile::tempdir().unwrap();
    let files = text(dir.path());
    let task = ["task", "new", "--leader", "https://a.example", "--helper", "https://b.example", "--vdaf", "count"];
    dapbox(&[&task[..], &["--out", files]].concat());
    let helper_file = dir.path().join("helper.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_dapbox"))
        .args(["bench", "peer", "--task", text(&helper_file)])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("leader.toml"), "{error}");
}

/// Both are real servers in separate processes.
#[test]
fn measures_memory_of_both_aggregators() {
    let measured = bench("memory --vdaf histogram:10 --reports 150 -o json");
    assert_eq!((measured["vdaf"].as_str(), number(&measured, "reports")), (Some("histogram:10"), 150.0));
    assert_all_positive(&measured, &["leader_share_bytes", "aggregation_seconds"]);
    for party in ["leader", "helper"] {
        let peaks = ["started", "uploaded", "aggregated"].map(|when| number(&measured[party], when));
        assert!(peaks[0] > 0.0 && peaks.is_sorted(), "{measured:#}");
    }
}
