//! The disk: whether there is room, and how fast it is.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    time::{Duration, Instant},
};

use super::context::DoctorContext;
use crate::{
    cli::{
        findings::{CheckResult, failed, passed, warning},
        style::elapsed,
    },
    server,
    store::space::{self, Ballast},
    views::status::DiskStatus,
};

/// Longer than this, an `fdatasync` holds up everybody: each group of requests waits for one.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// What is written to see how long that takes.
const PROBE_FILE: &str = "doctor-probe";

/// Whether there is room.
pub fn disk_space(context: &DoctorContext) -> Option<CheckResult> {
    let found = space::space(&context.dir).ok()?;
    let status =
        context.live_health().map_or_else(|| estimate_status(context, found.free), |health| health.disk.clone());
    Some(match status.advice() {
        Some(advice) => {
            let (detail, remedy) = advice.split_once(". ").unwrap_or((&advice, ""));
            failed(detail, format!("{remedy}."))
        }
        None => passed(format!("{} of {} MiB free", found.free >> 20, found.total >> 20)),
    })
}

/// What a server would find.
fn estimate_status(context: &DoctorContext, free_bytes: u64) -> DiskStatus {
    let disk = &context.config.disk;
    DiskStatus {
        dir: context.dir.clone(),
        free_bytes,
        reserve_bytes: disk.reserve_bytes,
        needed_bytes: server::needed_bytes(disk.reserve_bytes),
        has_ballast: true,
        is_short: free_bytes < disk.reserve_bytes,
    }
}

/// Whether room is held back for a start on a full disk.
pub fn ballast(context: &DoctorContext) -> Option<CheckResult> {
    let ballast = Ballast::of(&context.dir, context.config.disk.ballast_bytes);
    if !context.has_data() || ballast.bytes() == 0 {
        return None;
    }
    // A server may have another size than this configuration, or none.
    Some(match (ballast.is_ready(), context.live_health().map(|health| health.disk.has_ballast)) {
        (false, Some(true)) => return None,
        (true, _) => passed(format!("{} MiB are held back to start on a full disk", ballast.bytes() >> 20)),
        (false, _) => warning(
            "it is missing, so that the server may not start when the disk is full",
            "A running server makes it as soon as there is room: start it, or make some.",
        ),
    })
}

/// How long it takes until something is durable.
pub fn sync(context: &DoctorContext) -> Option<CheckResult> {
    if !context.has_data() {
        return None;
    }
    Some(match time_sync(context) {
        Ok(time) if time > SLOW_SYNC => warning(
            format!("a small write takes {} to be durable, and every request waits for one", elapsed(time)),
            "Use a faster disk, or a file system with a journal on one.",
        ),
        Ok(time) => passed(format!("a small write is durable after {}", elapsed(time))),
        Err(error) if space::is_full(&error) => failed("not a single block can be written", "Make room on the disk."),
        Err(error) => {
            failed(format!("nothing can be written: {error}"), "Check the owner and how the file system is mounted.")
        }
    })
}

/// The second shortest of several: the first may make the file, others may wait for what somebody else writes.
fn time_sync(context: &DoctorContext) -> io::Result<Duration> {
    let path = context.dir.join(PROBE_FILE);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    let mut write = || {
        let begun = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        Ok(begun.elapsed())
    };
    let times = (0..5).map(|_| write()).collect::<io::Result<Vec<_>>>();
    fs::remove_file(&path)?;
    let mut times = times?;
    times.sort_unstable();
    Ok(times[1])
}
