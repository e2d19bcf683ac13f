//! `dapbox demo` as a newcomer runs it: the binary, its output and its exit code.

use std::{
    path::Path,
    process::{Command, Output},
};

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dapbox"))
        .arg("demo")
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("the binary runs")
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The expected numbers, computed from the data without our code: visits, and the other columns, of the first rows.
fn rows(count: usize) -> Vec<Vec<u64>> {
    let data =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rand-health-insurance.csv"));
    let data = data.unwrap();
    let row = |line: &str| line.split(',').map(|cell| cell.parse().unwrap()).collect();
    data.lines().skip(1).take(count).map(row).collect()
}

#[test]
fn answers_each_question_in_all_modes_and_revisions() {
    let rows = rows(300);
    let column = |index: usize| rows.iter().map(move |row| row[index]);
    let expected = [
        ("histogram", column(0).filter(|visits| *visits == 0).count() as u64),
        ("count", column(0).filter(|visits| *visits > 0).count() as u64),
        ("sum", column(0).sum()),
        ("sumvec", column(1).sum()),
        ("multihot", column(3).sum()),
        ("l1-bound-sum", column(1).sum()),
    ];
    for (vdaf, number) in expected {
        for (dap, query) in
            [("09", "time-interval"), ("09", "fixed-size"), ("18", "time-interval"), ("18", "leader-selected")]
        {
            let output = demo(&["--rows", "300", "--vdaf", vdaf, "--query", query, "--dap", dap]);
            let text = text(&output);
            if (vdaf, dap) == ("l1-bound-sum", "09") {
                let is_refused = output.status.code() == Some(2) && text.contains("use --dap 18");
                assert!(is_refused && !text.contains("question"), "{text}");
                continue;
            }
            assert!(output.status.success(), "{vdaf} {query} {dap}: {text}");
            assert!(text.contains("Exact:"), "{vdaf} {query} {dap}: {text}");
            assert!(text.contains(&format!("/dap-{dap}/")), "{vdaf} {query} {dap}: {text}");
            let shown: String = text.chars().filter(|c| *c != ',').collect();
            let is_shown = shown.split_whitespace().any(|word| word == number.to_string());
            assert!(is_shown, "{vdaf} {query} {dap}: {number} is not in {text}");
        }
    }
}

#[test]
fn prints_json_only() {
    let output = demo(&["--rows", "150", "-o", "json"]);
    assert!(output.status.success(), "{}", text(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows(150);
    let expected: Vec<_> = (0..12).map(|n| rows.iter().filter(|row| row[0] == n).count()).collect();
    assert_eq!((&told["exact"], &told["report_count"]), (&true.into(), &150.into()), "{told}");
    for numbers in [&told["result"], &told["expected"]] {
        assert_eq!(numbers.as_array().unwrap()[..12], expected[..], "{told}");
    }
    assert_eq!(told["labels"][12], "12+");
    assert!(told["seconds"]["all"].as_f64().unwrap() > 0.0);
}

#[test]
fn keeps_data_directories_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let keep = dir.path().join("kept");
    let output = demo(&["--rows", "120", "--keep", keep.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    for party in ["leader", "helper"] {
        let database = walk(&keep.join(party)).into_iter().any(|file| file.ends_with("/db"));
        assert!(database, "{party}: {:?}", walk(&keep));
    }
}

fn walk(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path.to_string_lossy().into_owned()] }).collect()
}

#[test]
fn detects_broken_helper() {
    for dap in ["09", "18"] {
        let output = demo(&["--rows", "120", "--sabotage", "helper", "--dap", dap]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("vdaf_prep_error"), "{}", text(&output));
    }
}
