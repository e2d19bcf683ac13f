//! How a collector treats a task. The operator may change all of it at any time; no other party learns it.

use serde::{Deserialize, Serialize};

use crate::{presentation::Presentation, schedule::Schedule};
use dapbox_protocol::model::{Duration, Secret, Time, secret::token};

/// Maximum number of webhooks of a task.
pub const MAX_WEBHOOKS: usize = 8;

/// How a collector treats a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorSettings {
    /// Start of the first window of a time-interval task.
    pub start: Time,
    /// Age at which the aggregators delete reports, if known. A window must be collected before its first report reaches it.
    #[serde(default)]
    pub retention: Option<Duration>,
    /// When windows end and when they are requested.
    #[serde(default)]
    pub schedule: Schedule,
    /// How the task is shown.
    #[serde(default)]
    pub presentation: Presentation,
    /// Who is notified.
    #[serde(default)]
    pub webhooks: Vec<Webhook>,
}

/// An HTTP address that is notified about windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The address, `https://` or, on a loopback address, `http://`.
    pub url: String,
    /// The key of the signature (HMAC-SHA256).
    #[serde(with = "token")]
    pub secret: Secret,
}
