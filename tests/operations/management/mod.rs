//! The management API: a control plane sets tasks up at real servers, in its order and with its repeats, and is told what
//! is wrong when something is.

mod control_plane;
mod keys;
mod lifecycle;
mod peers;
mod refusals;
mod sweep;
mod tokens;
