//! `dapbox demo`: the whole protocol on this machine, step by step, with real data and a check at the end.

mod data;
mod question;
mod steps;

use std::path::PathBuf;

use clap::ValueEnum;

use super::{
    Failure, Outcome,
    args::{Dap, Format, QueryKind},
    local::{Directory, Pair},
    signals::Signals,
    style::{self, Style, say},
};
use data::Dataset;
use question::Question;

/// Arguments of `dapbox demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The rows are those of the RAND Health Insurance Experiment, one for each person and year, 20,190 \
    in all. Each row is split, sealed and uploaded as by a client of its own. The exit code is 0 only if \
    the aggregate is exactly what the data says.\n\n\
    Examples:\n  \
    dapbox demo\n  \
    dapbox demo --rows 1000 --vdaf sum\n  \
    dapbox demo --dap 18\n  \
    dapbox demo --rows 1000 -o json\n  \
    dapbox demo --vdaf sumvec --query fixed-size --keep my-demo"
)]
pub struct Args {
    /// Only the first N rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// What to ask the data.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Kind::Histogram)]
    vdaf: Kind,
    /// Who decides what a batch is: the collector by time, or the leader by size.
    #[arg(long, value_enum, value_name = "KIND", default_value_t = QueryKind::TimeInterval)]
    query: QueryKind,
    /// The protocol revision to speak.
    #[arg(long, value_enum, value_name = "REVISION", default_value_t = Dap::default())]
    dap: Dap,
    /// Keep the aggregators' data and the task files here.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Another CSV file with the same columns.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// How many clients upload at once.
    #[arg(long, value_name = "N", default_value_t = 64)]
    concurrency: usize,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Break one party, to see that the demo notices: the helper gets another verification key.
    #[arg(long, value_enum, hide = true)]
    sabotage: Option<Victim>,
}

/// What to ask the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// How often somebody saw a doctor in a year: how many never, once, twice, ...
    Histogram,
    /// How many saw a doctor at all.
    Count,
    /// How many visits there were.
    Sum,
    /// The sums of all columns.
    Sumvec,
    /// How many have each of four health flags.
    Multihot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Victim {
    /// Its verification key is not the leader's.
    Helper,
}

/// Runs `dapbox demo`.
pub async fn run(args: Args) -> Outcome {
    let mut signals = Signals::new()?;
    let mut dataset = match &args.data {
        Some(path) => {
            let text = crate::support::files::read_text(path).map_err(|e| Failure::new(e).context(path.display()))?;
            Dataset::parse(&text).map_err(|e| e.context(path.display()))?
        }
        None => Dataset::builtin()?,
    };
    dataset.rows.truncate(args.rows.and_then(|rows| rows.try_into().ok()).unwrap_or(usize::MAX));
    if dataset.rows.is_empty() {
        return Err(Failure::new("there are no rows"));
    }
    if let Some(dir) = &args.keep
        && dir.read_dir().is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(Failure::usage(format!("{} is not empty; choose another --keep", dir.display())));
    }
    let question = Question::new(args.vdaf, &dataset)?;
    let directory = Directory::new(args.keep.as_deref())?;
    if args.output == Format::Text {
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
    say(style.bold(&format!("{answers} to the question: {}", question.title)))?;
    say(style.dim("Only the total comes out; each answer stays hidden from everybody."))?;
    say("")
}
