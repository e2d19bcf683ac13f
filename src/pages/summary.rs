//! A task in words: what it measures, its latest and next window, and what needs attention.

use std::collections::BTreeMap;

use crate::{TaskView, calendar::Calendar, series};
use dapbox_protocol::model::{BatchMode, Duration, VdafConfig};
use dapbox_results::{
    Unit, Window, WindowState,
    ledger::{self, Attention},
};
use dapbox_support::format::{count, counted, relative, span};

/// What a task measures, in a line.
pub fn measures(view: &TaskView) -> String {
    let parameters = &view.parameters;
    let what = match &parameters.vdaf {
        VdafConfig::Prio3Count => "Count of true reports".to_owned(),
        VdafConfig::Prio3Sum { max } => format!("Sum of numbers up to {}", count(max.0)),
        VdafConfig::Prio3Histogram { length, .. } => format!("Histogram of {} bins", count(*length as u64)),
        vdaf if series::Measure::of(vdaf) == series::Measure::Flags => {
            format!("Count of each of {} flags", count(vdaf.vector_length() as u64))
        }
        VdafConfig::Prio3L1BoundSum { max_value, length, .. } => {
            format!("Sum of vectors of {} numbers, at most {} in total", count(*length as u64), count(*max_value))
        }
        vdaf => format!("Sum of vectors of {} numbers", count(vdaf.vector_length() as u64)),
    };
    let noise = match parameters.noise {
        Some(epsilon) => format!(" · noise of ε = {epsilon}"),
        None => String::new(),
    };
    format!("{what} · {} · at least {}{noise}", schedule(view), counted(parameters.min_batch_size, "report"))
}

/// What the windows of a task are called.
pub fn noun(view: &TaskView) -> &'static str {
    if view.parameters.batch_mode == BatchMode::TimeInterval { "window" } else { "batch" }
}

/// The windows of a task.
pub fn schedule(view: &TaskView) -> String {
    if view.parameters.batch_mode != BatchMode::TimeInterval {
        return "batch after batch".to_owned();
    }
    match view.settings.schedule.every {
        Unit::Day => "daily".to_owned(),
        Unit::Week => "weekly".to_owned(),
        Unit::Month => "monthly".to_owned(),
        Unit::Span(length) if length.as_secs() == 3600 => "hourly".to_owned(),
        Unit::Span(length) => format!("every {}", span(Duration(length.as_secs()))),
    }
}

/// The last window with a result.
pub fn last_collected(view: &TaskView) -> Option<&Window> {
    view.windows.iter().rev().find(|window| window.collected().is_some())
}

/// A window, for people.
pub fn window_label(view: &TaskView, calendar: &Calendar, window: &Window) -> String {
    match (window.shown_interval(), view.parameters.batch_mode) {
        (Some(interval), BatchMode::TimeInterval) => calendar.span(interval),
        _ => format!("Batch #{}", window.number),
    }
}

/// The first window that has no final state.
fn open_window(view: &TaskView) -> Option<&Window> {
    view.windows.iter().find(|window| !window.state.is_final() && !matches!(window.state, WindowState::Refused { .. }))
}

/// When the next result is expected, in a word or two.
pub fn next_window_brief(view: &TaskView) -> String {
    let Some(window) = open_window(view) else { return "–".to_owned() };
    match &window.state {
        WindowState::Upcoming => match window.interval {
            Some(interval) if interval.end() > view.now => relative(interval.end(), view.now),
            _ => "when ready".to_owned(),
        },
        WindowState::Due => "due".to_owned(),
        WindowState::Requested { .. } | WindowState::Pending { .. } => "pending".to_owned(),
        WindowState::TooFewReports { .. } => "waiting for reports".to_owned(),
        state => state.name().replace('_', " "),
    }
}

/// The next window, in a sentence; `None` if there is none.
pub fn next_window(view: &TaskView) -> Option<String> {
    let window = open_window(view)?;
    let calendar = Calendar::new(&view.settings.schedule.time_zone);
    let label = window_label(view, &calendar, window);
    Some(match &window.state {
        WindowState::Upcoming => match window.interval {
            Some(_) => format!("end of {label}"),
            None => format!("{label} is not ready"),
        },
        WindowState::Due => format!("{label} is about to be requested"),
        WindowState::Requested { .. } => format!("{label} is being requested"),
        WindowState::Pending { since, .. } => {
            format!("the leader prepares {label} since {}", calendar.minute(*since))
        }
        _ => format!("{label} has too few reports"),
    })
}

/// Maximum number of notices.
const MAX_NOTICES: usize = 5;

/// What needs attention, in sentences, the latest first. Successive windows with the same trouble are one notice.
/// `has_details` adds what the leader said.
pub fn attention(view: &TaskView, has_details: bool) -> Vec<String> {
    let calendar = Calendar::new(&view.settings.schedule.time_zone);
    let windows: BTreeMap<u64, Window> = view.windows.iter().map(|window| (window.number, window.clone())).collect();
    let found = ledger::attention(&windows, &view.settings, view.now);
    let mut runs: Vec<(String, Vec<u64>)> = Vec::new();
    for notice in &found {
        let text = notice_text(notice, has_details);
        match runs.last_mut() {
            Some((last, numbers)) if *last == text => numbers.push(notice.window()),
            _ => runs.push((text, vec![notice.window()])),
        }
    }
    let label =
        |number: &u64| windows.get(number).map_or_else(String::new, |window| window_label(view, &calendar, window));
    let mut notices: Vec<String> = Vec::new();
    for (text, numbers) in runs.iter().rev() {
        if notices.len() + 1 == MAX_NOTICES && runs.len() > MAX_NOTICES {
            notices.push(format!("{} more in the ledger of windows.", count((runs.len() - notices.len()) as u64)));
            break;
        }
        notices.push(match numbers.as_slice() {
            [number] => format!("{}: {text}.", label(number)),
            [first, .., last] => {
                format!("{} windows from {} to {}: {text}.", count(numbers.len() as u64), label(first), label(last))
            }
            [] => continue,
        });
    }
    notices
}

fn notice_text(notice: &Attention, has_details: bool) -> String {
    let text = match (notice, has_details) {
        (Attention::Lost { reason, .. }, false) => format!("the result is lost: {}", reason.text()),
        (Attention::Refused { .. }, false) => "the leader refuses the collector".to_owned(),
        (Attention::Overdue { .. }, false) => "the leader has no result yet".to_owned(),
        _ => notice.text(),
    };
    text.trim_end_matches([':', '.', ' ']).to_owned()
}
