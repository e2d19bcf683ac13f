//! The disk: whether there is room, and how fast it is.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    time::{Duration, Instant},
};

use super::world::World;
use crate::{
    cli::{
        findings::{Verdict, failed, good, warning},
        style::elapsed,
    },
    server,
    store::space::{self, Ballast},
    views::status::DiskStatus,
};

/// Longer than this, an `fdatasync` holds up everybody: each group of requests waits for one.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// What is written to see how long that takes.
const PROBE: &str = "doctor-probe";

/// Whether there is room.
pub fn disk_space(world: &World) -> Option<Verdict> {
    let found = space::space(&world.dir).ok()?;
    let status = world.told().map_or_else(|| looked(world, found.free), |health| health.disk.clone());
    Some(match status.advice() {
        Some(advice) => {
            let (detail, remedy) = advice.split_once(". ").unwrap_or((&advice, ""));
            failed(detail, format!("{remedy}."))
        }
        None => good(format!("{} of {} MiB free", found.free >> 20, found.total >> 20)),
    })
}

/// What a server would find.
fn looked(world: &World, free_bytes: u64) -> DiskStatus {
    let disk = &world.config.disk;
    DiskStatus {
        dir: world.dir.clone(),
        free_bytes,
        reserve_bytes: disk.reserve_bytes,
        needed_bytes: server::needed_bytes(disk.reserve_bytes),
        has_ballast: true,
        is_short: free_bytes < disk.reserve_bytes,
    }
}

/// Whether room is held back for a start on a full disk.
pub fn ballast(world: &World) -> Option<Verdict> {
    let ballast = Ballast::of(&world.dir, world.config.disk.ballast_bytes);
    if !world.has_data() || ballast.bytes() == 0 {
        return None;
    }
    // A server may have another size than this configuration, or none.
    Some(match (ballast.is_ready(), world.told().map(|health| health.disk.has_ballast)) {
        (false, Some(true)) => return None,
        (true, _) => good(format!("{} MiB are held back to start on a full disk", ballast.bytes() >> 20)),
        (false, _) => warning(
            "it is missing, so that the server may not start when the disk is full",
            "A running server makes it as soon as there is room: start it, or make some.",
        ),
    })
}

/// How long it takes until something is durable.
pub fn sync(world: &World) -> Option<Verdict> {
    if !world.has_data() {
        return None;
    }
    Some(match time_sync(world) {
        Ok(time) if time > SLOW_SYNC => warning(
            format!("a small write takes {} to be durable, and every request waits for one", elapsed(time)),
            "Use a faster disk, or a file system with a journal on one.",
        ),
        Ok(time) => good(format!("a small write is durable after {}", elapsed(time))),
        Err(error) if space::is_full(&error) => failed("not a single block can be written", "Make room on the disk."),
        Err(error) => {
            failed(format!("nothing can be written: {error}"), "Check the owner and how the file system is mounted.")
        }
    })
}

/// The second shortest of several: the first may make the file, others may wait for what somebody else writes.
fn time_sync(world: &World) -> io::Result<Duration> {
    let path = world.dir.join(PROBE);
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
