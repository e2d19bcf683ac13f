//! `dapbox compact`: compacts the database.

use std::time::Instant;

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, OutputArgs},
    control::Socket,
    style,
};
use crate::store::{self, CompactStage, CompactionResult};

/// Arguments of `dapbox compact`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The database reuses freed space, but its file does not shrink. This command rewrites it. Stop the \
    server first. It needs free space for a second copy of the stored data. An interruption leaves the database \
    unchanged.\n\n\
    Example:\n  \
    dapbox compact --data-dir /var/lib/dapbox"
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
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
        return Err(Failure::new("a server is running on this data directory (hint: stop it first)"));
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
    args.output.print(&output, || {
        format!(
            "Database compacted from {} to {} bytes: {} of {} bytes in total.",
            style::count(bytes_before),
            style::count(bytes_after),
            style::counted(rows, "row"),
            style::count(row_bytes)
        )
    })
}
