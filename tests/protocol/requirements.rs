//! The requirements of DAP-18 and DAP-19, and the tests that show them. `requirements.txt` is the table; this checks it.

use std::{fs, path::Path};

const TABLE: &str = include_str!("requirements.txt");

/// The maximum number of requirements with a reason instead of a test.
const MAX_REASONS: usize = 10;

/// A requirement.
struct Row<'a> {
    section: &'a str,
    party: &'a str,
    what: &'a str,
    /// The requirement of DAP-19: `same`, or how it differs.
    in_19: &'a str,
    shown_by: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let is_row = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    let row = |line: &'static str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [section, party, what, in_19, shown_by] = cells[..] else { panic!("not five columns: {line}") };
        Row { section, party, what, in_19, shown_by }
    };
    TABLE.lines().filter(is_row).map(row).collect()
}

/// Whether the file has a test with this name; `file` is a path below the package without `.rs`.
fn has_test(file: &str, name: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{file}.rs"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let is_it = |line: &str| {
        let signature = line.trim_start_matches("async ").strip_prefix("fn ");
        signature.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    lines.iter().enumerate().any(|(at, line)| {
        let mut above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        is_it(line) && above.any(|line| line.contains("test"))
    })
}

#[test]
fn each_requirement_has_existing_test() {
    let rows = rows();
    assert!(rows.len() > 90, "only {} rows", rows.len());
    let mut reasons = 0;
    for Row { section, party, what, in_19, shown_by } in rows {
        // What differs has a test of its own.
        let has_own_test = ["dap19::", "drafts::"].iter().any(|file| shown_by.contains(file));
        assert!(in_19 == "same" || has_own_test, "{section} {what}: no test of {in_19:?}");
        let parties = ["client", "leader", "helper", "collector", "aggregators", "servers", "all"];
        assert!(parties.contains(&party), "{section} {what}: {party} is no party");
        assert!(section.split('.').all(|part| part.parse::<u8>().is_ok()), "{section} is no section");
        if let Some(reason) = shown_by.strip_prefix("reason: ") {
            assert!(reason.len() > 20, "{section} {what}: that is no reason");
            reasons += 1;
            continue;
        }
        assert!(!shown_by.is_empty(), "{section} {what}: no test");
        for test in shown_by.split_whitespace() {
            let Some((file, name)) = test.rsplit_once("::") else { panic!("{section} {what}: {test} is no test") };
            assert!(has_test(file, name), "{section} {what}: there is no test {name} in {file}.rs");
        }
    }
    assert!(reasons <= MAX_REASONS, "{reasons} requirements have a reason instead of a test");
}

#[test]
fn does_not_find_missing_test() {
    assert!(has_test("tests/protocol/requirements", "does_not_find_missing_test"));
    assert!(!has_test("tests/protocol/requirements", "a_test_that_does_not_exist"));
    assert!(!has_test("tests/protocol/requirements", "rows"));
}
