//! What an answer of the leader means for a window.

use crate::window::{CollectedWindow, CollectionRequest, LossReason, Window, WindowState};
use dapbox_protocol::model::Time;

/// Maximum length of a detail that is stored with a window, in characters.
const MAX_DETAIL: usize = 500;

/// What happened to the request of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The leader accepted the request, or moved its collection job.
    Accepted {
        /// Path of the collection job at the leader.
        location: String,
    },
    /// The leader has no result yet.
    Waiting,
    /// The result arrived.
    Collected(CollectedWindow),
    /// The request or a poll failed.
    Failed(Failure),
    /// The collection job was deleted at the leader before it had a result.
    Cancelled,
    /// The collection job of a stored result was deleted at the leader.
    Released,
}

/// A failed request or poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub kind: FailureKind,
    /// What the leader or this collector said.
    pub detail: String,
}

/// What a failure means for the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The same request may succeed later.
    Retryable,
    /// The leader refuses this collector rather than this request, for example its token.
    Unauthorized,
    /// The leader has too few reports, and no longer has the request.
    TooFewReports,
    /// The leader no longer has the collection job.
    Deleted,
    /// The result is lost.
    Lost(LossReason),
}

/// Stores a request with a window that is due. The caller sends it afterwards.
pub fn begin(window: &Window, request: CollectionRequest, now: Time) -> Window {
    with_state(window, WindowState::Requested { request, last_error: None }, now)
}

/// The window after an event. An event that does not fit its state, such as a late answer to a request that was replaced,
/// changes nothing.
pub fn apply(window: &Window, event: Event, now: Time) -> Window {
    match event {
        Event::Accepted { location } => accepted(window, location, now),
        Event::Waiting => waiting(window, now),
        Event::Collected(collected) if has_request(window) || is_unreadable(window) => {
            with_state(window, WindowState::Collected(collected), now)
        }
        Event::Failed(failure) if has_request(window) => failed(window, failure, now),
        Event::Cancelled if has_request(window) => with_state(window, too_few(window, now), now),
        Event::Released => released(window, now),
        Event::Collected(_) | Event::Failed(_) | Event::Cancelled => window.clone(),
    }
}

/// Makes a window due again that the operator wants to request again.
///
/// # Errors
///
/// Explains why the window cannot be requested again. `force` requests windows again whose reports the aggregators are not
/// expected to have.
pub fn retry(window: &Window, force: bool, now: Time) -> Result<Window, String> {
    let state = match &window.state {
        WindowState::Lost { reason: LossReason::Unreadable, .. } => {
            return Err(
                "the result is stored and does not open with the task's key (hint: add the task's file with the right \
                        key again; the result is opened then)"
                    .to_owned(),
            );
        }
        WindowState::Lost { reason, .. } if !reason.is_recoverable() && !force => {
            return Err(format!("{} (hint: --force requests the window nevertheless)", reason.text()));
        }
        WindowState::Lost { .. } | WindowState::TooFewReports { request: None, .. } => WindowState::Due,
        WindowState::Refused { request, location, .. } => match location {
            None => WindowState::Requested { request: request.clone(), last_error: None },
            Some(location) => pending(request, location.clone(), now),
        },
        state => {
            return Err(format!("the window is {}, so there is nothing to repeat", state.name().replace('_', " ")));
        }
    };
    Ok(with_state(window, state, now))
}

fn accepted(window: &Window, location: String, now: Time) -> Window {
    let state = match &window.state {
        WindowState::Requested { request, .. } | WindowState::Refused { request, .. } => {
            pending(request, location, now)
        }
        WindowState::Pending { request, since, last_error, .. } => {
            WindowState::Pending { request: request.clone(), location, since: *since, last_error: last_error.clone() }
        }
        WindowState::TooFewReports { request: Some(request), since, .. } => WindowState::TooFewReports {
            request: Some(request.clone()),
            location: Some(location),
            since: *since,
            is_final: false,
        },
        _ => return window.clone(),
    };
    with_state(window, state, now)
}

fn waiting(window: &Window, now: Time) -> Window {
    let state = match &window.state {
        WindowState::Refused { request, location: Some(location), .. } => pending(request, location.clone(), now),
        WindowState::Pending { request, location, since, last_error: Some(_) } => WindowState::Pending {
            request: request.clone(),
            location: location.clone(),
            since: *since,
            last_error: None,
        },
        _ => return window.clone(),
    };
    with_state(window, state, now)
}

fn failed(window: &Window, failure: Failure, now: Time) -> Window {
    let detail: String = failure.detail.chars().take(MAX_DETAIL).collect();
    let Some((request, location)) = request_of(window) else { return window.clone() };
    let state = match failure.kind {
        FailureKind::Retryable => match &window.state {
            WindowState::Requested { request, .. } => {
                WindowState::Requested { request: request.clone(), last_error: Some(detail) }
            }
            WindowState::Pending { request, location, since, .. } => WindowState::Pending {
                request: request.clone(),
                location: location.clone(),
                since: *since,
                last_error: Some(detail),
            },
            _ => return window.clone(),
        },
        FailureKind::Unauthorized => {
            WindowState::Refused { request: request.clone(), location: location.cloned(), detail }
        }
        FailureKind::TooFewReports => too_few(window, now),
        // The leader had accepted the request and has forgotten it, for example after its restore. The same window can be
        // requested again; if it was collected, the leader refuses that.
        FailureKind::Deleted if location.is_some() => WindowState::Due,
        FailureKind::Deleted => WindowState::Lost { reason: LossReason::Deleted, detail },
        FailureKind::Lost(reason) => WindowState::Lost { reason, detail },
    };
    with_state(window, state, now)
}

fn released(window: &Window, now: Time) -> Window {
    match &window.state {
        WindowState::Collected(collected) if collected.to_release.is_some() => {
            let collected = CollectedWindow { to_release: None, ..collected.clone() };
            with_state(window, WindowState::Collected(collected), now)
        }
        _ => window.clone(),
    }
}

fn pending(request: &CollectionRequest, location: String, now: Time) -> WindowState {
    WindowState::Pending { request: request.clone(), location, since: now, last_error: None }
}

/// Too few reports, and no request at the leader.
fn too_few(window: &Window, now: Time) -> WindowState {
    let since = match &window.state {
        WindowState::TooFewReports { since, .. } => *since,
        _ => now,
    };
    WindowState::TooFewReports { request: None, location: None, since, is_final: false }
}

fn has_request(window: &Window) -> bool {
    request_of(window).is_some()
}

fn is_unreadable(window: &Window) -> bool {
    matches!(window.state, WindowState::Lost { reason: LossReason::Unreadable, .. })
}

/// The request that the leader may have, and the path of its collection job.
fn request_of(window: &Window) -> Option<(&CollectionRequest, Option<&String>)> {
    match &window.state {
        WindowState::Requested { request, .. } => Some((request, None)),
        WindowState::Pending { request, location, .. } => Some((request, Some(location))),
        WindowState::Refused { request, location, .. } => Some((request, location.as_ref())),
        WindowState::TooFewReports { request: Some(request), location, .. } => Some((request, location.as_ref())),
        _ => None,
    }
}

/// The time of the change stays the same if nothing changes, so that repeated failures are not stored again.
fn with_state(window: &Window, state: WindowState, now: Time) -> Window {
    if state == window.state {
        return window.clone();
    }
    Window { state, changed: now, ..window.clone() }
}
