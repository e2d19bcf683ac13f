//! `dapbox upload`: measurements, as a client uploads them.

mod measure;

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{Format, PeerArgs},
    calendar,
    style::{self, Style, say},
    taskfile::TaskFile,
};
use crate::{
    client::{Client, Summary},
    model::Time,
    vdaf::Measurement,
};

pub use measure::read_csv;

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
    dapbox upload --task client.toml --ca-file our-ca.pem true\n\n\
    The exit code is 1 if any measurement was not accepted.")]
pub struct Args {
    /// The task's client.toml.
    #[arg(long, value_name = "FILE")]
    task: PathBuf,
    /// One measurement: true or false, a number, or numbers with commas.
    #[arg(required_unless_present = "csv", conflicts_with = "csv", allow_hyphen_values = true)]
    measurement: Option<String>,
    /// A CSV file with a header and one measurement in each row.
    #[arg(long, value_name = "FILE", requires = "column")]
    csv: Option<PathBuf>,
    /// The column with the measurement; several, with commas, for a vector.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "csv")]
    column: Vec<String>,
    /// Only the first N rows.
    #[arg(long, value_name = "N", requires = "csv")]
    rows: Option<usize>,
    /// When it was measured, instead of now.
    #[arg(long, value_parser = calendar::parse)]
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

#[derive(Serialize)]
struct Output<'a> {
    accepted: u64,
    rejected: &'a BTreeMap<String, u64>,
    not_tried: u64,
    error: Option<String>,
    seconds: f64,
}

/// Runs `dapbox upload`.
pub async fn run(args: Args) -> Outcome {
    let file = TaskFile::read(&args.task)?;
    let task = file.parameters();
    let measurements = match (&args.csv, &args.measurement) {
        (Some(path), _) => {
            let file = std::fs::File::open(path).map_err(|e| Failure::new(e).context(path.display()))?;
            let rows = args.rows.unwrap_or(usize::MAX);
            read_csv(file, &args.column, &task.vdaf, rows).map_err(|e| e.context(path.display()))?
        }
        (None, Some(text)) => vec![measure::parse(text, &task.vdaf).map_err(Failure::usage)?],
        (None, None) => return Err(Failure::usage("there is neither a measurement nor --csv")),
    };
    if measurements.is_empty() {
        return Err(Failure::new("there is nothing to upload"));
    }
    let client = file.client(args.peer.peer()?)?;
    let total = measurements.len() as u64;
    let start = Instant::now();
    let summary = upload(&client, measurements, args.time, args.concurrency).await;
    report(&summary, total, start.elapsed(), args.output)
}

/// Uploads with a progress bar, if there is more than one.
pub async fn upload(
    client: &Client,
    measurements: Vec<Measurement>,
    time: Option<Time>,
    concurrency: usize,
) -> Summary {
    let bar = (measurements.len() > 1).then(|| style::progress(measurements.len() as u64, "uploading"));
    let progress = |summary: &Summary| {
        bar.iter().for_each(|bar| bar.set_position(summary.accepted + summary.rejected_total()));
    };
    let summary = client.upload_many(measurements, time, concurrency, progress).await;
    bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    summary
}

fn report(summary: &Summary, total: u64, took: std::time::Duration, format: Format) -> Outcome {
    let tried = summary.accepted + summary.rejected_total();
    let single = total == 1 && summary.accepted == 0;
    match format {
        // The error says it all.
        Format::Text if single => {}
        Format::Json => {
            let output = Output {
                accepted: summary.accepted,
                rejected: &summary.rejected,
                not_tried: total - tried,
                error: summary.failure.as_ref().map(ToString::to_string),
                seconds: took.as_secs_f64(),
            };
            say(serde_json::to_string(&output)?)?;
        }
        Format::Text => {
            let style = Style::stdout();
            let speed = format!("in {}, {}", style::elapsed(took), style::rate(summary.accepted, took));
            let accepted = style::counted(summary.accepted, "report");
            say(format!("{} accepted {}", style.bold(&accepted), style.dim(&speed)))?;
            for (reason, count) in &summary.rejected {
                say(format!("{} rejected: {reason}", style.bad(&style::counted(*count, "report"))))?;
            }
            if let Some(last) = &summary.last_rejection {
                say(style.dim(&format!("the last because of {last}")))?;
            }
        }
    }
    match &summary.failure {
        Some(error) if total > 1 => Err(Failure::new(format!("{error} ({} of {total} tried)", tried))),
        Some(error) => Err(Failure::new(error)),
        None if single => Err(Failure::new(summary.last_rejection.as_deref().unwrap_or("rejected"))),
        None if summary.rejected_total() > 0 => Err(Failure::new("not all measurements were accepted")),
        None => Ok(()),
    }
}
