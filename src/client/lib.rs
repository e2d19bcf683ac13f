//! The parties that are not servers, and the HTTP client that all parties use.
//!
//! [`client::Client`] uploads measurements, [`collector::Collector`] collects aggregates, [`peer::Peer`] sends requests.

#![deny(clippy::print_stderr)]

pub mod client;
pub mod collector;
pub mod peer;
