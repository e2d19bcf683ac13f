//! Interfaces for operators, control planes and monitoring: control socket, management API, metrics, status page.

pub mod backup;
pub mod context;
pub mod control_api_tokens;
pub mod control_http;
pub mod control_keys;
pub mod control_results;
pub mod control_socket;
pub mod control_task_tokens;
pub mod controls;
pub mod landing;
pub mod liveness;
pub mod management;
pub mod metrics;
pub mod monitor;
pub mod overview;
pub mod page;
pub mod reload;
