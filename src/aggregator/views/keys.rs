//! What operators ask about HPKE keys, and are told.

use serde::{Deserialize, Serialize};

use crate::views::overview::KeyStatus;
use dapbox_protocol::model::{Duration, KeyState, TaskId, Time};

/// An HPKE key in a list for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedKey {
    /// The key.
    #[serde(flatten)]
    pub status: KeyStatus,
    /// How long ago it was made.
    pub age: Duration,
    /// The task on whose account an expired key is kept without end: it never forgets a report.
    pub kept_by: Option<TaskId>,
}

/// Something that happened to an HPKE key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Its configuration id.
    pub id: u8,
    /// Its algorithms, for people.
    pub suite: String,
    /// What it was before; `None` for a new key.
    pub before: Option<KeyState>,
    /// What it is now; `None` if it opens nothing any more.
    pub after: Option<KeyState>,
    /// From when on a key that is pending now is handed out.
    pub until: Option<Time>,
}

/// An operator's order to make new keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateRequest {
    /// They are handed out at once.
    pub now: bool,
}
