//! `dapbox upload`: uploads measurements as a client.

mod csv_file;
mod measure;
mod rejected;
mod rows;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration as Span, Instant},
};

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{Format, OutputArgs, PeerArgs},
    show,
    style::{self, Style, print},
    taskfile::{MAX_UNITS_BEFORE, TaskFile},
    timestamp,
};
use crate::{
    client::{Client, UploadSummary},
    model::{Duration, Role, TaskParameters, Time},
    support::clock,
    vdaf::Measurement,
};

/// Arguments of `dapbox upload`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Each measurement is split into shares, encrypted and uploaded as a separate report.\n\n\
    Examples:\n  \
    dapbox upload --task client.toml true      for a count\n  \
    dapbox upload --task client.toml 7         for a sum, or a histogram's bin\n  \
    dapbox upload --task client.toml 1,0,1     for a vector or flags\n  \
    dapbox upload --task client.toml --csv visits.csv --column visits\n  \
    dapbox upload --task client.toml --csv survey.csv --column smokes,drinks\n  \
    dapbox upload --task client.toml --csv - --column visits --delimiter tab\n  \
    dapbox upload --task client.toml --csv visits.csv --column visits \\\n      --skip-invalid --rejected rejected.csv\n  \
    dapbox upload --task client.toml --csv visits.csv --column visits --resume\n  \
    dapbox upload --task client.toml --ca-file our-ca.pem true\n\n\
    All rows of a CSV file are validated before the first upload; nothing is sent if one is invalid. Progress is recorded \
    beside the file, and --resume continues an interrupted upload: rows with unknown outcome are sent again unchanged and \
    counted once. Exit code 1 if any measurement was not accepted.")]
pub struct Args {
    /// The task's client.toml.
    #[arg(long, value_name = "FILE")]
    task: PathBuf,
    /// One measurement: true or false, a number, or comma-separated numbers.
    #[arg(required_unless_present = "csv", conflicts_with = "csv", allow_hyphen_values = true)]
    measurement: Option<String>,
    #[command(flatten)]
    csv: CsvArgs,
    /// Time of the measurement (UTC). Default: now.
    #[arg(long, value_parser = timestamp::parse)]
    time: Option<Time>,
    /// Number of concurrent uploads.
    #[arg(long, value_name = "N", default_value_t = 32)]
    concurrency: usize,
    #[command(flatten)]
    peer: PeerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A file of measurements.
#[derive(Debug, clap::Args)]
struct CsvArgs {
    /// CSV file with a header and one measurement per row; '-' for standard input (at most 256 MiB).
    #[arg(long = "csv", value_name = "FILE", requires = "column", help_heading = HEADING)]
    csv: Option<PathBuf>,
    /// Column of the measurement: its name, or '#' and its number. For a vector, several: separated by commas, or as
    /// repeated options.
    #[arg(long, value_name = "NAME", requires = "csv", help_heading = HEADING)]
    column: Vec<String>,
    /// Delimiter of cells: one character, or comma, semicolon, tab, pipe. Default: detected.
    #[arg(long, value_name = "CHARACTER", requires = "csv", value_parser = delimiter, help_heading = HEADING)]
    delimiter: Option<u8>,
    /// Upload only the first N rows.
    #[arg(long, value_name = "N", requires = "csv", help_heading = HEADING)]
    rows: Option<usize>,
    /// Skip invalid rows and upload the others.
    #[arg(long, requires = "csv", help_heading = HEADING)]
    skip_invalid: bool,
    /// Write the line number and reason of invalid and rejected rows to a new CSV file.
    #[arg(long, value_name = "FILE", requires = "csv", help_heading = HEADING)]
    rejected: Option<PathBuf>,
    /// Continue an interrupted upload of the same file.
    #[arg(long, requires = "csv", help_heading = HEADING)]
    resume: bool,
}

const HEADING: &str = "Many measurements";

/// Parses a delimiter for clap.
fn delimiter(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        ("comma", _) => Ok(b','),
        ("semicolon", _) => Ok(b';'),
        ("tab" | "\\t", _) => Ok(b'\t'),
        ("pipe", _) => Ok(b'|'),
        (_, [byte]) if byte.is_ascii() && !byte.is_ascii_alphanumeric() && *byte != b'"' => Ok(*byte),
        _ => Err("must be one character, or comma, semicolon, tab or pipe".to_owned()),
    }
}

#[derive(Serialize)]
struct Output<'a> {
    accepted: u64,
    settled_before: u64,
    invalid: u64,
    rejected: &'a BTreeMap<String, u64>,
    not_tried: u64,
    error: Option<String>,
    seconds: f64,
}

/// The outcome of an upload.
#[derive(Debug, Default)]
struct UploadReport {
    summary: UploadSummary,
    /// Number of measurements.
    total: u64,
    /// Number of invalid ones, which were skipped.
    invalid: u64,
    /// Number of those settled by an earlier, interrupted upload.
    settled: u64,
    took: Span,
}

/// Runs `dapbox upload`.
pub async fn run(args: Args) -> Outcome {
    let file = TaskFile::read(&args.task)?;
    refuse_secrets(&file, &args.task)?;
    let task = file.parameters();
    if args.output.format == Format::Text
        && let Some(time) = args.time
    {
        note_early_time(time, clock::now(), &task);
    }
    let client = file.client(args.peer.peer()?)?;
    if let Some(path) = &args.csv.csv {
        return rows::upload(&args, path, &client).await;
    }
    let measurement = match &args.measurement {
        Some(text) => measure::parse(text, &task.vdaf).map_err(Failure::usage)?,
        None => return Err(Failure::usage("a measurement or --csv is required")),
    };
    let start = Instant::now();
    let summary = upload(&client, vec![measurement], args.time, args.concurrency).await;
    report(&UploadReport { summary, total: 1, took: start.elapsed(), ..UploadReport::default() }, args.output.format)
}

/// Refuses files with secrets: a client has none, and must not have those of another party.
fn refuse_secrets(file: &TaskFile, path: &Path) -> Outcome {
    let role = file.role();
    if role == Role::Client {
        return Ok(());
    }
    let whose = show::role(role);
    Err(Failure::usage(format!(
        "{} contains the secrets of the {whose}, which a client must not have (hint: use client.toml from 'dapbox task \
         new'; delete this file where clients run, and rotate its secrets if others could read it)",
        path.display()
    )))
}

/// Prints a note if the default collection starts after `time`.
fn note_early_time(time: Time, now: Time, task: &TaskParameters) {
    let unit = task.time_precision;
    if time < now.saturating_sub(Duration(unit.0.saturating_mul(MAX_UNITS_BEFORE))) {
        let since = timestamp::show(time.truncate(unit));
        style::note(format!(
            "if the task was created later, the collector needs 'collect --since {since}' for this report"
        ));
    }
}

/// Uploads measurements, with a progress bar for more than one.
pub async fn upload(
    client: &Client,
    measurements: Vec<Measurement>,
    time: Option<Time>,
    concurrency: usize,
) -> UploadSummary {
    let bar = (measurements.len() > 1).then(|| style::progress(measurements.len() as u64, "uploading"));
    let progress = |summary: &UploadSummary| {
        bar.iter().for_each(|bar| bar.set_position(summary.accepted + summary.rejected_total()));
    };
    let summary = client.upload_many(measurements, time, concurrency, progress).await;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    summary
}

fn report(report: &UploadReport, format: Format) -> Outcome {
    let UploadReport { summary, total, invalid, settled, took } = report;
    let tried = summary.accepted + summary.rejected_total();
    let single = *total == 1 && summary.accepted == 0;
    match format {
        // The error is sufficient.
        Format::Text if single => {}
        Format::Json => {
            let output = Output {
                accepted: summary.accepted,
                settled_before: *settled,
                invalid: *invalid,
                rejected: &summary.rejected,
                not_tried: total.saturating_sub(tried + invalid + settled),
                error: summary.failure.as_ref().map(ToString::to_string),
                seconds: took.as_secs_f64(),
            };
            print(serde_json::to_string(&output)?)?;
        }
        Format::Text => {
            let style = Style::stdout();
            let speed = format!("in {}, {}", style::elapsed(*took), style::rate(summary.accepted, *took));
            let accepted = style::counted(summary.accepted, "report");
            print(format!("{} accepted {}", style.bold(&accepted), style.dim(&speed)))?;
            for (reason, count) in &summary.rejected {
                print(format!("{} rejected: {reason}", style.bad(&style::counted(*count, "report"))))?;
            }
            if let Some(last) = &summary.last_rejection {
                print(style.dim(&format!("last rejection: {last}")))?;
            }
            if *settled > 0 {
                print(style.dim(&format!("{} uploaded before the interruption", style::counted(*settled, "row"))))?;
            }
            if *invalid > 0 {
                print(format!("{} skipped", style.bad(&style::counted(*invalid, "invalid row"))))?;
            }
        }
    }
    match &summary.failure {
        Some(error) if *total > 1 => Err(Failure::new(format!("{error} ({tried} of {total} tried)"))),
        Some(error) => Err(Failure::new(error)),
        None if single => Err(Failure::new(summary.last_rejection.as_deref().unwrap_or("rejected"))),
        None if summary.rejected_total() + invalid > 0 => Err(Failure::new("some measurements were not accepted")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_delimiter() {
        for (text, byte) in [(";", b';'), ("tab", b'\t'), ("\t", b'\t'), ("\\t", b'\t'), ("pipe", b'|')] {
            assert_eq!(delimiter(text), Ok(byte), "{text}");
        }
        for text in ["", "a", "::", "\"", "§"] {
            assert!(delimiter(text).is_err(), "{text}");
        }
    }
}
