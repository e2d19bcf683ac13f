//! Addresses of pages and files with a selection.

use crate::{Addresses, Selection, TaskView};

/// The query of a selection, with `?`; empty for the default.
pub fn query(view: &TaskView, selection: &Selection) -> String {
    let query = selection.query(&view.zone());
    if query.is_empty() { query } else { format!("?{query}") }
}

/// The address of a file with a selection.
pub fn file(view: &TaskView, addresses: &Addresses, extension: &str, selection: &Selection) -> String {
    format!("{}.{extension}{}", addresses.task, query(view, selection))
}
