//! `dapbox upload`: measurements, as a client uploads them.

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
    args::{Format, PeerArgs},
    show,
    style::{self, Style, say},
    taskfile::{TaskFile, UNITS_BEFORE},
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
#[command(after_help = "Each measurement is split, sealed and uploaded as a report of its own, as by a client of its \
    own.\n\n\
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
    All rows of a CSV file are checked before the first upload, and nothing is sent if one is bad. An upload that was \
    interrupted is recorded beside the file, and --resume continues it; a row whose outcome was unknown is sent \
    again as it was, and counted once. The exit code is 1 if any measurement was not accepted.")]
pub struct Args {
    /// The task's client.toml.
    #[arg(long, value_name = "FILE")]
    task: PathBuf,
    /// One measurement: true or false, a number, or numbers with commas.
    #[arg(required_unless_present = "csv", conflicts_with = "csv", allow_hyphen_values = true)]
    measurement: Option<String>,
    #[command(flatten)]
    csv: CsvArgs,
    /// When it was measured, instead of now.
    #[arg(long, value_parser = timestamp::parse)]
    time: Option<Time>,
    /// How many uploads are in progress at once.
    #[arg(long, value_name = "N", default_value_t = 32)]
    concurrency: usize,
    #[command(flatten)]
    peer: PeerArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// A file of measurements.
#[derive(Debug, clap::Args)]
struct CsvArgs {
    /// A CSV file with a header and one measurement in each row; '-' is standard input, of at most 256 MiB.
    #[arg(long = "csv", value_name = "FILE", requires = "column", help_heading = HEADING)]
    csv: Option<PathBuf>,
    /// The column with the measurement: its name, or '#' and its number. Several for a vector, with commas or in
    /// options of their own.
    #[arg(long, value_name = "NAME", requires = "csv", help_heading = HEADING)]
    column: Vec<String>,
    /// What is between the cells: one character, or comma, semicolon, tab, pipe. Detected if this is left out.
    #[arg(long, value_name = "CHARACTER", requires = "csv", value_parser = delimiter, help_heading = HEADING)]
    delimiter: Option<u8>,
    /// Only the first N rows.
    #[arg(long, value_name = "N", requires = "csv", help_heading = HEADING)]
    rows: Option<usize>,
    /// Upload the other rows if some are bad.
    #[arg(long, requires = "csv", help_heading = HEADING)]
    skip_invalid: bool,
    /// Write the line and the reason of each row that was bad or rejected to a new CSV file.
    #[arg(long, value_name = "FILE", requires = "csv", help_heading = HEADING)]
    rejected: Option<PathBuf>,
    /// Continue an upload of the same file that was interrupted.
    #[arg(long, requires = "csv", help_heading = HEADING)]
    resume: bool,
}

const HEADING: &str = "Many measurements";

/// For clap: a delimiter.
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

/// What became of measurements, and of those that were not uploaded.
#[derive(Debug, Default)]
struct Report {
    summary: UploadSummary,
    /// How many there are.
    total: u64,
    /// How many of them are bad and were left out.
    invalid: u64,
    /// How many were settled by an upload that was interrupted.
    settled: u64,
    took: Span,
}

/// Runs `dapbox upload`.
pub async fn run(args: Args) -> Outcome {
    let file = TaskFile::read(&args.task)?;
    refuse_secrets(&file, &args.task)?;
    let task = file.parameters();
    if args.output == Format::Text
        && let Some(time) = args.time
    {
        note_early(time, clock::now(), &task);
    }
    let client = file.client(args.peer.peer()?)?;
    if let Some(path) = &args.csv.csv {
        return rows::upload(&args, path, &client).await;
    }
    let measurement = match &args.measurement {
        Some(text) => measure::parse(text, &task.vdaf).map_err(Failure::usage)?,
        None => return Err(Failure::usage("there is neither a measurement nor --csv")),
    };
    let start = Instant::now();
    let summary = upload(&client, vec![measurement], args.time, args.concurrency).await;
    report(&Report { summary, total: 1, took: start.elapsed(), ..Report::default() }, args.output)
}

/// A client has no secrets, and a machine that measures must not have those of another party.
fn refuse_secrets(file: &TaskFile, path: &Path) -> Outcome {
    let role = file.role();
    if role == Role::Client {
        return Ok(());
    }
    let whose = show::role(role);
    Err(Failure::usage(format!(
        "{} holds the secrets of the {whose}, and an upload needs none: use client.toml, which 'dapbox task new' wrote \
         beside it. Where clients run, delete this file; if others could read it there, replace what is in it",
        path.display()
    )))
}

/// The default collection goes back for a limited time.
fn note_early(time: Time, now: Time, task: &TaskParameters) {
    let unit = task.time_precision;
    if time < now.saturating_sub(Duration(unit.0.saturating_mul(UNITS_BEFORE))) {
        let since = timestamp::show(time.truncate(unit));
        style::note(format!(
            "if the task was made later, the collector finds this with 'collect --since {since}' only"
        ));
    }
}

/// Uploads with a progress bar, if there is more than one.
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

fn report(report: &Report, format: Format) -> Outcome {
    let Report { summary, total, invalid, settled, took } = report;
    let tried = summary.accepted + summary.rejected_total();
    let single = *total == 1 && summary.accepted == 0;
    match format {
        // The error says it all.
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
            say(serde_json::to_string(&output)?)?;
        }
        Format::Text => {
            let style = Style::stdout();
            let speed = format!("in {}, {}", style::elapsed(*took), style::rate(summary.accepted, *took));
            let accepted = style::counted(summary.accepted, "report");
            say(format!("{} accepted {}", style.bold(&accepted), style.dim(&speed)))?;
            for (reason, count) in &summary.rejected {
                say(format!("{} rejected: {reason}", style.bad(&style::counted(*count, "report"))))?;
            }
            if let Some(last) = &summary.last_rejection {
                say(style.dim(&format!("the last because of {last}")))?;
            }
            if *settled > 0 {
                say(style.dim(&format!("{} settled before the interruption", style::counted(*settled, "row"))))?;
            }
            if *invalid > 0 {
                say(format!("{} left out", style.bad(&style::counted(*invalid, "bad row"))))?;
            }
        }
    }
    match &summary.failure {
        Some(error) if *total > 1 => Err(Failure::new(format!("{error} ({tried} of {total} tried)"))),
        Some(error) => Err(Failure::new(error)),
        None if single => Err(Failure::new(summary.last_rejection.as_deref().unwrap_or("rejected"))),
        None if summary.rejected_total() + invalid > 0 => Err(Failure::new("not all measurements were accepted")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delimiter_is_a_character_or_a_name() {
        for (text, byte) in [(";", b';'), ("tab", b'\t'), ("\t", b'\t'), ("\\t", b'\t'), ("pipe", b'|')] {
            assert_eq!(delimiter(text), Ok(byte), "{text}");
        }
        for text in ["", "a", "::", "\"", "§"] {
            assert!(delimiter(text).is_err(), "{text}");
        }
    }
}
