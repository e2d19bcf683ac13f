//! `dapbox task sweep`: removes provisioned tasks that are not used.

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{DestructiveArgs, Format, parse_duration},
        control::Control,
        show,
        style::{Style, counted, print},
    },
    confirm,
};
use crate::{
    model::{Duration, TaskId},
    support::clock,
    views::status::{NeverContactedRequest, TaskStatus},
};

/// Arguments of `dapbox task sweep`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A task counts as contacted once a request of a client, the other aggregator or the collector has \
    named it, even if the request was refused. Requests for HPKE keys and of the control plane do not count. Tasks added \
    with 'dapbox task add' are never removed. Tombstones remain: the ids are refused forever.\n\n\
    In-band tasks are removed without a tombstone if no report was aggregated, or if they ended that long ago and have \
    too few reports left for a batch. Their stored results are deleted, too.\n\n\
    With provisioning.never_contacted_age the server does this automatically, but keeps the results of in-band tasks as long as reports.\n\n\
    Examples:\n  \
    dapbox task sweep --never-contacted-for 90d --dry-run\n  \
    dapbox task sweep --never-contacted-for 90d --yes -o json"
)]
pub struct Args {
    /// Minimum time since the task was provisioned, or ended, such as 90d.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    never_contacted_for: std::time::Duration,
    /// Show the tasks without removing them.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    shared: DestructiveArgs,
}

/// The JSON output.
#[derive(Serialize)]
struct Swept {
    tasks: Vec<TaskId>,
    /// False for a dry run.
    removed: bool,
}

/// Runs `dapbox task sweep`.
pub async fn run(args: Args) -> Outcome {
    let control = Control::open(&args.shared.config.load(None)?).await?;
    let outcome = sweep(&control, &args).await;
    control.close().await;
    outcome
}

async fn sweep(control: &Control, args: &Args) -> Outcome {
    let until = clock::now().saturating_sub(Duration(args.never_contacted_for.as_secs()));
    let found = control.never_contacted(NeverContactedRequest { until, remove: false }).await?;
    if args.dry_run || found.is_empty() {
        return print_swept(control, args, &Swept { tasks: found, removed: false }).await;
    }
    if !args.shared.yes {
        print(lines(control, &found).await?)?;
        print(
            "\nThis removes the tasks permanently. Their ids cannot be used again, except for unused in-band tasks.",
        )?;
        if !confirm("remove them")? {
            return Err(Failure::new("cancelled: nothing was removed"));
        }
    }
    // The server checks again: a task that was contacted meanwhile is kept.
    let removed = control.never_contacted(NeverContactedRequest { until, remove: true }).await?;
    print_swept(control, args, &Swept { tasks: removed, removed: true }).await
}

async fn print_swept(control: &Control, args: &Args, swept: &Swept) -> Outcome {
    if args.shared.output.format == Format::Json {
        return Ok(print(serde_json::to_string(swept)?)?);
    }
    let tasks = counted(swept.tasks.len() as u64, "task");
    Ok(print(match (swept.tasks.is_empty(), swept.removed) {
        (true, _) => "No unused tasks.".to_owned(),
        (false, true) => format!("{tasks} removed. Tombstones remain, except for unused in-band tasks."),
        (false, false) => format!("{}\n\n{tasks} would be removed.", lines(control, &swept.tasks).await?),
    })?)
}

/// A table of the tasks.
async fn lines(control: &Control, ids: &[TaskId]) -> Result<String, Failure> {
    let mut tasks: Vec<TaskStatus> = control.tasks().await?;
    tasks.retain(|task| ids.contains(&task.id));
    Ok(show::task_table(&tasks, Style::stdout()))
}
