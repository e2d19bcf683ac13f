//! JSON: one document, or one line for each window.

use std::io::Write;

use serde::Serialize;

use super::{ExportError, Record, iso, noise_of, reason, records};
use crate::{selection::Selection, view::TaskView};
use dapbox_protocol::{
    model::{Interval, TaskId, VdafConfig},
    vdaf::AggregateResult,
};
use dapbox_results::Presentation;

/// A task with its windows.
#[derive(Serialize)]
struct Document<'a> {
    task_id: TaskId,
    title: String,
    vdaf: &'a VdafConfig,
    min_batch_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_epsilon: Option<String>,
    time_zone: &'a str,
    presentation: &'a Presentation,
    windows: Vec<Entry<'a>>,
}

/// A window, or a sum of windows.
#[derive(Serialize)]
struct Entry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    result: Option<Result<'a>>,
}

#[derive(Serialize)]
struct Result<'a> {
    report_count: u64,
    /// Number of windows in the result.
    windows: u64,
    result: &'a AggregateResult,
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_sd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_bound_95: Option<f64>,
}

/// Writes a task with the selected windows as one document.
///
/// # Errors
///
/// Fails if writing fails, or if the selected windows cannot be added up.
pub fn json(view: &TaskView, selection: &Selection, mut out: impl Write) -> std::result::Result<(), ExportError> {
    let records = records(view, selection)?;
    let document = Document {
        task_id: view.id,
        title: view.title(),
        vdaf: &view.parameters.vdaf,
        min_batch_size: view.parameters.min_batch_size,
        noise_epsilon: view.parameters.noise.map(|epsilon| epsilon.to_string()),
        time_zone: &view.settings.schedule.time_zone,
        presentation: &view.settings.presentation,
        windows: entries(view, selection, &records),
    };
    serde_json::to_writer(&mut out, &document).map_err(std::io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// Writes a line of JSON for each selected window.
///
/// # Errors
///
/// Fails if writing fails, or if the selected windows cannot be added up.
pub fn ndjson(view: &TaskView, selection: &Selection, mut out: impl Write) -> std::result::Result<(), ExportError> {
    for entry in entries(view, selection, &records(view, selection)?) {
        serde_json::to_writer(&mut out, &entry).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn entries<'a>(view: &TaskView, selection: &Selection, records: &'a [Record]) -> Vec<Entry<'a>> {
    if selection.sum {
        return records.iter().map(|record| entry(record.number, record.interval, "collected", view, record)).collect();
    }
    let mut of_windows = records.iter().peekable();
    let entries = view.selected(selection).map(|window| {
        let (state, span) = (window.state.name(), window.shown_interval());
        match of_windows.next_if(|record| record.number == Some(window.number)) {
            Some(record) => entry(Some(window.number), span, state, view, record),
            None => Entry { reason: reason(window), ..bare(Some(window.number), span, state) },
        }
    });
    entries.collect()
}

fn entry<'a>(
    window: Option<u64>,
    span: Option<Interval>,
    state: &'static str,
    view: &TaskView,
    record: &'a Record,
) -> Entry<'a> {
    let (noise_sd, noise_bound_95) = noise_of(view, record).unzip();
    let (report_count, windows) = (record.report_count, record.windows);
    let result = Result { report_count, windows, result: &record.result, noise_sd, noise_bound_95 };
    Entry { result: Some(result), ..bare(window, span, state) }
}

fn bare<'a>(window: Option<u64>, span: Option<Interval>, state: &'static str) -> Entry<'a> {
    let (start, end) = span.map(|span| (iso(span.start()), iso(span.end()))).unzip();
    Entry { window, start, end, state, reason: None, result: None }
}
