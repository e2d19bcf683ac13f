//! Results as people and programs read them: HTML pages with SVG charts, CSV, NDJSON and JSON. Pure functions of a
//! [`TaskView`]; the server has the listeners and the access rules.

#![deny(clippy::print_stderr)]

mod address;
mod calendar;
mod chart;
mod document;
pub mod export;
mod number;
pub mod openapi;
pub mod overview;
pub mod selection;
mod series;
pub mod shell;
mod summary;
pub mod task;
pub mod view;

pub use document::policy;
pub use selection::Selection;
pub use shell::MEDIA_TYPE;
pub use view::{Addresses, TaskView};
