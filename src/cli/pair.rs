//! `dapbox pair`: a leader and a helper that stay up, to try things with.

use std::path::{Path, PathBuf};

use url::Url;

use super::{
    Failure, Outcome,
    args::{BatchArgs, VdafArgs},
    local::{Directory, Pair},
    serve::Signals,
    show,
    style::Style,
    task,
    taskfile::{TaskFile, TaskFiles},
};
use crate::model::{Duration, VdafConfig};

/// Arguments of `dapbox pair`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Starts a leader and a helper in one process, on loopback only, with a task that both know, and \
    prints what to type in another terminal. Everything is gone afterwards, unless there is a --dir: the same \
    directory brings the same task back, on the same ports.\n\n\
    Examples:\n  \
    dapbox pair\n  \
    dapbox pair --vdaf histogram --length 10\n  \
    dapbox pair --dir my-pair --port-base 9000 --vdaf sum --bits 8"
)]
pub struct Args {
    /// Keep the data and the task files here.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The leader's port; the helper's is the next one. Free ones are chosen if this is left out.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..65535))]
    port_base: Option<u16>,
    #[command(flatten)]
    vdaf: VdafArgs,
    #[command(flatten)]
    batch: BatchArgs,
}

/// Runs `dapbox pair`.
pub async fn run(args: Args) -> Outcome {
    let mut signals = Signals::new()?;
    let directory = Directory::new(args.dir.as_deref())?;
    let dir = directory.path();
    let known = known_files(dir)?;
    let ports = match (&known, args.port_base) {
        (Some(files), _) => [port(&files.leader.task.leader_url)?, port(&files.leader.task.helper_url)?],
        (None, Some(base)) => [base, base + 1],
        (None, None) => [0, 0],
    };
    let pair = Pair::start(dir, ports).await?;
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

fn port(url: &str) -> Result<u16, Failure> {
    let port = Url::parse(url).ok().and_then(|url| url.port());
    port.ok_or_else(|| Failure::new(format!("{url} is not the URL of one of a pair: it has no port")))
}

/// Makes the task if there is none, adds it to both and says how to use it.
async fn introduce(args: &Args, directory: &Directory, pair: &Pair, known: Option<TaskFiles>) -> Outcome {
    let files = match known {
        Some(files) => files,
        None => {
            let batch = args.batch.clone().or(1, Duration(10));
            let (leader, helper) = (pair.leader.url.clone(), pair.helper.url.clone());
            let files = TaskFiles::generate(task::parameters(leader, helper, &args.vdaf, &batch, "count")?)?;
            files.write(directory.path())?;
            files
        }
    };
    pair.add(&files, false).await?;
    print_introduction(directory, pair, &files);
    Ok(())
}

fn print_introduction(directory: &Directory, pair: &Pair, files: &TaskFiles) {
    let style = Style::stdout();
    let task = &files.client.task;
    let line = |name: &str, value: &str| println!("  {}{value}", style.dim(&format!("{name:<10}")));
    println!("{}\n", style.bold("A leader and a helper are running on this machine."));
    line("leader", &pair.leader.url);
    line("helper", &pair.helper.url);
    line("task", &task.id.to_string());
    line("measures", &show::vdaf(&task.vdaf));
    line("batches", &show::batches(task.batch, task.min_batch_size));
    // Another terminal may be in another directory.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let dir = absolute(directory.path());
    line("files", &format!("{dir}{}", if directory.is_temporary() { " (removed in the end)" } else { "" }));
    println!("\nTry this in another terminal:\n");
    let program = match std::env::args().next() {
        Some(name) if name.contains('/') => absolute(Path::new(&name)),
        Some(name) => name,
        None => "dapbox".to_owned(),
    };
    let command = |what: String| println!("  {}", style.accent(&format!("{program} {what}")));
    command(format!("upload --task {dir}/client.toml {}", example(&task.vdaf)));
    command(format!("collect --task {dir}/collector.toml"));
    command(format!("task show {} --data-dir {}", task.id, absolute(&pair.leader.data_dir)));
    println!("\nCtrl-C stops both.");
}

/// A measurement that fits the VDAF.
fn example(vdaf: &VdafConfig) -> String {
    let ones = |length: usize, set: usize| {
        let cells: Vec<_> = (0..length).map(|i| if i < set { "1" } else { "0" }).collect();
        cells.join(",")
    };
    match vdaf {
        VdafConfig::Prio3Count => "true".to_owned(),
        VdafConfig::Prio3Sum { bits } => if *bits < 3 { "1" } else { "7" }.to_owned(),
        VdafConfig::Prio3Histogram { length, .. } => (length / 2).to_string(),
        VdafConfig::Prio3MultihotCountVec { length, .. } => ones(*length, 1),
        VdafConfig::Prio3SumVec { length, .. }
        | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { length, .. } => ones(*length, *length),
    }
}
