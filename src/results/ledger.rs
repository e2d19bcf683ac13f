//! The rules of the windows of one task: which exist, which to request, and what each answer of the leader means.
//!
//! The functions are pure: they take the stored windows and return changed ones. The caller stores a change before it acts on
//! it, so that after a restart the stored windows say all that was requested.
//!
//! # Invariants
//!
//! [`check_invariants`] verifies them; the tests call it after every step.
//!
//! 1. The windows of a time-interval task are adjacent: they start at the task's start, without gap or overlap.
//! 2. The last window is upcoming, unless the task has ended.
//! 3. A window has at most one request. It is replaced only after it failed or was cancelled.
//! 4. A collected window never changes.
//!
//! # Decision: a window that has too few reports is cancelled only to be replaced
//!
//! A leader cannot be asked how many reports it has; it answers "not ready" for as long as there are too few. A request is
//! therefore left at the leader while the policy is to wait. Joining windows needs a request for a longer interval, which the
//! leader accepts only without the shorter one. Between the last poll and the deletion the leader may finish the shorter request;
//! the longer one is then refused, and the window is shown as lost. The driver polls directly before it deletes, so that this
//! takes one round trip.

mod attention;
mod check;
mod events;
mod plan;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration as Span};

use crate::{
    schedule::OnTooFew,
    settings::CollectorSettings,
    window::{Window, WindowState},
};
use dapbox_protocol::model::{Duration, Interval, TaskParameters, Time};

pub use attention::{Attention, attention, deadline};
pub use check::check_invariants;
pub use events::{Event, Failure, FailureKind, apply, begin, retry};
pub use plan::{Change, MAX_NEW_WINDOWS, plan};

/// What to do with a window now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Store a request and send it.
    Begin,
    /// Send the stored request, which may have reached the leader.
    Request,
    /// Poll the collection job. If the leader refused that, the request is sent again where this creates no second job.
    Poll,
    /// Poll the collection job, and delete it if it has no result.
    Cancel,
    /// Delete the collection job of a stored result, so that the leader returns the next batch.
    Release,
    /// Open the stored sealed result again, if the key was replaced.
    Reopen,
}

/// Decides what to do with a window. `next` is the window after it.
pub fn next_action(window: &Window, next: Option<&Window>, settings: &CollectorSettings, now: Time) -> Action {
    match &window.state {
        WindowState::Upcoming => Action::None,
        WindowState::Due => Action::Begin,
        WindowState::Requested { .. } | WindowState::Refused { location: None, .. } => Action::Request,
        WindowState::Refused { location: Some(_), .. } => Action::Poll,
        WindowState::Pending { .. } => Action::Poll,
        WindowState::TooFewReports { request: Some(_), location, .. } => {
            let must_cancel = match settings.schedule.on_too_few {
                OnTooFew::Wait => false,
                OnTooFew::Extend => next.is_some_and(|next| can_join(next, settings, now)),
                OnTooFew::Skip => window.interval.is_some(),
            };
            match (must_cancel, location) {
                (true, _) => Action::Cancel,
                (false, Some(_)) => Action::Poll,
                (false, None) => Action::Request,
            }
        }
        WindowState::TooFewReports { request: None, .. } => Action::None,
        WindowState::Collected(collected) if collected.to_release.is_some() => Action::Release,
        WindowState::Collected(_) => Action::None,
        WindowState::Lost { reason: crate::window::LossReason::Unreadable, .. } => Action::Reopen,
        WindowState::Lost { .. } => Action::None,
    }
}

/// Whether a window with too few reports can be joined with this one, which follows it.
fn can_join(next: &Window, settings: &CollectorSettings, now: Time) -> bool {
    match next.state {
        WindowState::Due => true,
        WindowState::Upcoming => next.interval.is_some_and(|interval| now >= due_time(&interval, settings)),
        _ => false,
    }
}

/// When a window of a time-interval task can be requested.
pub fn due_time(interval: &Interval, settings: &CollectorSettings) -> Time {
    interval.end().saturating_add(seconds(*settings.schedule.grace))
}

/// When the reports of a task end, if known: the end of its last unit of time precision.
pub fn task_end(task: &TaskParameters) -> Option<Time> {
    let precision = task.time_precision;
    // A report at the exact time of expiration is accepted.
    let expiration = task.task_expiration.map(|time| time.truncate(precision).saturating_add(precision));
    task.task_interval.map(|interval| interval.end()).or(expiration)
}

/// When [`plan()`] has something to do next without an event, if ever.
pub fn next_time(windows: &BTreeMap<u64, Window>, settings: &CollectorSettings) -> Option<Time> {
    let times = windows.values().filter_map(|window| match &window.state {
        WindowState::Upcoming => window.interval.map(|interval| due_time(&interval, settings)),
        WindowState::Pending { since, .. } => Some(since.saturating_add(patience(settings))),
        WindowState::TooFewReports { request: None, is_final: false, since, .. } => {
            Some(since.saturating_add(patience(settings)))
        }
        _ => None,
    });
    times.min()
}

/// How many windows are in each state, by the state's name.
pub fn counts(windows: &BTreeMap<u64, Window>) -> BTreeMap<&'static str, u64> {
    let mut counts = WindowState::NAMES.map(|name| (name, 0)).into_iter().collect::<BTreeMap<_, _>>();
    windows.values().for_each(|window| *counts.entry(window.state.name()).or_default() += 1);
    counts
}

fn patience(settings: &CollectorSettings) -> Duration {
    seconds(*settings.schedule.patience)
}

fn seconds(span: Span) -> Duration {
    Duration(span.as_secs())
}
