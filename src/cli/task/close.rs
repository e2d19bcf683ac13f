//! `dapbox task close`: closes tasks for reports before a time, after the other aggregator lost data.

use super::{
    super::{
        Failure, Outcome,
        args::DestructiveArgs,
        control::Control,
        input, show,
        style::{Style, print, warn},
        timestamp,
    },
    TaskActionResult, confirm,
};
use crate::{
    model::{Role, TaskId, Time},
    support::clock,
    views::status::TaskStatus,
};

/// Maximum distance of `--before` in the future, in seconds plus the time precision. Closing cannot be undone.
const AHEAD: u64 = 86_400;

/// Arguments of `dapbox task close`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run this after the other aggregator restored a backup; its 'dapbox restore' prints the command. The \
    batches of the two aggregators may differ then, and a batch that differs cannot be collected. Both close the same \
    past: older reports are refused, uncollected sums are discarded, fixed-size batches start again. Existing results \
    remain. This cannot be undone.\n\n\
    Examples:\n  \
    dapbox task close --peer https://helper.example --before 2026-11-24T13:00\n  \
    dapbox task close --all --before 2026-11-24T13:00 --yes"
)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["id", "peer", "all"])))]
pub struct Args {
    /// Complete task id.
    #[arg(allow_hyphen_values = true, value_parser = input::parse_task_id)]
    id: Option<TaskId>,
    /// All tasks whose other aggregator's URL starts with this.
    #[arg(long, value_name = "URL")]
    peer: Option<String>,
    /// All tasks.
    #[arg(long)]
    all: bool,
    /// End of the closed past (RFC 3339, UTC), rounded up to each task's time precision.
    #[arg(long, value_name = "TIME", value_parser = timestamp::parse)]
    before: Time,
    #[command(flatten)]
    shared: DestructiveArgs,
}

/// Runs `dapbox task close`.
pub async fn run(args: Args) -> Outcome {
    let control = Control::open(&args.shared.config.load(None)?).await?;
    let outcome = close(&control, &args).await;
    control.close().await;
    outcome
}

async fn close(control: &Control, args: &Args) -> Outcome {
    let tasks: Vec<_> = control.tasks().await?.into_iter().filter(|task| is_meant(args, task)).collect();
    if tasks.is_empty() {
        return Err(Failure::new("no matching task (hint: 'dapbox task list' shows all)"));
    }
    check(args.before, clock::now(), &tasks)?;
    if !args.shared.yes {
        print(show::task_table(&tasks, Style::stdout()))?;
        let before = timestamp::show(args.before);
        print(format!("\nThis closes the time before {before} permanently: uncollected reports of it are lost."))?;
        if !confirm("close it")? {
            return Err(Failure::new("cancelled: nothing was closed"));
        }
    }
    for task in &tasks {
        match control.close_before(task.id, args.before).await? {
            Some(horizon) => {
                let done =
                    TaskActionResult { closed_before: Some(horizon), ..TaskActionResult::new(task.id, "closed") };
                let sentence = || format!("Task {}: closed before {}.", task.id, timestamp::show(horizon));
                done.print(args.shared.output.format, sentence)?;
            }
            None => warn(format!("task {} was removed meanwhile", task.id)),
        }
    }
    Ok(())
}

fn is_meant(args: &Args, task: &TaskStatus) -> bool {
    let theirs = if task.role == Role::Leader { &task.helper_url } else { &task.leader_url };
    args.all || args.id == Some(task.id) || args.peer.as_ref().is_some_and(|url| theirs.starts_with(url.trim()))
}

fn check(before: Time, now: Time, tasks: &[TaskStatus]) -> Outcome {
    let longest = tasks.iter().map(|task| task.time_precision.0).max().unwrap_or_default();
    if before.0.saturating_sub(now.0) > longest.saturating_add(AHEAD) {
        let text = "is more than a day ahead: all reports until then would be refused permanently";
        return Err(Failure::usage(format!("--before {} {text}", timestamp::show(before))));
    }
    Ok(())
}
