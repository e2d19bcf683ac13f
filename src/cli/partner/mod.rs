//! `dapbox partner`: what a control plane such as Divvi Up's needs to set tasks up here, and whether it can reach us.

mod check;
mod invite;
mod probe;

use super::Outcome;

/// The subcommands of `dapbox partner`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make an API token, and print what the other side has to enter.
    Invite(invite::Args),
    /// Look whether a control plane can reach the management API and gets what it expects.
    Check(check::Args),
}

/// Runs `dapbox partner`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Invite(args) => invite::run(args).await,
        Command::Check(args) => check::run(args).await,
    }
}
