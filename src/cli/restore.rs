//! `dapbox restore`: restores a backup into a new data directory.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, OutputArgs},
    backup, show,
    style::{self, Style},
    timestamp,
};
use crate::{
    aggregator::restored::{self, Restored},
    config::Config,
    model::{Duration, Secret},
    server,
    store::{KeyError, KeySource, RestoreError},
    support::clock,
};

/// Arguments of `dapbox restore`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A restored aggregator does not know what it did after the backup. So that no report is aggregated and no \
    batch is collected twice, the past is closed permanently: older reports are refused, and older batches cannot be \
    collected. Tasks and keys remain. The other aggregator of each task must close the same past; the command is printed. \
    The past ends at the time of the restore plus clock_skew, the larger one of this configuration and of the backed-up \
    server.\n\n\
    Never run the old data directory again after the restored one was started.\n\n\
    Example:\n  \
    dapbox restore monday.backup --data-dir new-data"
)]
pub struct Args {
    /// Backup file; '-' for standard input.
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Key that encrypts the secrets, if the backup does not include it: secrets.key of the old data directory.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox restore`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    let read_key = |path: &PathBuf| {
        KeySource::File(path.clone()).read(&config.data_dir).map_err(|error| match error {
            KeyError::Missing(path) => Failure::new(format!("--key-file: {} does not exist", path.display())),
            error => error.into(),
        })
    };
    let key = args.key_file.as_ref().map(read_key).transpose()?;
    let (file, shared) = (args.file.clone(), config.clone());
    let restored = tokio::task::spawn_blocking(move || restore(&file, &shared, key)).await??;
    args.output.print(&restored, || describe(&restored, &args.config, &config, Style::stdout()))
}

fn restore(file: &Path, config: &Config, key: Option<Secret>) -> Result<Restored, Failure> {
    if backup::is_standard(file) {
        return apply(io::stdin().lock(), 0, config, key);
    }
    let of_file = |failure: Failure| failure.context(file.display());
    let mut opened = File::open(file).map_err(|error| of_file(error.into()))?;
    // Verify the backup before creating anything.
    let bytes = backup::verify_reader(&opened).map_err(of_file)?.bytes;
    opened.rewind()?;
    apply(opened, bytes, config, key)
}

fn apply(input: impl Read, bytes: u64, config: &Config, key: Option<Secret>) -> Result<Restored, Failure> {
    let bar = if bytes > 0 { style::transfer(bytes, "restoring") } else { style::spinner("restoring") };
    let times = (clock::now(), Duration(config.limits.clock_skew.as_secs()));
    let input = BufReader::with_capacity(1 << 20, input);
    let options = server::store_options(config);
    let done = restored::restore(&config.data_dir, &options, input, key, times, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    done.map_err(|error| match error {
        RestoreError::Directory(error) => Failure::new(error).context(config.data_dir.display()),
        error => error.into(),
    })
}

fn describe(restored: &Restored, args: &ConfigArgs, config: &Config, style: Style) -> String {
    let dir = config.data_dir.display();
    let with = args.config.as_ref().map_or_else(String::new, |file| format!(" --config {}", file.display()));
    let mut text = format!(
        "{} {dir} contains the state of {}, with {}.\n\n\
        The time before {} is closed permanently, because the aggregator does not know what it\n\
        aggregated or returned after the backup. Older reports are refused, and uncollected ones are\n\
        lost. Tasks that are added later have the same past closed.\n\n\
        Next steps:\n  \
        1. Make sure that the old data directory is never used again.\n",
        style.good("Restored."),
        timestamp::show(restored.moment),
        style::counted(restored.tasks.len() as u64, "task"),
        timestamp::show(restored.closed_before),
    );
    if !restored.tasks.is_empty() {
        text.push_str("  2. Close the same past at the other aggregator of each task before starting this one:\n");
    }
    for task in &restored.tasks {
        let command = format!("dapbox task close {} --before {}", task.id, timestamp::show(task.closed_before));
        text.push_str(&format!(
            "       {}  {}\n",
            style.accent(&command),
            style.dim(&format!("(this is its {})", show::role(task.role)))
        ));
    }
    let serve = style.accent(&format!("dapbox serve{with} --data-dir {dir}"));
    let last = if restored.tasks.is_empty() { 2 } else { 3 };
    text.push_str(&format!("  {last}. Start the server:\n       {serve}\n"));
    text
}
