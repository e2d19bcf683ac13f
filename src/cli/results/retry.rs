//! `dapbox results retry`: requests a window again.

use super::{client, find, server};
use crate::{
    cli::{
        Outcome,
        args::{ConfigArgs, OutputArgs},
    },
    views::results::RetryRequest,
};

/// Arguments of `dapbox results retry`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For windows that are lost, refused or given up. A window is collected once: if the leader has given its \
    result to a collector before, it refuses the request, and the window stays lost.\n\n\
    Examples:\n  \
    dapbox results retry 12\n  \
    dapbox results retry 12 --task steps --force"
)]
pub struct Args {
    /// Number of the window, from 'dapbox results windows'.
    window: u64,
    /// Task id, its first characters, or the task's name. Default: the only task.
    #[arg(long, allow_hyphen_values = true)]
    task: Option<String>,
    /// Also request a window whose reports the aggregators are not expected to have.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox results retry`.
pub async fn run(args: Args) -> Outcome {
    let socket = server(&args.config.load(None)?).await?;
    let task = find(&socket, args.task.as_deref()).await?.id;
    let again = RetryRequest { task, window: args.window, force: args.force };
    let window = client::retry(&socket, &again).await?;
    args.output.print(&window, || format!("Window {} is requested again.", window.number))
}
