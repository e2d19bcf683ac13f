//! The alert rules and the dashboard below `docs/monitoring`.

use std::{collections::BTreeSet, process::Command};

use super::{read, root, skip::has_programs};

/// The metrics that a text names.
fn metrics(text: &str) -> BTreeSet<String> {
    let ends = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    text.split(ends).filter(|word| word.starts_with("dapbox_") && !word.ends_with('_')).map(str::to_owned).collect()
}

#[test]
fn names_existing_metrics() {
    let reference = metrics(&read("docs/reference.md"));
    for name in ["docs/monitoring/results.rules.yml", "docs/monitoring/results-dashboard.json"] {
        let named = metrics(&read(name));
        assert!(!named.is_empty(), "{name} names no metric");
        let unknown: Vec<_> = named.difference(&reference).collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}, which docs/reference.md does not list");
    }
}

#[test]
fn dashboard_is_a_document_of_grafana() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("docs/monitoring/results-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.iter().all(|panel| panel["title"].is_string() && panel["targets"][0]["expr"].is_string()));
}

#[test]
fn alert_rules_fire_when_they_should() {
    if !has_programs(&["promtool"]) {
        return;
    }
    for arguments in [["check", "rules", "results.rules.yml"], ["test", "rules", "results.test.yml"]] {
        let output =
            Command::new("promtool").args(arguments).current_dir(root().join("docs/monitoring")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    }
}
