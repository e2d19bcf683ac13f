//! `dapbox pair`: a leader and a helper that stay up, to try things with.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use url::Url;

use super::{
    Failure, Outcome,
    args::{BatchArgs, Dap, Format, QueryKind, VdafArgs},
    local::{Directory, Node, Pair},
    show,
    signals::Signals,
    style::{Style, say},
    task,
    taskfile::{TaskFile, TaskFiles, VerifyKey},
};
use crate::{
    model::{BatchMode, Duration, VdafConfig},
    support::duration,
};

/// Arguments of `dapbox pair`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Starts a leader and a helper in one process, on loopback only, with a task that both know, and \
    prints what to type in another terminal. Everything is gone afterwards, unless there is a --dir: the same \
    directory brings the same task back, on the same ports.\n\n\
    Examples:\n  \
    dapbox pair\n  \
    dapbox pair --vdaf histogram --length 10\n  \
    dapbox pair --dap 18 --vdaf sum --max-measurement 100\n  \
    dapbox pair --dir my-pair --port-base 9000 --vdaf sum --bits 8\n  \
    dapbox pair --dir my-pair -o json"
)]
pub struct Args {
    /// Keep the data and the task files here.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The leader's port; the helper's is the next one. Free ones are chosen if this is left out.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..65535))]
    port_base: Option<u16>,
    /// The protocol revision of the task; 09 by default.
    #[arg(long, value_enum, value_name = "REVISION")]
    dap: Option<Dap>,
    #[command(flatten)]
    vdaf: VdafArgs,
    #[command(flatten)]
    batch: BatchArgs,
    /// What to print when both are ready.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs `dapbox pair`.
pub async fn run(args: Args) -> Outcome {
    let mut signals = Signals::new()?;
    let directory = Directory::new(args.dir.as_deref())?;
    let known = known_files(directory.path())?;
    let ports = match (&known, args.port_base) {
        (Some(files), _) => known_ports(files)?,
        (None, Some(base)) => [base, base + 1],
        (None, None) => [0, 0],
    };
    if let Some(files) = &known {
        check_known(&args, files, ports).map_err(|e| e.context(directory.path().display()))?;
    }
    let pair = Pair::start(directory.path(), ports, true).await?;
    let outcome = tokio::select! {
        outcome = introduce(&args, &directory, &pair, known) => match outcome {
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

/// The files of a pair that was here before.
fn known_files(dir: &Path) -> Result<Option<TaskFiles>, Failure> {
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

/// The ports that the files of a pair name, the leader's and the helper's.
fn known_ports(files: &TaskFiles) -> Result<[u16; 2], Failure> {
    let port = |url: &str| {
        let port = Url::parse(url).ok().and_then(|url| url.port());
        port.ok_or_else(|| Failure::new(format!("{url} is not the URL of one of a pair: it has no port")))
    };
    let task = &files.client.task;
    Ok([port(&task.leader_url)?, port(&task.helper_url)?])
}

/// Refuses arguments that contradict the task that is there: a task never changes.
fn check_known(args: &Args, files: &TaskFiles, ports: [u16; 2]) -> Outcome {
    let (task, batch) = (&files.client.task, &args.batch);
    let (kind, max_batch_size, window) = match task.batch {
        BatchMode::TimeInterval => (QueryKind::TimeInterval, None, None),
        BatchMode::FixedSize { max_batch_size, batch_time_window_size } => {
            (QueryKind::FixedSize, max_batch_size, batch_time_window_size)
        }
    };
    let contradictions = [
        ("--dap", args.dap.is_some_and(|wanted| wanted.revision() != task.revision)),
        ("what is measured", args.vdaf.is_given() && args.vdaf.configure()? != task.vdaf),
        ("--query", batch.query.is_some_and(|wanted| wanted != kind)),
        ("--min-batch-size", batch.min_batch_size.is_some_and(|wanted| wanted != task.min_batch_size)),
        ("--max-batch-size", batch.max_batch_size.is_some_and(|wanted| Some(wanted) != max_batch_size)),
        ("--batch-time-window", batch.batch_time_window.is_some_and(|wanted| Some(wanted) != window)),
        ("--time-precision", batch.time_precision.is_some_and(|wanted| wanted.0 != task.time_precision.as_secs())),
        ("--port-base", args.port_base.is_some_and(|base| [base, base + 1] != ports)),
    ];
    match contradictions.iter().find(|(_, contradicts)| *contradicts) {
        None => Ok(()),
        Some((what, _)) => Err(Failure::usage(format!(
            "{what} contradicts the task that is kept here ({}; {}; {}; precision {}; ports {} and {}), which \
             never changes: leave it out, or choose another --dir",
            show::revision(task.revision),
            show::vdaf(&task.vdaf),
            show::batches(task.batch, task.min_batch_size),
            duration::show(*task.time_precision),
            ports[0],
            ports[1],
        ))),
    }
}

/// Makes the task if there is none, adds it to both and says how to use it.
async fn introduce(args: &Args, directory: &Directory, pair: &Pair, known: Option<TaskFiles>) -> Outcome {
    let files = match known {
        Some(files) => files,
        None => {
            let batch = args.batch.clone().or(1, Duration(10));
            let revision = args.dap.unwrap_or_default().revision();
            let urls = [&pair.leader, &pair.helper].map(|node| node.url(revision));
            let task = task::parameters(revision, urls, args.vdaf.configure()?, &batch)?;
            let files = TaskFiles::generate(task, &VerifyKey::default())?;
            files.write(directory.path())?;
            files
        }
    };
    pair.add(&files, false).await?;
    Ok(match args.output {
        Format::Text => print_introduction(directory, pair, &files),
        Format::Json => say(description(directory, pair, &files)),
    }?)
}

/// Where everything is, as one line for programs.
fn description(directory: &Directory, pair: &Pair, files: &TaskFiles) -> Value {
    let (task, dir) = (&files.client.task, absolute(directory.path()));
    let node =
        |node: &Node, url: &str| json!({ "url": url, "data_dir": absolute(&node.data_dir), "monitor": node.monitor() });
    json!({
        "task": task.id,
        "leader": node(&pair.leader, &task.leader_url),
        "helper": node(&pair.helper, &task.helper_url),
        "files": {
            "leader": dir.join("leader.toml"),
            "helper": dir.join("helper.toml"),
            "client": dir.join("client.toml"),
            "collector": dir.join("collector.toml"),
        },
    })
}

fn print_introduction(directory: &Directory, pair: &Pair, files: &TaskFiles) -> std::io::Result<()> {
    let style = Style::stdout();
    let task = &files.client.task;
    let line = |name: &str, value: &str| say(format!("  {}{value}", style.dim(&format!("{name:<10}"))));
    say(style.bold("A leader and a helper are running on this machine."))?;
    say("")?;
    line("leader", &task.leader_url)?;
    line("helper", &task.helper_url)?;
    for (name, node) in [("watch", &pair.leader), ("", &pair.helper)] {
        if let Some(url) = node.monitor() {
            line(name, &url)?;
        }
    }
    line("task", &task.id.to_string())?;
    line("protocol", &show::revision(task.revision))?;
    line("measures", &show::vdaf(&task.vdaf))?;
    line("batches", &show::batches(task.batch, task.min_batch_size))?;
    let dir = absolute(directory.path());
    line(
        "files",
        &format!("{}{}", dir.display(), if directory.is_temporary() { " (removed in the end)" } else { "" }),
    )?;
    say("\nTry this in another terminal:")?;
    say("")?;
    let program = match std::env::args().next() {
        Some(name) if name.contains('/') => word(Path::new(&name)),
        Some(name) => name,
        None => "dapbox".to_owned(),
    };
    let command = |what: String| say(format!("  {}", style.accent(&format!("{program} {what}"))));
    let file = |name: &str| word(&dir.join(name));
    command(format!("upload --task {} {}", file("client.toml"), example(&task.vdaf)))?;
    let current = if task.batch == BatchMode::TimeInterval { " --include-current --yes" } else { "" };
    command(format!("collect --task {}{current}", file("collector.toml")))?;
    command(format!("task show {} --data-dir {}", task.id, word(&pair.leader.data_dir)))?;
    say("\nCtrl-C stops both.")
}

/// Another terminal may be in another directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// An absolute path as one word for a shell.
fn word(path: &Path) -> String {
    let text = absolute(path).display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@%".contains(&b)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A measurement that fits the VDAF.
fn example(vdaf: &VdafConfig) -> String {
    let ones = |length: usize, set: usize| {
        let cells: Vec<_> = (0..length).map(|i| if i < set { "1" } else { "0" }).collect();
        cells.join(",")
    };
    match vdaf {
        VdafConfig::Prio3Count => "true".to_owned(),
        VdafConfig::Prio3Sum { max } => max.0.min(7).to_string(),
        VdafConfig::Prio3Histogram { length, .. } => (length / 2).to_string(),
        VdafConfig::Prio3MultihotCountVec { length, .. } => ones(*length, 1),
        VdafConfig::Prio3SumVec { length, .. }
        | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { length, .. } => ones(*length, *length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_for_a_shell() {
        assert_eq!(word(Path::new("/tmp/a-b.c")), "/tmp/a-b.c");
        assert_eq!(word(Path::new("/tmp/it's mine")), r"'/tmp/it'\''s mine'");
    }
}
