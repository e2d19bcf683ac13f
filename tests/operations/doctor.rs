//! `dapbox doctor`: its findings for healthy and broken servers, and its exit code.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{ChildStderr, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::child::Running;

fn dapbox(arguments: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).args(["--data-dir", dir.to_str().unwrap()]);
    // Independent of the free space of the machine.
    let small = (1 << 20).to_string();
    command.env_remove("DAPBOX_CONFIG").env("DAPBOX_DISK__RESERVE_BYTES", &small);
    command.env("DAPBOX_DISK__BALLAST_BYTES", &small).env("RUST_BACKTRACE", "0");
    // Independent of the usual ports, which may be taken; running servers report their own addresses.
    command.env("DAPBOX_LISTEN", "127.0.0.1:0").env("DAPBOX_MONITOR__LISTEN", "");
    command
}

/// A running server.
struct Server {
    process: Running,
    /// Open as long as the server may log.
    _log: BufReader<ChildStderr>,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let mut command = dapbox(&["serve", "--listen", "127.0.0.1:0"], dir);
        let mut child = Running::spawn(command.stderr(Stdio::piped()));
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("\"serving\"") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it served");
        }
        Self { process: child, _log: log }
    }

    fn stop(self) {
        self.process.terminate();
    }
}

/// The exit code and the findings by name.
fn examine(dir: &Path) -> (i32, impl Fn(&str) -> (String, String) + use<>) {
    let output = dapbox(&["doctor", "-o", "json"], dir).output().unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = move |name: &str| {
        let all = findings.as_array().unwrap();
        let Some(finding) = all.iter().find(|finding| finding["name"] == name) else { return Default::default() };
        let text = |key: &str| finding.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert_eq!(finding["outcome"] == "ok", text("remedy").is_empty(), "{finding}");
        (text("outcome"), format!("{} {}", text("detail"), text("remedy")))
    };
    (output.status.code().unwrap(), found)
}

#[test]
fn passes_healthy_directory_with_and_without_server() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let running = Server::start(&data);
    let (code, found) = examine(&data);
    assert_eq!(code, 0);
    for name in ["data directory", "permissions", "disk space", "ballast", "server"] {
        assert_eq!(found(name).0, "ok", "{name}: {:?}", found(name));
    }
    assert!(found("server").1.contains("running"), "{:?}", found("server"));
    assert_eq!(found("content").0, "", "it is the server's");
    running.stop();

    let (code, found) = examine(&data);
    assert_eq!((code, found("content")), (0, ("ok".to_owned(), "intact, with 0 tasks ".to_owned())));
    assert!(found("server").0 == "warning" && found("server").1.contains("no server uses"), "{:?}", found("server"));
    let output = dapbox(&["doctor"], &data).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("  ok       content         intact, with 0 tasks\n"), "{text}");
    assert!(output.status.success() && output.stderr.is_empty(), "{text}");
    assert!(!data.join("doctor-probe").exists());
    // The doctor leaves nothing that prevents the next start.
    Server::start(&data).stop();
}

#[test]
fn reports_each_problem_with_fix() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let (code, found) = examine(&data);
    assert_eq!((code, found("data directory").0.as_str()), (1, "failed"));
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    let (code, found) = examine(&data);
    assert_eq!((code, found("data directory").0.as_str()), (0, "warning"));
    assert!(fs::read_dir(&data).unwrap().next().is_none(), "looking leaves nothing behind");

    Server::start(&data).stop();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(data.join("secrets.key"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(data.join("ballast-without-data")).unwrap();
    let (code, found) = examine(&data);
    assert_eq!((code, found("ballast").0.as_str()), (1, "warning"));
    for (name, says) in [("permissions", "chmod 700"), ("secrets key", "chmod 600")] {
        let (outcome, text) = found(name);
        assert!(outcome == "failed" && text.contains(says), "{outcome} {text}");
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(data.join("secrets.key"), fs::Permissions::from_mode(0o600)).unwrap();

    let mut short = dapbox(&["doctor"], &data);
    let output = short.env("DAPBOX_DISK__RESERVE_BYTES", (1_u64 << 60).to_string()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("failed   disk space") && text.contains("dapbox compact"), "{text}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("1 check failed"), "{text}");

    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_dapbox")]);
    let output = command.args(["doctor", "-o", "json", "--data-dir"]).arg(&data).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("limit on open files is 64"), "{output:?}");

    // A running server whose socket is missing still locks the directory.
    let running = Server::start(&data);
    fs::remove_file(data.join("control.sock")).unwrap();
    let (code, found) = examine(&data);
    assert!(code == 1 && found("content").1.contains("in use by another process"), "{:?}", found("content"));
    running.stop();

    let database = data.join("tables/db");
    fs::write(&database, &fs::read(&database).unwrap()[..100]).unwrap();
    let (code, found) = examine(&data);
    let (outcome, text) = found("content");
    assert!(code == 1 && outcome == "failed" && text.contains("restore a backup"), "{outcome} {text}");
}

/// A leader and a helper of `pair`: without a configuration file, without a ballast, and with a pending report.
#[test]
fn passes_running_pair() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().join("pair");
    let mut pair = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    pair.args(["pair", "--vdaf", "count", "--min-batch-size", "100", "--dir"]).arg(&place).stdout(Stdio::piped());
    let mut pair = Running::spawn(&mut pair);
    let mut said = BufReader::new(pair.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("Ctrl-C")), "it ended before it ran");
    let mut upload = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    assert!(upload.args(["upload", "true", "--task"]).arg(place.join("client.toml")).status().unwrap().success());

    for name in ["leader", "helper"] {
        let (code, found) = examine(&place.join(name));
        for check in ["permissions", "server", "keys", "listen address", "monitor", "peer keys", "peer clock"] {
            assert_eq!(found(check).0, "ok", "{name}, {check}: {:?}", found(check));
        }
        let (outcome, detail) = found("backlog");
        assert_eq!(outcome, if name == "leader" { "ok" } else { "" }, "{detail}");
        assert_eq!((code, found("ballast").0.as_str()), (0, ""), "no ballast is configured");
    }
}
