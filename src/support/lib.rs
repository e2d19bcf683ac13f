//! What every part of dapbox shares beside the protocol: faults, failure points, files, and text for people.

#![deny(clippy::print_stderr)]

pub mod duration;
pub mod failpoint;
pub mod fault;
pub mod files;
pub mod format;
pub mod part;
pub mod timestamp;
pub mod version;

pub use failpoint::{Act, Failpoints, Phase, Point};
pub use fault::Fault;
pub use part::Part;
