//! How requests come in: listeners, TLS, bodies and their memory budgets.

pub mod activity;
pub mod host;
pub mod http;
pub mod landing;
pub mod listen;
pub mod memory;
pub mod origin;
pub mod posts;
pub mod reserved;
pub mod short_path;
pub mod slots;
pub mod tls;
