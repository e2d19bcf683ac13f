//! The disk: free space and latency.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    time::{Duration, Instant},
};

use super::context::DoctorContext;
use crate::{
    cli::{
        findings::{CheckResult, failed, passed, sentence, split_hint, warning},
        style::elapsed,
    },
    server,
    store::space::{self, Ballast},
    views::status::DiskStatus,
};

/// Maximum latency of `fdatasync`: every group of requests waits for one.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// File written to measure the latency.
const PROBE_FILE: &str = "doctor-probe";

/// Checks the free space.
pub fn check_disk_space(context: &DoctorContext) -> Option<CheckResult> {
    let found = space::space(&context.dir).ok()?;
    let status =
        context.live_health().map_or_else(|| estimate_status(context, found.free), |health| health.disk.clone());
    Some(match status.advice() {
        Some(advice) => {
            let (detail, remedy) = match advice.split_once(". ") {
                Some((detail, remedy)) => (detail, Some(sentence(remedy))),
                None => split_hint(&advice),
            };
            failed(detail, remedy.unwrap_or_else(|| "Free space on the disk.".to_owned()))
        }
        None => passed(format!("{} of {} MiB free", found.free >> 20, found.total >> 20)),
    })
}

/// The status that a server would report.
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

/// Checks the ballast, which is released to start on a full disk.
pub fn check_ballast(context: &DoctorContext) -> Option<CheckResult> {
    let ballast = Ballast::new(&context.dir, context.config.disk.ballast_bytes);
    if !context.has_data() || ballast.bytes() == 0 {
        return None;
    }
    // A running server may have another ballast size than this configuration, or none.
    Some(match (ballast.is_ready(), context.live_health().map(|health| health.disk.has_ballast)) {
        (false, Some(true)) => return None,
        (true, _) => passed(format!("{} MiB are reserved to start on a full disk", ballast.bytes() >> 20)),
        (false, _) => warning(
            "there is no ballast: the server may not start on a full disk",
            "Start the server, which creates it as soon as there is enough free space.",
        ),
    })
}

/// Checks the latency of a durable write.
pub fn check_sync_latency(context: &DoctorContext) -> Option<CheckResult> {
    if !context.has_data() {
        return None;
    }
    Some(match time_sync(context) {
        Ok(time) if time > SLOW_SYNC => {
            warning(format!("fdatasync takes {}, and every request waits for one", elapsed(time)), "Use a faster disk.")
        }
        Ok(time) => passed(format!("fdatasync takes {}", elapsed(time))),
        Err(error) if space::is_full(&error) => failed("the disk is full", "Free space on the disk."),
        Err(error) => {
            failed(format!("cannot write: {error}"), "Check the owner and the mount options of the file system.")
        }
    })
}

/// The second shortest of five: the first may create the file, and other processes may delay some.
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
