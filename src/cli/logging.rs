//! Where the log goes, standard error, and what is logged while a server runs.

use std::io::IsTerminal;

use tracing::{Subscriber, subscriber::set_global_default};
use tracing_log::{AsLog, LogTracer};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, reload::Handle};

use super::Failure;
use crate::config::{Log, LogFormat};

/// What is logged, which can be changed.
pub struct Level {
    get: Box<dyn Fn() -> String + Send + Sync>,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl Level {
    /// What is logged now.
    pub fn get(&self) -> String {
        (self.get)()
    }

    /// Logs something else from now on.
    pub fn set(&self, level: &str) -> Result<(), String> {
        (self.set)(filter(level)?)
    }
}

impl<S: 'static> From<Handle<EnvFilter, S>> for Level {
    fn from(handle: Handle<EnvFilter, S>) -> Self {
        let same = handle.clone();
        Self {
            get: Box::new(move || handle.with_current(ToString::to_string).unwrap_or_default()),
            set: Box::new(move |filter| same.reload(filter).map_err(|error| error.to_string())),
        }
    }
}

/// Starts logging. Can be done once.
pub fn start(log: &Log) -> Result<Level, Failure> {
    let filter = filter(&log.level).map_err(Failure::usage)?;
    let json = match log.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let level = Level::from(builder.reload_handle());
        install(builder.finish()).map(|()| level)
    } else {
        let builder = builder.with_target(false).with_filter_reloading();
        let level = Level::from(builder.reload_handle());
        install(builder.finish()).map(|()| level)
    }
}

/// From now on everything is logged there.
fn install(log: impl Subscriber + Send + Sync) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("starting the log: {error}"));
    set_global_default(log).map_err(|error| failed(&error))?;
    // The database tells of what it does even while a thread ends, when what the log needs of the thread may be gone: the
    // process would be aborted. What matters of it are its errors, which we get as such.
    let others = LogTracer::builder().ignore_crate("sled").with_max_level(LevelFilter::current().as_log());
    others.init().map_err(|error| failed(&error))
}

/// What a level, or levels by module, let through.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    let wrong = |why: &dyn std::fmt::Display| {
        format!(
            "log.level '{level}' is not understood: {why}; write error, warn, info, debug or trace, or \
            'warn,dapbox::aggregator=debug'"
        )
    };
    // A misspelt level would be taken for a module's name, all of whose lines are wanted, and no others.
    let is_level = |part: &str| !part.is_empty() && (part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok());
    match level.split(',').map(str::trim).find(|part| !is_level(part)) {
        Some(part) => Err(wrong(&format_args!("'{part}' is no level"))),
        None => EnvFilter::builder().parse(level).map_err(|error| wrong(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_understood_and_misspelt_ones_refused() {
        for level in ["error", "info", "OFF", "warn,dapbox::aggregator=debug", "info,hyper=off"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["", "debgu", "warn,dapbox::aggregator", "dapbox=lots", "info,"] {
            let error = filter(level).unwrap_err();
            assert!(error.contains("not understood"), "{error}");
        }
    }
}
