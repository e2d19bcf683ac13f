//! `dapbox task import`: adds the tasks of a YAML list, as Janus's command line provisions from.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format},
        control::Control,
        pasted::read_file,
        show,
        style::{counted, say, warn},
    },
    adding, past_closed,
};
use crate::{
    aggregator::tasks,
    config::Config,
    model::{BaseUrl, Duration, Revision, Role, Task, TaskId, Time},
    peer,
    support::format,
    wire::management::task_list::{self, ListedTask, TaskListOverrides},
};

/// The longest list that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Arguments of `dapbox task import`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file is a list as 'janus_cli provision-tasks' reads it, for leaders, for helpers or for both. Every \
    field is used or refused, and the tasks are added together: all of them, or none. Ids, keys and hashes may be base64url \
    or hexadecimal digits. The list says where the other aggregator is; that we are at public_url, or at --url.\n\n\
    A list may hold the private keys of the aggregator that it is from. This server has keys of its own, and takes none: \
    clients fetch the new ones by themselves. Give --new-keys to go on without the old.\n\n\
    What was reported to a task elsewhere is not known here. If a task was in use, give the time from which on reports come \
    here with 'dapbox task close ID --before TIME', or reports could be counted and batches collected twice.\n\n\
    Examples:\n  \
    dapbox task import tasks.yaml --dry-run\n  \
    dapbox task import tasks.yaml --new-keys -o json\n  \
    dapbox task import tasks.yaml --url https://helper.example/dap-09/"
)]
pub struct Args {
    /// The YAML file.
    file: PathBuf,
    /// Our DAP URL, as the other parties of the tasks have it. Without this, /dap-09/ below public_url.
    #[arg(long, value_name = "URL")]
    url: Option<BaseUrl>,
    /// Go on without the private keys of the list.
    #[arg(long)]
    new_keys: bool,
    /// Check the list and show what would be added, and add nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What was added, for machines.
#[derive(Serialize)]
struct Imported {
    /// Which tasks.
    tasks: Vec<ImportedTask>,
    /// Whether they were added.
    added: bool,
}

/// One of them.
#[derive(Serialize)]
struct ImportedTask {
    task: TaskId,
    role: Role,
    /// Before which time everything is closed, if the data directory was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_before: Option<Time>,
}

/// Runs `dapbox task import`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    let url = own_url(&args, &config)?;
    let text = read_file(&args.file, MAX_BYTES)?;
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
        let added = adding(&control, &ids, control.add_tasks(found.clone())).await;
        control.close().await;
        closed = added.map_err(|why| why.context(args.file.display()))?;
    }
    Ok(match args.output {
        Format::Json => {
            let closed_before = |id| closed.iter().find(|(of, _)| *of == id).map(|(_, before)| *before);
            let tasks = found.iter().map(|task| ImportedTask {
                task: task.public.id,
                role: task.role(),
                closed_before: closed_before(task.public.id),
            });
            say(serde_json::to_string_pretty(&Imported { tasks: tasks.collect(), added: !args.dry_run })?)
        }
        Format::Text if closed.is_empty() => say(summary(&found, &url, args.dry_run)),
        Format::Text => say(format!("{}\n\n{}", summary(&found, &url, args.dry_run), past_closed(&closed))),
    }?)
}

/// Where we are, as the other parties have it.
fn own_url(args: &Args, config: &Config) -> Result<String, Failure> {
    match &args.url {
        Some(url) => Ok(url.as_str().to_owned()),
        None if config.public_url.is_empty() => {
            Err(Failure::usage("a list does not say where we are: give --url, or set public_url in the configuration"))
        }
        None => Ok(peer::dap_url(&config.public_url, Revision::Dap09)),
    }
}

/// Why tasks with keys are not taken.
fn with_keys(listed: &[ListedTask]) -> Option<String> {
    let with = listed.iter().find(|listed| !listed.keys.is_empty())?;
    Some(format!(
        "task {} has private keys (hpke_keys), and this server takes only its own. Reports that clients have sealed to the old \
         keys will be refused, whereupon they fetch the new: give --new-keys if that is fine",
        with.task.public.id
    ))
}

/// In what the list differs from the configuration, which has one such limit for all tasks.
fn other_skew(listed: &[ListedTask], ours: Duration) -> Option<String> {
    let other = listed.iter().find(|listed| listed.skew != ours)?;
    Some(format!(
        "task {} takes reports {} ahead of the clock in the list (tolerable_clock_skew); here it will be {}, for all tasks \
         (limits.clock_skew)",
        other.task.public.id,
        format::span(other.skew),
        format::span(ours)
    ))
}

fn summary(found: &[Task], url: &str, is_dry: bool) -> String {
    let mut text = String::new();
    for task in found {
        let public = &task.public;
        let peer = if task.role() == Role::Leader { &public.helper_url } else { &public.leader_url };
        let noise = public.noise.map(|epsilon| format!(", epsilon {epsilon}")).unwrap_or_default();
        text.push_str(&format!(
            "{}  {:<6}  {}, batches {}{noise}; the other aggregator is at {peer}\n",
            public.id,
            show::role(task.role()),
            format::vdaf(&public.vdaf),
            format::batches(public.batch_mode, public.min_batch_size)
        ));
    }
    let done = if is_dry { "would be added" } else { "added" };
    format!("{text}{} {done}. We are at {url} in them.", counted(found.len() as u64, "task"))
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
    fn a_summary_says_what_each_task_is() {
        let mut task = listed(60, &[]).task;
        let plain = summary(&[task.clone()], "https://here.example/", true);
        assert!(plain.contains("1 task would be added. We are at https://here.example/"), "{plain}");
        task.public.noise = Some("0.5".parse().unwrap());
        let noisy = summary(&[task], "https://here.example/", false);
        assert!(noisy.contains(", epsilon 0.5; ") && !plain.contains("epsilon"), "{noisy}");
    }

    #[test]
    fn what_cannot_be_taken_over_is_said() {
        assert_eq!(with_keys(&[listed(60, &[])]), None);
        assert!(with_keys(&[listed(60, &[]), listed(60, &[7])]).unwrap().contains("--new-keys"));
        assert_eq!(other_skew(&[listed(60, &[])], Duration(60)), None);
        let said = other_skew(&[listed(60, &[]), listed(300, &[])], Duration(60)).unwrap();
        assert!(said.contains("5 min") && said.contains("here it will be 1 min"), "{said}");
    }
}
