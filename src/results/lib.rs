//! What a collector decides about the results of its tasks. Synchronous: the current time is an argument.
//!
//! A [`Window`] is a span of time, or a batch, that is collected once. The [`ledger`] holds the windows of a task in order and
//! decides which of them to request from the leader. [`schedule`] computes the ends of windows, and [`statistics`] combines
//! and describes the results of windows.

#![deny(clippy::print_stderr)]

mod instant;
pub mod ledger;
pub mod presentation;
pub mod schedule;
pub mod settings;
pub mod statistics;
pub mod window;

pub use presentation::Presentation;
pub use schedule::{OnTooFew, Schedule, Unit};
pub use settings::{CollectorSettings, Webhook};
pub use window::{CollectedWindow, CollectionRequest, LossReason, Window, WindowState};
