//! HPKE keys for operators.

use serde::{Deserialize, Serialize};

use crate::views::overview::KeyStatus;
use dapbox_protocol::model::{Duration, KeyState, TaskId, Time};

/// An HPKE key in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedKey {
    /// The key.
    #[serde(flatten)]
    pub status: KeyStatus,
    /// Its age, in seconds.
    pub age: Duration,
    /// The task that keeps an expired key forever, because it never deletes reports.
    pub kept_by: Option<TaskId>,
}

/// A change of an HPKE key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Its configuration id.
    pub id: u8,
    /// The name of its algorithms.
    pub suite: String,
    /// The previous state; `None` for a new key.
    pub before: Option<KeyState>,
    /// The new state; `None` for a deleted key.
    pub after: Option<KeyState>,
    /// When a pending key becomes active.
    pub until: Option<Time>,
}

/// A request to rotate keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateRequest {
    /// Activate the new keys immediately.
    pub now: bool,
}
