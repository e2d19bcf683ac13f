//! The test program `zz_skipped`: counts and names the tests that were skipped since it last ran.
//!
//! Cargo runs test programs in the order of their packages and names. This one belongs to the last package and has no harness,
//! so that its line is the last of `cargo test`.

#[path = "skip.rs"]
mod skip;

use std::{collections::BTreeSet, fs};

fn main() {
    // Harnesses that ask for the list of tests get an empty one.
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
