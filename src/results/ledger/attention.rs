//! What an operator should look at.

use std::collections::BTreeMap;

use super::{due_time, seconds};
use crate::{
    settings::CollectorSettings,
    window::{LossReason, Window, WindowState},
};
use dapbox_protocol::model::{Duration, Time};

/// Minimum time before a deadline at which it is reported, in seconds.
const MIN_WARNING: u64 = 86_400;

/// Something that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attention {
    /// The result of a window is lost.
    Lost {
        /// The window.
        number: u64,
        /// Why.
        reason: LossReason,
        /// What the leader or this collector said.
        detail: String,
    },
    /// The leader refuses this collector.
    Refused {
        /// The window.
        number: u64,
        /// What the leader said.
        detail: String,
    },
    /// A window has had no result for longer than the patience of the schedule.
    Overdue {
        /// The window.
        number: u64,
        /// Since when.
        since: Time,
        /// The last failure.
        last_error: Option<String>,
    },
    /// A window is given up, or still waits, because it has too few reports.
    TooFewReports {
        /// The window.
        number: u64,
    },
    /// The aggregators may soon delete the reports of a window that is not collected.
    DeadlineNear {
        /// The window.
        number: u64,
        /// When.
        deadline: Time,
    },
}

impl Attention {
    /// The window.
    pub fn window(&self) -> u64 {
        match self {
            Self::Lost { number, .. }
            | Self::Refused { number, .. }
            | Self::Overdue { number, .. }
            | Self::TooFewReports { number }
            | Self::DeadlineNear { number, .. } => *number,
        }
    }

    /// What is wrong, in a sentence without the window.
    pub fn text(&self) -> String {
        match self {
            Self::Lost { reason, detail, .. } => format!("the result is lost: {}: {detail}", reason.text()),
            Self::Refused { detail, .. } => format!("the leader refuses the collector: {detail}"),
            Self::Overdue { last_error: Some(error), .. } => format!("no result yet: {error}"),
            Self::Overdue { last_error: None, .. } => "the leader has no result yet".to_owned(),
            Self::TooFewReports { .. } => "too few reports".to_owned(),
            Self::DeadlineNear { .. } => "the aggregators may soon delete the reports".to_owned(),
        }
    }
}

/// When the aggregators may begin to delete the reports of a window, if known.
pub fn deadline(window: &Window, settings: &CollectorSettings) -> Option<Time> {
    Some(window.interval?.start().saturating_add(settings.retention?))
}

/// What an operator should look at, in the order of the windows.
pub fn attention(windows: &BTreeMap<u64, Window>, settings: &CollectorSettings, now: Time) -> Vec<Attention> {
    windows.values().flat_map(|window| of_window(window, settings, now)).collect()
}

fn of_window(window: &Window, settings: &CollectorSettings, now: Time) -> Vec<Attention> {
    let number = window.number;
    let patience = seconds(*settings.schedule.patience);
    let overdue = |since: Time, last_error: Option<&String>| {
        let is_late = since.saturating_add(patience) <= now;
        is_late.then(|| Attention::Overdue { number, since, last_error: last_error.cloned() })
    };
    let since_due = window.interval.map_or(window.changed, |interval| due_time(&interval, settings));
    let state = match &window.state {
        WindowState::Lost { reason, detail } => {
            Some(Attention::Lost { number, reason: *reason, detail: detail.clone() })
        }
        WindowState::Refused { detail, .. } => Some(Attention::Refused { number, detail: detail.clone() }),
        WindowState::TooFewReports { .. } => Some(Attention::TooFewReports { number }),
        WindowState::Due => overdue(since_due.max(window.changed), None),
        WindowState::Requested { request, last_error } => overdue(request.created, last_error.as_ref()),
        WindowState::Pending { since, last_error: Some(error), .. } => overdue(*since, Some(error)),
        // A batch of a fixed-size task may take any time.
        WindowState::Pending { since, .. } if window.interval.is_some() => overdue(*since, None),
        WindowState::Pending { .. } | WindowState::Upcoming | WindowState::Collected(_) => None,
    };
    let near = deadline(window, settings).filter(|deadline| {
        let retention = settings.retention.unwrap_or(Duration(0));
        let warning = Duration((retention.0 / 10).max(MIN_WARNING).min(retention.0 / 2));
        !window.state.is_final() && deadline.saturating_sub(warning) <= now
    });
    state.into_iter().chain(near.map(|deadline| Attention::DeadlineNear { number, deadline })).collect()
}
