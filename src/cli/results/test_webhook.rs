//! `dapbox results test-webhook`: sends a test notification.

use super::{client, find, server};
use crate::{
    cli::{
        Failure, Outcome,
        args::{ConfigArgs, OutputArgs},
        style::Style,
        table::{Cell, Table},
    },
    views::results::WebhookOutcome,
};

/// Arguments of `dapbox results test-webhook`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sends one notification of type 'test' to each webhook of the task. Fails if one does not accept it.\n\n\
    Examples:\n  \
    dapbox results test-webhook\n  \
    dapbox results test-webhook steps -o json"
)]
pub struct Args {
    /// Task id, its first characters, or the task's name. Default: the only task.
    #[arg(allow_hyphen_values = true)]
    task: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox results test-webhook`.
pub async fn run(args: Args) -> Outcome {
    let socket = server(&args.config.load(None)?).await?;
    let task = find(&socket, args.task.as_deref()).await?;
    let outcomes = client::test_webhook(&socket, task.id).await?;
    if outcomes.is_empty() {
        let text =
            "the task has no webhooks (hint: add [[webhook]] with url and secret to collector.toml, and add it again)";
        return Err(Failure::new(text));
    }
    let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
    args.output.print(&outcomes, || table(&outcomes))?;
    match failed {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} of {} webhooks did not accept the test", outcomes.len()))),
    }
}

fn table(outcomes: &[WebhookOutcome]) -> String {
    let mut table = Table::new(Style::stdout(), ["webhook", "status", "outcome"]);
    for outcome in outcomes {
        let status = outcome.status.map(|status| status.to_string()).unwrap_or_default();
        let result = match &outcome.error {
            Some(error) => Cell::bad(error),
            None => Cell::good("accepted"),
        };
        table.row([(&outcome.url).into(), status.into(), result]);
    }
    table.to_string()
}
