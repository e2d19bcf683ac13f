//! The README matches the program: its commands parse, its tables are complete, its links resolve.

use std::{fs, path::Path};

use clap::Parser;
use dapbox::{cli::Cli, vdaf::table::VDAFS};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The lines of code blocks; lines continued with a backslash are joined.
fn code(readme: &str) -> Vec<String> {
    let joined = readme.replace("\\\n", " ");
    let blocks = joined.lines().filter_map(|line| line.strip_prefix("    "));
    blocks.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn parses_each_command() {
    let commands: Vec<String> = code(&readme())
        .iter()
        .filter_map(|line| line.strip_prefix("dapbox ").or(line.strip_prefix("cargo run --release -- ")))
        .map(str::to_owned)
        .collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let words = std::iter::once("dapbox").chain(command.split_whitespace());
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("dapbox {command}: {error}");
        }
    }
}

#[test]
fn lists_each_vdaf() {
    let readme = readme();
    for row in VDAFS {
        let line = format!("| {} | `{}` |", row.name, row.short);
        let line = readme.lines().find(|text| text.starts_with(&line)).unwrap_or_else(|| panic!("{line} is missing"));
        for parameter in row.required.concat() {
            assert!(line.contains(&format!("--{}`", parameter.replace('_', "-"))), "{parameter} is missing: {line}");
        }
    }
}

#[test]
fn links_to_existing_files() {
    let readme = readme();
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files: Vec<_> = links.filter(|link| !link.starts_with("http")).collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let path = file.split('#').next().unwrap_or_default();
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{file}");
    }
}
