//! The power fails at random moments, and nothing acknowledged is lost.
//!
//! # Guarantees
//!
//! The guarantees of `kill.rs` also hold when the machine fails and everything unsynced is lost.
//!
//! # Method
//!
//! The data directories of leader and helper are on separate ext4 file systems (`common/disk.rs`), mounted so that
//! metadata
//! is written only on a sync. Under load, one or both file systems are shut down: written data stays, the journal in
//! memory
//! is lost, and all further writes fail. Then the server is killed, the file system is mounted again, and the server
//! starts
//! on the remaining data. In some cycles the power fails again during that start. At the end everything is collected
//! and
//! checked again.
//!
//! **Control**: servers without `fdatasync` must lose something, or the rig proves nothing. Each control cycle is
//! independent. A loss is a missing acknowledged upload, a disagreement between both sides, or a server that does not
//! start. A timeout is not a loss.
//!
//! The device itself is not simulated: writes that reached it are neither lost nor torn, even if they were not flushed.
//! `fdatasync` is responsible for flushing the device.
//!
//! # Running it
//!
//! `cargo test --test durability power_cut`, as root, with loop devices, `mkfs.ext4` and `perl`. Otherwise it is
//! skipped,
//! and so it is if no filter names it and none of these variables is set. The long form:
//!
//! ```text
//! DAPBOX_POWER_CUTS=100 DAPBOX_CONTROL_CUTS=20 DAPBOX_SEED=1 cargo test --release --test durability power_cut --
//! --nocapture
//! ```

use std::{
    ops::Range,
    path::Path,
    process::Command,
    time::{Duration as Span, Instant},
};

use dapbox::{
    config::{Config, Overrides},
    server::{Server, store_options},
    store::{Durability, Options},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::common::{
    chaos::{ChaosError, ChaosRig, Victims, announce, variable},
    disk::Disk,
    process::{self, Process, Program},
    skip::{may_mount, skip},
};

/// Cycles in the short form.
const CUTS: u32 = 10;
/// Control cycles in the short form.
const CONTROL_CUTS: u32 = 4;
/// Work before a power cut, in milliseconds.
const WORK: Range<u64> = 0..400;
/// Work before a power cut of the control, in milliseconds.
const CONTROL_WORK: Range<u64> = 100..400;
/// How long servers run after their disk failed, in milliseconds.
const AGONY: Range<u64> = 0..40;
/// Delay of a second power cut after the start of a server, in milliseconds.
const START: Range<u64> = 0..80;
/// The variable that makes this program a control server; its value is the configuration file.
const SERVE: &str = "POWER_CUT_SERVE";

/// Two nodes with their disks. Fields drop in order: processes end before the disks go.
struct Rig {
    chaos: ChaosRig,
    disks: [Disk; 2],
    _dir: TempDir,
}

/// Why there is no rig.
enum RigError {
    /// This machine does not support it.
    Unsupported(String),
    ChaosError(ChaosError),
}

impl Rig {
    async fn start(program: Program, seed: u64, workers: usize) -> Result<Self, RigError> {
        let dir = TempDir::new().unwrap();
        let disk = |name| Disk::new(dir.path(), name).map_err(RigError::Unsupported);
        let disks = [disk("leader")?, disk("helper")?];
        let node = |name, disk: &Disk| Process::new(name, program, dir.path(), disk.root.join("data"));
        let nodes = [node("leader-server", &disks[0]), node("helper-server", &disks[1])];
        let chaos = ChaosRig::start(nodes, seed, workers).await.map_err(RigError::ChaosError)?;
        Ok(Self { chaos, disks, _dir: dir })
    }

    /// Cuts the power and restores it. Afterwards no process runs.
    async fn cut(&mut self, victims: Victims) {
        Disk::cut(victims.indices().iter().map(|index| &self.disks[*index])).unwrap();
        tokio::time::sleep(Span::from_millis(self.chaos.rng.random_range(AGONY))).await;
        for index in victims.indices() {
            // A server may exit on its own when its disk is gone.
            let _ = self.chaos.nodes[*index].kill();
            self.disks[*index].remount().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_nothing_acknowledged_in_power_cut() {
    let (wanted, seed) = (variable("DAPBOX_POWER_CUTS", CUTS), variable("DAPBOX_SEED", rand::random()));
    let start = Instant::now();
    if !is_wanted("DAPBOX_POWER_CUTS") {
        return;
    }
    let Some(rig) = possible(Rig::start(process::dapbox, seed, 2).await, "DAPBOX_POWER_CUTS") else { return };
    let mut rig = rig.unwrap();
    announce(format_args!("cutting the power {wanted} times, DAPBOX_SEED={seed}"));
    let mut cuts = 0;
    let outcome = run_cuts(&mut rig, wanted, &mut cuts).await;
    let tally = rig.chaos.tally();
    match outcome {
        Ok(()) => announce(format_args!("{cuts} power cuts in {:?}, no loss: {tally}", start.elapsed())),
        Err(error) => panic!("DAPBOX_SEED={seed}, after {cuts} power cuts, {tally}: {error}"),
    }
}

async fn run_cuts(rig: &mut Rig, wanted: u32, cuts: &mut u32) -> Result<(), ChaosError> {
    while *cuts < wanted {
        rig.chaos.work(WORK).await?;
        let victims = Victims::any(&mut rig.chaos.rng);
        rig.cut(victims).await;
        *cuts += 1;
        while *cuts < wanted && rig.chaos.rng.random_ratio(1, 4) {
            victims.indices().iter().for_each(|index| rig.chaos.nodes[*index].spawn());
            tokio::time::sleep(Span::from_millis(rig.chaos.rng.random_range(START))).await;
            rig.cut(victims).await;
            *cuts += 1;
        }
        rig.chaos.restart(victims).await?;
    }
    rig.chaos.finish_work().await?;
    rig.cut(Victims::Both).await;
    rig.chaos.restart(Victims::Both).await?;
    rig.chaos.audit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_reports_in_power_cut_without_sync() {
    let (wanted, seed) = (variable("DAPBOX_CONTROL_CUTS", CONTROL_CUTS), variable("DAPBOX_SEED", rand::random()));
    if !is_wanted("DAPBOX_CONTROL_CUTS") {
        return;
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut losses = 0;
    for cycle in 0..wanted {
        let outcome = match possible(Rig::start(unsynced, rng.random(), 1).await, "DAPBOX_CONTROL_CUTS") {
            None => return,
            Some(Err(error)) => panic!("a control does not even start: {error}"),
            Some(Ok(mut rig)) => control(&mut rig).await,
        };
        losses += u32::from(matches!(outcome, Err(ChaosError::Lost(_))));
        match outcome {
            Ok(()) => announce(format_args!("control {cycle}: nothing lost")),
            Err(error) => announce(format_args!("control {cycle}: {error:.400}")),
        }
    }
    announce(format_args!("{wanted} power cuts without a sync, DAPBOX_SEED={seed}: {losses} losses"));
    assert!(losses > 0, "nothing was lost without a sync: this test would not notice if the sync were missing");
}

/// One cut during one round of work.
async fn control(rig: &mut Rig) -> Result<(), ChaosError> {
    rig.chaos.stop_new_workloads();
    // Sync the tasks: the control measures the loss of reports.
    rig.chaos.begun().await;
    rig.disks.iter().for_each(|disk| disk.sync().unwrap());
    rig.chaos.work(CONTROL_WORK).await?;
    let victims = Victims::any(&mut rig.chaos.rng);
    rig.cut(victims).await;
    rig.chaos.restart(victims).await?;
    rig.chaos.finish_work().await?;
    rig.chaos.audit().await
}

/// Whether to cut the power: a variable sets a number, or the test may mount file systems.
fn is_wanted(variable: &str) -> bool {
    std::env::var_os(variable).is_some() || may_mount()
}

/// The rig or its error; `None` if this machine does not support it and no variable requires it.
fn possible(rig: Result<Rig, RigError>, insists: &str) -> Option<Result<Rig, ChaosError>> {
    match rig {
        Ok(rig) => Some(Ok(rig)),
        Err(RigError::ChaosError(error)) => Some(Err(error)),
        Err(RigError::Unsupported(why)) if std::env::var_os(insists).is_some() => {
            panic!("cannot cut the power here: {why}")
        }
        Err(RigError::Unsupported(why)) => {
            skip(&format!("cannot cut the power: {why}"));
            None
        }
    }
}

/// This program as a server without syncs.
fn unsynced(config: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "power_cut::serves_without_sync", "--ignored", "--nocapture"]).env(SERVE, config);
    command
}

/// The server of the control, not a test.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the control starts this as a process of its own"]
async fn serves_without_sync() {
    let Some(config) = std::env::var_os(SERVE) else { return };
    tracing_subscriber::fmt().json().flatten_event(true).with_writer(std::io::stderr).init();
    let config = Config::from_sources(Some(Path::new(&config)), [], &Overrides::default()).unwrap();
    let options = Options { durability: Durability::Unsynced, ..store_options(&config) };
    let server = Server::start_with(config, options).await.unwrap();
    tracing::info!("serving");
    panic!("{}", server.failed().await);
}
