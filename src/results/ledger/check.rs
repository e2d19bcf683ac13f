//! The invariants of the windows of a task.

use std::collections::{BTreeMap, BTreeSet};

use super::task_end;
use crate::{
    settings::CollectorSettings,
    window::{CollectionRequest, Window, WindowState},
};
use dapbox_protocol::model::{BatchMode, TaskParameters};

/// Verifies the invariants of the windows of a task, after [`plan`](super::plan()) returned no change.
///
/// # Errors
///
/// Names the first violation.
pub fn check_invariants(
    task: &TaskParameters,
    settings: &CollectorSettings,
    windows: &BTreeMap<u64, Window>,
) -> Result<(), String> {
    if let Some((number, window)) = windows.iter().find(|(number, window)| **number != window.number) {
        return Err(format!("window {} is stored as {number}", window.number));
    }
    let ids: Vec<_> = windows.values().filter_map(request).map(|request| request.id).collect();
    if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
        return Err("two windows have the same request".to_owned());
    }
    match task.batch_mode {
        BatchMode::TimeInterval => check_spans(task, settings, windows),
        BatchMode::FixedSize { .. } => check_batches(windows),
    }
}

fn check_spans(
    task: &TaskParameters,
    settings: &CollectorSettings,
    windows: &BTreeMap<u64, Window>,
) -> Result<(), String> {
    let mut end = settings.start.truncate(task.time_precision);
    for window in windows.values() {
        let interval = window.interval.ok_or_else(|| format!("window {} has no interval", window.number))?;
        if interval.start() != end || interval.end() <= end {
            return Err(format!("window {} does not start at the end of the one before", window.number));
        }
        if !interval.is_aligned(task.time_precision) {
            return Err(format!("window {} is not aligned to the time precision", window.number));
        }
        end = interval.end();
    }
    let has_ended = task_end(task).is_some_and(|last| end >= last);
    match windows.values().next_back() {
        Some(last) if last.state == WindowState::Upcoming || has_ended => Ok(()),
        _ => Err("the last window is not upcoming".to_owned()),
    }
}

fn check_batches(windows: &BTreeMap<u64, Window>) -> Result<(), String> {
    let open = windows.values().filter(|window| !window.state.is_final());
    let last = windows.keys().next_back();
    match open.map(|window| &window.number).collect::<Vec<_>>()[..] {
        [] => Ok(()),
        [number] if Some(number) == last => Ok(()),
        _ => Err("a batch before the last one is open".to_owned()),
    }
}

/// The request that the leader may have.
fn request(window: &Window) -> Option<&CollectionRequest> {
    match &window.state {
        WindowState::Requested { request, .. }
        | WindowState::Pending { request, .. }
        | WindowState::Refused { request, .. }
        | WindowState::TooFewReports { request: Some(request), .. } => Some(request),
        _ => None,
    }
}
