//! TOML files with comments for their readers.

use std::fmt::Write;

/// Formats a TOML file: a heading, and a comment above each key or table that has one.
pub fn commented(toml: &str, heading: &[&str], comments: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for line in heading {
        let _ = writeln!(text, "# {line}");
    }
    text.push('\n');
    for line in toml.lines() {
        let key = line.split(" =").next().unwrap_or_default();
        if let Some((_, comment)) = comments.iter().find(|(known, _)| *known == key) {
            let _ = writeln!(text, "# {comment}");
        }
        let _ = writeln!(text, "{line}");
    }
    text
}
