//! `dapbox partner`: pairs this server with a control plane such as Divvi Up's.

mod check;
mod invite;
mod probe;

use super::Outcome;

/// The subcommands of `dapbox partner`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create an API token for a control plane and print what its operator must enter.
    Invite(invite::Args),
    /// Check that a control plane can reach the management API.
    Check(check::Args),
}

/// Runs `dapbox partner`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Invite(args) => invite::run(args).await,
        Command::Check(args) => check::run(args).await,
    }
}
