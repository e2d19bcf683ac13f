//! `dapbox taskprov`: prepares and creates tasks that are advertised in-band (taskprov).

use std::{collections::BTreeMap, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Failure, Outcome,
    args::{BatchArgs, Format, OutputArgs, RevisionArg, VdafArgs},
    style::{Style, print},
    task::{UrlArgs, parameters, parse_time, validate},
    taskfile::{CollectorPart, Configuration, Parameters, TaskFile},
};
use crate::{
    config::taskprov::{PeerFile, PeerRole, PresentedToken},
    hpke::{Keypair, Suite},
    model::{
        Duration, HpkeConfig, Revision, Secret, TaskId, Time, TokenHash, base_url, secret::token,
        taskprov::VERIFY_KEY_INIT_BYTES,
    },
    support::{clock, files},
    wire::taskprov::{advertise, for_revision},
};

/// Maximum number of queries per batch: all supported VDAFs have a single aggregation parameter.
const MAX_BATCH_QUERY_COUNT: u64 = 1;
/// The files of `dapbox taskprov new`: party and file name.
const FOR: [(&str, &str); 3] =
    [("leader", "for-leader.toml"), ("helper", "for-helper.toml"), ("collector", "for-collector.toml")];

/// The subcommands of `dapbox taskprov`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create the secrets that leader, helper and collector share for all in-band tasks.
    New(NewArgs),
    /// Create an in-band task: files for its clients and its collector.
    Task(Box<TaskArgs>),
}

/// Arguments of `dapbox taskprov new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Run this once for any number of tasks. It writes for-leader.toml, for-helper.toml and \
    for-collector.toml. All are secret: send each only to its party, over a trusted channel. The operators of leader \
    and helper add their file to [taskprov] peers in appliance.toml and reload; 'dapbox check' validates it.\n\n\
    Examples:\n  \
    dapbox taskprov new --leader https://a.example --helper https://b.example\n  \
    dapbox taskprov new --dap 19 --leader https://a.example \\\n      --helper https://b.example\n  \
    dapbox taskprov new --leader https://a.example/x/ \\\n      --helper https://b.example/ --as-is --out with-b")]
pub struct NewArgs {
    /// Protocol revision of the tasks: 09 or 19.
    #[arg(long, value_enum, value_name = "REVISION", default_value_t)]
    dap: RevisionArg,
    #[command(flatten)]
    urls: UrlArgs,
    /// Directory for the files; created if missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox taskprov task`.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("vdaf", |vdaf| vdaf.required(true)),
    after_help = "Writes client.toml and collector.toml for 'dapbox upload' and 'dapbox collect'. Each request advertises \
    the task, and both aggregators add it with the first request, if its minimum batch size is not below the one that \
    their operators require.\n\n\
    Examples:\n  \
    dapbox taskprov task --collector for-collector.toml --vdaf count --expires 90d\n  \
    dapbox taskprov task --collector for-collector.toml --expires 2031-01-01 \\\n      --vdaf histogram --length 12 --min-batch-size 500 --out steps"
)]
pub struct TaskArgs {
    /// for-collector.toml from 'dapbox taskprov new'.
    #[arg(long, value_name = "FILE")]
    collector: PathBuf,
    #[command(flatten)]
    vdaf: VdafArgs,
    #[command(flatten)]
    batch: BatchArgs,
    /// Start of the task, before which reports are refused (DAP-19): a date, or a duration from now. Default: now.
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Batches")]
    starts: Option<Time>,
    /// End of the task, after which reports are refused: a date, or a duration from now such as 90d.
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Batches")]
    expires: Time,
    /// Text that distinguishes tasks with the same parameters. Default: random.
    #[arg(long, value_name = "TEXT")]
    info: Option<String>,
    /// Directory for the files; created if missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// The collector's secrets for all of its in-band tasks.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectorFile {
    /// The protocol revision of the tasks.
    #[serde(default = "first_revision")]
    revision: Revision,
    #[serde(deserialize_with = "base_url::deserialize")]
    leader_url: String,
    #[serde(deserialize_with = "base_url::deserialize")]
    helper_url: String,
    #[serde(with = "token")]
    token: Secret,
    private_key: Secret,
    key: HpkeConfig,
}

/// The revision of files without one.
fn first_revision() -> Revision {
    Revision::Dap09
}

/// The JSON output.
#[derive(Serialize)]
struct Created {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<TaskId>,
    files: BTreeMap<&'static str, PathBuf>,
}

/// Runs `dapbox taskprov`.
pub fn run(command: Command) -> Outcome {
    match command {
        Command::New(args) => new(&args),
        Command::Task(args) => task(*args),
    }
}

fn new(args: &NewArgs) -> Outcome {
    let revision = args.dap.revision();
    if for_revision(revision).is_none() {
        return Err(Failure::usage("in-band tasks are supported in DAP-09 and DAP-19 (hint: use --dap 19)"));
    }
    let [leader_url, helper_url] = args.urls.of(revision)?;
    let (helper_token, token) = (Secret::random_token(), Secret::random_token());
    let keypair = Keypair::generate(1, Suite::DEFAULT)?;
    let key = keypair.config().clone();
    let of_helper = PeerFile {
        role: PeerRole::Helper,
        endpoint: helper_url.clone(),
        verify_key_init: Secret::random(VERIFY_KEY_INIT_BYTES),
        leader_token_hashes: Vec::new(),
        helper_tokens: vec![PresentedToken(helper_token.clone())],
        collector_token_hashes: vec![TokenHash::of(token.expose())],
        report_expiry_age: None,
        min_batch_size: None,
        collector_key: key.clone(),
    };
    let of_leader = PeerFile {
        role: PeerRole::Leader,
        endpoint: leader_url.clone(),
        leader_token_hashes: vec![TokenHash::of(helper_token.expose())],
        helper_tokens: Vec::new(),
        collector_token_hashes: Vec::new(),
        ..of_helper.clone()
    };
    let private_key = keypair.private_key().clone();
    let collector = toml::to_string(&CollectorFile { revision, leader_url, helper_url, token, private_key, key })?;
    let collector = format!(
        "# A collector's secrets for in-band tasks. SECRET: they decrypt all aggregates.\n\
         # Keep a copy. Create a task: dapbox taskprov task --collector for-collector.toml --vdaf count --expires 90d\n\n\
         {collector}"
    );
    let texts = [of_helper.to_text(), of_leader.to_text(), Ok(collector)];
    let files = FOR.iter().zip(texts).map(|((whose, name), text)| (*whose, args.out.join(name), text));
    let files: Vec<_> = files.collect();
    std::fs::create_dir_all(&args.out).map_err(|e| Failure::new(e).context(args.out.display()))?;
    refuse_existing(files.iter().map(|(_, path, _)| path))?;
    for (_, path, text) in &files {
        let write = || -> Result<(), Failure> {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_ref().map_err(Failure::new)?.as_bytes())?;
            Ok(file.sync_all()?)
        };
        write().map_err(|e| e.context(path.display()))?;
    }
    let made = Created { task: None, files: files.into_iter().map(|(whose, path, _)| (whose, path)).collect() };
    print_created(&made, args.output.format, || {
        "\nNext, at leader and helper: add the file to [taskprov] peers in appliance.toml,\nset public_url, and run 'dapbox \
         reload'. Send each file over a trusted channel."
            .to_owned()
    })
}

fn task(args: TaskArgs) -> Outcome {
    let context = || args.collector.display();
    let text = files::read_text(&args.collector).map_err(|e| Failure::new(e).context(context()))?;
    let file: CollectorFile =
        toml::from_str(&text).map_err(|error| Failure::new(error.message()).context(context()))?;
    let urls = [file.leader_url, file.helper_url];
    let drawn = parameters(file.revision, urls, args.vdaf.configure()?, &args.batch)?;
    let is_first = file.revision == first_revision();
    if is_first && args.starts.is_some() {
        return Err(Failure::usage("in-band tasks of DAP-09 have no start (hint: omit --starts)"));
    }
    let unit = Duration(drawn.time_precision.as_secs());
    let starts = args.starts.unwrap_or_else(clock::now).truncate(unit);
    let expires = if is_first { args.expires } else { args.expires.round_up(unit) };
    // Later drafts have the text among the task parameters.
    let text = args.info.unwrap_or_else(|| drawn.id.to_string());
    let (info, own_info) = if is_first { (String::new(), text) } else { (text, String::new()) };
    let drawn = Parameters { starts: (!is_first).then_some(starts), expires: Some(expires), info, ..drawn };
    validate(&drawn)?;
    let made = advertise(drawn.parameters(), Bytes::from(own_info), MAX_BATCH_QUERY_COUNT).map_err(Failure::usage)?;
    let id = made.configuration.public.id;
    let task = Parameters { id, configuration: Some(Configuration(made.bytes.to_vec())), ..drawn };
    let since = Some(task.first_collection_start(clock::now()));
    let part =
        CollectorPart { since, token: file.token, previous_token: None, private_key: file.private_key, key: file.key };
    let client = TaskFile::public(task);
    client.check().map_err(Failure::usage)?;
    let collector = TaskFile { collector: Some(part), ..client.clone() };
    let files = [("client", "client.toml", client), ("collector", "collector.toml", collector)];
    let files = files.map(|(whose, name, file)| (whose, args.out.join(name), file));
    std::fs::create_dir_all(&args.out).map_err(|e| Failure::new(e).context(args.out.display()))?;
    refuse_existing(files.iter().map(|(_, path, _)| path))?;
    files.iter().try_for_each(|(_, path, file)| file.write(path))?;
    let steps = format!(
        "\nNext:\n  dapbox upload --task {} MEASUREMENT\n  dapbox collect --task {}",
        files[0].1.display(),
        files[1].1.display()
    );
    let files = files.into_iter().map(|(whose, path, _)| (whose, path)).collect();
    print_created(&Created { task: Some(id), files }, args.output.format, || steps)
}

/// Refuses to overwrite files.
fn refuse_existing<'a>(mut paths: impl Iterator<Item = &'a PathBuf>) -> Outcome {
    match paths.find(|path| path.exists()) {
        Some(path) => Err(Failure::new(format!("{} already exists (hint: choose another directory)", path.display()))),
        None => Ok(()),
    }
}

fn print_created(made: &Created, format: Format, next: impl FnOnce() -> String) -> Outcome {
    if format == Format::Json {
        return Ok(print(serde_json::to_string_pretty(made)?)?);
    }
    let style = Style::stdout();
    if let Some(task) = made.task {
        print(format!("Task {task}, in-band\n"))?;
    }
    for (whose, path) in &made.files {
        let kind = if *whose == "client" { "public" } else { "secret" };
        print(format!("  {:<28} {}  for the {whose}", path.display().to_string(), style.dim(kind)))?;
    }
    Ok(print(next())?)
}
