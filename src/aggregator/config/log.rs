//! Options of the log.

use serde::{Deserialize, Serialize};

/// The log, written to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or levels by module, such as
    /// `warn,dapbox_aggregator=debug`; default `info`.
    pub level: String,
    /// The format of a line; default `auto`.
    pub format: LogFormat,
    /// Memory for lines that standard error has not accepted yet, in bytes; default 1 MiB. Lines beyond it are dropped
    /// and counted, so that nothing waits for the log.
    pub queue_bytes: usize,
}

/// The format of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto, queue_bytes: 1 << 20 }
    }
}
