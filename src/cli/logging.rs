//! The log of a server: written to standard error, with a level that can change at runtime.

mod sink;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fs::File,
    io::{IsTerminal, Write},
    os::fd::AsFd,
    panic::PanicHookInfo,
    sync::OnceLock,
    time::Duration,
};

use serde_json::json;
use tracing::{Subscriber, subscriber::set_global_default};
use tracing_log::{AsLog, LogTracer};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, reload::Handle};

use self::sink::Sink;
use super::{Failure, style::Style};
use crate::{
    config::{Log, LogFormat},
    support::{clock, fault::panic_text, timestamp},
};

/// How long a process waits at its end for queued lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The log of this process, once it is started.
static LOG: OnceLock<Output> = OnceLock::new();

/// The sink and format of lines.
struct Output {
    sink: Sink,
    is_json: bool,
}

/// Reads and changes the log level.
pub struct LevelHandle {
    get: Box<dyn Fn() -> String + Send + Sync>,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl LevelHandle {
    /// Returns the current level.
    pub fn get(&self) -> String {
        (self.get)()
    }

    /// Changes the level.
    pub fn set(&self, level: &str) -> Result<(), String> {
        (self.set)(filter(level)?)
    }
}

impl<S: 'static> From<Handle<EnvFilter, S>> for LevelHandle {
    fn from(handle: Handle<EnvFilter, S>) -> Self {
        let same = handle.clone();
        Self {
            get: Box::new(move || handle.with_current(ToString::to_string).unwrap_or_default()),
            set: Box::new(move |filter| same.reload(filter).map_err(|error| error.to_string())),
        }
    }
}

/// Starts the log. Fails the second time.
pub fn start(log: &Log) -> Result<LevelHandle, Failure> {
    let filter = filter(&log.level).map_err(Failure::usage)?;
    let is_json = match log.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // A separate file: writing blocks as long as the reader does not read, and must not hold the lock of `std::io::stderr`.
    let stderr = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    let notice =
        move |count: u64| log_line(is_json, "WARN", "log lines dropped", &[("line_count", Some(count.to_string()))]);
    let sink = Sink::start(stderr, log.queue_bytes, notice)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(sink.clone()).log_internal_errors(false);
    let level = if is_json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let level = LevelHandle::from(builder.reload_handle());
        install(builder.finish()).map(|()| level)
    } else {
        let builder = builder.with_target(false).with_filter_reloading();
        let level = LevelHandle::from(builder.reload_handle());
        install(builder.finish()).map(|()| level)
    }?;
    // Cannot be set already: `install` succeeds once.
    let _ = LOG.set(Output { sink, is_json });
    Ok(level)
}

/// Number of lines dropped since the start because standard error was blocked.
pub fn dropped_lines() -> u64 {
    LOG.get().map_or(0, |log| log.sink.dropped())
}

/// Waits until queued lines are written, for a limited time.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sink.flush(FLUSH_TIMEOUT);
    }
}

/// Prints the error that ends the process after all queued lines. With a log, waits for a limited time.
pub fn log_final_error(text: &str) {
    let text = format!("{} {text}\n", Style::stderr().bad("error:"));
    match LOG.get() {
        Some(log) => {
            log.sink.push_unbounded(text.as_bytes());
            log.sink.flush(FLUSH_TIMEOUT);
        }
        // With a closed standard error, only the exit code is left.
        None => drop(std::io::stderr().write_all(text.as_bytes())),
    }
}

/// Logs a panic. Returns false if no log was started. Does not use `tracing`, whose thread-local state may be gone.
pub fn log_panic(panic: &PanicHookInfo<'_>) -> bool {
    let Some(log) = LOG.get() else { return false };
    let thread = std::thread::current();
    let backtrace = Some(Backtrace::capture()).filter(|trace| trace.status() == BacktraceStatus::Captured);
    log.sink.push(&log_line(
        log.is_json,
        "ERROR",
        "thread panicked",
        &[
            ("thread", Some(thread.name().unwrap_or("unnamed").to_owned())),
            ("error", Some(panic_text(panic.payload()).to_owned())),
            ("location", panic.location().map(ToString::to_string)),
            ("backtrace", backtrace.map(|trace| trace.to_string())),
        ],
    ));
    true
}

/// Formats a line like `tracing`.
fn log_line(is_json: bool, level: &str, message: &str, fields: &[(&str, Option<String>)]) -> Vec<u8> {
    let time = timestamp::show(clock::now());
    let present = fields.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    let text = if is_json {
        let mut line = json!({ "timestamp": time, "level": level, "message": message });
        for (name, value) in present {
            line[name] = value.as_str().into();
        }
        line.to_string()
    } else {
        let fields: String = present.map(|(name, value)| format!(" {name}={value:?}")).collect();
        format!("{time} {level:>5} {message}{fields}")
    };
    format!("{text}\n").into_bytes()
}

/// Installs the global subscriber.
fn install(log: impl Subscriber + Send + Sync) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("starting the log: {error}"));
    set_global_default(log).map_err(|error| failed(&error))?;
    // The database logs even while a thread ends, when thread-local state of the log may be gone: that would abort the
    // process. Its errors are returned anyway.
    let others = LogTracer::builder().ignore_crate("sled").with_max_level(LevelFilter::current().as_log());
    others.init().map_err(|error| failed(&error))
}

/// Parses a level, or levels by crate.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    let wrong = |why: &dyn std::fmt::Display| {
        format!(
            "invalid log.level '{level}': {why} (hint: use error, warn, info, debug or trace, or levels by crate such as \
            'warn,dapbox_aggregator=debug')"
        )
    };
    // EnvFilter would parse a misspelt level as a module name.
    let is_level = |part: &str| !part.is_empty() && (part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok());
    match level.split(',').map(str::trim).find(|part| !is_level(part)) {
        Some(part) => Err(wrong(&format_args!("'{part}' is not a level"))),
        None => EnvFilter::builder().parse(level).map_err(|error| wrong(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_misspelt_log_levels() {
        for level in ["error", "info", "OFF", "warn,dapbox_aggregator=debug", "info,hyper=off"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["", "debgu", "warn,dapbox_aggregator", "dapbox=lots", "info,"] {
            let error = filter(level).unwrap_err();
            assert!(error.contains("invalid log.level"), "{error}");
        }
    }
}
