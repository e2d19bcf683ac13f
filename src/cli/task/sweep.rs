//! `dapbox task sweep`: removes tasks that others set up here and that are not used.

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{DestructiveArgs, Format, duration},
        control::Control,
        show,
        style::{Style, counted, say},
    },
    confirmed,
};
use crate::{
    model::{Duration, TaskId},
    support::clock,
    views::status::{NeverContactedRequest, TaskStatus},
};

/// Arguments of `dapbox task sweep`.
#[derive(Debug, clap::Args)]
#[command(after_help = "A task counts as contacted as soon as a request has named it: of the other aggregator, of a \
    client or of the collector, refused or not. Those who only ask for keys, and the control plane itself, do not count. \
    Tasks that you added are never removed. Tombstones stay behind: the ids are refused for ever.\n\n\
    Tasks that were set up in-band are removed if no report of theirs was ever aggregated, without a tombstone, or if they \
    ended that long ago and have too few reports left for a batch. Results that are kept of those go with them.\n\n\
    With provisioning.never_contacted_age the server does this by itself, but keeps results of in-band tasks for as long as reports.\n\n\
    Examples:\n  \
    dapbox task sweep --untouched-for 90d --dry-run\n  \
    dapbox task sweep --untouched-for 90d --yes -o json")]
pub struct Args {
    /// Only tasks that were set up, or ended, so long ago.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    untouched_for: std::time::Duration,
    /// Show what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    shared: DestructiveArgs,
}

/// What was found or removed, for machines.
#[derive(Serialize)]
struct Swept {
    /// Which tasks.
    tasks: Vec<TaskId>,
    /// Whether they were removed.
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
    let until = clock::now().saturating_sub(Duration(args.untouched_for.as_secs()));
    let found = control.never_contacted(NeverContactedRequest { until, remove: false }).await?;
    if args.dry_run || found.is_empty() {
        return tell(control, args, &Swept { tasks: found, removed: false }).await;
    }
    if !args.shared.yes {
        say(lines(control, &found).await?)?;
        say(
            "\nRemoving them is for ever, except for in-band tasks that were never used: their ids can never be used again.",
        )?;
        if !confirmed("remove them")? {
            return Err(Failure::new("nothing was removed"));
        }
    }
    // It is looked again there: whoever has come meanwhile keeps their task.
    let removed = control.never_contacted(NeverContactedRequest { until, remove: true }).await?;
    tell(control, args, &Swept { tasks: removed, removed: true }).await
}

async fn tell(control: &Control, args: &Args, swept: &Swept) -> Outcome {
    if args.shared.output == Format::Json {
        return Ok(say(serde_json::to_string(swept)?)?);
    }
    let tasks = counted(swept.tasks.len() as u64, "task");
    Ok(say(match (swept.tasks.is_empty(), swept.removed) {
        (true, _) => "There is no task that has not been used for so long.".to_owned(),
        (false, true) => format!("{tasks} removed. Tombstones stay, except for in-band tasks that were never used."),
        (false, false) => format!("{}\n\n{tasks} would be removed.", lines(control, &swept.tasks).await?),
    })?)
}

/// A line for each task.
async fn lines(control: &Control, ids: &[TaskId]) -> Result<String, Failure> {
    let tasks: Vec<TaskStatus> = control.tasks().await?;
    let shown = tasks.iter().filter(|task| ids.contains(&task.id));
    Ok(shown.map(|task| show::task_line(task, Style::stdout())).collect::<Vec<_>>().join("\n"))
}
