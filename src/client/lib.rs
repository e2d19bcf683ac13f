//! The client, the collector, and the HTTP client of all parties.
//!
//! [`client::Client`] uploads measurements, [`collector::Collector`] collects aggregates, [`peer::Peer`] sends
//! requests.

#![deny(clippy::print_stderr)]

pub mod client;
pub mod collector;
pub mod peer;
