//! The log.

use serde::{Deserialize, Serialize};

/// What is logged, always to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or levels by module, such as `warn,dapbox::aggregator=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Memory for lines that standard error has not taken yet, in bytes. Nothing waits for a log that is not read: lines
    /// that find no room are dropped and counted.
    pub queue_bytes: usize,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines: one object per line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto, queue_bytes: 1 << 20 }
    }
}
