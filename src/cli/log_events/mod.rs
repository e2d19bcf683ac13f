//! The catalogue of log events: every event that the program logs, for `docs/reference.md`.
//!
//! The text of an event never changes with its data, so that alerts can match it. `tests` check that the sources log exactly
//! these events, with these levels and fields.

mod protocol;
mod results;
mod service;

/// The severity of a log event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed, and an operator should act.
    Error,
    /// Something may fail soon, or was lost.
    Warn,
    /// A normal change.
    Info,
    /// A detail for troubleshooting; not logged by default.
    Debug,
}

impl Level {
    /// The name, as in the macros of `tracing` and in `log.level`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// A log event.
#[derive(Clone, Copy, Debug)]
pub struct LogEvent {
    /// The stable text.
    pub text: &'static str,
    /// The severity.
    pub level: Level,
    /// The names of the fields, some of which may be absent in a line.
    pub fields: &'static [&'static str],
    /// What happened.
    pub meaning: &'static str,
    /// What an operator should do; empty for nothing.
    pub action: &'static str,
}

/// Creates a row of the catalogue.
const fn event(
    level: Level,
    text: &'static str,
    fields: &'static [&'static str],
    meaning: &'static str,
    action: &'static str,
) -> LogEvent {
    LogEvent { text, level, fields, meaning, action }
}

/// All log events, by area.
pub const AREAS: &[(&str, &[LogEvent])] = &[
    ("Process and configuration", service::PROCESS),
    ("Network and TLS", service::NETWORK),
    ("Storage", service::STORAGE),
    ("Collector", results::RESULTS),
    ("Keys and tokens", protocol::KEYS),
    ("Tasks", protocol::TASKS),
    ("Aggregation and collection", protocol::AGGREGATION),
];

/// The fields of log events, with their meaning.
pub const FIELDS: &[(&str, &str)] = &[
    ("active_from", "Unix time at which the key becomes active, in seconds"),
    ("address", "IP address and port"),
    ("attempt", "number of failed attempts so far"),
    ("backtrace", "the backtrace, if `RUST_BACKTRACE` is set"),
    ("ballast_bytes", "size of the ballast, in bytes"),
    ("batch_id", "id of the batch"),
    ("bytes", "size, in bytes"),
    ("changed_count", "number of changed options in effect"),
    ("client", "IP address of the client"),
    ("closed_before", "Unix time before which reports are rejected, in seconds"),
    ("data_dir", "the data directory"),
    ("deadline", "Unix time of the deadline, in seconds"),
    ("delay", "time until the next attempt, with its unit"),
    ("detail", "the description in the response"),
    ("end", "Unix time of the task's end, in seconds"),
    ("entry", "the ignored entry"),
    ("error", "the cause"),
    ("error_code", "code of the report error on the wire"),
    ("first_report_time", "earliest time of the reports"),
    ("free_bytes", "free space on the disk, in bytes"),
    ("from", "the old value"),
    ("hint", "what to do"),
    ("https", "whether the request arrived by HTTPS"),
    ("is_permanent", "whether reports are rejected until that time"),
    ("job_id", "id of the aggregation job"),
    ("key_id", "id of the HPKE key or the verification key"),
    ("last_report_time", "latest time of the reports"),
    ("level", "the level, or levels by module"),
    ("line_count", "number of log lines"),
    ("link", "id of the link, which does not grant access"),
    ("listen", "the listen address"),
    ("location", "source location"),
    ("max_connections", "the limit, `limits.max_connections`"),
    ("max_open_buckets", "the limit, `limits.max_open_buckets`"),
    ("member", "name of the JSON member"),
    ("method", "HTTP method"),
    ("monitor", "address of the private listener"),
    ("names", "names in the certificate"),
    ("needed_bytes", "free space that the server needs, in bytes"),
    ("not_after", "Unix time of the certificate's expiry, in seconds"),
    ("not_before", "Unix time of the certificate's start of validity, in seconds"),
    ("option", "name of the option"),
    ("part", "name of the background part"),
    ("path", "path of the file, or of the request"),
    ("peer", "URL of the other aggregator"),
    ("reason", "why a result is lost, in a few words"),
    ("record", "kind of the stored record"),
    ("record_count", "number of records"),
    ("replaced_by", "id of the new task"),
    ("report_count", "number of reports"),
    ("report_id", "id of the report"),
    ("request", "the request to the helper"),
    ("restart_count", "number of changed options that need a restart"),
    ("role", "role in the task"),
    ("signal", "name of the signal"),
    ("status", "HTTP status"),
    ("suite", "HPKE cipher suite"),
    ("task_id", "id of the task"),
    ("thread", "name of the thread"),
    ("time", "Unix time of the record, in seconds"),
    ("to", "the new value"),
    ("tombstone", "whether the id stays reserved"),
    ("url", "URL of the server"),
    ("variables", "names of the variables"),
    ("version", "release and commit"),
    ("webhook", "origin of the webhook's address"),
    ("window", "number of the window"),
];
