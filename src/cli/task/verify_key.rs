//! `dapbox task verify-key`: rotates the verification keys of a task.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format, OutputArgs},
        control::Control,
        style::{Style, print},
        table::Table,
        timestamp,
    },
    ShowArgs, find,
};
use crate::{
    model::{
        Role, Secret, TaskId,
        verify_keys::{VerifyKeyAction, VerifyKeyChange, VerifyKeyStage, VerifyKeyStatus},
    },
    support::files,
    vdaf,
    views::status::TaskStatus,
};

/// The subcommands of `dapbox task verify-key`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add a verification key, for use after the present one.
    Add(AddArgs),
    /// Stop using a verification key for new reports.
    Retire(RetireArgs),
    /// List the verification keys of a task.
    #[command(
        after_help = "The current key is the oldest active one: the leader uses it for reports that are made now.\n\n\
        Example:\n  \
        dapbox task verify-key list 9GgQ"
    )]
    List(ShowArgs),
}

/// Arguments of `dapbox task verify-key add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "For tasks of DAP-19. Leader and helper must both know a key before it is used. To rotate:\n  \
    1. Add a key at one aggregator. This writes a file (SECRET).\n  \
    2. Give the file to the other aggregator's operator, who adds it, too.\n  \
    3. Retire the old key at the leader, which then uses the new key.\n  \
    4. Retire the old key at the helper.\n\n\
    Examples:\n  \
    dapbox task verify-key add 9GgQ --out key.toml\n  \
    dapbox task verify-key add 9GgQ --file key.toml")]
#[command(group(clap::ArgGroup::new("where").required(true).args(["out", "file"])))]
pub struct AddArgs {
    /// Task id, its first characters, or the task's name.
    #[arg(allow_hyphen_values = true)]
    id: String,
    /// File to write a new, random key to (SECRET), for the other aggregator.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// File with the key that the other aggregator has written.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox task verify-key retire`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reports made until now are still verified with the key. It is deleted when all of them are closed: \
    two days after the report expiry age. A task without report expiry keeps it.\n\n\
    With --now, for a compromised key, it verifies no more reports, except those of jobs in flight. Reports that wait \
    for it are dropped. Backups still contain the key: retire it again after a restore.\n\n\
    Examples:\n  \
    dapbox task verify-key retire 9GgQ 0\n  \
    dapbox task verify-key retire 9GgQ 0 --now"
)]
pub struct RetireArgs {
    /// Task id, its first characters, or the task's name.
    #[arg(allow_hyphen_values = true)]
    id: String,
    /// Key id.
    key: u8,
    /// Delete the key immediately.
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A verification key on its way to the other aggregator.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    task: TaskId,
    id: u8,
    key: Secret,
}

impl KeyFile {
    fn read(path: &Path) -> Result<Self, Failure> {
        let in_file = |error: String| Failure::new(error).context(path.display());
        let text = files::read_text(path).map_err(|error| in_file(error.to_string()))?;
        // The error of the parser would repeat the line, which may contain the key.
        let why = "not a verification key file (hint: use the file that 'dapbox task verify-key add --out' wrote)";
        toml::from_str(&text).map_err(|_| in_file(why.to_owned()))
    }

    /// Creates the file, readable by its owner only.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).map_err(Failure::new)?;
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            writeln!(file, "# SECRET: a verification key, for the other aggregator only.")?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| Failure::new(error).context(path.display()))
    }
}

/// Runs `dapbox task verify-key`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Add(args) => add(args).await,
        Command::Retire(args) => retire(args).await,
        Command::List(args) => list(args).await,
    }
}

async fn add(args: AddArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let added = add_key(&control, &args).await;
    control.close().await;
    let (task, id, keys) = added?;
    if args.output.format == Format::Text {
        print(format!("Task {}: verification key {id} added.", task.id))?;
        if let Some(file) = &args.out {
            let other = if task.role == Role::Leader { "helper" } else { "leader" };
            let (file, id) = (file.display(), task.id);
            print(format!(
                "\nGive {file} (SECRET) to the {other}'s operator, who adds it with:\n\n  \
                 dapbox task verify-key add {id} --file {file}\n"
            ))?;
        }
    }
    show(&keys, args.output)
}

/// Adds the key of the file, or a new one. A new key is in its file before it is added, so that it cannot be lost.
async fn add_key(control: &Control, args: &AddArgs) -> Result<(TaskStatus, u8, Vec<VerifyKeyStatus>), Failure> {
    let tasks = control.tasks().await?;
    let task = find(&tasks, &args.id)?.clone();
    let key = match (&args.file, &args.out) {
        (Some(file), _) => KeyFile::read(file)?,
        (None, Some(out)) => {
            let key = new_key(control, &task).await?;
            key.write(out)?;
            key
        }
        (None, None) => return Err(Failure::usage("--out or --file is required")),
    };
    if key.task != task.id {
        return Err(Failure::new(format!("the file has a key of task {}, not of {}", key.task, task.id)));
    }
    let change = VerifyKeyChange { task: task.id, change: VerifyKeyAction::Add { id: key.id, key: key.key } };
    let added = control.change_verify_keys(change).await;
    if added.is_err()
        && let Some(out) = &args.out
    {
        let _ = std::fs::remove_file(out);
    }
    Ok((task, key.id, added?))
}

async fn new_key(control: &Control, task: &TaskStatus) -> Result<KeyFile, Failure> {
    let length = vdaf::preparer(task.revision, &task.vdaf).map_err(Failure::new)?.verify_key_length();
    let keys = control.verify_keys(task.id).await?.unwrap_or_default();
    let last = keys.iter().map(|key| key.id).max().unwrap_or_default();
    let is_unused = |id: &u8| keys.iter().all(|key| key.id != *id);
    let id = (last..=u8::MAX).chain(0..last).find(is_unused);
    let id = id.ok_or_else(|| Failure::new("all 256 ids of verification keys are used; create a new task"))?;
    Ok(KeyFile { task: task.id, id, key: Secret::random(length) })
}

async fn retire(args: RetireArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let (id, key) = (&args.id, args.key);
    let changed = async {
        let task = find(&control.tasks().await?, id)?.id;
        let change = if args.now { VerifyKeyAction::Delete { id: key } } else { VerifyKeyAction::Retire { id: key } };
        Ok::<_, Failure>((task, control.change_verify_keys(VerifyKeyChange { task, change }).await?))
    };
    let changed = changed.await;
    control.close().await;
    let (task, keys) = changed?;
    if args.output.format == Format::Text {
        print(format!("Task {task}: verification key {key} {}.", if args.now { "deleted" } else { "retired" }))?;
    }
    show(&keys, args.output)
}

async fn list(args: ShowArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let found = async {
        let task = find(&control.tasks().await?, &args.id)?.id;
        control.verify_keys(task).await?.ok_or_else(|| Failure::new(format!("unknown task {task}")))
    };
    let found = found.await;
    control.close().await;
    show(&found?, args.output)
}

fn show(keys: &[VerifyKeyStatus], output: OutputArgs) -> Outcome {
    output.print(&keys, || {
        let mut table = Table::new(Style::stdout(), ["id", "state", "added", "until"]);
        for key in keys {
            let (state, until) = match key.stage {
                VerifyKeyStage::Active if key.is_current => ("current", None),
                VerifyKeyStage::Active => ("active", None),
                VerifyKeyStage::Retired { at } => ("retired", Some(at)),
                VerifyKeyStage::Deleted { at } => ("deleted", Some(at)),
            };
            let added = key.since.map_or_else(|| "with the task".to_owned(), timestamp::show);
            let until = until.map_or_else(String::new, timestamp::show);
            table.row([key.id.to_string().into(), state.into(), added.into(), until.into()]);
        }
        table.to_string()
    })
}
