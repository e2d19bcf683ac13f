//! Results as files for programs: CSV, NDJSON and JSON.
//!
//! # Columns of CSV
//!
//! One row for each number of each collected window, in the order of time.
//!
//! | column | content |
//! |---|---|
//! | `window` | number of the window; empty for a sum of windows |
//! | `start`, `end` | the span of the window, or of the reports of a batch; ISO 8601, UTC |
//! | `report_count` | reports in the aggregate |
//! | `position` | position in the vector or histogram, from 0; 0 for a count or a sum |
//! | `label` | label of the position, from the presentation; empty if it has none |
//! | `value` | the number, exact; negative if noise made it so |
//! | `noise_sd` | standard deviation of the noise; empty without noise |
//! | `low_95`, `high_95` | the value without noise is between them with a probability of 95 %; empty without noise |
//!
//! Labels are text of the operator. A label that a spreadsheet would run as a formula is written after an apostrophe.
//!
//! JSON has all windows, also those without a result, with their state. Its numbers are exact, so values above 2^53 need a parser
//! of big integers.

mod csv_file;
mod json_file;

use dapbox_protocol::{
    model::{Interval, Time},
    vdaf::AggregateResult,
};
use dapbox_results::{
    Window,
    statistics::{self, NoiseModel, SumError},
};
use dapbox_support::timestamp;

use crate::{selection::Selection, view::TaskView};

pub use csv_file::{COLUMNS, csv};
pub use json_file::{json, ndjson};

/// Why results cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The selected windows cannot be added up.
    #[error("the selected windows cannot be added up: {0}")]
    Sum(#[from] SumError),
    /// Writing failed.
    #[error("cannot write the results: {0}")]
    Io(#[from] std::io::Error),
}

/// The result of a window, or of several windows together.
struct Record<'a> {
    /// The window; `None` for a sum.
    number: Option<u64>,
    interval: Option<Interval>,
    report_count: u64,
    /// Number of windows in the result.
    windows: u64,
    result: std::borrow::Cow<'a, AggregateResult>,
}

/// The results of the selected windows, added up if the selection says so.
fn records<'a>(view: &'a TaskView, selection: &Selection) -> Result<Vec<Record<'a>>, ExportError> {
    let collected = view.selected(selection).filter_map(|window| {
        let (collected, result) = (window.collected()?, view.results.get(&window.number)?);
        Some(Record {
            number: Some(window.number),
            interval: window.shown_interval(),
            report_count: collected.report_count,
            windows: 1,
            result: std::borrow::Cow::Borrowed(result),
        })
    });
    let records: Vec<Record> = collected.collect();
    if !selection.sum || records.is_empty() {
        return Ok(records);
    }
    let mut sum: Option<AggregateResult> = None;
    for record in &records {
        match &mut sum {
            Some(sum) => statistics::add(sum, &record.result)?,
            None => sum = Some(record.result.clone().into_owned()),
        }
    }
    let summed = sum.map(|result| Record {
        number: None,
        interval: spanned(records.iter().filter_map(|record| record.interval)),
        report_count: records.iter().map(|record| record.report_count).sum(),
        windows: records.len() as u64,
        result: std::borrow::Cow::Owned(result),
    });
    Ok(summed.into_iter().collect())
}

/// The smallest interval that contains all of these.
fn spanned(intervals: impl Iterator<Item = Interval>) -> Option<Interval> {
    let (start, end) = intervals.map(|interval| (interval.start(), interval.end())).reduce(|a, b| {
        let (start, end): (Time, Time) = (a.0.min(b.0), a.1.max(b.1));
        (start, end)
    })?;
    Interval::new(start, dapbox_protocol::model::Duration(end.0 - start.0))
}

/// The standard deviation of the noise of each number, and its bound of 95 %.
fn noise_of(view: &TaskView, record: &Record) -> Option<(f64, f64)> {
    let noise = NoiseModel::of(&view.parameters)?;
    Some((noise.deviation(record.windows), noise.bound(record.windows)))
}

/// The reason why a window has no result, if there is one.
fn reason(window: &Window) -> Option<String> {
    use dapbox_results::WindowState;
    match &window.state {
        WindowState::Lost { reason, detail } => Some(format!("{}: {detail}", reason.text())),
        WindowState::Refused { detail, .. } => Some(detail.clone()),
        WindowState::Requested { last_error, .. } | WindowState::Pending { last_error, .. } => last_error.clone(),
        WindowState::TooFewReports { .. } => Some("fewer reports than the minimum batch size".to_owned()),
        WindowState::Upcoming | WindowState::Due | WindowState::Collected(_) => None,
    }
}

fn iso(time: Time) -> String {
    timestamp::show(time)
}
