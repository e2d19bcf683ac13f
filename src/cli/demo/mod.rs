//! `dapbox demo`: runs the whole protocol on this machine with real data and compares the result with the data.

pub(super) mod data;
pub(super) mod question;
mod steps;

use std::path::PathBuf;

use clap::ValueEnum;

use super::{
    Failure, Outcome,
    args::{Format, OutputArgs, QueryKind, RevisionArg},
    local_pair::{Pair, WorkDir},
    signals::StopSignals,
    style::{self, Style, print},
};
use crate::vdaf;
use data::Dataset;
use question::Question;

/// Arguments of `dapbox demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The data is the RAND Health Insurance Experiment: 20,190 rows, one per person and year. Each row is \
    uploaded as the report of a separate client. Exit code 0 only if the aggregate is exactly the sum of the data.\n\n\
    Examples:\n  \
    dapbox demo\n  \
    dapbox demo --rows 1000 --vdaf sum\n  \
    dapbox demo --dap 18\n  \
    dapbox demo --rows 1000 -o json\n  \
    dapbox demo --vdaf sumvec --query fixed-size --keep my-demo"
)]
pub struct Args {
    /// Use only the first N rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// Question to ask the data.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Kind::Histogram)]
    vdaf: Kind,
    /// Batch mode.
    #[arg(long, value_enum, value_name = "KIND", default_value_t = QueryKind::TimeInterval)]
    query: QueryKind,
    /// Protocol revision.
    #[arg(long, value_enum, value_name = "REVISION", default_value_t = RevisionArg::default())]
    dap: RevisionArg,
    /// Directory in which to keep the aggregators' data and the task files. Default: a temporary one.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// CSV file with the same columns to use instead of the built-in data.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Number of concurrent uploads.
    #[arg(long, value_name = "N", default_value_t = 64)]
    concurrency: usize,
    #[command(flatten)]
    output: OutputArgs,
    /// Give one party a wrong verification key, to test that the demo detects it.
    #[arg(long, value_enum, hide = true)]
    sabotage: Option<BrokenParty>,
}

/// A question to ask the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Distribution of the number of doctor visits per person.
    Histogram,
    /// Number of persons who saw a doctor.
    Count,
    /// Total number of visits.
    Sum,
    /// Sums of all columns.
    Sumvec,
    /// Number of persons with each of four health flags.
    Multihot,
    /// Sums of all columns, with a bound on the sum of each row (DAP-18 and later).
    L1BoundSum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BrokenParty {
    /// The helper.
    Helper,
}

/// Runs `dapbox demo`.
pub async fn run(args: Args) -> Outcome {
    let mut signals = StopSignals::new()?;
    let mut dataset = match &args.data {
        Some(path) => {
            let text = crate::support::files::read_text(path).map_err(|e| Failure::new(e).context(path.display()))?;
            Dataset::parse(&text).map_err(|e| e.context(path.display()))?
        }
        None => Dataset::builtin()?,
    };
    dataset.rows.truncate(args.rows.and_then(|rows| rows.try_into().ok()).unwrap_or(usize::MAX));
    if dataset.rows.is_empty() {
        return Err(Failure::new("the data has no rows"));
    }
    if let Some(dir) = &args.keep
        && dir.read_dir().is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(Failure::usage(format!("{} is not empty (hint: choose another --keep)", dir.display())));
    }
    let question = Question::new(args.vdaf, &dataset)?;
    vdaf::preparer(args.dap.revision(), &question.vdaf).map_err(Failure::usage)?;
    let directory = WorkDir::new(args.keep.as_deref())?;
    if args.output.format == Format::Text {
        introduce(&question, &dataset)?;
    }
    let pair = Pair::start(directory.path(), [0, 0], false).await?;
    let outcome = tokio::select! {
        outcome = steps::run(&args, &dataset, &question, &pair, &directory) => outcome,
        failure = pair.failed() => Err(failure),
        _ = signals.next() => Err(Failure::new("interrupted")),
    };
    pair.stop().await?;
    outcome
}

fn introduce(question: &Question, dataset: &Dataset) -> std::io::Result<()> {
    let style = Style::stdout();
    let answers = style::counted(dataset.rows.len() as u64, "answer");
    print(style.bold(&format!("{answers} to the question: {}", question.title)))?;
    print(style.dim("Only the total is revealed; each answer stays private."))?;
    print("")
}
