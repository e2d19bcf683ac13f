//! Where the log goes, standard error, and what is logged while a server runs.

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

/// How long a process that ends waits for its last lines to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The process's log, once it is started. There is one standard error.
static LOG: OnceLock<Output> = OnceLock::new();

/// Where lines go, and how they look.
struct Output {
    sink: Sink,
    is_json: bool,
}

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
    let is_json = match log.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // A file of our own: the lock of `std::io::stderr` would be held for as long as nobody reads.
    let stderr = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    let notice =
        move |count: u64| log_line(is_json, "WARN", "log lines dropped", &[("line_count", Some(count.to_string()))]);
    let sink = Sink::start(stderr, log.queue_bytes, notice)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(sink.clone()).log_internal_errors(false);
    let level = if is_json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let level = Level::from(builder.reload_handle());
        install(builder.finish()).map(|()| level)
    } else {
        let builder = builder.with_target(false).with_filter_reloading();
        let level = Level::from(builder.reload_handle());
        install(builder.finish()).map(|()| level)
    }?;
    // The first one stays: `install` can be done once.
    let _ = LOG.set(Output { sink, is_json });
    Ok(level)
}

/// How many lines were dropped since the start, because standard error did not take them.
pub fn dropped_lines() -> u64 {
    LOG.get().map_or(0, |log| log.sink.dropped())
}

/// Waits until what was logged is written, and not for ever.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sink.flush(LAST_WORDS);
    }
}

/// Says why the process ends, after everything that was logged, and waits until it is written; not for ever if a log was
/// started.
pub fn last_words(text: &str) {
    let text = format!("{} {text}\n", Style::stderr().bad("error:"));
    match LOG.get() {
        Some(log) => {
            log.sink.push_anyway(text.as_bytes());
            log.sink.flush(LAST_WORDS);
        }
        // Where nobody reads it, the exit code has to do.
        None => drop(std::io::stderr().write_all(text.as_bytes())),
    }
}

/// Logs a panic. False if no log was started. Nothing of `tracing` is used, whose own state may be what the thread that
/// panics has just lost.
pub fn panicked(panic: &PanicHookInfo<'_>) -> bool {
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

/// A line as `tracing` would write it.
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
