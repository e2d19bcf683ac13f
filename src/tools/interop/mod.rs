//! `dapbox interop`: interoperability tests of DAP implementations through the interop test API.

mod aggregator;
mod api;
mod client;
mod collector;
mod description;
mod number;
mod response;
mod run;
mod serve;
mod vdaf;

use clap::Subcommand;

use crate::cli::failure::Outcome;

/// The subcommands of `dapbox interop`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the test matrix: every VDAF, both batch modes and error cases.
    Run(Box<run::Args>),
    /// Serve one party behind the interop test API (without authentication, for tests only).
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
