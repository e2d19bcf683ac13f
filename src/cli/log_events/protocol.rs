//! Events of keys, tasks, aggregation and collection.

use super::{
    Level::{Debug, Error, Info, Warn},
    LogEvent, event,
};

/// Keys and tokens.
pub const KEYS: &[LogEvent] = &[
    event(Info, "HPKE key created", &["key_id", "suite", "active_from"], "a key was created", ""),
    event(Info, "HPKE key activated", &["key_id", "suite"], "clients receive the key", ""),
    event(
        Info,
        "HPKE key expired",
        &["key_id", "suite"],
        "clients no longer receive the key; its reports are still accepted",
        "",
    ),
    event(Info, "HPKE key deleted", &["key_id", "suite"], "reports for the key are rejected", ""),
    event(Warn, "too many HPKE keys", &[], "no new key is created until one is deleted", "see `dapbox keys list`"),
    event(
        Error,
        "HPKE key rotation failed",
        &["error"],
        "the active key stays in use",
        "see the cause and `dapbox keys list`",
    ),
    event(Info, "token rotated", &["task_id"], "a token of the task was replaced", ""),
    event(
        Info,
        "verification keys changed",
        &["task_id"],
        "the operator added, retired or deleted a verification key",
        "",
    ),
    event(
        Info,
        "verification key deleted",
        &["task_id", "key_id"],
        "no report can need a retired verification key any more",
        "",
    ),
];

/// Tasks.
pub const TASKS: &[LogEvent] = &[
    event(Info, "task removed", &["task_id", "tombstone"], "the operator removed a task", ""),
    event(Info, "removed task purged", &["task_id"], "all records of a removed task are deleted, except its id", ""),
    event(Info, "in-band task added", &["task_id", "role", "peer"], "a task was set up in-band (taskprov)", ""),
    event(
        Info,
        "unused in-band task replaced",
        &["task_id", "replaced_by"],
        "an unused task was removed to make room for another",
        "",
    ),
    event(Info, "in-band task removed", &["task_id"], "the task was unused or has ended", ""),
    event(
        Info,
        "task provisioned by control plane",
        &["task_id", "role"],
        "a control plane created a task, or repeated the request",
        "",
    ),
    event(Info, "task end changed by control plane", &["task_id", "end"], "a control plane changed a task's end", ""),
    event(Info, "task removed by control plane", &["task_id"], "a control plane removed a task", ""),
    event(
        Warn,
        "never contacted task removed",
        &["task_id"],
        "a control plane created the task, and no party used it in time",
        "",
    ),
    event(Info, "never contacted task removed by operator", &["task_id"], "`dapbox task sweep` removed it", ""),
    event(
        Info,
        "peer added by control plane",
        &["peer", "role"],
        "a control plane added a peer, or repeated the request",
        "",
    ),
    event(Info, "peer removed by control plane", &["peer", "role"], "a control plane removed a peer", ""),
    event(
        Warn,
        "management API member ignored",
        &["member"],
        "a request had an unknown JSON member; logged once per member",
        "",
    ),
];

/// Aggregation and collection.
pub const AGGREGATION: &[LogEvent] = &[
    event(
        Warn,
        "helper request retried",
        &["task_id", "request", "attempt", "delay", "error"],
        "a request to the helper failed; logged after 1, 2, 4, 8, ... failures",
        "see the cause and `dapbox doctor`; ask the helper's operator",
    ),
    event(
        Warn,
        "aggregation job refused by helper",
        &["task_id", "job_id", "error"],
        "its reports are aggregated later in other jobs",
        "ask the helper's operator",
    ),
    event(
        Warn,
        "verification key unknown to helper",
        &["task_id", "key_id", "report_count"],
        "the helper rejected the reports of a job; they are aggregated in a later job",
        "compare the verification keys of both aggregators",
    ),
    event(
        Error,
        "aggregation job abandoned",
        &["task_id", "job_id", "error"],
        "the helper violated the protocol; the job's reports are lost",
        "ask the helper's operator",
    ),
    event(
        Error,
        "aggregation job changed",
        &["task_id", "job_id"],
        "a stored job was rebuilt with other contents and is not sent; a bug in dapbox",
        "report it",
    ),
    event(
        Error,
        "report rejected after helper accepted it",
        &["task_id", "job_id", "batch_id", "report_count", "first_report_time", "last_report_time", "error"],
        "the batches of these reports cannot be collected, because the aggregators disagree",
        "ask the helper's operator; no honest client causes this",
    ),
    event(
        Warn,
        "helper rejected reports with unknown error code",
        &["task_id", "job_id", "error_code", "report_count"],
        "the reports are rejected",
        "ask the helper's operator",
    ),
    event(Debug, "cannot delete aggregation job", &["error"], "the helper keeps a finished job until it expires", ""),
    event(
        Warn,
        "oversized aggregation job rejected",
        &["task_id", "detail"],
        "the helper rejected a job with 413",
        "agree on the job size with the leader's operator",
    ),
    event(
        Debug,
        "deferred aggregation job rejected",
        &["task_id", "job_id", "error"],
        "the job is answered with an error",
        "",
    ),
    event(
        Warn,
        "reports rejected: too many open batch buckets",
        &["task_id", "max_open_buckets", "report_count"],
        "the reports spread over too many batches or times",
        "ask the leader's operator; raise `limits.max_open_buckets`",
    ),
    event(
        Error,
        "report preparation panicked",
        &[],
        "the report is rejected; a bug in dapbox or in its VDAF",
        "report it; the level `debug` logs the report",
    ),
    event(Debug, "panicked report", &["report_id"], "the report of the previous event", ""),
    event(
        Error,
        "helper refused aggregate share",
        &["task_id", "error"],
        "the collection has failed",
        "ask the helper's operator",
    ),
    event(
        Warn,
        "batch abandoned",
        &["task_id", "batch_id"],
        "the helper accepts no more reports for the batch, so it is not collected",
        "",
    ),
    event(
        Warn,
        "uncollected reports expired",
        &["task_id", "report_count"],
        "aggregated reports were deleted, because their batches were not collected in time",
        "collect in time, or raise the retention",
    ),
    event(
        Warn,
        "task closed before time",
        &["task_id", "closed_before"],
        "reports before that time are rejected, and uncollected ones are lost",
        "",
    ),
];
