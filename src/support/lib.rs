//! What every part of dapbox shares beside the protocol: faults, failure points, files, and text for people.

#![deny(clippy::print_stderr)]

pub mod calendar;
pub mod failpoint;
pub mod fault;
pub mod files;
pub mod part;
pub mod span;
pub mod version;
pub mod words;

pub use failpoint::{Act, Failpoints, Phase, Point};
pub use fault::Fault;
pub use part::Part;
