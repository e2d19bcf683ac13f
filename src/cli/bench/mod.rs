//! `dapbox bench`: what this machine can hold.

mod growth;
mod memory;
mod usage;

use super::Outcome;

/// The subcommands of `dapbox bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// How a helper's storage grows: speed, memory, disk and start-up time by the number of reports aggregated.
    Growth(growth::Args),
    /// The most memory that a leader and a helper take for a job.
    Memory(memory::Args),
    /// Open a data directory and say what that takes.
    #[command(hide = true)]
    Open(growth::OpenArgs),
}

/// Runs `dapbox bench`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Growth(args) => growth::run(args).await,
        Command::Memory(args) => memory::run(args).await,
        Command::Open(args) => growth::run_open(args).await,
    }
}
