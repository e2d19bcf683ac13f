//! The checks, one function for each: nothing if there is nothing to look at, what was found if all is well, or what is
//! wrong and what to do about it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Resource, geteuid, getrlimit};

use super::Severity;
use crate::{
    aggregator::offline::Offline,
    cli::style::{counted, elapsed},
    config::Config,
    model::status::{DiskStatus, Health},
    server,
    store::{
        OpenError,
        space::{self, Ballast},
    },
};

/// All checks, with their names, in the order in which they are shown.
pub const CHECKS: &[(&str, Check)] = &[
    ("data directory", directory),
    ("permissions", permissions),
    ("secrets key", secrets_key),
    ("file system", file_system),
    ("disk space", disk_space),
    ("ballast", ballast),
    ("sync", sync),
    ("server", server),
    ("content", content),
    ("open files", open_files),
];

/// Longer than this, an `fdatasync` holds up everybody: each group of requests waits for one.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// What is written to see how long that takes.
const PROBE: &str = "doctor-probe";
/// Open files beside those of the requests in progress.
const OWN_FILES: u64 = 256;

/// Looks at one thing.
pub type Check = fn(&World) -> Option<Result<String, Trouble>>;

/// What the checks look at.
pub struct World {
    /// The configuration.
    pub config: Config,
    /// The data directory.
    pub dir: PathBuf,
    /// What the running server says, or why it says nothing; `None` if there is none.
    pub health: Option<Result<Health, String>>,
}

impl World {
    /// Whether there is a directory with data of ours in it.
    fn has_data(&self) -> bool {
        self.dir.join("dapbox-data").exists()
    }
}

/// What is wrong.
pub struct Trouble {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: String,
}

fn warning(detail: impl Into<String>, remedy: impl Into<String>) -> Option<Result<String, Trouble>> {
    Some(Err(Trouble { severity: Severity::Warning, detail: detail.into(), remedy: remedy.into() }))
}

fn failed(detail: impl Into<String>, remedy: impl Into<String>) -> Option<Result<String, Trouble>> {
    Some(Err(Trouble { severity: Severity::Failed, detail: detail.into(), remedy: remedy.into() }))
}

fn good(detail: impl Into<String>) -> Option<Result<String, Trouble>> {
    Some(Ok(detail.into()))
}

fn directory(world: &World) -> Option<Result<String, Trouble>> {
    let dir = world.dir.display();
    match fs::metadata(&world.dir) {
        Ok(found) if !found.is_dir() => {
            failed(format!("{dir} is not a directory"), "Name a directory with --data-dir.")
        }
        Ok(_) if world.has_data() => good(dir.to_string()),
        Ok(_) => warning(format!("{dir} has no data in it"), "Start the server once, or name the right one."),
        Err(error) if error.kind() == io::ErrorKind::NotFound => failed(
            format!("{dir} does not exist"),
            "Start the server once, which makes it, or name the right one with --config or --data-dir.",
        ),
        Err(error) => failed(format!("{dir}: {error}"), "Run this as the user that the directory belongs to."),
    }
}

fn permissions(world: &World) -> Option<Result<String, Trouble>> {
    let (dir, found) = (world.dir.display(), fs::metadata(&world.dir).ok()?);
    let (owner, user, mode) = (found.uid(), geteuid().as_raw(), found.mode() & 0o777);
    if mode & 0o077 != 0 {
        return failed(
            format!("others may look into it (mode {mode:o}), and it has keys in it"),
            format!("chmod 700 {dir}"),
        );
    }
    if owner != user {
        let remedy = format!("Run the server as that user, or: chown -R {user} {dir}");
        return warning(format!("it belongs to user {owner} and this is user {user}"), remedy);
    }
    good(format!("for user {owner} only"))
}

fn secrets_key(world: &World) -> Option<Result<String, Trouble>> {
    let path = server::store_options(&world.config).key.file(&world.dir)?;
    let mode = fs::metadata(&path).ok()?.mode() & 0o777;
    let remedy = format!("chmod 600 {}", path.display());
    match mode & 0o077 {
        0 => good("for its owner only"),
        others if others & 0o007 == 0 => warning(format!("a group may read it (mode {mode:o})"), remedy),
        _ => failed(format!("everybody may read it (mode {mode:o})"), remedy),
    }
}

fn file_system(world: &World) -> Option<Result<String, Trouble>> {
    match space::volatile(&world.dir) {
        Ok(Some(kind)) => warning(
            format!("the data is on {kind}: it does not survive a restart of the machine or the container"),
            "Mount a volume there.",
        ),
        Ok(None) => good("keeps what is synced to it"),
        Err(_) => None,
    }
}

fn disk_space(world: &World) -> Option<Result<String, Trouble>> {
    let found = space::space(&world.dir).ok()?;
    let told = world.health.as_ref().and_then(|health| health.as_ref().ok());
    let status = told.map_or_else(|| looked(world, found.free), |health| health.disk.clone());
    match status.advice() {
        Some(advice) => {
            let (detail, remedy) = advice.split_once(". ").unwrap_or((&advice, ""));
            failed(detail, format!("{remedy}."))
        }
        None => good(format!("{} of {} MiB free", found.free >> 20, found.total >> 20)),
    }
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

fn ballast(world: &World) -> Option<Result<String, Trouble>> {
    let ballast = Ballast::of(&world.dir, world.config.disk.ballast_bytes);
    if !world.has_data() || ballast.bytes() == 0 {
        return None;
    }
    match ballast.is_ready() {
        true => good(format!("{} MiB are held back to start on a full disk", ballast.bytes() >> 20)),
        false => warning(
            "it is missing, so that the server may not start when the disk is full",
            "Make room: a running server makes it as soon as it can.",
        ),
    }
}

fn sync(world: &World) -> Option<Result<String, Trouble>> {
    if !world.has_data() {
        return None;
    }
    match time_sync(world) {
        Ok(time) if time > SLOW_SYNC => warning(
            format!("a small write takes {} to be durable, and every request waits for one", elapsed(time)),
            "Use a faster disk, or a file system with a journal on one.",
        ),
        Ok(time) => good(format!("a small write is durable after {}", elapsed(time))),
        Err(error) if space::is_full(&error) => failed("not a single block can be written", "Make room on the disk."),
        Err(error) => {
            failed(format!("nothing can be written: {error}"), "Check the owner and how the file system is mounted.")
        }
    }
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

fn server(world: &World) -> Option<Result<String, Trouble>> {
    let ours = crate::model::build::VERSION;
    match world.health.as_ref() {
        None => good("none runs"),
        Some(Err(error)) => {
            failed(format!("it runs and does not answer: {error}"), "Look into its log; start it again.")
        }
        Some(Ok(Health { fault: Some(fault), .. })) => {
            failed(format!("it has stopped working: {fault}"), "Start it again, which recovers what was stored.")
        }
        Some(Ok(Health { version, .. })) if version != ours => warning(
            format!("it is release {version} and this is {ours}"),
            "Start it again if it was meant to be upgraded.",
        ),
        Some(Ok(_)) => good(format!("runs, release {ours}")),
    }
}

/// Opens the directory if nobody else has.
fn content(world: &World) -> Option<Result<String, Trouble>> {
    if world.health.is_some() || !world.has_data() {
        return None;
    }
    // Looking must not cost the ballast.
    let options = crate::store::Options { ballast_bytes: 0, ..server::store_options(&world.config) };
    let tasks = Offline::open(&world.dir, options).map(|data| data.tasks());
    match tasks {
        Ok(Ok(tasks)) => good(format!("whole, with {}", counted(tasks.len() as u64, "task"))),
        Ok(Err(fault)) => failed(fault.to_string(), "Restore a backup."),
        Err(OpenError::Full) => failed("there is not enough room to open it", "Make room on the disk."),
        Err(OpenError::Key(error)) => {
            failed(error.to_string(), "Bring the key back, or name its place with secrets.key_file.")
        }
        Err(error) => {
            let text = error.to_string();
            let (detail, remedy) = text.rsplit_once("; ").unwrap_or((&text, "Restore a backup."));
            failed(detail, remedy)
        }
    }
}

fn open_files(world: &World) -> Option<Result<String, Trouble>> {
    let wanted = OWN_FILES + world.config.limits.max_requests as u64;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < wanted => warning(
            format!("at most {limit} files may be open here, connections included, and {wanted} may be needed"),
            "Raise the limit: ulimit -n, or LimitNOFILE= in the unit.",
        ),
        Some(limit) => good(format!("up to {limit}")),
        None => good("any number"),
    }
}
