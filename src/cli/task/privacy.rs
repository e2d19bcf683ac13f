//! `dapbox task privacy`: shows and changes the privacy budget of a task with noise.

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, OutputArgs},
        control::Control,
    },
    find,
};
use crate::{
    aggregator::privacy::describe,
    model::Epsilon,
    views::privacy::{BudgetChange, PrivacyAccount, PrivacyChange},
};

/// Arguments of `dapbox task privacy`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each collected batch spends the task's epsilon once. Epsilons add up, because a person may have reports \
    in every batch. With a budget, this aggregator refuses to collect further batches once the sum would exceed it. The \
    budget is local: set it at both aggregators.\n\n\
    An aggregator that was restored from a backup does not know the batches that were collected after it, and collects \
    none of a task with a budget until --batches says how many there were. 'dapbox task privacy' of the other aggregator \
    shows the number.\n\n\
    Examples:\n  \
    dapbox task privacy 9GgQ\n  \
    dapbox task privacy 9GgQ --budget 10\n  \
    dapbox task privacy 9GgQ --no-budget\n  \
    dapbox task privacy 9GgQ --batches 12"
)]
pub struct Args {
    /// Task id, its first characters, or the task's name.
    #[arg(allow_hyphen_values = true)]
    task: String,
    /// Largest sum of the epsilons of all batches.
    #[arg(long, value_name = "EPSILON")]
    budget: Option<Epsilon>,
    /// Remove the budget.
    #[arg(long, conflicts_with = "budget")]
    no_budget: bool,
    /// Number of batches that were ever collected. It cannot be lowered.
    #[arg(long, value_name = "N")]
    batches: Option<u64>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox task privacy`.
pub async fn run(args: Args) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let account = change(&control, &args).await;
    control.close().await;
    let account = account?;
    args.output.print(&account, || describe(&account))
}

async fn change(control: &Control, args: &Args) -> Result<PrivacyAccount, Failure> {
    let tasks = control.tasks().await?;
    let task = find(&tasks, &args.task)?.id;
    let budget = match (args.budget, args.no_budget) {
        (Some(budget), _) => BudgetChange::Set(budget),
        (None, true) => BudgetChange::Remove,
        (None, false) => BudgetChange::Keep,
    };
    control.change_privacy(&PrivacyChange { task, budget, batches: args.batches }).await
}
