//! Results as people and programs read them: HTML pages with SVG charts, CSV, NDJSON and JSON. Pure functions of a
//! [`TaskView`]; the server has the listeners and the access rules.

#![deny(clippy::print_stderr)]

pub mod selection;
pub mod view;

pub use selection::Selection;
pub use view::{Addresses, TaskView};
