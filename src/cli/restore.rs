//! `dapbox restore`: a data directory made of a backup.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format},
    backup, show,
    style::{self, Style, say},
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
    after_help = "A restored aggregator cannot know what it did after the backup was made. So that no report is \
    aggregated and no batch is given out a second time, everything before now is closed for good: reports from before \
    are refused, batches from before are not collected any more. Tasks and keys go on. The other aggregator of each \
    task must close the same past; what to run there is printed. Now is the time of the restore plus clock_skew: the larger \
    one of this configuration and of the server that was backed up.\n\n\
    Never run the old data directory again once its copy runs.\n\n\
    Example:\n  \
    dapbox restore monday.backup --data-dir new-data"
)]
pub struct Args {
    /// The backup; '-' for standard input.
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// The key that secrets in the backup are encrypted under, if it is not in the backup: the file secrets.key of the
    /// data directory that was backed up.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs `dapbox restore`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    let read_key = |path: &PathBuf| {
        KeySource::File(path.clone()).read(&config.data_dir).map_err(|error| match error {
            KeyError::Missing(path) => Failure::new(format!("--key-file: there is no {}", path.display())),
            error => error.into(),
        })
    };
    let key = args.key_file.as_ref().map(read_key).transpose()?;
    let (file, shared) = (args.file.clone(), config.clone());
    let restored = tokio::task::spawn_blocking(move || restore(&file, &shared, key)).await??;
    Ok(match args.output {
        Format::Json => say(serde_json::to_string_pretty(&restored)?),
        Format::Text => say(describe(&restored, &args.config, &config, Style::stdout())),
    }?)
}

fn restore(file: &Path, config: &Config, key: Option<Secret>) -> Result<Restored, Failure> {
    if backup::is_standard(file) {
        return apply(io::stdin().lock(), 0, config, key);
    }
    let of_file = |failure: Failure| failure.context(file.display());
    let mut opened = File::open(file).map_err(|error| of_file(error.into()))?;
    // Before anything is made of it.
    let bytes = backup::read_through(&opened).map_err(of_file)?.bytes;
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
        "{} {dir} is as it was at {}, with {}.\n\n\
        Everything before {} is closed for good: what was aggregated or given out after\n\
        the backup is not known here. Reports from before that time are refused, and those that\n\
        were not collected are lost. A task that is added again from now on has the same past closed.\n\n\
        What to do next:\n  \
        1. See to it that the old data directory is never served again.\n",
        style.good("Restored."),
        timestamp::show(restored.moment),
        style::counted(restored.tasks.len() as u64, "task"),
        timestamp::show(restored.closed_before),
    );
    if !restored.tasks.is_empty() {
        text.push_str("  2. Have the other aggregator of each task close the same past, before it meets this one:\n");
    }
    for task in &restored.tasks {
        let command = format!("dapbox task close {} --before {}", task.id, timestamp::show(task.closed_before));
        text.push_str(&format!(
            "       {}  {}\n",
            style.accent(&command),
            style.dim(&format!("(we are its {})", show::role(task.role)))
        ));
    }
    let serve = style.accent(&format!("dapbox serve{with} --data-dir {dir}"));
    text.push_str(&format!("  {}. Serve this one:\n       {serve}\n", if restored.tasks.is_empty() { 2 } else { 3 }));
    text
}
