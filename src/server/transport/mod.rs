//! Listeners, HTTP, TLS, memory budgets, and limits of connections and requests.

pub mod activity;
pub mod bound_address;
pub mod host;
pub mod http;
pub mod json_server;
pub mod listen;
pub mod memory;
pub mod origin;
pub mod private_listener;
pub mod short_path;
pub mod slots;
pub mod tls;
