//! What the process that runs a server provides to it.

use dapbox_aggregator::config::Config;

/// Changes the log filter. The error is for the operator.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Access to the configuration file and the log, which belong to the process.
pub struct Controls {
    /// Reads the configuration again, from the same sources as at the start. The error is for the operator.
    pub reread: Box<dyn Fn() -> Result<Config, String> + Send + Sync>,
    /// The current log filter.
    pub log_level: Box<dyn Fn() -> String + Send + Sync>,
    /// Changes the log filter.
    pub set_log_level: SetLogLevel,
    /// Number of log lines dropped since the start because the sink was blocked.
    pub dropped_log_lines: Box<dyn Fn() -> u64 + Send + Sync>,
}
