//! Events of the collector: windows, results, links and webhooks.

use super::{
    Level::{Error, Info, Warn},
    LogEvent, event,
};

/// Windows and results.
pub const RESULTS: &[LogEvent] = &[
    event(Info, "collector task added", &["task_id"], "the server collects a task", ""),
    event(Info, "collector task changed", &["task_id"], "its key, token or settings were replaced", ""),
    event(Info, "collector task removed", &["task_id"], "the task and its results were deleted", ""),
    event(Info, "window collected", &["task_id", "window", "report_count"], "a result is stored", ""),
    event(
        Warn,
        "window has too few reports",
        &["task_id", "window"],
        "the leader has no result for longer than the patience of the schedule",
        "see `on_too_few` in the task's file",
    ),
    event(
        Warn,
        "window overdue",
        &["task_id", "window", "error"],
        "a window has no result for longer than the patience of the schedule",
        "see the error, and `dapbox results windows`",
    ),
    event(
        Error,
        "window close to deadline",
        &["task_id", "window", "deadline"],
        "the aggregators may delete its reports at the deadline",
        "see `dapbox results windows` and the leader",
    ),
    event(
        Error,
        "window lost",
        &["task_id", "window", "reason", "error"],
        "its result cannot be collected or read",
        "see the reason; `dapbox results retry` requests it again where that can help",
    ),
    event(
        Error,
        "result does not open",
        &["task_id", "window", "error"],
        "a result is stored sealed, because the task's key does not open it",
        "add the task's file with the right key",
    ),
    event(
        Warn,
        "window request failed",
        &["task_id", "window", "error", "delay"],
        "a request to the leader failed and is repeated after the delay",
        "see the error if it continues",
    ),
    event(Info, "leader answers again", &["task_id"], "a request to the leader succeeded after failures", ""),
    event(
        Warn,
        "window has not ended at leader",
        &["task_id", "window", "delay"],
        "the leader's clock is behind; the window is requested later",
        "check the clocks of both servers",
    ),
    event(Info, "window requested again by the operator", &["task_id", "window"], "`dapbox results retry`", ""),
    event(Info, "link to results created", &["task_id", "link"], "its holders see the task's page", ""),
    event(Info, "link to results revoked", &["task_id", "link"], "it is not valid any more", ""),
    event(Info, "webhook notified", &["task_id", "webhook", "attempt"], "a webhook accepted a notification", ""),
    event(
        Warn,
        "webhook notification failed",
        &["task_id", "webhook", "error", "attempt", "delay"],
        "a webhook did not accept a notification, which is repeated after the delay",
        "`dapbox results test-webhook` shows its answer",
    ),
    event(
        Error,
        "webhook notification given up",
        &["task_id", "webhook", "error", "attempt"],
        "a webhook did not accept a notification for `results.webhook_retry_age`",
        "check the webhook",
    ),
    event(
        Warn,
        "webhook queue full",
        &["task_id", "webhook"],
        "the oldest notification was dropped",
        "check the webhook; raise `results.max_webhook_queue`",
    ),
];
