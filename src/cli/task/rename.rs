//! `dapbox task rename`: gives a task another local name.

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format},
        control::Control,
    },
    Done, find,
};
use crate::store::name::TaskName;

/// Arguments of `dapbox task rename`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A name is local: no other party learns it, and nothing of the protocol depends on it. 'task list', \
    'task show', 'status', the status page, 'doctor' and the metrics show it.\n\n\
    Examples:\n  \
    dapbox task rename 9GgQ checkout-eu\n  \
    dapbox task rename checkout-eu --none"
)]
pub struct Args {
    /// The task's id, the beginning of it, or its name.
    #[arg(allow_hyphen_values = true)]
    task: String,
    /// The new name: letters, digits, blanks and any of -._:/+()#,& with at most 64 characters.
    #[arg(required_unless_present = "none", conflicts_with = "none")]
    name: Option<TaskName>,
    /// Remove the name.
    #[arg(long)]
    none: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs `dapbox task rename`.
pub async fn run(args: Args) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let outcome = rename(&control, &args).await;
    control.close().await;
    outcome
}

async fn rename(control: &Control, args: &Args) -> Outcome {
    let tasks = control.tasks().await?;
    let id = find(&tasks, &args.task)?.id;
    if !control.rename_task(id, args.name.clone()).await? {
        return Err(Failure::new(format!("there is no task {id}")));
    }
    Done::new(id, "renamed").say(args.output, || match &args.name {
        Some(name) => format!("Task {id} is called {name} here."),
        None => format!("Task {id} has no name any more."),
    })
}
