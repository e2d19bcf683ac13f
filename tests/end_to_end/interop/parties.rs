//! Parties and the runner as processes.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::common::child::Running;

/// The command without server options of the environment.
pub fn dapbox(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DAPBOX_")) {
        command.env_remove(name);
    }
    command
}

/// A party process on free ports.
pub struct Party {
    pub url: String,
    process: Running,
}

impl Party {
    pub fn serve(kind: &str, dap: &str) -> Self {
        let mut command = dapbox(&["interop", "serve", kind, "--listen", "127.0.0.1:0", "--dap", dap, "-o", "json"]);
        let mut process = Running::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{kind}: {line:?}: {error}"));
        assert_eq!((&told["party"], told["dap_url"].is_string()), (&kind.into(), kind == "aggregator"), "{told}");
        Self { url: told["url"].as_str().unwrap().to_owned(), process }
    }

    /// Sends SIGTERM and asserts a clean exit.
    pub fn stop(self) {
        self.process.terminate();
    }
}

/// The outcome of a run.
pub struct Run {
    pub code: i32,
    pub facts: Value,
    pub errors: String,
}

/// Runs the runner with JSON output.
pub fn run(arguments: &[&str]) -> Run {
    let output = dapbox(&["interop", "run", "-o", "json"]).args(arguments).output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        facts: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The verdicts of a row, by batch mode.
pub fn cells<'a>(facts: &'a Value, row: &str) -> Vec<(&'a str, &'a str)> {
    let cells = facts["cells"].as_array().unwrap().iter().filter(|cell| cell["row"] == row);
    cells.map(|cell| (cell["mode"].as_str().unwrap(), cell["verdict"].as_str().unwrap())).collect()
}
