//! Completions, manual pages and the version.

use std::{
    fs,
    process::{Command, Output},
};

use clap::CommandFactory;
use dapbox::cli::Cli;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::skip::has_programs;

fn dapbox(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_dapbox")).args(arguments).output().unwrap();
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Lets bash complete the last of these words.
fn complete(words: &[&str]) -> Vec<String> {
    let script = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _dapbox dapbox "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
    let dir = TempDir::new().unwrap();
    let completions = dir.path().join("dapbox");
    fs::write(&completions, dapbox(&["completions", "bash"])).unwrap();
    let output =
        Command::new("bash").args(["--norc", "-c", script, "bash"]).arg(&completions).args(words).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = String::from_utf8(output.stdout).unwrap();
    found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn completes_commands_and_options_in_bash() {
    if !has_programs(&["bash"]) {
        return;
    }
    assert_eq!(complete(&["dapbox", "ta"]), ["task", "taskprov"]);
    assert_eq!(complete(&["dapbox", "task", "clo"]), ["close"]);
    assert_eq!(complete(&["dapbox", "serve", "--li"]), ["--listen"]);
    assert_eq!(complete(&["dapbox", "upload", "--no-such"]), Vec::<String>::new());
    for (shell, sign) in [("zsh", "#compdef dapbox"), ("fish", "complete -c dapbox")] {
        assert!(dapbox(&["completions", shell]).contains(sign), "{shell}");
    }
}

#[test]
fn writes_manual_page_for_each_command() {
    let dir = TempDir::new().unwrap();
    let pages = dir.path().join("man1");
    dapbox(&["man", "--dir", pages.to_str().unwrap()]);
    let mut expected = 1;
    let shown = |command: &clap::Command| command.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let mut commands: Vec<_> = shown(&Cli::command());
    while let Some(command) = commands.pop() {
        expected += 1;
        commands.extend(shown(&command));
    }
    let found: Vec<_> = fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found.len(), expected, "{found:?}");
    assert_eq!(dapbox(&["man"]), fs::read_to_string(pages.join("dapbox.1")).unwrap());
    if !has_programs(&["man"]) {
        return;
    }
    for page in found {
        let mut man = Command::new("man");
        man.args(["--warnings", "-l"]).arg(&page).env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8");
        let output = man.output().unwrap();
        let (shown, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.is_empty(), "{}: {said}", page.display());
        for word in ["NAME", "SYNOPSIS", concat!("dapbox ", env!("CARGO_PKG_VERSION"))] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        let title = format!("{}(1)", page.file_stem().unwrap().to_str().unwrap());
        let header: Vec<_> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(header, [&title, "dapbox", &title], "{shown}");
    }
}

#[test]
fn prints_version() {
    let release = env!("CARGO_PKG_VERSION");
    let short = dapbox(&["-V"]);
    assert!(short.starts_with(&format!("dapbox {release} (")) && short.lines().count() == 1, "{short}");
    let long = dapbox(&["--version"]);
    assert!(long.starts_with(short.trim_end()), "{long}");
    for word in ["dap-09 (vdaf-08)", "dap-18 (vdaf-18)", "x25519", "TLS", "acme", "x86_64"] {
        assert!(long.contains(word) || (word == "x86_64" && !cfg!(target_arch = "x86_64")), "{word}: {long}");
    }
    assert_eq!(dapbox(&["version"]), long);
    let json: Value = serde_json::from_str(&dapbox(&["version", "-o", "json"])).unwrap();
    assert_eq!(json["release"], release);
    assert_eq!(json["protocols"][1]["dap"], "dap-18");
    assert_eq!(json["static"], cfg!(target_feature = "crt-static"));
}
