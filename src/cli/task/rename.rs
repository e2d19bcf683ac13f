//! `dapbox task rename`: changes the local name of a task.

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, OutputArgs},
        control::Control,
    },
    TaskActionResult, find,
};
use crate::store::name::TaskName;

/// Arguments of `dapbox task rename`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The name is local: it is not sent to other parties. 'task list', 'task show', 'status', the status \
    page, 'doctor' and the metrics show it.\n\n\
    Examples:\n  \
    dapbox task rename 9GgQ checkout-eu\n  \
    dapbox task rename checkout-eu --none"
)]
pub struct Args {
    /// Task id, its first characters, or the task's name.
    #[arg(allow_hyphen_values = true)]
    task: String,
    /// New name: up to 64 letters, digits, blanks or any of -._:/+()#,&
    #[arg(required_unless_present = "none", conflicts_with = "none")]
    name: Option<TaskName>,
    /// Remove the name.
    #[arg(long)]
    none: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
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
        return Err(Failure::new(format!("unknown task {id}")));
    }
    TaskActionResult::new(id, "renamed").print(args.output.format, || match &args.name {
        Some(name) => format!("Task {id} renamed to {name}."),
        None => format!("Name of task {id} removed."),
    })
}
