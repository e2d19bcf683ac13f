//! Comma-separated values (RFC 4180).

use std::io::Write;

use csv::Writer;

use super::{ExportError, iso, noise_of, records};
use crate::{selection::Selection, view::TaskView};
use dapbox_results::statistics;

/// The columns.
pub const COLUMNS: [&str; 10] =
    ["window", "start", "end", "report_count", "position", "label", "value", "noise_sd", "low_95", "high_95"];

/// Writes the results of the selected windows, one row for each number.
///
/// # Errors
///
/// Fails if writing fails, or if the selected windows cannot be added up.
pub fn csv(view: &TaskView, selection: &Selection, out: impl Write) -> Result<(), ExportError> {
    let mut writer = Writer::from_writer(out);
    let failed = |error: csv::Error| ExportError::Io(error.into());
    writer.write_record(COLUMNS).map_err(failed)?;
    for record in records(view, selection)? {
        let window = record.number.map(|number| number.to_string()).unwrap_or_default();
        let (start, end) = record.interval.map(|span| (iso(span.start()), iso(span.end()))).unwrap_or_default();
        let (count, noise) = (record.report_count.to_string(), noise_of(view, &record));
        for (position, value) in statistics::values(&record.result).into_iter().enumerate() {
            let label = view.settings.presentation.labels.get(position).map(|label| safe(label)).unwrap_or_default();
            let [deviation, low, high] = match noise {
                Some((deviation, bound)) => [deviation, value.as_f64() - bound, value.as_f64() + bound].map(decimal),
                None => Default::default(),
            };
            let (position, value) = (position.to_string(), value.to_string());
            let row = [&window, &start, &end, &count, &position, &label, &value, &deviation, &low, &high];
            writer.write_record(row).map_err(failed)?;
        }
    }
    Ok(writer.flush()?)
}

/// A number with two decimal places.
fn decimal(number: f64) -> String {
    format!("{number:.2}")
}

/// Text that a spreadsheet does not run as a formula.
fn safe(label: &str) -> String {
    match label.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{label}"),
        false => label.to_owned(),
    }
}
