//! `dapbox restore`: a data directory made of a backup.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format},
    backup, calendar, show,
    style::{self, Style, say},
};
use crate::{
    aggregator::restored::{self, Restored},
    config::Config,
    model::{Duration, Secret, Time},
    server,
    store::KeySource,
};

/// Arguments of `dapbox restore`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A restored aggregator cannot know what it did after the backup was made. So that no report is \
    aggregated and no batch is given out a second time, everything before now is closed for good: reports from before \
    are refused, batches from before are not collected any more. Tasks and keys go on. The other aggregator of each \
    task must close the same past; what to run there is printed.\n\n\
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
    let key = args.key_file.as_ref().map(|path| KeySource::File(path.clone()).read(&config.data_dir)).transpose()?;
    let (file, shared) = (args.file.clone(), config.clone());
    let restored = tokio::task::spawn_blocking(move || restore(&file, &shared, key)).await?;
    let restored = restored.map_err(|failure| failure.context(args.file.display()))?;
    Ok(match args.output {
        Format::Json => say(serde_json::to_string_pretty(&restored)?),
        Format::Text => say(describe(&restored, &config, Style::stdout())),
    }?)
}

fn restore(file: &Path, config: &Config, key: Option<Secret>) -> Result<Restored, Failure> {
    if backup::is_standard(file) {
        return apply(io::stdin().lock(), 0, config, key);
    }
    let mut file = File::open(file)?;
    // Before anything is made of it.
    let bytes = backup::read_through(&file)?.bytes;
    file.rewind()?;
    apply(file, bytes, config, key)
}

fn apply(input: impl Read, bytes: u64, config: &Config, key: Option<Secret>) -> Result<Restored, Failure> {
    let bar = if bytes > 0 { style::transfer(bytes, "restoring") } else { style::spinner("restoring") };
    let times = (Time::now(), Duration(config.limits.clock_skew.as_secs()));
    let input = BufReader::with_capacity(1 << 20, input);
    let options = server::store_options(config);
    let done = restored::restore(&config.data_dir, &options, input, key, times, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok(done?)
}

fn describe(restored: &Restored, config: &Config, style: Style) -> String {
    let dir = config.data_dir.display();
    let mut text = format!(
        "{} {dir} is as it was at {}, with {}.\n\n\
        Everything before {} is closed for good: what was aggregated or given out after\n\
        the backup is not known here. Reports from before that time are refused, and those that\n\
        were not collected are lost.\n\n\
        What to do next:\n  \
        1. See to it that the old data directory is never served again.\n  \
        2. Serve this one:\n       {}\n",
        style.good("Restored."),
        calendar::show(restored.moment),
        style::counted(restored.tasks.len() as u64, "task"),
        calendar::show(restored.closed_before),
        style.accent(&format!("dapbox serve --data-dir {dir}")),
    );
    if !restored.tasks.is_empty() {
        text.push_str("  3. Have the other aggregator of each task close the same past:\n");
    }
    for task in &restored.tasks {
        let command = format!("dapbox task close {} --before {}", task.id, calendar::show(task.closed_before));
        text.push_str(&format!("       {}  {}\n", style.accent(&command), style.dim(show::role(task.role))));
    }
    text
}
