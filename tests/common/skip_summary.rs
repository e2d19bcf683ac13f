//! The test program `zz_skipped` lists the tests that were skipped since its last run.
//!
//! Cargo runs test programs in the order of package and name. This one belongs to the last package and has no harness,
//! so that
//! its line is the last output of `cargo test`.

#[path = "skip.rs"]
mod skip;

use std::{collections::BTreeSet, fs};

fn main() {
    // Harnesses that list tests get an empty list.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let mut skipped = BTreeSet::new();
    for record in fs::read_dir(skip::records()).into_iter().flatten().flatten() {
        let text = fs::read_to_string(record.path()).unwrap_or_default();
        skipped.extend(text.lines().map(str::to_owned));
        fs::remove_file(record.path()).expect("the record of a skipped test cannot be removed");
    }
    let names: Vec<_> = skipped.into_iter().collect();
    match names.len() {
        0 => eprintln!("0 tests skipped"),
        count => eprintln!("{count} tests skipped: {}", names.join("; ")),
    }
}
