//! The tasks that a server collects, in `dapbox task`.

use std::path::Path;

use serde_json::{Value, json};

use super::{AddArgs, RemoveArgs, confirm};
use crate::{
    cli::{
        Failure, Outcome,
        args::{Format, OutputArgs},
        control::Control,
        results,
        style::{Style, print},
        taskfile::TaskFile,
    },
    model::TaskId,
    support::clock,
    views::results::{CollectorTaskChange, CollectorTaskStatus},
};

/// Makes the server the collector of a task, or changes its settings.
pub async fn add(args: &AddArgs, file: TaskFile, path: &Path) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let added = add_to(&control, args, &file).await.map_err(|failure| failure.context(path.display()));
    let is_running = matches!(control, Control::Server(_));
    control.close().await;
    let added = added?;
    let id = file.task.id;
    let done = match added.change {
        CollectorTaskChange::Added => "added",
        CollectorTaskChange::Replaced => "changed",
        CollectorTaskChange::Unchanged => "unchanged",
    };
    if args.output.format == Format::Json {
        let value = json!({ "task": id, "done": done, "role": "collector", "page": added.page });
        return Ok(print(value)?);
    }
    print(match added.change {
        CollectorTaskChange::Added => format!("This server collects task {id}."),
        CollectorTaskChange::Replaced => format!("The settings of task {id} are changed."),
        CollectorTaskChange::Unchanged => format!("This server collects task {id} already, with the same settings."),
    })?;
    Ok(print(match (&added.page, is_running) {
        (Some(page), _) => format!("Results: {page}"),
        (None, true) => {
            "Results: 'dapbox results windows' (hint: set results.listen in appliance.toml for pages)".to_owned()
        }
        (None, false) => "It is collected once the server runs: 'dapbox serve'.".to_owned(),
    })?)
}

async fn add_to(
    control: &Control,
    args: &AddArgs,
    file: &TaskFile,
) -> Result<crate::views::results::CollectorTaskAdded, Failure> {
    let known = of_id(control, &file.task.id).await?;
    // Without a start in the file, the first one stays.
    let start = known.as_ref().map_or_else(|| file.task.first_collection_start(clock::now()), |known| known.start);
    let not_collector = || Failure::usage("not a collector's file");
    let mut record = file.collector_record(start).ok_or_else(not_collector)?;
    record.created = clock::now();
    record.name = args.name.clone().or(record.name);
    results::add(control, record).await
}

/// The task with this id that the server collects.
pub async fn of_id(control: &Control, id: &TaskId) -> Result<Option<CollectorTaskStatus>, Failure> {
    Ok(results::statuses(control).await?.into_iter().find(|task| task.id == *id))
}

/// The task with this name or start of its id that the server collects; `None` if there is none, or several.
pub async fn find(control: &Control, wanted: &str) -> Result<Option<CollectorTaskStatus>, Failure> {
    let tasks = results::statuses(control).await?;
    let is_called = |task: &&CollectorTaskStatus| task.name.as_ref().is_some_and(|name| name.as_str() == wanted);
    if let Some(task) = tasks.iter().find(is_called) {
        return Ok(Some(task.clone()));
    }
    let mut found = tasks.into_iter().filter(|task| task.id.to_string().starts_with(wanted));
    Ok(found.next().filter(|_| found.next().is_none()))
}

/// A task as JSON, with its role.
pub fn to_json(task: &CollectorTaskStatus) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(task)?;
    value["role"] = "collector".into();
    Ok(value)
}

/// Shows a task.
pub fn show(task: &CollectorTaskStatus, output: OutputArgs) -> Outcome {
    output.print(&to_json(task)?, || results::describe_task(task, Style::stdout()))
}

/// Removes a task with its results.
pub async fn remove(control: &Control, task: &CollectorTaskStatus, args: &RemoveArgs) -> Outcome {
    if !args.shared.yes {
        print(results::describe_task(task, Style::stdout()))?;
        print(
            "\nThis deletes the windows, the results and the links of the task. A batch is collected once, so the\nresults cannot be collected again (hint: 'dapbox results export' writes them to a file).",
        )?;
        if !confirm("remove it")? {
            return Err(Failure::new("cancelled: nothing was removed"));
        }
    }
    results::remove(control, task.id).await?;
    Ok(print(match args.shared.output.format {
        Format::Json => json!({ "task": task.id, "done": "removed", "role": "collector" }).to_string(),
        Format::Text => format!("Task {} removed, with its results.", task.id),
    })?)
}
