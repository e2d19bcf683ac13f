//! The windows of collector tasks, as operators see them and request them again.

use dapbox_protocol::model::{TaskId, Time};
use dapbox_results::{
    CollectorSettings, LossReason, Window, WindowState,
    ledger::{self},
};
use dapbox_store::{CollectorState, Tx, WriteError};

use crate::views::results::{MAX_WINDOW_PAGE, WindowPage, WindowStatus};

/// Why a window is not requested again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetryError {
    /// This server does not collect the task.
    #[error("this server does not collect the task")]
    NoTask,
    /// The task has no such window.
    #[error("window {0} does not exist; list the windows with 'dapbox results windows'")]
    NoWindow(u64),
    /// The window is in another state.
    #[error("{0}")]
    NotPossible(String),
}

/// A part of the windows of a task: `after=NUMBER&limit=COUNT`, or `last=COUNT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageQuery {
    /// Windows with larger numbers only.
    pub after: Option<u64>,
    /// Maximum number of windows; at most [`MAX_WINDOW_PAGE`].
    pub limit: Option<usize>,
    /// The last windows only, this many.
    pub last: Option<usize>,
}

impl PageQuery {
    /// Parses the query of a request.
    ///
    /// # Errors
    ///
    /// Names the unknown or invalid part.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let invalid = |_| format!("{part:?} is not a number");
            match name {
                "after" => parsed.after = Some(value.parse().map_err(invalid)?),
                "limit" => parsed.limit = Some(value.parse().map_err(invalid)?),
                "last" => parsed.last = Some(value.parse().map_err(invalid)?),
                _ => return Err(format!("unknown parameter {name:?}; known are after, limit and last")),
            }
        }
        Ok(parsed)
    }
}

/// A part of the windows of a task.
pub fn page(state: &CollectorState, query: &PageQuery) -> WindowPage {
    let limit = query.limit.unwrap_or(MAX_WINDOW_PAGE).clamp(1, MAX_WINDOW_PAGE);
    let first = query.after.map_or(0, |after| after.saturating_add(1));
    let skipped = query.last.map_or(0, |last| state.windows.len().saturating_sub(last));
    let settings = &state.record.settings;
    let mut rest = state.windows.values().skip(skipped).skip_while(|window| window.number < first);
    let windows: Vec<_> = rest.by_ref().take(limit).map(|window| status(window, settings)).collect();
    let next = rest.next().and(windows.last().map(|window| window.number));
    WindowPage { windows, next }
}

/// A window without its request.
pub fn status(window: &Window, settings: &CollectorSettings) -> WindowStatus {
    let collected = window.collected();
    let (detail, is_recoverable) = match &window.state {
        WindowState::Requested { last_error, .. } | WindowState::Pending { last_error, .. } => {
            (last_error.clone(), false)
        }
        WindowState::Refused { detail, .. } => (Some(detail.clone()), true),
        WindowState::Lost { reason, detail } => {
            let is_recoverable = reason.is_recoverable() && *reason != LossReason::Unreadable;
            (Some(format!("{}: {detail}", reason.text())), is_recoverable)
        }
        WindowState::TooFewReports { request, .. } => (None, request.is_none()),
        WindowState::Upcoming | WindowState::Due | WindowState::Collected(_) => (None, false),
    };
    WindowStatus {
        number: window.number,
        interval: window.shown_interval(),
        state: window.state.name().to_owned(),
        is_final: window.state.is_final(),
        is_joined: window.is_joined,
        changed: window.changed,
        report_count: collected.map(|collected| collected.report_count),
        batch_id: collected.and_then(|collected| collected.batch_id),
        detail,
        is_recoverable,
        deadline: ledger::deadline(window, settings).filter(|_| collected.is_none()),
    }
}

/// Requests a window again that was lost, refused or given up. `force` ignores that its reports are not expected to exist.
pub fn retry(
    tx: &mut Tx<'_>,
    task: &TaskId,
    number: u64,
    force: bool,
    now: Time,
) -> Result<WindowStatus, WriteError<RetryError>> {
    let state = tx.collector(task).ok_or(WriteError::Refused(RetryError::NoTask))?;
    let settings = state.record.settings.clone();
    let window = state.windows.get(&number).ok_or(WriteError::Refused(RetryError::NoWindow(number)))?;
    let retried = ledger::retry(window, force, now);
    let retried = retried.map_err(|why| WriteError::Refused(RetryError::NotPossible(why)))?;
    let status = status(&retried, &settings);
    tx.put_window(task, retried)?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_page_queries() {
        let parse = PageQuery::parse;
        assert_eq!(parse(""), Ok(PageQuery::default()));
        assert_eq!(parse("after=7&limit=3"), Ok(PageQuery { after: Some(7), limit: Some(3), last: None }));
        assert_eq!(parse("last=3"), Ok(PageQuery { last: Some(3), ..PageQuery::default() }));
        for query in ["after", "after=x", "limit=-1", "before=3"] {
            assert!(parse(query).is_err(), "{query}");
        }
    }
}
