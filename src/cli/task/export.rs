//! `dapbox task export`: writes tasks as a YAML list, as Janus's command line provisions from.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use serde::Serialize;

use super::super::{
    Failure, Outcome,
    args::Format,
    style::{counted, say},
    taskfile::TaskFile,
};
use crate::{
    config::Config,
    model::{Duration, Revision, Task, TaskId},
    wire::management::task_list,
};

/// What the file begins with.
const HEADING: &str = "# An aggregator's part of DAP tasks. SECRET: for that aggregator's operator only.\n\
                       # janus_cli provision-tasks --generate-missing-parameters ... FILE\n";

/// Arguments of `dapbox task export`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The tasks come from files of 'dapbox task new' for one aggregator, which is then run with Janus: \
    leader.toml if it is the leader, helper.toml if it is the helper. The list has the secrets of these files and no keys of \
    the aggregator: Janus makes those that are missing. DAP-09 only, which is what Janus speaks.\n\n\
    Examples:\n  \
    dapbox task export helper.toml --out tasks.yaml\n  \
    dapbox task export one/leader.toml two/leader.toml --out tasks.yaml -o json"
)]
pub struct Args {
    /// The leader's or the helper's files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The YAML file to write, for its owner only. It must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What was written, for machines.
#[derive(Serialize)]
struct Exported<'a> {
    tasks: Vec<TaskId>,
    file: &'a PathBuf,
}

/// Runs `dapbox task export`.
pub fn run(args: Args) -> Outcome {
    let mut tasks: Vec<Task> = Vec::new();
    for path in &args.files {
        let task = TaskFile::read(path)?.aggregator_task().ok_or_else(|| {
            Failure::usage("is not an aggregator's file: take leader.toml or helper.toml").context(path.display())
        })?;
        if task.public.revision != Revision::Dap09 {
            return Err(Failure::new("Janus's tools know tasks of DAP-09 only").context(path.display()));
        }
        if tasks.iter().any(|other| other.public.id == task.public.id) {
            return Err(Failure::usage("is another file of a task that is there already").context(path.display()));
        }
        tasks.push(task);
    }
    let skew = Duration(Config::default().limits.clock_skew.as_secs());
    let text = format!("{HEADING}{}", task_list::write(&tasks, skew).map_err(Failure::new)?);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.out)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e: std::io::Error| Failure::new(e).context(args.out.display()))?;
    Ok(say(match args.output {
        Format::Json => {
            let tasks = tasks.iter().map(|task| task.public.id).collect();
            serde_json::to_string_pretty(&Exported { tasks, file: &args.out })?
        }
        Format::Text => format!(
            "{} written to {}. SECRET: for that aggregator's operator only.",
            counted(tasks.len() as u64, "task"),
            args.out.display()
        ),
    })?)
}
