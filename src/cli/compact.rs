//! `dapbox compact`: the database written anew, as small as it can be.

use std::time::Instant;

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format},
    control::Socket,
    style::{self, say},
};
use crate::store::{self, CompactStage, CompactionResult};

/// Arguments of `dapbox compact`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The database uses freed space again but never gives it back: this does. It needs the data \
    directory for itself, so stop the server first, and it needs free space for a second copy of what the database \
    holds. If it is interrupted, everything stays as it was.\n\n\
    Example:\n  \
    dapbox compact --data-dir /var/lib/dapbox")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Serialize)]
struct Output {
    bytes_before: u64,
    bytes_after: u64,
    rows: u64,
    row_bytes: u64,
    seconds: f64,
}

/// Runs `dapbox compact`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    if Socket::new(config.control_socket())?.is_alive().await? {
        return Err(Failure::new("a server runs on this data directory; stop it first, and start it again afterwards"));
    }
    let (start, dir) = (Instant::now(), config.data_dir.clone());
    let cache = config.limits.store_cache_bytes;
    let compacted = tokio::task::spawn_blocking(move || {
        let bar = style::transfer(0, "reading");
        let done = store::compact(&dir, cache, &mut |stage, done, total| {
            bar.set_message(match stage {
                CompactStage::Reading => "reading",
                CompactStage::Writing => "writing",
                CompactStage::Checking => "checking",
            });
            bar.set_length(total.max(done));
            bar.set_position(done);
        });
        bar.finish_and_clear();
        done
    });
    let CompactionResult { bytes_before, bytes_after, rows, row_bytes } =
        compacted.await?.map_err(|error| Failure::new(error).context(config.data_dir.display()))?;
    let output = Output { bytes_before, bytes_after, rows, row_bytes, seconds: start.elapsed().as_secs_f64() };
    Ok(match args.output {
        Format::Json => say(serde_json::to_string_pretty(&output)?),
        Format::Text => say(format!(
            "The database took {} bytes and takes {} now, for {} of {} bytes together.",
            style::count(bytes_before),
            style::count(bytes_after),
            style::counted(rows, "row"),
            style::count(row_bytes)
        )),
    }?)
}
