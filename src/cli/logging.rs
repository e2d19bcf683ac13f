//! Where the log goes: standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::config::{Log, LogFormat};

/// Starts logging. Can be done once.
pub fn start(log: &Log) -> Result<(), Failure> {
    let filter = filter(&log.level)?;
    let json = match log.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started =
        if json { builder.json().flatten_event(true).try_init() } else { builder.with_target(false).try_init() };
    started.map_err(|e| Failure::new(format!("starting the log: {e}")))
}

/// What a level means, or that it is not understood.
pub fn filter(level: &str) -> Result<EnvFilter, Failure> {
    let unknown = |e| Failure::usage(format!("log.level '{level}' is not understood: {e}"));
    EnvFilter::builder().parse(level).map_err(unknown)
}
