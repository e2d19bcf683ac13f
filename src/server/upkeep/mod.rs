//! What every server does in the background: keys, retention, disk, supervision.

pub mod context;
pub mod disk;
pub mod disk_driver;
pub mod key_driver;
pub mod keys;
pub mod never_contacted;
pub mod recorder;
pub mod store_options;
pub mod supervise;
pub mod sweep_driver;
