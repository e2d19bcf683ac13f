//! `dapbox task export`: writes tasks as a YAML list for Janus's `provision-tasks`.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use serde::Serialize;

use super::super::{Failure, Outcome, args::OutputArgs, style::counted, taskfile::TaskFile};
use crate::{
    config::Config,
    model::{Duration, Revision, Task, TaskId},
    wire::management::task_list,
};

/// The first lines of the file.
const HEADING: &str = "# An aggregator's part of DAP tasks. SECRET: for that aggregator's operator only.\n\
                       # janus_cli provision-tasks --generate-missing-parameters ... FILE\n";

/// Arguments of `dapbox task export`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Takes the files of one aggregator that runs Janus: leader.toml for a leader, helper.toml for a \
    helper. The list contains the secrets of these files, but no HPKE keys, which Janus generates. DAP-09 only, the \
    revision that Janus supports.\n\n\
    Examples:\n  \
    dapbox task export helper.toml --out tasks.yaml\n  \
    dapbox task export one/leader.toml two/leader.toml --out tasks.yaml -o json"
)]
pub struct Args {
    /// leader.toml or helper.toml files from 'dapbox task new'.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// YAML file to create, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON output.
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
            Failure::usage("not an aggregator's file (hint: use leader.toml or helper.toml)").context(path.display())
        })?;
        if task.public.revision != Revision::Dap09 {
            return Err(Failure::new("cannot export: Janus supports DAP-09 only").context(path.display()));
        }
        if tasks.iter().any(|other| other.public.id == task.public.id) {
            return Err(Failure::usage("duplicate file of the same task").context(path.display()));
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
    let exported = Exported { tasks: tasks.iter().map(|task| task.public.id).collect(), file: &args.out };
    args.output.print(&exported, || {
        format!(
            "{} written to {}. SECRET: for that aggregator's operator only.",
            counted(tasks.len() as u64, "task"),
            args.out.display()
        )
    })
}
