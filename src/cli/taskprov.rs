//! `dapbox taskprov`: what is needed for tasks that are set up in-band, by the requests that are about them.

use std::{collections::BTreeMap, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Failure, Outcome,
    args::{BatchArgs, Format, VdafArgs},
    style::{Style, say},
    task::{UrlArgs, instant, parameters, scrutinize},
    taskfile::{CollectorPart, Configuration, Parameters, TaskFile},
};
use crate::{
    config::taskprov::{PeerFile, PeerRole, PresentedToken},
    hpke::{Keypair, Suite},
    model::{
        HpkeConfig, Revision, Secret, TaskId, Time, TokenHash, base_url, secret::token, taskprov::VERIFY_KEY_INIT_BYTES,
    },
    support::{clock, files},
    wire::taskprov::advertise,
};

/// The protocol that tasks speak that are set up in-band.
const REVISION: Revision = Revision::Dap09;
/// How many aggregation parameters a batch may be queried with: the VDAFs that we have know only one.
const MAX_BATCH_QUERY_COUNT: u64 = 1;
/// The files of `dapbox taskprov new`: whose they are, and what they are called.
const FOR: [(&str, &str); 3] =
    [("leader", "for-leader.toml"), ("helper", "for-helper.toml"), ("collector", "for-collector.toml")];

/// The subcommands of `dapbox taskprov`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make what a leader, a helper and a collector must have before tasks can be set up in-band.
    New(NewArgs),
    /// Make a task that nobody needs to add: files for its clients and its collector.
    Task(Box<TaskArgs>),
}

/// Arguments of `dapbox taskprov new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Done once, however many tasks there will be. Writes for-leader.toml, for-helper.toml and \
    for-collector.toml, all of them secret: send each over a channel that you trust, and only to whom it is for. The \
    operators of leader and helper name theirs in appliance.toml, [taskprov] peers, and reload; 'dapbox check' looks \
    at it.\n\n\
    Examples:\n  \
    dapbox taskprov new --leader https://a.example --helper https://b.example\n  \
    dapbox taskprov new --leader https://a.example/x/ \\\n      --helper https://b.example/ --as-is --out with-b")]
pub struct NewArgs {
    #[command(flatten)]
    urls: UrlArgs,
    /// Where to write the files; the directory is made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox taskprov task`.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("vdaf", |vdaf| vdaf.required(true)),
    after_help = "Writes client.toml and collector.toml, which 'dapbox upload' and 'dapbox collect' take as those of any \
    task. Each request then says what the task is, and both aggregators set it up when they first hear of it, if they \
    take it: its minimum batch size must not be below the floor of either operator.\n\n\
    Examples:\n  \
    dapbox taskprov task --collector for-collector.toml --vdaf count --expires 90d\n  \
    dapbox taskprov task --collector for-collector.toml --expires 2031-01-01 \\\n      --vdaf histogram --length 12 --min-batch-size 500 --out steps"
)]
pub struct TaskArgs {
    /// The collector's file, from 'dapbox taskprov new'.
    #[arg(long, value_name = "FILE")]
    collector: PathBuf,
    #[command(flatten)]
    vdaf: VdafArgs,
    #[command(flatten)]
    batch: BatchArgs,
    /// Reports after this are refused: a date, or a length of time from now such as 90d.
    #[arg(long, value_name = "TIME", value_parser = instant, help_heading = "Batches")]
    expires: Time,
    /// Tells the task from others that are configured alike. Random if this is left out.
    #[arg(long, value_name = "TEXT")]
    info: Option<String>,
    /// Where to write the files; the directory is made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What a collector has for all tasks that it makes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectorFile {
    #[serde(deserialize_with = "base_url::deserialize")]
    leader_url: String,
    #[serde(deserialize_with = "base_url::deserialize")]
    helper_url: String,
    #[serde(with = "token")]
    token: Secret,
    private_key: Secret,
    key: HpkeConfig,
}

/// What was made, for machines.
#[derive(Serialize)]
struct Made {
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
    let [leader_url, helper_url] = args.urls.of(REVISION)?;
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
    let collector = toml::to_string(&CollectorFile { leader_url, helper_url, token, private_key, key })?;
    let collector = format!(
        "# What a collector needs for tasks that are set up in-band. SECRET: whoever has it can read all aggregates.\n\
         # Keep a copy. Make a task: dapbox taskprov task --collector for-collector.toml --vdaf count --expires 90d\n\n\
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
    let made = Made { task: None, files: files.into_iter().map(|(whose, path, _)| (whose, path)).collect() };
    tell(&made, args.output, || {
        "\nNext, at leader and helper: name the file in appliance.toml, [taskprov] peers,\nset public_url, and give 'dapbox reload'. \
         Send each file over a channel that you trust."
            .to_owned()
    })
}

fn task(args: TaskArgs) -> Outcome {
    let context = || args.collector.display();
    let text = files::read_text(&args.collector).map_err(|e| Failure::new(e).context(context()))?;
    let file: CollectorFile =
        toml::from_str(&text).map_err(|error| Failure::new(error.message()).context(context()))?;
    let urls = [file.leader_url, file.helper_url];
    let drawn = parameters(REVISION, urls, args.vdaf.configure()?, &args.batch)?;
    let drawn = Parameters { expires: Some(args.expires), ..drawn };
    scrutinize(&drawn)?;
    let info = args.info.unwrap_or_else(|| drawn.id.to_string());
    let made = advertise(drawn.parameters(), Bytes::from(info), MAX_BATCH_QUERY_COUNT).map_err(Failure::usage)?;
    let id = made.configuration.public.id;
    let task = Parameters { id, configuration: Some(Configuration(made.bytes.to_vec())), ..drawn };
    let since = Some(task.first_collected(clock::now()));
    let part =
        CollectorPart { since, token: file.token, previous_token: None, private_key: file.private_key, key: file.key };
    let client = TaskFile { name: None, task, leader: None, helper: None, collector: None };
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
    tell(&Made { task: Some(id), files }, args.output, || steps)
}

/// Nothing is overwritten.
fn refuse_existing<'a>(mut paths: impl Iterator<Item = &'a PathBuf>) -> Outcome {
    match paths.find(|path| path.exists()) {
        Some(path) => Err(Failure::new(format!(
            "{} is there already and is not overwritten; choose another directory",
            path.display()
        ))),
        None => Ok(()),
    }
}

fn tell(made: &Made, format: Format, next: impl FnOnce() -> String) -> Outcome {
    if format == Format::Json {
        return Ok(say(serde_json::to_string_pretty(made)?)?);
    }
    let style = Style::stdout();
    if let Some(task) = made.task {
        say(format!("Task {task}, set up in-band\n"))?;
    }
    for (whose, path) in &made.files {
        let kind = if *whose == "client" { "public" } else { "secret" };
        say(format!("  {:<28} {}  for the {whose}", path.display().to_string(), style.dim(kind)))?;
    }
    Ok(say(next())?)
}
