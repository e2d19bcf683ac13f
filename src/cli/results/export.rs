//! `dapbox results export`: results as a file.

use std::{io::Write, path::PathBuf};

use clap::ValueEnum;

use super::{client, find, server};
use crate::{
    cli::{Failure, Outcome, args::ConfigArgs},
    model::TaskId,
    pages::Selection,
    views::results::CollectorTaskStatus,
};

/// Arguments of `dapbox results export`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "CSV has one row for each number of each collected window. NDJSON and JSON have all windows, also \
    those without a result. Dates are in the time zone of the task's schedule.\n\n\
    Examples:\n  \
    dapbox results export --out results.csv\n  \
    dapbox results export steps --from 2026-11-01 --to 2026-12-01 --out nov.csv\n  \
    dapbox results export steps --format json --sum\n  \
    dapbox results export --format ndjson"
)]
pub struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Format of the file.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = FileFormat::Csv)]
    format: FileFormat,
    /// File to write. Default: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Add the selected windows up.
    #[arg(long)]
    sum: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Selects windows of a task.
#[derive(Debug, clap::Args)]
pub struct SelectionArgs {
    /// Task id, its first characters, or the task's name. Default: the only task.
    #[arg(allow_hyphen_values = true)]
    pub task: Option<String>,
    /// Only windows that end after this date or time.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only windows that start before this date or time.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

/// The formats of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    /// Comma-separated values.
    Csv,
    /// A line of JSON for each window.
    Ndjson,
    /// One JSON document.
    Json,
}

impl SelectionArgs {
    /// Whether a range is given.
    pub fn has_range(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    /// The query that selects the windows. Fails if a time is malformed.
    pub fn query(&self, task: &CollectorTaskStatus, sum: bool) -> Result<String, Failure> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, time) in [("from", &self.from), ("to", &self.to)] {
            if let Some(time) = time {
                query.append_pair(name, time);
            }
        }
        if sum {
            query.append_pair("sum", "1");
        }
        let query = query.finish();
        let zone = task.schedule.zone().map_err(Failure::new)?;
        Selection::parse(&query, &zone).map_err(|why| Failure::usage(why.to_string()))?;
        Ok(query)
    }
}

/// Runs `dapbox results export`.
pub async fn run(args: Args) -> Outcome {
    let socket = server(&args.config.load(None)?).await?;
    let task = find(&socket, args.selection.task.as_deref()).await?;
    let (id, query): (TaskId, String) = (task.id, args.selection.query(&task, args.sum)?);
    let format = match args.format {
        FileFormat::Csv => "csv",
        FileFormat::Ndjson => "ndjson",
        FileFormat::Json => "json",
    };
    let body = client::file(&socket, &id, format, &query).await?;
    match &args.out {
        Some(path) => std::fs::write(path, &body).map_err(|error| Failure::new(error).context(path.display())),
        None => {
            let mut out = std::io::stdout().lock();
            // The reader may need the start only.
            match out.write_all(&body).and_then(|()| out.flush()) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
                _ => Ok(()),
            }
        }
    }
}
