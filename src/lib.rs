//! dapbox
pub mod config;
pub mod model;
pub mod peer;
pub mod wire;
