//! `dapbox task`: the operator's view of tasks.

mod close;
mod export;
mod import;
mod new;
mod ours;
mod rename;
mod sweep;
mod token;

use std::{
    collections::HashSet,
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
};

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, DestructiveArgs, Format},
    control::Control,
    pasted, show,
    style::{Style, say, warn},
    taskfile::TaskFile,
    timestamp,
};
use crate::{
    config::Config,
    model::{Role, Task, TaskId, Time},
    store::name::TaskName,
    views::status::{RemovalOutcome, TaskStatus},
};

pub use new::{UrlArgs, default_info, instant, parameters, scrutinize};

/// The subcommands of `dapbox task`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a task: four files, one for each party.
    New(Box<new::Args>),
    /// Add a task to this aggregator, running or not.
    Add(AddArgs),
    /// List this aggregator's tasks.
    #[command(after_help = "Works whether a server runs or not. 'dapbox status' has more of a running one.\n\n\
        Examples:\n  \
        dapbox task list\n  \
        dapbox task list --data-dir /var/lib/dapbox -o json")]
    List(ListArgs),
    /// Show a task and how far it is.
    #[command(
        after_help = "Everything that is counted for the task, too: what was taken, and what was refused and why. \
        Works whether a server runs or not.\n\n\
        Examples:\n  \
        dapbox task show 9GgQ\n  \
        dapbox task show 9GgQ -o json --data-dir /var/lib/dapbox"
    )]
    Show(ShowArgs),
    /// Give a task another local name.
    Rename(rename::Args),
    /// Close everything of before a time, after the other aggregator was restored from a backup.
    Close(close::Args),
    /// Replace the tokens that parties present to each other.
    #[command(subcommand)]
    Token(token::Command),
    /// Remove a task and everything that was reported to it, for ever.
    Remove(RemoveArgs),
    /// Add all tasks of a YAML file that Janus's tools provision from, or none.
    Import(import::Args),
    /// Write tasks of ours as a YAML file that Janus's tools provision from.
    Export(export::Args),
    /// Remove the tasks that a control plane has set up and that nobody ever contacted.
    Sweep(sweep::Args),
}

/// Arguments of `dapbox task add`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Adding the same task again does nothing. A task never changes: to change one, make a new one.\n\n\
    The file of the other aggregator is refused: the URL that the task has for us must be below public_url or, without \
    one, where the server listens. If neither tells, this asks.\n\n\
    Examples:\n  \
    dapbox task add leader.toml\n  \
    dapbox task add helper.toml --role helper\n  \
    dapbox task add helper.toml --config /etc/dapbox/appliance.toml"
)]
pub struct AddArgs {
    /// The leader's or the helper's file, from 'dapbox task new'.
    file: PathBuf,
    #[command(flatten)]
    role: ours::RoleArgs,
    /// What to call the task here; without this, the name in the file.
    #[arg(long)]
    name: Option<TaskName>,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox task list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox task show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The task's id, the beginning of it, or its name.
    #[arg(allow_hyphen_values = true)]
    id: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox task remove`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is removed cannot be brought back. A tombstone stays behind: the id is refused for ever, \
    because a task that came back would accept reports a second time and give aggregates out a second time. A task \
    that no request has ever named leaves none: the wrong file can be removed and the right one added. In a data \
    directory that was restored, every task leaves one.\n\n\
    Example:\n  \
    dapbox task remove 9GgQd3pEE6DiJtYTFyOYGDjRQzdrRaUrVL0Yn-3uAF4 --yes"
)]
pub struct RemoveArgs {
    /// The task's whole id.
    #[arg(allow_hyphen_values = true, value_parser = pasted::task_id)]
    id: TaskId,
    #[command(flatten)]
    shared: DestructiveArgs,
}

/// What a command did to a task, for machines.
#[derive(Serialize)]
struct Done<'a> {
    /// Which task.
    task: TaskId,
    /// What was done: `added`, `renamed`, `removed` or `closed`.
    done: &'a str,
    /// Before which time everything is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_before: Option<Time>,
    /// Whether a tombstone stays of a task that was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    tombstone: Option<bool>,
}

impl<'a> Done<'a> {
    fn new(task: TaskId, done: &'a str) -> Self {
        Self { task, done, closed_before: None, tombstone: None }
    }

    /// Says it, or the sentence for people.
    fn say(&self, format: Format, sentence: impl FnOnce() -> String) -> Outcome {
        Ok(say(match format {
            Format::Json => serde_json::to_string(self)?,
            Format::Text => sentence(),
        })?)
    }
}

/// Runs `dapbox task`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::New(args) => new::run(*args),
        Command::Add(args) => add(args).await,
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Rename(args) => rename::run(args).await,
        Command::Close(args) => close::run(args).await,
        Command::Token(command) => token::run(command).await,
        Command::Remove(args) => remove(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Export(args) => export::run(args),
        Command::Sweep(args) => sweep::run(args).await,
    }
}

async fn add(args: AddArgs) -> Outcome {
    let file = TaskFile::read(&args.file)?;
    let Some(task) = file.aggregator_task() else {
        let whose = if file.role() == Role::Collector { "collector's" } else { "clients'" };
        let text = format!(
            "{} is the {whose} file; an aggregator takes the leader's or the helper's, leader.toml or helper.toml",
            args.file.display()
        );
        return Err(Failure::usage(text));
    };
    let config = args.config.load(None)?;
    let control = Control::open(&config).await?;
    let (id, role) = (task.public.id, show::role(task.role()));
    let adding = adding(&control, &[id], add_to(&control, &config, task, &args, file.name)).await;
    let added = adding.map_err(|e| e.context(args.file.display()));
    let how = if matches!(control, Control::Server(_)) { "to the running server" } else { "to the data directory" };
    control.close().await;
    let closed = added?.into_iter().next().map(|(_, before)| before);
    Done { closed_before: closed, ..Done::new(id, "added") }.say(args.output, || {
        let added = format!("Task {id} is added {how}, which is its {role}.");
        closed.map_or(added.clone(), |before| format!("{added}\n\n{}", past_closed(&[(id, before)])))
    })
}

/// Runs `add`, which adds these tasks. Returns those of them that are new and whose past is closed, with the end of that
/// past: the data directory was restored from a backup.
async fn adding(
    control: &Control,
    ids: &[TaskId],
    add: impl Future<Output = Result<(), Failure>>,
) -> Result<Vec<(TaskId, Time)>, Failure> {
    let known: HashSet<TaskId> = control.tasks().await?.iter().map(|task| task.id).collect();
    add.await?;
    let is_new = |id: &TaskId| ids.contains(id) && !known.contains(id);
    let added = control.tasks().await?.into_iter().filter(|task| is_new(&task.id));
    Ok(added.filter_map(|task| Some((task.id, task.horizon?))).collect())
}

/// Tells the operator what to run at the other aggregator of tasks whose past was closed.
fn past_closed(tasks: &[(TaskId, Time)]) -> String {
    let mut text =
        "This data directory was restored from a backup, which may have lost what was aggregated of the task. \
                    Its past is closed:\nolder reports are refused. Close the same past at the other aggregator:\n"
            .to_owned();
    for (id, before) in tasks {
        text.push_str(&format!("\n  dapbox task close {id} --before {}", timestamp::show(*before)));
    }
    text
}

async fn add_to(control: &Control, config: &Config, task: Task, args: &AddArgs, name: Option<TaskName>) -> Outcome {
    ours::check(control, config, &task, &args.role).await?;
    let id = task.public.id;
    control.add_task(task).await?;
    // A name that the operator has given meanwhile stays, unless another is asked for.
    let named = control.task(&id).await?.and_then(|task| task.name);
    let wanted = args.name.clone().or(named.clone()).or(name);
    if wanted != named {
        control.rename_task(id, wanted).await?;
    }
    Ok(())
}

async fn tasks(config: &ConfigArgs) -> Result<Vec<TaskStatus>, Failure> {
    let control = Control::open(&config.load(None)?).await?;
    let tasks = control.tasks().await;
    if let Some(advice) = control.advice().await {
        warn(advice);
    }
    control.close().await;
    tasks
}

async fn list(args: ListArgs) -> Outcome {
    let tasks = tasks(&args.config).await?;
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&tasks)?,
        Format::Text if tasks.is_empty() => "There is no task. Make one with 'dapbox task new'.".to_owned(),
        Format::Text => {
            let lines: Vec<_> = tasks.iter().map(|task| show::task_line(task, Style::stdout())).collect();
            lines.join("\n")
        }
    };
    Ok(say(text)?)
}

async fn show(args: ShowArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let found = find_whole(&control, &args.id).await;
    if let Some(advice) = control.advice().await {
        warn(advice);
    }
    control.close().await;
    let task = found?;
    Ok(match args.output {
        Format::Json => say(serde_json::to_string_pretty(&task)?),
        Format::Text => say(show::task(&task, Style::stdout())),
    }?)
}

/// The task whose id begins like this, with its collected batches, which a list of tasks does not have.
async fn find_whole(control: &Control, start: &str) -> Result<TaskStatus, Failure> {
    let id = find(&control.tasks().await?, start)?.id;
    control.task(&id).await?.ok_or_else(|| Failure::new(format!("there is no task {start}")))
}

/// The task that has this name, or whose id begins like this.
fn find<'a>(tasks: &'a [TaskStatus], start: &str) -> Result<&'a TaskStatus, Failure> {
    let is_called = |task: &&TaskStatus| task.name.as_ref().is_some_and(|name| name.as_str() == start);
    let mut found: Vec<_> = tasks.iter().filter(is_called).collect();
    if found.is_empty() {
        found = tasks.iter().filter(|task| task.id.to_string().starts_with(start)).collect();
    }
    match found[..] {
        [] => Err(Failure::new(format!("there is no task {start}; 'dapbox task list' shows all"))),
        [task] => Ok(task),
        _ => Err(Failure::usage(format!(
            "{} tasks are called {start} or begin with it: give more of the id",
            found.len()
        ))),
    }
}

async fn remove(args: RemoveArgs) -> Outcome {
    let control = Control::open(&args.shared.config.load(None)?).await?;
    let outcome = remove_from(&control, &args).await;
    control.close().await;
    outcome
}

async fn remove_from(control: &Control, args: &RemoveArgs) -> Outcome {
    let missing = || Failure::new(format!("there is no task {}", args.id));
    let task = control.task(&args.id).await?.ok_or_else(missing)?;
    if !args.shared.yes {
        say(show::task(&task, Style::stdout()))?;
        say(
            "\nRemoving it deletes its reports and sums. Its id can never be used again, unless no\nrequest has ever named it.",
        )?;
        if !confirmed("remove it")? {
            return Err(Failure::new("nothing was removed"));
        }
    }
    let remains = control.remove_task(args.id).await?.ok_or_else(missing)?;
    let tombstone = Some(remains == RemovalOutcome::Tombstone);
    Done { tombstone, ..Done::new(args.id, "removed") }.say(args.shared.output, || match remains {
        RemovalOutcome::Tombstone => {
            format!("Task {} is removed. A tombstone stays: its id is refused for ever.", args.id)
        }
        RemovalOutcome::Forgotten => {
            format!("Task {} is removed. No request had named it: it may be added again.", args.id)
        }
    })
}

/// Asks a person.
pub fn confirmed(what: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("this asks for confirmation; give --yes where nobody can answer"));
    }
    let mut out = std::io::stdout().lock();
    write!(out, "Type yes to {what}: ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
