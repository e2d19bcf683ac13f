//! API tokens for operators.

use dapbox_protocol::model::Time;
use dapbox_store::api_token::ApiToken;
use serde::{Deserialize, Serialize};

/// An API token in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenStatus {
    /// The token.
    #[serde(flatten)]
    pub token: ApiToken,
    /// When it was last used, since the server started.
    pub last_used: Option<Time>,
}
