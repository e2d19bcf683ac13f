//! What operators, control planes and monitoring reach: control socket, management API, metrics, status page.

pub mod admin;
pub mod admin_keys;
pub mod admin_tokens;
pub mod backup;
pub mod live;
pub mod management;
pub mod metrics;
pub mod monitor;
pub mod overview;
pub mod page;
pub mod pulse;
pub mod recorder;
pub mod reload;
pub mod tokens;
