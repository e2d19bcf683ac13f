//! `dapbox bench`: what this machine can hold.

mod cores;
mod growth;
mod helper;
mod limit;
mod load;
mod machine;
mod stage;
mod table;
mod usage;
mod workload;

use std::{path::PathBuf, time::Duration as Span};

use serde::Serialize;

use self::machine::Machine;
use super::{
    Failure, Outcome,
    args::{self, Dap, Format},
    local::Directory,
    style::{Style, say},
};

/// Arguments of `dapbox bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    part: Option<Command>,
    #[command(flatten)]
    common: Common,
}

/// The subcommands of `dapbox bench`.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Aggregation jobs at a helper: what cryptography allows, and how much of that the server does.
    Helper(HelperArgs),
    /// How a helper's storage grows: speed, memory, disk and start-up time by the number of reports aggregated.
    Growth(growth::Args),
    /// Open a data directory and say what that takes.
    #[command(hide = true)]
    Open(growth::OpenArgs),
}

/// What all measurements of speed share.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// The revision of the protocol.
    #[arg(long, alias = "revision", value_enum, value_name = "NUMBER", default_value_t)]
    dap: Dap,
    /// How long each run takes, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    seconds: Span,
    /// A directory on the disk to be measured; data is put into a new one in it and removed in the end. The system's
    /// directory for temporary files by default.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// The same as --output json.
    #[arg(long)]
    json: bool,
}

/// Arguments of `dapbox bench helper`.
#[derive(Debug, clap::Args)]
struct HelperArgs {
    #[command(flatten)]
    options: helper::Options,
    #[command(flatten)]
    common: Common,
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct Measured {
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    helper: Option<Vec<helper::Measured>>,
}

impl Measured {
    fn show(&self, common: &Common) -> Outcome {
        if common.json || common.output == Format::Json {
            return Ok(say(serde_json::to_string_pretty(self)?)?);
        }
        let mut parts = vec![Style::stdout().dim(&self.machine.text())];
        parts.extend(self.helper.as_deref().map(table::helper));
        Ok(say(parts.join("\n\n"))?)
    }
}

/// Runs `dapbox bench`.
pub async fn run(args: Args) -> Outcome {
    match args.part {
        None => Err(Failure::usage("say what to measure: dapbox bench helper")),
        Some(Command::Helper(args)) => measure(&args.common, Some(&args.options)).await,
        Some(Command::Growth(args)) => growth::run(args).await,
        Some(Command::Open(args)) => growth::run_open(args).await,
    }
}

async fn measure(common: &Common, helper: Option<&helper::Options>) -> Outcome {
    let directory = Directory::within(common.dir.as_deref())?;
    let dir = directory.path();
    let machine = Machine::look(dir)?;
    machine.warn();
    let mut measured = Measured { machine, helper: None };
    if let Some(options) = helper {
        measured.helper = Some(helper::measure(options, common.dap, common.seconds, dir, &measured.machine).await?);
    }
    measured.show(common)
}

/// For clap: seconds, with or without a unit.
fn seconds(text: &str) -> Result<Span, String> {
    match text.parse::<f64>() {
        Ok(number) => Span::try_from_secs_f64(number)
            .ok()
            .filter(|time| !time.is_zero())
            .ok_or_else(|| "must be more than nothing".to_owned()),
        Err(_) => args::duration(text),
    }
}
