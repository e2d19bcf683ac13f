//! dapbox: an aggregator for the Distributed Aggregation Protocol in one binary.

pub mod aggregator;
pub mod cli;
pub mod client;
pub mod collector;
pub mod config;
pub mod hpke;
pub mod model;
pub mod peer;
pub mod pool;
pub mod server;
pub mod store;
pub mod vdaf;
pub mod wire;
