//! What operators see: the status of tasks and of the server, as JSON over the control socket.

mod api_token;
pub mod keys;
pub mod overview;
pub mod privacy;
pub mod results;
pub mod status;

pub use api_token::ApiTokenStatus;
