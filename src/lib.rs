//! dapbox
pub mod model;
// pub mod wire;
pub mod vdaf;
pub mod hpke;
pub mod pool;
// pub mod store;
