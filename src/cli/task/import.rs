//! `dapbox task import`: adds the tasks of a YAML list for Janus's `provision-tasks`.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format, OutputArgs},
        control::Control,
        input::read_limited,
        show,
        style::{Style, counted, print, warn},
        table::Table,
    },
    add_and_find_closed, describe_closed_past,
};
use crate::{
    aggregator::tasks,
    config::Config,
    model::{BaseUrl, Duration, Revision, Role, Task, TaskId, Time},
    peer,
    support::format,
    wire::management::task_list::{self, ListedTask, TaskListOverrides},
};

/// Maximum size of the file, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Arguments of `dapbox task import`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads the format of 'janus_cli provision-tasks', for leaders, helpers or both. Unknown fields are \
    refused. Either all tasks are added or none. Ids, keys and hashes are base64url or hexadecimal. The list contains \
    the URL of the other aggregator; this aggregator's URL is public_url or --url.\n\n\
    A list may contain private HPKE keys of its aggregator. This server uses its own keys instead, and clients fetch the \
    new ones: --new-keys confirms this.\n\n\
    This server does not know the earlier reports of a task. If a task was in use, run 'dapbox task close ID --before \
    TIME' with the time of the move; otherwise reports could be counted, and batches collected, twice.\n\n\
    Examples:\n  \
    dapbox task import tasks.yaml --dry-run\n  \
    dapbox task import tasks.yaml --new-keys -o json\n  \
    dapbox task import tasks.yaml --url https://helper.example/dap-09/"
)]
pub struct Args {
    /// YAML file to read.
    file: PathBuf,
    /// This aggregator's DAP URL in the tasks. Default: /dap-09/ below public_url.
    #[arg(long, value_name = "URL")]
    url: Option<BaseUrl>,
    /// Ignore private HPKE keys in the list.
    #[arg(long)]
    new_keys: bool,
    /// Validate the list and show its tasks without adding them.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON output.
#[derive(Serialize)]
struct Imported {
    tasks: Vec<ImportedTask>,
    /// False for a dry run.
    added: bool,
}

/// A task of the list.
#[derive(Serialize)]
struct ImportedTask {
    task: TaskId,
    role: Role,
    /// End of the closed past, if the data directory was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_before: Option<Time>,
}

/// Runs `dapbox task import`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    let url = own_url(&args, &config)?;
    let text = read_limited(&args.file, MAX_BYTES)?;
    let context = |why: String| Failure::new(why).context(args.file.display());
    let listed = task_list::read(&text, TaskListOverrides { revision: Revision::Dap09, url: &url }).map_err(context)?;
    if let Some(why) = with_keys(&listed).filter(|_| !args.new_keys) {
        return Err(context(why));
    }
    if let Some(difference) = other_skew(&listed, Duration(config.limits.clock_skew.as_secs())) {
        warn(difference);
    }
    let found: Vec<Task> = listed.into_iter().map(|listed| listed.task).collect();
    tasks::check_all(&found).map_err(|why| context(why.to_string()))?;
    let mut closed = Vec::new();
    if !args.dry_run {
        let control = Control::open(&config).await?;
        let ids: Vec<TaskId> = found.iter().map(|task| task.public.id).collect();
        let added = add_and_find_closed(&control, &ids, control.add_tasks(found.clone())).await;
        control.close().await;
        closed = added.map_err(|why| why.context(args.file.display()))?;
    }
    Ok(match args.output.format {
        Format::Json => {
            let closed_before = |id| closed.iter().find(|(of, _)| *of == id).map(|(_, before)| *before);
            let tasks = found.iter().map(|task| ImportedTask {
                task: task.public.id,
                role: task.role(),
                closed_before: closed_before(task.public.id),
            });
            print(serde_json::to_string_pretty(&Imported { tasks: tasks.collect(), added: !args.dry_run })?)
        }
        Format::Text if closed.is_empty() => print(summary(&found, &url, args.dry_run)),
        Format::Text => print(format!("{}\n\n{}", summary(&found, &url, args.dry_run), describe_closed_past(&closed))),
    }?)
}

/// Returns this aggregator's URL in the tasks.
fn own_url(args: &Args, config: &Config) -> Result<String, Failure> {
    match &args.url {
        Some(url) => Ok(url.as_str().to_owned()),
        None if config.public_url.is_empty() => {
            Err(Failure::usage("the URL of this aggregator is unknown (hint: use --url, or set public_url)"))
        }
        None => Ok(peer::dap_url(&config.public_url, Revision::Dap09)),
    }
}

/// Returns an error if a task has private keys.
fn with_keys(listed: &[ListedTask]) -> Option<String> {
    let with = listed.iter().find(|listed| !listed.keys.is_empty())?;
    Some(format!(
        "task {} has private keys (hpke_keys), but this server uses its own (hint: --new-keys ignores them; reports \
         encrypted to the old keys are refused until clients fetch the new ones)",
        with.task.public.id
    ))
}

/// Returns a warning if the clock skew of a task differs from the server's, which applies to all tasks.
fn other_skew(listed: &[ListedTask], ours: Duration) -> Option<String> {
    let other = listed.iter().find(|listed| listed.skew != ours)?;
    Some(format!(
        "task {}: tolerable_clock_skew {} is ignored; limits.clock_skew of this server is {}",
        other.task.public.id,
        format::span(other.skew),
        format::span(ours)
    ))
}

fn summary(found: &[Task], url: &str, is_dry: bool) -> String {
    let mut table = Table::new(Style::stdout(), ["id", "role", "computes", "batches", "other aggregator"]);
    for task in found {
        let public = &task.public;
        let peer = if task.role() == Role::Leader { &public.helper_url } else { &public.leader_url };
        let noise = public.noise.map(|epsilon| format!(", epsilon {epsilon}")).unwrap_or_default();
        table.row([
            public.id.into(),
            show::role(task.role()).into(),
            format!("{}{noise}", format::vdaf(&public.vdaf)).into(),
            format::batches(public.batch_mode, public.min_batch_size).into(),
            peer.into(),
        ]);
    }
    let done = if is_dry { "would be added" } else { "added" };
    format!("{table}\n{} {done} with {url} as this aggregator's URL.", counted(found.len() as u64, "task"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregator::testing;

    fn listed(skew: u64, keys: &[u8]) -> ListedTask {
        let task = testing::task(Revision::Dap09);
        ListedTask { task, skew: Duration(skew), keys: keys.to_vec() }
    }

    #[test]
    fn summarizes_imported_tasks() {
        let mut task = listed(60, &[]).task;
        let plain = summary(&[task.clone()], "https://here.example/", true);
        assert!(plain.contains("1 task would be added with https://here.example/ as"), "{plain}");
        task.public.noise = Some("0.5".parse().unwrap());
        let noisy = summary(&[task], "https://here.example/", false);
        assert!(noisy.contains(", epsilon 0.5 ") && !plain.contains("epsilon"), "{noisy}");
    }

    #[test]
    fn reports_keys_and_skew_of_imported_list() {
        assert_eq!(with_keys(&[listed(60, &[])]), None);
        assert!(with_keys(&[listed(60, &[]), listed(60, &[7])]).unwrap().contains("--new-keys"));
        assert_eq!(other_skew(&[listed(60, &[])], Duration(60)), None);
        let said = other_skew(&[listed(60, &[]), listed(300, &[])], Duration(60)).unwrap();
        assert!(said.contains("5 min") && said.contains("this server is 1 min"), "{said}");
    }
}
