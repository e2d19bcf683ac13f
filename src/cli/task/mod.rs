//! `dapbox task`: manages an aggregator's tasks.

mod close;
mod collected;
mod divvi_up;
mod export;
mod import;
mod new;
mod ownership;
mod privacy;
mod rename;
mod sweep;
mod token;
mod verify_key;

use std::{
    collections::HashSet,
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
};

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, DestructiveArgs, Format, OutputArgs},
    control::Control,
    input, results, show,
    style::{Style, print, warn},
    taskfile::TaskFile,
    timestamp,
};
use crate::{
    config::Config,
    model::{Role, Task, TaskId, Time},
    store::name::TaskName,
    views::status::{RemovalOutcome, TaskStatus},
};

pub use new::{UrlArgs, default_info, parameters, parse_time, validate};

/// The subcommands of `dapbox task`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create a task: one file for each party.
    New(Box<new::Args>),
    /// Add a task to this server, with or without it running.
    Add(Box<AddArgs>),
    /// List this aggregator's tasks.
    #[command(after_help = "Works with or without a running server. 'dapbox status' shows more of a running one.\n\n\
        Examples:\n  \
        dapbox task list\n  \
        dapbox task list --data-dir /var/lib/dapbox -o json")]
    List(ListArgs),
    /// Show a task's parameters and progress.
    #[command(
        after_help = "Includes all counters: accepted reports, and rejected reports by reason. Works with or without a \
        running server.\n\n\
        Examples:\n  \
        dapbox task show 9GgQ\n  \
        dapbox task show 9GgQ -o json --data-dir /var/lib/dapbox"
    )]
    Show(ShowArgs),
    /// Change the local name of a task.
    Rename(rename::Args),
    /// Show or limit what the noise of a task's batches has spent.
    Privacy(privacy::Args),
    /// Close tasks for reports before a time, after the other aggregator restored a backup.
    Close(close::Args),
    /// Rotate the bearer tokens of a task.
    #[command(subcommand)]
    Token(token::Command),
    /// Rotate the verification keys of a task.
    #[command(subcommand)]
    VerifyKey(verify_key::Command),
    /// Remove a task and its data permanently.
    Remove(RemoveArgs),
    /// Import the tasks of a YAML file for Janus's provision-tasks.
    Import(import::Args),
    /// Export tasks as a YAML file for Janus's provision-tasks.
    Export(export::Args),
    /// Remove provisioned tasks that no party has contacted.
    Sweep(sweep::Args),
}

/// Arguments of `dapbox task add`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Adding the same task again has no effect. A task is immutable: to change parameters, create a new \
    task.\n\n\
    With collector.toml, the server becomes the task's collector: it collects on the schedule in the file and shows the \
    results ('dapbox results'). Its schedule, presentation, webhooks, token and key may be changed in the file and added \
    again.\n\n\
    The file of the other aggregator is refused: this aggregator's URL in the task must be below public_url or, without \
    public_url, match the listen address. If neither decides, this asks.\n\n\
    Examples:\n  \
    dapbox task add leader.toml\n  \
    dapbox task add helper.toml --role helper\n  \
    dapbox task add collector.toml\n  \
    dapbox task add helper.toml --config /etc/dapbox/appliance.toml\n\n\
    A task created with Divvi Up has no collector.toml. Use its credential file and the parameters that Divvi Up shows; \
    --write writes collector.toml, in which schedule and presentation can be changed:\n  \
    dapbox task add --credential collector-credential.json \\\n      \
    --leader https://leader.example/dap-09/ --helper https://helper.example/ \\\n      \
    --task-id 9GgQd3pEE6DiJtYTFyOYGDjRQzdrRaUrVL0Yn-3uAF4 --vdaf histogram \\\n      \
    --length 10 --time-precision 1h --min-batch-size 100 \\\n      --write collector.toml"
)]
pub struct AddArgs {
    /// leader.toml, helper.toml or collector.toml from 'dapbox task new'; with --credential, any file of the task.
    #[arg(id = "task", value_name = "FILE", required_unless_present = "credential")]
    file: Option<PathBuf>,
    #[command(flatten)]
    divvi_up: divvi_up::Args,
    #[command(flatten)]
    role: ownership::RoleArgs,
    /// Local name of the task. Default: the name in the file.
    #[arg(long)]
    name: Option<TaskName>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox task list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox task show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Task id, its first characters, or the task's name.
    #[arg(allow_hyphen_values = true)]
    id: String,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox task remove`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A removed task cannot be restored. A tombstone remains and its id is refused forever, because the \
    same task would accept reports and return aggregates a second time. A task that no request has named leaves no \
    tombstone, so that a wrong file can be corrected. In a restored data directory every task leaves one.\n\n\
    Example:\n  \
    dapbox task remove 9GgQd3pEE6DiJtYTFyOYGDjRQzdrRaUrVL0Yn-3uAF4 --yes"
)]
pub struct RemoveArgs {
    /// Complete task id.
    #[arg(allow_hyphen_values = true, value_parser = input::parse_task_id)]
    id: TaskId,
    /// What to remove, if this server is an aggregator and the collector of the task.
    #[arg(long, value_enum, value_name = "ROLE")]
    role: Option<Party>,
    #[command(flatten)]
    shared: DestructiveArgs,
}

/// The roles of a server in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Party {
    /// Leader or helper, with reports and sums.
    Aggregator,
    /// Collector, with windows, results and links.
    Collector,
}

/// The JSON output of a command that changes a task.
#[derive(Serialize)]
struct TaskActionResult<'a> {
    task: TaskId,
    /// The action: `added`, `renamed`, `removed` or `closed`.
    done: &'a str,
    /// End of the closed past.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_before: Option<Time>,
    /// Whether the removed task left a tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    tombstone: Option<bool>,
}

impl<'a> TaskActionResult<'a> {
    fn new(task: TaskId, done: &'a str) -> Self {
        Self { task, done, closed_before: None, tombstone: None }
    }

    /// Prints itself as JSON, or the sentence as text.
    fn print(&self, format: Format, sentence: impl FnOnce() -> String) -> Outcome {
        Ok(print(match format {
            Format::Json => serde_json::to_string(self)?,
            Format::Text => sentence(),
        })?)
    }
}

/// Runs `dapbox task`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::New(args) => new::run(*args),
        Command::Add(args) => add(*args).await,
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Rename(args) => rename::run(args).await,
        Command::Privacy(args) => privacy::run(args).await,
        Command::Close(args) => close::run(args).await,
        Command::Token(command) => token::run(command).await,
        Command::VerifyKey(command) => verify_key::run(command).await,
        Command::Remove(args) => remove(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Export(args) => export::run(args),
        Command::Sweep(args) => sweep::run(args).await,
    }
}

impl AddArgs {
    /// Reads the party's file, or makes that of a collector with a credential. Returns it with the path for errors.
    fn read(&self) -> Result<(TaskFile, PathBuf), Failure> {
        let file =
            self.file.as_ref().map(|path| Ok::<_, Failure>((TaskFile::read(path)?, path.clone()))).transpose()?;
        match (self.divvi_up.collector_file(file.as_ref().map(|(file, _)| file))?, file) {
            (Some(found), _) | (None, Some(found)) => Ok(found),
            (None, None) => Err(Failure::usage("a task file or --credential is required")),
        }
    }
}

async fn add(args: AddArgs) -> Outcome {
    let (file, path) = args.read()?;
    if file.role() == Role::Collector {
        return collected::add(&args, file, &path).await;
    }
    let Some(task) = file.aggregator_task() else {
        let path = path.display();
        let text = format!("{path} is the clients' file (hint: add leader.toml, helper.toml or collector.toml)");
        return Err(Failure::usage(text));
    };
    let config = args.config.load(None)?;
    let control = Control::open(&config).await?;
    let (id, role) = (task.public.id, show::role(task.role()));
    let add_and_find_closed =
        add_and_find_closed(&control, &[id], add_to(&control, &config, task, &args, file.name)).await;
    let added = add_and_find_closed.map_err(|e| e.context(path.display()));
    let target = if matches!(control, Control::Server(_)) { "to the running server" } else { "to the data directory" };
    control.close().await;
    let closed = added?.into_iter().next().map(|(_, before)| before);
    TaskActionResult { closed_before: closed, ..TaskActionResult::new(id, "added") }.print(args.output.format, || {
        let added = format!("Task {id} added {target} as its {role}.");
        closed.map_or(added.clone(), |before| format!("{added}\n\n{}", describe_closed_past(&[(id, before)])))
    })
}

/// Runs `add`, which adds the tasks `ids`. Returns the new ones whose past is closed because the data directory was restored
/// from a backup, with the end of the closed past.
async fn add_and_find_closed(
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

/// Describes what to run at the other aggregator of tasks whose past is closed.
fn describe_closed_past(tasks: &[(TaskId, Time)]) -> String {
    let mut text = "This data directory was restored from a backup that may lack aggregated reports of the task. \
                    Its past is closed:\nolder reports are refused. Close the same past at the other aggregator:\n"
        .to_owned();
    for (id, before) in tasks {
        text.push_str(&format!("\n  dapbox task close {id} --before {}", timestamp::show(*before)));
    }
    text
}

async fn add_to(control: &Control, config: &Config, task: Task, args: &AddArgs, name: Option<TaskName>) -> Outcome {
    ownership::check(control, config, &task, &args.role).await?;
    let id = task.public.id;
    control.add_task(task).await?;
    // Without --name, an existing local name takes precedence over the name in the file.
    let named = control.task(&id).await?.and_then(|task| task.name);
    let wanted = args.name.clone().or(named.clone()).or(name);
    if wanted != named {
        control.rename_task(id, wanted).await?;
    }
    Ok(())
}

async fn list(args: ListArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let found = async { Ok::<_, Failure>((control.tasks().await?, results::statuses(&control).await?)) }.await;
    if let Some(advice) = control.advice().await {
        warn(advice);
    }
    control.close().await;
    let (tasks, collected) = found?;
    let all = tasks.iter().map(serde_json::to_value).chain(collected.iter().map(collected::to_json));
    let all: Vec<_> = all.collect::<Result<_, _>>()?;
    args.output.print(&all, || match (tasks.is_empty(), collected.is_empty()) {
        (true, true) => "No tasks (hint: create one with 'dapbox task new').".to_owned(),
        (false, true) => show::task_table(&tasks, Style::stdout()),
        (true, false) => results::titled_task_table(&collected, Style::stdout()),
        (false, false) => {
            format!(
                "{}\n\n{}",
                show::task_table(&tasks, Style::stdout()),
                results::titled_task_table(&collected, Style::stdout())
            )
        }
    })
}

async fn show(args: ShowArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let found = find_with_batches(&control, &args.id).await;
    let collected = collected::find(&control, &args.id).await;
    if let Some(advice) = control.advice().await {
        warn(advice);
    }
    control.close().await;
    match (found, collected?) {
        (Ok(task), None) => args.output.print(&task, || show::task(&task, Style::stdout())),
        (Err(_), Some(collected)) => collected::show(&collected, args.output),
        (Ok(task), Some(collected)) => {
            args.output.print(&task, || show::task(&task, Style::stdout()))?;
            collected::show(&collected, args.output)
        }
        (Err(failure), None) => Err(failure),
    }
}

/// Finds a task by name or id prefix, with its collected batches, which a list of tasks does not contain.
async fn find_with_batches(control: &Control, start: &str) -> Result<TaskStatus, Failure> {
    let id = find(&control.tasks().await?, start)?.id;
    control.task(&id).await?.ok_or_else(|| Failure::new(format!("unknown task {start}")))
}

/// Finds a task by name or id prefix.
fn find<'a>(tasks: &'a [TaskStatus], start: &str) -> Result<&'a TaskStatus, Failure> {
    let is_called = |task: &&TaskStatus| task.name.as_ref().is_some_and(|name| name.as_str() == start);
    let mut found: Vec<_> = tasks.iter().filter(is_called).collect();
    if found.is_empty() {
        found = tasks.iter().filter(|task| task.id.to_string().starts_with(start)).collect();
    }
    match found[..] {
        [] => Err(Failure::new(format!("unknown task {start} (hint: 'dapbox task list' shows all)"))),
        [task] => Ok(task),
        _ => {
            Err(Failure::usage(format!("{start} matches {} tasks (hint: use more characters of the id)", found.len())))
        }
    }
}

async fn remove(args: RemoveArgs) -> Outcome {
    let control = Control::open(&args.shared.config.load(None)?).await?;
    let outcome = remove_from(&control, &args).await;
    control.close().await;
    outcome
}

async fn remove_from(control: &Control, args: &RemoveArgs) -> Outcome {
    let missing = || Failure::new(format!("unknown task {} (hint: 'dapbox task list' shows all)", args.id));
    let collected = collected::of_id(control, &args.id).await?;
    let task = match (control.task(&args.id).await?, collected, args.role) {
        (_, Some(collected), Some(Party::Collector)) | (None, Some(collected), None) => {
            return collected::remove(control, &collected, args).await;
        }
        (Some(_), Some(_), None) => {
            return Err(Failure::usage(
                "this server is an aggregator and the collector of the task (hint: --role aggregator or --role collector)",
            ));
        }
        (Some(task), _, None | Some(Party::Aggregator)) => task,
        _ => return Err(missing()),
    };
    if !args.shared.yes {
        print(show::task(&task, Style::stdout()))?;
        print(
            "\nThis deletes the task's reports and sums. Its id cannot be used again, unless no\nrequest has named it.",
        )?;
        if !confirm("remove it")? {
            return Err(Failure::new("cancelled: nothing was removed"));
        }
    }
    let remains = control.remove_task(args.id).await?.ok_or_else(missing)?;
    let tombstone = Some(remains == RemovalOutcome::Tombstone);
    TaskActionResult { tombstone, ..TaskActionResult::new(args.id, "removed") }.print(args.shared.output.format, || {
        match remains {
            RemovalOutcome::Tombstone => {
                format!("Task {} removed. A tombstone remains: its id is refused forever.", args.id)
            }
            RemovalOutcome::Forgotten => {
                format!("Task {} removed. No request had named it: it can be added again.", args.id)
            }
        }
    })
}

/// Asks for confirmation on the terminal.
pub fn confirm(what: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("confirmation required, but standard input is not a terminal (hint: use --yes)"));
    }
    let mut out = std::io::stdout().lock();
    write!(out, "Type yes to {what}: ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
