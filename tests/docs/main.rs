//! The documents match the program: their commands run with the shown output, the reference is generated from the code,
//! and
//! links resolve.
//!
//! [`console`] describes the format of the documents.

#[path = "../common/child.rs"]
mod child;
mod console;
mod links;
mod markdown;
mod monitoring;
mod packaging;
mod places;
mod readme;
mod reference;
#[path = "../common/skip.rs"]
mod skip;
mod terminal;
mod tidy;

use std::{fs, path::PathBuf};

/// The documents, beside `README.md`.
const DOCUMENTS: [&str; 7] = [
    "docs/tutorial.md",
    "docs/results.md",
    "docs/helper-guide.md",
    "docs/operations.md",
    "docs/interop.md",
    "docs/reference.md",
    "docs/threat-model.md",
];

/// The directory of the repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a document.
fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
