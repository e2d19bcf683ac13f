//! `dapbox pair`: runs a leader, a helper and a collector for testing.

mod example;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use url::Url;

use super::{
    Failure, Outcome,
    args::{BatchArgs, Format, OutputArgs, QueryKind, RevisionArg, VdafArgs},
    local_pair::{Node, Pair, WorkDir},
    show,
    signals::StopSignals,
    style::{Style, print},
    task,
    taskfile::{TaskFile, TaskFiles, VerifyKey},
};
use crate::{
    config::Seconds,
    model::{BatchMode, Duration, VdafConfig},
    results::{OnTooFew, Schedule, Unit},
    support::{clock, duration},
};

/// Arguments of `dapbox pair`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Starts a leader and a helper in one process, on loopback only, with a common task, and prints commands \
    for another terminal. The leader's server is also the collector: it collects every minute and shows the results. With \
    --no-collector, 'dapbox collect' does; a batch is collected once. The data is deleted at the end. With --dir it is kept: \
    the same directory resumes the same task on the same ports, with or without the collector.\n\n\
    Examples:\n  \
    dapbox pair\n  \
    dapbox pair --example\n  \
    dapbox pair --no-collector\n  \
    dapbox pair --vdaf histogram --length 10\n  \
    dapbox pair --dap 18 --vdaf sum --max-measurement 100\n  \
    dapbox pair --dir my-pair --port-base 9000 --vdaf sum --bits 8\n  \
    dapbox pair --dir my-pair -o json"
)]
pub struct Args {
    /// Directory in which to keep the data and the task files. Default: a temporary one.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leader's port; the helper's is the next one. Default: free ports.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..65535))]
    port_base: Option<u16>,
    /// Protocol revision of the task. Default: 09.
    #[arg(long, value_enum, value_name = "REVISION")]
    dap: Option<RevisionArg>,
    /// Run no collector: 'dapbox collect' collects.
    #[arg(long)]
    no_collector: bool,
    /// Instead of one empty task, create three with half a year of results of a study (about a minute).
    #[arg(long, conflicts_with_all = ["dir", "no_collector", "query", "max_batch_size", "batch_time_window"],
        conflicts_with_all = ["min_batch_size", "time_precision"], conflicts_with = "vdaf")]
    example: bool,
    /// Use only the first N answers of the study.
    #[arg(long, value_name = "N", requires = "example", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    #[command(flatten)]
    vdaf: VdafArgs,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Minimum length of the collector's windows, in seconds.
const WINDOW: u64 = 60;

/// Runs `dapbox pair`.
pub async fn run(args: Args) -> Outcome {
    let mut signals = StopSignals::new()?;
    let directory = WorkDir::new(args.dir.as_deref())?;
    let existing = existing_files(directory.path())?;
    let ports = match (&existing, args.port_base) {
        (Some(files), _) => ports_of(files)?,
        (None, Some(base)) => [base, base + 1],
        (None, None) => [0, 0],
    };
    if let Some(files) = &existing {
        check_matches(&args, files, ports).map_err(|e| e.context(directory.path().display()))?;
    }
    let pair = Pair::start(directory.path(), ports, true).await?;
    let set_up = async {
        match args.example {
            true => example::run(&args, &pair).await,
            false => set_up(&args, &directory, &pair, existing).await,
        }
    };
    let outcome = tokio::select! {
        outcome = set_up => match outcome {
            Ok(()) => tokio::select! {
                _ = signals.next() => Ok(()),
                failure = pair.failed() => Err(failure),
            },
            failure => failure,
        },
        _ = signals.next() => Ok(()),
    };
    pair.stop().await?;
    outcome
}

/// Reads the task files of an existing pair.
fn existing_files(dir: &Path) -> Result<Option<TaskFiles>, Failure> {
    if !dir.join("client.toml").exists() {
        return Ok(None);
    }
    let read = |name| TaskFile::read(&dir.join(name));
    Ok(Some(TaskFiles {
        leader: read("leader.toml")?,
        helper: read("helper.toml")?,
        client: read("client.toml")?,
        collector: read("collector.toml")?,
    }))
}

/// Returns the ports of leader and helper in the task files.
fn ports_of(files: &TaskFiles) -> Result<[u16; 2], Failure> {
    let port = |url: &str| {
        let port = Url::parse(url).ok().and_then(|url| url.port());
        port.ok_or_else(|| Failure::new(format!("not a task of dapbox pair: {url} has no port")))
    };
    let task = &files.client.task;
    Ok([port(&task.leader_url)?, port(&task.helper_url)?])
}

/// Refuses arguments that contradict the existing task, which is immutable.
fn check_matches(args: &Args, files: &TaskFiles, ports: [u16; 2]) -> Outcome {
    let (task, batch) = (&files.client.task, &args.batch);
    let (kind, max_batch_size, window) = match task.batch {
        BatchMode::TimeInterval => (QueryKind::TimeInterval, None, None),
        BatchMode::FixedSize { max_batch_size, batch_time_window_size } => {
            (QueryKind::FixedSize, max_batch_size, batch_time_window_size)
        }
    };
    let contradictions = [
        ("--dap", args.dap.is_some_and(|wanted| wanted.revision() != task.revision)),
        ("the VDAF", args.vdaf.is_given() && args.vdaf.configure()? != task.vdaf),
        ("--query", batch.query.is_some_and(|wanted| wanted != kind)),
        ("--min-batch-size", batch.min_batch_size.is_some_and(|wanted| wanted != task.min_batch_size)),
        ("--max-batch-size", batch.max_batch_size.is_some_and(|wanted| Some(wanted) != max_batch_size)),
        ("--batch-time-window", batch.batch_time_window.is_some_and(|wanted| Some(wanted) != window)),
        ("--time-precision", batch.time_precision.is_some_and(|wanted| wanted.0 != task.time_precision.as_secs())),
        ("--no-collector", args.no_collector && collects(files)),
        ("--port-base", args.port_base.is_some_and(|base| [base, base + 1] != ports)),
    ];
    match contradictions.iter().find(|(_, contradicts)| *contradicts) {
        None => Ok(()),
        Some((what, _)) => Err(Failure::usage(format!(
            "{what} contradicts the existing task ({}; {}; {}; precision {}; ports {} and {}), which is immutable (hint: \
             omit it, or choose another --dir)",
            show::revision(task.revision),
            show::vdaf(&task.vdaf),
            show::batches(task.batch, task.min_batch_size),
            duration::show(*task.time_precision),
            ports[0],
            ports[1],
        ))),
    }
}

/// Creates the task unless it exists, adds it to both servers and prints how to use it.
async fn set_up(args: &Args, directory: &WorkDir, pair: &Pair, existing: Option<TaskFiles>) -> Outcome {
    let files = match existing {
        Some(files) => files,
        None => {
            let batch = args.batch.clone().with_defaults(1, Duration(10));
            let revision = args.dap.unwrap_or_default().revision();
            let urls = [&pair.leader, &pair.helper].map(|node| node.url(revision));
            let task = task::parameters(revision, urls, args.vdaf.configure()?, &batch)?;
            let mut files = TaskFiles::generate(task, &VerifyKey::default())?;
            match args.no_collector {
                true => files.collector.schedule = None,
                false => collect_often(&mut files.collector),
            }
            files.write(directory.path())?;
            files
        }
    };
    pair.add(&files, false).await?;
    let record = files.collector.collector_record(clock::now()).filter(|_| collects(&files));
    let results = match record {
        Some(record) => pair.leader.collect(&record).await?,
        None => None,
    };
    Ok(match args.output.format {
        Format::Text => print_instructions(directory, pair, &files, results.as_deref()),
        Format::Json => print(description(directory, pair, &files, results)),
    }?)
}

/// Whether the pair has a collector: whether its file has a schedule.
fn collects(files: &TaskFiles) -> bool {
    files.collector.schedule.is_some()
}

/// Sets a schedule that shows results soon after an upload. A minute without reports is joined with the next one.
fn collect_often(file: &mut TaskFile) {
    let (precision, now) = (file.task.time_precision.as_secs().max(1), clock::now());
    let length = WINDOW.next_multiple_of(precision);
    file.schedule = Some(Schedule {
        start: Some(now.truncate(Duration(length))),
        every: Unit::Span(Seconds::new(length)),
        grace: Seconds::new(1),
        patience: Seconds::new(10),
        on_too_few: OnTooFew::Extend,
        ..Schedule::default()
    });
}

/// The JSON output, in one line.
fn description(directory: &WorkDir, pair: &Pair, files: &TaskFiles, results: Option<String>) -> Value {
    let (task, dir) = (&files.client.task, absolute(directory.path()));
    let node =
        |node: &Node, url: &str| json!({ "url": url, "data_dir": absolute(&node.data_dir), "monitor": node.monitor() });
    json!({
        "task": task.id,
        "leader": node(&pair.leader, &task.leader_url),
        "helper": node(&pair.helper, &task.helper_url),
        "results": results,
        "files": {
            "leader": dir.join("leader.toml"),
            "helper": dir.join("helper.toml"),
            "client": dir.join("client.toml"),
            "collector": dir.join("collector.toml"),
        },
    })
}

fn print_instructions(
    directory: &WorkDir,
    pair: &Pair,
    files: &TaskFiles,
    results: Option<&str>,
) -> std::io::Result<()> {
    let style = Style::stdout();
    let task = &files.client.task;
    let line = |name: &str, value: &str| print(format!("  {}{value}", style.dim(&format!("{name:<10}"))));
    let parties = if results.is_some() { "A leader, a helper and a collector" } else { "A leader and a helper" };
    print(style.bold(&format!("{parties} are running on this machine.")))?;
    print("")?;
    line("leader", &task.leader_url)?;
    line("helper", &task.helper_url)?;
    for (name, node) in [("status", &pair.leader), ("", &pair.helper)] {
        if let Some(url) = node.monitor() {
            line(name, &url)?;
        }
    }
    if let Some(url) = results {
        line("results", url)?;
    }
    line("task", &task.id.to_string())?;
    line("protocol", &show::revision(task.revision))?;
    line("computes", &show::vdaf(&task.vdaf))?;
    line("batches", &show::batches(task.batch, task.min_batch_size))?;
    let dir = absolute(directory.path());
    line(
        "files",
        &format!("{}{}", dir.display(), if directory.is_temporary() { " (deleted at the end)" } else { "" }),
    )?;
    print("\nTry this in another terminal:")?;
    print("")?;
    let program = match std::env::args().next() {
        Some(name) if name.contains('/') => shell_word(Path::new(&name)),
        Some(name) => name,
        None => "dapbox".to_owned(),
    };
    let command = |what: String| print(format!("  {}", style.accent(&format!("{program} {what}"))));
    let file = |name: &str| shell_word(&dir.join(name));
    command(format!("upload --task {} {}", file("client.toml"), example(&task.vdaf)))?;
    match results {
        Some(_) => command(format!("results windows --data-dir {}", shell_word(&pair.leader.data_dir)))?,
        None => {
            let current = if task.batch == BatchMode::TimeInterval { " --include-current --yes" } else { "" };
            command(format!("collect --task {}{current}", file("collector.toml")))?;
        }
    }
    command(format!("task show {} --data-dir {}", task.id, shell_word(&pair.leader.data_dir)))?;
    if results.is_some() && task.batch == BatchMode::TimeInterval {
        print("\nThe first results appear on their page about a minute after an upload.")?;
    }
    print("\nCtrl-C stops them.")
}

/// Returns an absolute path, which is valid in another terminal.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Quotes an absolute path for a shell.
fn shell_word(path: &Path) -> String {
    let text = absolute(path).display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@%".contains(&b)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Returns an example measurement.
fn example(vdaf: &VdafConfig) -> String {
    let ones = |length: usize, set: usize| {
        let cells: Vec<_> = (0..length).map(|i| if i < set { "1" } else { "0" }).collect();
        cells.join(",")
    };
    match vdaf {
        VdafConfig::Prio3Count => "true".to_owned(),
        VdafConfig::Prio3Sum { max } => max.0.min(7).to_string(),
        VdafConfig::Prio3Histogram { length, .. } => (length / 2).to_string(),
        VdafConfig::Prio3MultihotCountVec { length, .. } | VdafConfig::Prio3L1BoundSum { length, .. } => {
            ones(*length, 1)
        }
        VdafConfig::Prio3SumVec { length, .. }
        | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { length, .. } => ones(*length, *length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_paths_for_a_shell() {
        assert_eq!(shell_word(Path::new("/tmp/a-b.c")), "/tmp/a-b.c");
        assert_eq!(shell_word(Path::new("/tmp/it's mine")), r"'/tmp/it'\''s mine'");
    }
}
