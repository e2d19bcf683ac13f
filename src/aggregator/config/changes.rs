//! The result of a configuration reload.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An option with a new value. Secrets are not shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionChange {
    /// The option, as in `leader.max_job_size`.
    pub key: String,
    /// The previous value.
    pub from: String,
    /// The new value, active now or after a restart.
    pub to: String,
}

impl fmt::Display for OptionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.from, self.to)
    }
}

/// The result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadResult {
    /// Options that changed.
    pub changed: Vec<OptionChange>,
    /// Changed options that need a restart.
    pub needs_restart: Vec<OptionChange>,
    /// What failed; the affected options keep their values.
    pub errors: Vec<String>,
}

/// A request to change the log level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    /// A level, or levels by module, as in `log.level`.
    pub level: String,
}
