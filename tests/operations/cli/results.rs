//! `dapbox results`, and the tasks that a server collects.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Pair, Server, dapbox, run, stderr_of_failure, stdout, text};
use crate::common::child::{Running, Signal};

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(&[arguments, &["-o", "json"]].concat())).unwrap()
}

#[test]
fn manages_collected_tasks_with_and_without_server() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let (files, data) = (path("task"), path("data"));
    stdout(
        &[
            &[
                "task",
                "new",
                "--leader",
                "http://127.0.0.1:1/",
                "--helper",
                "http://127.0.0.1:2/",
                "--vdaf",
                "histogram",
            ],
            &["--length", "3", "--name", "visits", "--out", &files][..],
        ]
        .concat(),
    );
    let file = format!("{files}/collector.toml");
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.contains("[schedule]") && written.contains("every = \"day\""), "{written}");

    // Without a server.
    fs::create_dir(&data).unwrap();
    let added = json(&["task", "add", &file, "--data-dir", &data]);
    assert_eq!((&added["done"], &added["role"]), (&"added".into(), &"collector".into()), "{added}");
    assert_eq!(json(&["task", "add", &file, "--data-dir", &data])["done"], "unchanged");
    let listed = json(&["results", "list", "--data-dir", &data]);
    assert_eq!(listed[0]["name"], "visits", "{listed}");

    let server = Server::start(&dir.path().join("data"));
    let more = "\n[presentation]\ntitle = \"Visits to a doctor\"\nlabels = [\"none\", \"one\", \"more\"]\n";
    fs::write(&file, format!("{written}{more}")).unwrap();
    assert_eq!(json(&["task", "add", &file, "--data-dir", &data])["done"], "changed");
    let shown = stdout(&["task", "show", "visits", "--data-dir", &data]);
    assert!(shown.contains("Visits to a doctor") && shown.contains("collector"), "{shown}");
    let listed = json(&["task", "list", "--data-dir", &data]);
    assert_eq!(listed[0]["role"], "collector", "{listed}");
    fs::write(&file, format!("{written}{}", more.replace(", \"more\"", ""))).unwrap();
    let refused = stderr_of_failure(&["task", "add", &file, "--data-dir", &data], 1);
    assert!(refused.contains("2 labels for 3 numbers"), "{refused}");
    fs::write(&file, written.replace("min_batch_size = 100", "min_batch_size = 101")).unwrap();
    let refused = stderr_of_failure(&["task", "add", &file, "--data-dir", &data], 1);
    assert!(refused.contains("cannot change"), "{refused}");

    let findings: Value =
        serde_json::from_slice(&run(&["doctor", "--offline", "--data-dir", &data, "-o", "json"]).stdout).unwrap();
    let found = findings.as_array().unwrap().iter().find(|finding| finding["name"] == "results").unwrap();
    assert!(found["detail"].as_str().unwrap().contains("of 1 task collected"), "{found}");

    let windows = json(&["results", "windows", "--data-dir", &data]);
    assert!(windows.as_array().unwrap().iter().all(|window| window["state"] == "upcoming"), "{windows}");
    let export = stdout(&["results", "export", "--data-dir", &data]);
    assert_eq!(export.lines().count(), 1, "{export}");
    let none = stderr_of_failure(&["results", "show", "--data-dir", &data], 1);
    assert!(none.contains("no window is collected yet"), "{none}");
    let wrong = stderr_of_failure(&["results", "export", "--from", "yesterday", "--data-dir", &data], 2);
    assert!(wrong.contains("2026-11-01"), "{wrong}");

    let link = json(&["results", "link", "create", "--label", "a colleague", "--data-dir", &data]);
    assert!(link["path"].as_str().unwrap().starts_with("/results/"), "{link}");
    let links = json(&["results", "link", "list", "--data-dir", &data]);
    assert_eq!((&links[0]["label"], links[0].get("path")), (&"a colleague".into(), None), "{links}");
    stdout(&["results", "link", "revoke", links[0]["id"].as_str().unwrap(), "--data-dir", &data]);
    assert_eq!(json(&["results", "link", "list", "--data-dir", &data]), Value::Array(Vec::new()));
    let hint = stderr_of_failure(&["results", "test-webhook", "--data-dir", &data], 1);
    assert!(hint.contains("[[webhook]]"), "{hint}");

    let id = added["task"].as_str().unwrap();
    stdout(&["task", "remove", id, "--yes", "--data-dir", &data]);
    assert!(stdout(&["results", "list", "--data-dir", &data]).contains("collects no tasks"));
    let log = server.stop();
    assert!(!log.contains(link["path"].as_str().unwrap().trim_start_matches("/results/")), "the log contains a link");
    let stopped = run(&["results", "windows", "--data-dir", &data]);
    assert!(String::from_utf8_lossy(&stopped.stderr).contains("dapbox serve"), "{stopped:?}");
}

#[test]
fn pair_collects() {
    let dir = TempDir::new().unwrap();
    let kept = dir.path().join("pair");
    let arguments = ["--vdaf", "count", "--dir", text(&kept)];
    let mut pair = Pair::start_collecting(&arguments);
    assert!(pair.commands.iter().any(|command| command.contains("results windows")), "{:?}", pair.commands);
    pair.try_out("upload");
    let windows = pair.try_out("results windows");
    assert!(windows.contains("upcoming"), "{windows}");
    let data = kept.join("leader");
    let status = stdout(&["status", "--data-dir", text(&data)]);
    assert!(status.contains("Collected by this server"), "{status}");
    let status = json(&["status", "--data-dir", text(&data)]);
    assert_eq!(status["collected"][0]["id"], status["tasks"][0]["status"]["id"], "{status}");
    let doctor = run(&["doctor", "--offline", "--data-dir", text(&data), "-o", "json"]).stdout;
    let doctor: Value = serde_json::from_slice(&doctor).unwrap();
    let found = doctor.as_array().unwrap().iter().find(|finding| finding["name"] == "results").unwrap();
    assert!(!found["detail"].as_str().unwrap().contains("no listener"), "{found}");
    pair.interrupt();

    // The directory decides whether there is a collector.
    let refused = stderr_of_failure(&["pair", "--no-collector", "--dir", text(&kept)], 2);
    assert!(refused.contains("--no-collector contradicts"), "{refused}");
    let mut pair = Pair::start_collecting(&arguments);
    assert!(pair.commands.iter().any(|command| command.contains("results windows")), "{:?}", pair.commands);
    pair.interrupt();
}

#[test]
fn pair_without_collector_resumes_without_it() {
    let dir = TempDir::new().unwrap();
    Pair::start(&["--dir", text(dir.path())]).interrupt();
    let mut pair = Pair::start_collecting(&["--dir", text(dir.path())]);
    assert!(pair.commands.iter().any(|command| command.contains("collect --task")), "{:?}", pair.commands);
    assert_eq!(json(&["results", "list", "--data-dir", text(&dir.path().join("leader"))]), Value::Array(Vec::new()));
    pair.interrupt();
}

#[test]
fn example_shows_half_a_year_of_results() {
    let mut command = dapbox(&["pair", "--example", "--rows", "300", "-o", "json"]);
    let mut process = Running::spawn(command.stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    assert_eq!(told["tasks"].as_array().unwrap().len(), 3, "{told}");
    assert!(told["tasks"].as_array().unwrap().iter().all(|task| task["windows"]["collected"] == 26), "{told}");
    assert!(told["results"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{told}");
    let data = told["leader"].as_str().unwrap();
    let task = |title: &str| {
        let tasks = told["tasks"].as_array().unwrap();
        tasks.iter().find(|task| task["title"].as_str().unwrap().contains(title)).unwrap()["id"].as_str().unwrap()
    };
    let exported = stdout(&["results", "export", task("in total"), "--sum", "--data-dir", data]);
    assert!(exported.lines().nth(1).unwrap().contains(",300,0,"), "{exported}");
    process.signal(Signal::INT);
    assert_eq!(process.wait().unwrap().code(), Some(0));
}
