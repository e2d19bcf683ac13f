//! `dapbox interop`: implementations of DAP tried against each other, through the interop test API.

mod aggregator;
mod api;
mod client;
mod collector;
mod number;
mod serve;
mod terms;
mod vdaf;

use clap::Subcommand;

use super::Outcome;

/// The subcommands of `dapbox interop`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Be one party behind the interop test API, for any runner. For tests only: it has no password.
    #[command(subcommand)]
    Serve(serve::Command),
}

/// Runs `dapbox interop`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Serve(command) => serve::run(command).await,
    }
}
