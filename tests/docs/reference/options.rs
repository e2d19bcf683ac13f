//! Every option, from `appliance.toml`. Another test checks that the file has all of them, with their defaults.

use std::fmt::Write;

use dapbox::config::reloadable;

use super::{code, table};

const EXAMPLE: &str = include_str!("../../../appliance.toml");

/// An option.
struct Row {
    /// Its table in the file; empty for those in none.
    table: String,
    name: String,
    default: String,
    reason: String,
}

const INTRODUCTION: &str = "\
A value comes from the first of these that sets it: command line flag, environment variable, file, default. The file is
`--config`, else `DAPBOX_CONFIG`, else `appliance.toml` in the current directory if it exists. An empty file is valid.
Unknown keys are errors, with their line and a suggestion. `dapbox check` validates a configuration without starting the
server.

`dapbox reload` or SIGHUP applies the options marked in the column *reload* to a running server, and lists the changed options
that need a restart.

Durations are written like `500ms`, `60s`, `5m`, `1h` or `1d`; a plain number is seconds. Options whose names end in `_bytes`
are in bytes.
";

/// All options, one table for each table of the file.
pub fn text() -> String {
    let rows = rows();
    let mut text = INTRODUCTION.to_owned();
    let mut tables: Vec<&str> = rows.iter().map(|row| row.table.as_str()).collect();
    tables.dedup();
    for name in tables {
        let _ = match name {
            "" => write!(text, "\n### Top level\n\n"),
            name => write!(text, "\n### \\[{name}\\]\n\n"),
        };
        let of_table = rows.iter().filter(|row| row.table == name);
        text.push_str(&table(&["option", "default", "reload", "variable", "meaning"], of_table.map(cells)));
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let path = if row.table.is_empty() { row.name.clone() } else { format!("{}__{}", row.table, row.name) };
    let default = row.default.trim_matches('"');
    let default = if default.is_empty() { "(empty)".to_owned() } else { code(default) };
    let key = if row.table.is_empty() { row.name.clone() } else { format!("{}.{}", row.table, row.name) };
    let reload = if reloadable().contains(&key.as_str()) { "yes" } else { "" };
    vec![
        code(&row.name),
        default,
        reload.to_owned(),
        code(&format!("DAPBOX_{}", path.to_uppercase())),
        row.reason.clone(),
    ]
}

/// Parses the options and the comments above them. Consecutive options share a comment.
fn rows() -> Vec<Row> {
    let (mut rows, mut table, mut comment): (Vec<Row>, String, Vec<String>) = Default::default();
    let mut is_used = false;
    // The first paragraph describes the file.
    let body = EXAMPLE.split_once("\n\n# Directory").map(|(_, rest)| format!("# Directory{rest}")).unwrap();
    for line in body.lines() {
        if let Some(text) = line.strip_prefix('#') {
            if is_used {
                comment.clear();
            }
            is_used = false;
            comment.push(text.trim().to_owned());
        } else if let Some(name) = line.strip_prefix('[') {
            (table, comment) = (name.trim_end_matches(']').to_owned(), Vec::new());
        } else if let Some((name, default)) = line.split_once(" = ") {
            assert!(!comment.is_empty(), "appliance.toml has no comment for {line}");
            is_used = true;
            let (table, name, default) = (table.clone(), name.to_owned(), default.to_owned());
            rows.push(Row { table, name, default, reason: comment.join(" ") });
        }
    }
    assert!(rows.len() > 40, "appliance.toml was parsed incompletely");
    rows
}
