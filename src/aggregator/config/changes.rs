//! What came of reloading a running server's configuration, and what its log is told.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An option that has another value. Secrets are not shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionChange {
    /// The option, as in `leader.max_job_size`.
    pub key: String,
    /// What it was.
    pub from: String,
    /// What it is now, or will be after a restart.
    pub to: String,
}

impl fmt::Display for OptionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.from, self.to)
    }
}

/// What came of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadResult {
    /// What was taken over.
    pub changed: Vec<OptionChange>,
    /// What differs from how the server runs and needs a restart.
    pub needs_restart: Vec<OptionChange>,
    /// What went wrong beside that; what is concerned stays as it was.
    pub errors: Vec<String>,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    /// A level, or levels by module, as `log.level` has it.
    pub level: String,
}
