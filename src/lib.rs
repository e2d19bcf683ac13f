//! dapbox
pub mod model;
// pub mod wire;
pub mod hpke;
pub mod pool;
pub mod vdaf;
// pub mod store;
