//! `dapbox bench`: benchmarks of this machine.

mod aggregation;
mod cores;
mod cpu;
mod growth;
mod helper;
mod inputs;
mod limit;
mod load;
mod machine;
mod memory;
mod peer;
mod table;
mod template;
mod upload;
mod usage;
mod workload;

use std::{path::PathBuf, time::Duration as Span};

use serde::Serialize;

use self::{machine::Machine, workload::Workload};
use crate::{
    cli::{
        args::{Format, OutputArgs, RevisionArg},
        failure::{Failure, Outcome},
        local_pair::WorkDir,
        style::{Style, print},
    },
    support::duration,
};

/// Arguments of `dapbox bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = HELP)]
pub struct Args {
    #[command(subcommand)]
    part: Option<Command>,
    #[command(flatten)]
    helper: helper::Options,
    #[command(flatten)]
    upload: upload::Options,
    #[command(flatten)]
    aggregation: aggregation::Options,
    #[command(flatten)]
    common: CommonArgs,
}

/// The help after the options.
const HELP: &str = "\
Without a subcommand, runs the benchmarks helper, upload and aggregation, which takes some minutes. Plain threads of \
this process send reports, generated in advance, over HTTP to a real server on a loopback port. The server stores them \
durably below --dir: choose a directory on the disk that production will use, on an otherwise idle machine.\n\n\
The limit is what cryptography alone allows: opening and preparing reports from memory on all cores, with the same \
functions that the server calls. The ratio is the server's throughput divided by the limit.\n\n\
Examples:\n  \
dapbox bench\n  \
dapbox bench --dir /var/lib/dapbox --json\n  \
dapbox bench helper --vdaf histogram:100 --job-size 500 --in-flight 10\n  \
dapbox bench upload --connections 10,128 --dap 18";

/// The subcommands of `dapbox bench`.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Benchmark aggregation jobs at a helper, compared with the limit of cryptography alone.
    Helper(PartArgs<helper::Options>),
    /// Benchmark uploads to a leader.
    Upload(PartArgs<upload::Options>),
    /// Benchmark aggregation by a leader and a helper on this machine.
    Aggregation(PartArgs<aggregation::Options>),
    /// Benchmark a helper's storage as it grows: speed, memory, disk and start-up time.
    Growth(growth::Args),
    /// Measure the peak memory of a leader and a helper.
    Memory(memory::Args),
    /// Benchmark aggregation jobs at a helper that runs elsewhere, of any implementation.
    Peer(peer::Args),
    /// Measure how a data directory opens (internal).
    #[command(hide = true)]
    Open(growth::OpenArgs),
}

impl CommonArgs {
    /// The workloads to measure.
    fn workloads(&self, defaults: &[&str]) -> Result<Vec<Workload>, Failure> {
        if !self.vdaf.is_empty() {
            return Ok(self.vdaf.clone());
        }
        defaults.iter().map(|text| text.parse()).collect::<Result<_, String>>().map_err(Failure::usage)
    }
}

/// Arguments of one benchmark.
#[derive(Debug, clap::Args)]
struct PartArgs<O: clap::Args> {
    #[command(flatten)]
    options: O,
    #[command(flatten)]
    common: CommonArgs,
}

/// Arguments of all benchmarks of speed.
#[derive(Clone, Debug, clap::Args)]
struct CommonArgs {
    /// Workloads, separated by commas: count, sum:BITS, histogram:BINS, sumvec:LENGTHxBITS, l1-bound-sum:LENGTHxMAX.
    /// By default a typical selection.
    #[arg(long, value_name = "VDAF", value_delimiter = ',')]
    vdaf: Vec<Workload>,
    /// DAP revision.
    #[arg(long, alias = "revision", value_enum, value_name = "NUMBER", default_value_t)]
    dap: RevisionArg,
    /// Duration of each run, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    seconds: Span,
    /// Directory on the disk to measure. Data is stored in a temporary directory in it. By default the system's
    /// directory for temporary files.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Short for --output json.
    #[arg(long)]
    json: bool,
}

/// All results.
#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    helper: Option<Vec<helper::Results>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<Vec<upload::Results>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregation: Option<Vec<aggregation::Results>>,
}

impl Results {
    fn show(&self, common: &CommonArgs) -> Outcome {
        if common.json || common.output.format == Format::Json {
            return Ok(print(serde_json::to_string_pretty(self)?)?);
        }
        let mut parts = vec![Style::stdout().dim(&self.machine.summary())];
        parts.extend(self.helper.as_deref().map(table::helper));
        parts.extend(self.upload.as_deref().map(table::upload));
        parts.extend(self.aggregation.as_deref().map(table::aggregation));
        Ok(print(parts.join("\n\n"))?)
    }
}

/// The benchmarks to run.
struct BenchPlan {
    common: CommonArgs,
    helper: Option<helper::Options>,
    upload: Option<upload::Options>,
    aggregation: Option<aggregation::Options>,
}

/// Runs `dapbox bench`.
pub async fn run(args: Args) -> Outcome {
    let Args { part, helper, upload, aggregation, common } = args;
    let nothing = |common| BenchPlan { common, helper: None, upload: None, aggregation: None };
    let plan = match part {
        None => BenchPlan { common, helper: Some(helper), upload: Some(upload), aggregation: Some(aggregation) },
        Some(Command::Helper(part)) => BenchPlan { helper: Some(part.options), ..nothing(part.common) },
        Some(Command::Upload(part)) => BenchPlan { upload: Some(part.options), ..nothing(part.common) },
        Some(Command::Aggregation(part)) => BenchPlan { aggregation: Some(part.options), ..nothing(part.common) },
        Some(Command::Growth(args)) => return growth::run(args).await,
        Some(Command::Memory(args)) => return memory::run(args).await,
        Some(Command::Peer(args)) => return run_peer(&args).await,
        Some(Command::Open(args)) => return growth::run_open(args).await,
    };
    plan.run().await
}

/// Runs `dapbox bench peer`.
async fn run_peer(args: &peer::Args) -> Outcome {
    let results = peer::measure(args).await?;
    Ok(print(match args.output.format {
        Format::Json => serde_json::to_string_pretty(&results)?,
        Format::Text => table::peer(&results),
    })?)
}

impl BenchPlan {
    async fn run(self) -> Outcome {
        let common = &self.common;
        let directory = WorkDir::within(common.dir.as_deref())?;
        let dir = directory.path();
        let machine = Machine::inspect(dir)?;
        machine.warn_if_in_memory();
        let mut measured = Results { machine, helper: None, upload: None, aggregation: None };
        if let Some(options) = &self.helper {
            measured.helper = Some(helper::measure(options, common, dir, &measured.machine).await?);
        }
        if let Some(options) = &self.upload {
            measured.upload = Some(upload::measure(options, common, dir).await?);
        }
        if let Some(options) = &self.aggregation {
            measured.aggregation = Some(aggregation::measure(options, common, dir).await?);
        }
        measured.show(common)
    }
}

/// Parses seconds, with or without a unit, for clap.
fn seconds(text: &str) -> Result<Span, String> {
    match text.parse::<f64>() {
        Ok(number) => Span::try_from_secs_f64(number)
            .ok()
            .filter(|time| !time.is_zero())
            .ok_or_else(|| "must be longer than zero".to_owned()),
        Err(_) => duration::parse(text),
    }
}
