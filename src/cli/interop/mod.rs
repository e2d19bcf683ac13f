//! `dapbox interop`: implementations of DAP tried against each other, through the interop test API.

mod aggregator;
mod api;
mod client;
mod collector;
mod number;
mod run;
mod serve;
mod terms;
mod vdaf;

use clap::Subcommand;

use super::Outcome;

/// The subcommands of `dapbox interop`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try parties with each other: every VDAF, both kinds of batches, bad cases; prints a matrix.
    Run(Box<run::Args>),
    /// Be one party behind the interop test API, for any runner. For tests only: it has no password.
    #[command(subcommand)]
    Serve(serve::Command),
}

/// Runs `dapbox interop`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Run(args) => run::run(*args).await,
        Command::Serve(command) => serve::run(command).await,
    }
}
