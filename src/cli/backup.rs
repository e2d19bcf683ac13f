//! `dapbox backup`: a copy of everything, made while the server runs or when it does not, and reading one through.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format},
    control::{Control, Socket},
    show,
    style::{self, Style, say},
    timestamp,
};
use crate::{
    aggregator::offline::Offline,
    config::Config,
    server,
    store::{self, BackupContents, BackupOptions, TaskContents},
};

/// Arguments of `dapbox backup`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "The server goes on while its backup is made, which shows everything as it was at one moment. \
    Everything is in it: tasks, HPKE keys, reports, sums. Keep it as safe as the data directory.\n\n\
    Examples:\n  \
    dapbox backup --output monday.backup\n  \
    dapbox backup verify monday.backup\n  \
    dapbox restore monday.backup --data-dir new-data"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    create: CreateArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Read a backup through: whether it is whole, and what it holds.
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The file to make; '-', which is the default, for standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
    /// Put in the key that secrets are encrypted with: whoever has the backup can read them then.
    #[arg(long)]
    with_key: bool,
    /// Say as JSON what is in the file.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "The exit code is 1 if the backup is no good.\n\n\
    Example:\n  \
    dapbox backup verify monday.backup")]
struct VerifyArgs {
    /// The backup; '-' for standard input.
    file: PathBuf,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs `dapbox backup`.
pub async fn run(args: Args) -> Outcome {
    match args.command {
        Some(Command::Verify(args)) => verify(args).await,
        None => create(args.create).await,
    }
}

/// Whether a name stands for standard input or output.
pub fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}

async fn create(args: CreateArgs) -> Outcome {
    let config = args.config.load(None)?;
    if is_standard(&args.output) {
        if io::stdout().is_terminal() {
            return Err(Failure::usage("a backup is no text for a terminal; give --output FILE, or redirect it"));
        }
        return copy(&config, args.with_key, io::stdout()).await;
    }
    let target = args.output.clone();
    if target.exists() && !args.force {
        return Err(Failure::new(format!("{} is there already; --force replaces it", target.display())));
    }
    let partial = Partial::create(&target)?;
    copy(&config, args.with_key, BufWriter::new(partial.file.try_clone()?)).await?;
    // What cannot be read is no backup.
    let path = partial.path.clone();
    let contents = tokio::task::spawn_blocking(move || read_through(File::open(path)?)).await??;
    partial.keep(&target)?;
    if args.json {
        return Ok(say(serde_json::to_string_pretty(&contents)?)?);
    }
    let (bytes, moment) = (style::count(contents.bytes), timestamp::show(contents.moment));
    Ok(say(format!(
        "{} has {} in {bytes} bytes, as it was at {moment}.",
        target.display(),
        style::counted(contents.tasks.len() as u64, "task"),
    ))?)
}

/// Copies the bytes of a backup, from the running server or from the data directory.
async fn copy(config: &Config, with_key: bool, mut out: impl Write + Send + 'static) -> Outcome {
    let bar = style::spinner("copying");
    match Control::open(config).await? {
        Control::Server(socket) => {
            let mut answer = socket.backup(with_key).await?;
            let cut = |error| Failure::new(error).context("the backup is cut off; the server's log says why");
            while let Some(piece) = answer.chunk().await.map_err(cut)? {
                out.write_all(&piece)?;
                bar.inc(piece.len() as u64);
            }
            out.flush()?;
        }
        Control::Offline(data) => {
            let options = BackupOptions {
                key: own_key(config, with_key)?,
                tracking_bytes: config.limits.max_backup_tracking_bytes,
            };
            let (data, made) = tokio::task::spawn_blocking(move || copy_offline(data, &mut out, options)).await?;
            data.close().await;
            made?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn copy_offline(data: Offline, out: &mut impl Write, options: BackupOptions) -> (Offline, Outcome) {
    let made = data.backup(&mut *out, options).map_err(Failure::from).and_then(|_| Ok(out.flush()?));
    (data, made)
}

/// The key to put into a backup, if it is wanted.
fn own_key(config: &Config, with_key: bool) -> Result<Option<crate::model::Secret>, Failure> {
    let read = || server::store_options(config).key.read(&config.data_dir);
    Ok(with_key.then(read).transpose()?)
}

/// A file that has another name until it is complete, and is gone if it never is.
struct Partial {
    file: File,
    path: PathBuf,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, Failure> {
        let mut name = target.file_name().ok_or_else(|| Failure::usage("--output must name a file"))?.to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Failure::new(error).context(path.display()))?;
        Ok(Self { file, path })
    }

    /// Gives the file its name. When this returns, it survives a loss of power.
    fn keep(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It is gone already if it was kept.
        let _ = fs::remove_file(&self.path);
    }
}

async fn verify(args: VerifyArgs) -> Outcome {
    let name = args.file.display().to_string();
    let file = args.file.clone();
    let contents = tokio::task::spawn_blocking(move || match is_standard(&file) {
        true => read_through(io::stdin().lock()),
        false => read_through(File::open(&file)?),
    });
    let contents = contents.await?.map_err(|failure| failure.context(name))?;
    Ok(match args.output {
        Format::Json => say(serde_json::to_string_pretty(&contents)?),
        Format::Text => say(describe(&contents, Style::stdout())),
    }?)
}

/// Reads a backup through, and shows how far it is.
pub fn read_through(input: impl Read) -> Result<BackupContents, Failure> {
    let bar = style::spinner("verifying");
    let contents = store::verify(BufReader::with_capacity(1 << 20, input), |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok(contents?)
}

fn describe(contents: &BackupContents, style: Style) -> String {
    let mut lines = vec![
        format!(
            "{} Made at {} by dapbox {}, layout {}.",
            style.good("The backup is whole."),
            timestamp::show(contents.moment),
            contents.program,
            contents.layout
        ),
        format!(
            "It has {}, {}, {} and {}, in {} bytes.",
            style::counted(contents.tasks.len() as u64, "task"),
            style::counted(contents.removed_tasks, "removed task"),
            style::counted(contents.hpke_keys, "HPKE key"),
            style::counted(contents.records, "record"),
            style::count(contents.bytes),
        ),
    ];
    if contents.has_key {
        lines.push(style.bad("The key that secrets are encrypted with is in it."));
    }
    lines.extend(contents.tasks.iter().map(|task| describe_task(task, style)));
    lines.join("\n")
}

fn describe_task(task: &TaskContents, style: Style) -> String {
    let waiting = match task.waiting {
        0 => String::new(),
        waiting => format!("{} waiting, ", style::counted(waiting, "report")),
    };
    let detail = format!(
        "{waiting}{} aggregated, {} remembered, {} collected",
        style::count(task.aggregated),
        style::counted(task.remembered, "id"),
        style::counted(task.batches_collected, "batch")
    );
    format!(
        "\n{}  {}  {}\n  {}",
        style.bold(&task.id.to_string()),
        task.revision.map_or_else(String::new, show::revision),
        task.role.map_or("", show::role),
        style.dim(&detail)
    )
}

impl Socket {
    /// A backup of the running server, as it comes.
    async fn backup(&self, with_key: bool) -> Result<reqwest::Response, Failure> {
        let query = if with_key { format!("?{}", server::WITH_KEY) } else { String::new() };
        self.stream(&format!("{}{query}", server::BACKUP_PATH)).await
    }
}
