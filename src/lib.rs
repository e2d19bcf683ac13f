//! dapbox
pub mod client;
pub mod collector;
pub mod config;
pub mod hpke;
pub mod model;
pub mod peer;
pub mod pool;
pub mod vdaf;
pub mod wire;
