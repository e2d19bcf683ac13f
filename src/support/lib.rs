//! Shared code without a protocol: faults, failpoints, files, and formatting for users.

#![deny(clippy::print_stderr)]

pub mod clock;
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
