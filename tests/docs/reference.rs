//! `docs/reference.md`, generated from the code. After a change: `UPDATE_DOCS=1 cargo test --test docs reference`.

mod commands;
mod counters;
mod http;
mod log_events;
mod options;

use std::{fmt::Write, fs};

use super::{read, root};

const NAME: &str = "docs/reference.md";

const INTRODUCTION: &str = "\
<!-- Generated from the code by tests/docs/reference.rs. After a change: UPDATE_DOCS=1 cargo test --test docs reference -->

# Reference

All commands, options, HTTP resources, metrics, log events, errors and counters of dapbox, generated from the code. The
[tutorial](tutorial.md), the [helper guide](helper-guide.md) and [operations](operations.md) explain their use.

";

/// A section of the page.
struct Part {
    title: &'static str,
    text: String,
}

fn page(parts: &[Part]) -> String {
    let mut page = INTRODUCTION.to_owned();
    for Part { title, .. } in parts {
        let _ = writeln!(page, "- [{title}](#{})", title.to_lowercase().replace(' ', "-"));
    }
    for Part { title, text } in parts {
        let _ = write!(page, "\n## {title}\n\n{}\n", text.trim_end());
    }
    page
}

/// Rows below a heading, as a table.
fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = format!("| {} |\n|{}\n", heading.join(" | "), "---|".repeat(heading.len()));
    for row in rows {
        assert_eq!(row.len(), heading.len());
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(table, "| {} |", cells.join(" | "));
    }
    table
}

/// As code; empty if there is none.
fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_matches_code() {
    let served = http::Served::start().await;
    let parts = [
        Part { title: "Commands", text: commands::text() },
        Part { title: "Exit codes", text: commands::exit_codes() },
        Part { title: "Configuration", text: options::text() },
        Part { title: "HTTP resources", text: served.resources().await },
        Part { title: "Monitoring listener", text: served.private().await },
        Part { title: "Metrics", text: served.metrics().await },
        Part { title: "Log events", text: log_events::text() },
        Part { title: "Problem types", text: counters::problems() },
        Part { title: "Counters", text: counters::text() },
    ];
    served.stop().await;
    let page = page(&parts);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join(NAME), &page).unwrap();
        return;
    }
    let committed = read(NAME);
    let difference = committed.lines().zip(page.lines()).position(|(old, new)| old != new);
    let line = difference.unwrap_or_else(|| committed.lines().count().min(page.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(nothing)").to_owned();
    assert!(
        committed == page,
        "{NAME}:{} is not what the code says any more: run UPDATE_DOCS=1 cargo test --test docs reference\n- {}\n+ {}",
        line + 1,
        at(&committed),
        at(&page)
    );
}
