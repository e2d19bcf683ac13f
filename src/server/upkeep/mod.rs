//! What every server does in the background: keys, retention, disk, supervision.

pub mod disk;
pub mod drive_keys;
pub mod drive_sweep;
pub mod keys;
pub mod never_contacted;
pub mod supervise;
