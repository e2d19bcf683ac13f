//! `dapbox task close`: closes everything of tasks before a time, after the other aggregator has lost something.

use super::{
    super::{
        Failure, Outcome,
        args::DestructiveArgs,
        control::Control,
        pasted, show,
        style::{Style, say, warn},
        timestamp,
    },
    Done, confirmed,
};
use crate::{
    model::{Role, TaskId, Time},
    support::clock,
    views::status::TaskStatus,
};

/// How far ahead a time may be, in seconds and beside the time precision: what is closed never opens again.
const AHEAD: u64 = 86_400;

/// Arguments of `dapbox task close`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For when the other aggregator was restored from a backup: its 'dapbox restore' says what to run here. \
    What the two have in their batches may differ from then on, and a batch that differs can never be collected. So both \
    close everything of before the same time: older reports are refused, sums that were not collected are given up, \
    batches of fixed size begin anew. Results that there are stay. There is no way back.\n\n\
    Examples:\n  \
    dapbox task close --peer https://helper.example --before 2026-11-24T13:00\n  \
    dapbox task close --all --before 2026-11-24T13:00 --yes"
)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["id", "peer", "all"])))]
pub struct Args {
    /// The task's whole id.
    #[arg(allow_hyphen_values = true, value_parser = pasted::task_id)]
    id: Option<TaskId>,
    /// All tasks whose other aggregator has a URL that begins like this.
    #[arg(long, value_name = "URL")]
    peer: Option<String>,
    /// All tasks.
    #[arg(long)]
    all: bool,
    /// The time, rounded up to each task's time precision.
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
        return Err(Failure::new("there is no such task; 'dapbox task list' shows all"));
    }
    check(args.before, clock::now(), &tasks)?;
    if !args.shared.yes {
        for task in &tasks {
            say(show::task_line(task, Style::stdout()))?;
        }
        let before = timestamp::show(args.before);
        say(format!("\nEverything of before {before} is closed for good: what was not collected is lost."))?;
        if !confirmed("close it")? {
            return Err(Failure::new("nothing was closed"));
        }
    }
    for task in &tasks {
        match control.close_before(task.id, args.before).await? {
            Some(horizon) => {
                let done = Done { closed_before: Some(horizon), ..Done::new(task.id, "closed") };
                let sentence = || format!("Task {}: closed before {}.", task.id, timestamp::show(horizon));
                done.say(args.shared.output, sentence)?;
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
        let text = "the time is more than a day ahead: all reports up to then would be refused, and what is closed never \
                    opens again";
        return Err(Failure::usage(text));
    }
    Ok(())
}
