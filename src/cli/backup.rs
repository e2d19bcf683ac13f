//! `dapbox backup`: backs up the data directory, with or without a running server, and verifies backups.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, OutputArgs},
    control::{Control, Socket},
    show,
    style::{self, Style},
    timestamp,
};
use crate::{
    aggregator::offline::Offline,
    config::Config,
    model::Role,
    server,
    store::{self, BackupContents, BackupOptions, CollectorContents, TaskContents},
};

/// Arguments of `dapbox backup`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "A backup is a consistent snapshot of tasks, HPKE keys, reports, sums and results. The server keeps running. \
    Protect a backup like the data directory.\n\n\
    Examples:\n  \
    dapbox backup --out monday.backup\n  \
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
    /// Verify that a backup is complete, and list its contents.
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// File to write; '-' for standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// Include the key that encrypts the secrets: the backup alone reveals them.
    #[arg(long)]
    with_key: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 if the backup is damaged.\n\n\
    Example:\n  \
    dapbox backup verify monday.backup")]
struct VerifyArgs {
    /// Backup file; '-' for standard input.
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox backup`.
pub async fn run(args: Args) -> Outcome {
    match args.command {
        Some(Command::Verify(args)) => verify(args).await,
        None => create(args.create).await,
    }
}

/// Returns whether a file name means standard input or output.
pub fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}

async fn create(args: CreateArgs) -> Outcome {
    let config = args.config.load(None)?;
    if is_standard(&args.out) {
        if io::stdout().is_terminal() {
            return Err(Failure::usage("cannot write a backup to a terminal (hint: use --out FILE or a redirection)"));
        }
        return copy(&config, args.with_key, io::stdout()).await;
    }
    let target = args.out.clone();
    if target.exists() && !args.force {
        return Err(Failure::new(format!("{} already exists (hint: --force replaces it)", target.display())));
    }
    let partial = PartialFile::create(&target)?;
    copy(&config, args.with_key, BufWriter::new(partial.file.try_clone()?)).await?;
    // Verify before the file gets its name.
    let path = partial.path.clone();
    let contents = tokio::task::spawn_blocking(move || verify_reader(File::open(path)?)).await??;
    partial.keep(&target)?;
    let (bytes, moment) = (style::count(contents.bytes), timestamp::show(contents.moment));
    let tasks = style::counted((contents.tasks.len() + contents.collector_tasks.len()) as u64, "task");
    args.output
        .print(&contents, || format!("Backed up {tasks} to {}: {bytes} bytes, as of {moment}.", target.display()))
}

/// Copies the bytes of a backup, from the running server or from the data directory.
async fn copy(config: &Config, with_key: bool, mut out: impl Write + Send + 'static) -> Outcome {
    let bar = style::spinner("copying");
    match Control::open(config).await? {
        Control::Server(socket) => {
            let mut answer = socket.backup(with_key).await?;
            let cut = |error| Failure::new(error).context("the backup is truncated (hint: see the server's log)");
            while let Some(piece) = answer.chunk().await.map_err(cut)? {
                out.write_all(&piece)?;
                bar.inc(piece.len() as u64);
            }
            out.flush()?;
        }
        Control::Offline(data) => {
            let options = BackupOptions {
                key: read_key(config, with_key)?,
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

/// Reads the key to include in the backup, if requested.
fn read_key(config: &Config, with_key: bool) -> Result<Option<crate::model::Secret>, Failure> {
    let read = || server::store_options(config).key.read(&config.data_dir);
    Ok(with_key.then(read).transpose()?)
}

/// A file with a temporary name until it is complete. Dropping an incomplete file deletes it.
struct PartialFile {
    file: File,
    path: PathBuf,
}

impl PartialFile {
    fn create(target: &Path) -> Result<Self, Failure> {
        let mut name = target.file_name().ok_or_else(|| Failure::usage("--out must name a file"))?.to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Failure::new(error).context(path.display()))?;
        Ok(Self { file, path })
    }

    /// Renames the file to its final name, durably.
    fn keep(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // Fails if the file was kept.
        let _ = fs::remove_file(&self.path);
    }
}

async fn verify(args: VerifyArgs) -> Outcome {
    let name = args.file.display().to_string();
    let file = args.file.clone();
    let contents = tokio::task::spawn_blocking(move || match is_standard(&file) {
        true => verify_reader(io::stdin().lock()),
        false => verify_reader(File::open(&file)?),
    });
    let contents = contents.await?.map_err(|failure| failure.context(name))?;
    args.output.print(&contents, || describe(&contents, Style::stdout()))
}

/// Verifies a backup with a progress indicator.
pub fn verify_reader(input: impl Read) -> Result<BackupContents, Failure> {
    let bar = style::spinner("verifying");
    let contents = store::verify(BufReader::with_capacity(1 << 20, input), |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok(contents?)
}

fn describe(contents: &BackupContents, style: Style) -> String {
    let mut lines = vec![
        format!(
            "{} Created at {} by dapbox {}, layout {}.",
            style.good("The backup is complete."),
            timestamp::show(contents.moment),
            contents.program,
            contents.layout
        ),
        format!(
            "Contents: {}, {}, {} and {}, {} bytes.",
            style::counted((contents.tasks.len() + contents.collector_tasks.len()) as u64, "task"),
            style::counted(contents.removed_tasks, "removed task"),
            style::counted(contents.hpke_keys, "HPKE key"),
            style::counted(contents.records, "record"),
            style::count(contents.bytes),
        ),
    ];
    if contents.has_key {
        lines.push(style.bad("It includes the key that encrypts the secrets."));
    }
    lines.extend(contents.tasks.iter().map(|task| describe_task(task, style)));
    lines.extend(contents.collector_tasks.iter().map(|task| describe_collector_task(task, style)));
    lines.join("\n")
}

fn describe_collector_task(task: &CollectorContents, style: Style) -> String {
    let (windows, results) = (style::counted(task.windows, "window"), style::counted(task.results, "result"));
    let id = style.bold(&task.id.to_string());
    format!("\n{id}  {}\n  {}", show::role(Role::Collector), style.dim(&format!("{windows}, {results}")))
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
    /// Streams a backup of the running server.
    async fn backup(&self, with_key: bool) -> Result<reqwest::Response, Failure> {
        let query = if with_key { format!("?{}", server::WITH_KEY) } else { String::new() };
        self.stream(&format!("{}{query}", server::BACKUP_PATH)).await
    }
}
