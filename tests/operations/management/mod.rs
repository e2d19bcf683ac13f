//! The management API: a control plane provisions tasks at real servers, in its order and with repeats, and gets a
//! reason for each rejection.

mod control_plane;
mod keys;
mod lifecycle;
mod peers;
mod refusals;
mod sweep;
mod tokens;
