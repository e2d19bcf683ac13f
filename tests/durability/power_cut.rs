//! The power fails at any moment, and nothing that was acknowledged is lost.
//!
//! # What is promised
//!
//! The same as of kills (`kill.rs`), and for the same work, when it is not only the process that ends but the machine, and
//! all that was not synced is gone.
//!
//! # How it is tested
//!
//! The data directory of the leader is on a file system of its own, and so is the helper's (`common/disk.rs`): ext4 that is
//! mounted so that it writes metadata only when somebody syncs. While they work, one of the file systems is shut down, or
//! both are: what is written so far stays, what is only in the memory of the journal is lost, and all further writes fail.
//! A moment later the server is killed, the file system mounted again, and the server started on what is left. In some of
//! the cycles, the power fails again while it starts. In the end everything is collected, compared and looked at again.
//!
//! **The control**: the same with servers that leave out the `fdatasync` must find a loss, or the rig proves nothing. Each
//! of its cycles is independent of the others. What counts as a loss: an upload that was acknowledged and is not in the
//! aggregate, both sides disagreeing, or a server that does not start again; that something takes too long does not count.
//!
//! What a disk does is not simulated: writes that have reached the device are not lost, even though they were not flushed,
//! and are not torn. That the device is told to flush is up to `fdatasync`.
//!
//! # How to run it
//!
//! `cargo test --test power_cut power_cut`, as root, where there are loop devices, `mkfs.ext4` and `perl`. It is skipped
//! elsewhere, and if no filter names it, unless one of these variables is set. The long form:
//!
//! ```text
//! DAPBOX_POWER_CUTS=100 DAPBOX_CONTROL_CUTS=20 DAPBOX_SEED=1 cargo test --release --test durability power_cut -- --nocapture
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
    chaos::{Ordeal, Trouble, Who, announce, variable},
    disk::Disk,
    process::{self, Process, Program},
    skip::{may_mount, skip},
};

/// Cycles in short.
const CUTS: u32 = 10;
/// Cycles of the control in short.
const CONTROL_CUTS: u32 = 4;
/// For how long the work goes on before the power fails, in milliseconds.
const WORK: Range<u64> = 0..400;
/// The same for the control, which has its work only just begun.
const CONTROL_WORK: Range<u64> = 100..400;
/// How long servers live on without their disks, in milliseconds.
const AGONY: Range<u64> = 0..40;
/// When the power fails again while a server starts, in milliseconds.
const START: Range<u64> = 0..80;
/// The variable that tells this program to be a server of the control, with its configuration file.
const SERVE: &str = "POWER_CUT_SERVE";

/// Two machines: their disks, and what runs there. Processes end before the disks go.
struct Rig {
    ordeal: Ordeal,
    disks: [Disk; 2],
    _dir: TempDir,
}

/// Why there is no rig.
enum NoRig {
    /// This machine cannot have one.
    Impossible(String),
    Trouble(Trouble),
}

impl Rig {
    async fn start(program: Program, seed: u64, lanes: usize) -> Result<Self, NoRig> {
        let dir = TempDir::new().unwrap();
        let disk = |name| Disk::new(dir.path(), name).map_err(NoRig::Impossible);
        let disks = [disk("leader")?, disk("helper")?];
        let node = |name, disk: &Disk| Process::new(name, program, dir.path(), disk.root.join("data"));
        let nodes = [node("leader-server", &disks[0]), node("helper-server", &disks[1])];
        let ordeal = Ordeal::start(nodes, seed, lanes).await.map_err(NoRig::Trouble)?;
        Ok(Self { ordeal, disks, _dir: dir })
    }

    /// The power fails and comes back. Nothing runs then.
    async fn cut(&mut self, who: Who) {
        Disk::cut(who.places().iter().map(|place| &self.disks[*place])).unwrap();
        tokio::time::sleep(Span::from_millis(self.ordeal.rng.random_range(AGONY))).await;
        for place in who.places() {
            // It is right to end by itself when the disk is gone.
            let _ = self.ordeal.nodes[*place].kill();
            self.disks[*place].remount().unwrap();
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
    let outcome = torment(&mut rig, wanted, &mut cuts).await;
    let tally = rig.ordeal.tally();
    match outcome {
        Ok(()) => announce(format_args!("{cuts} power cuts in {:?}, no loss: {tally}", start.elapsed())),
        Err(trouble) => panic!("DAPBOX_SEED={seed}, after {cuts} power cuts, {tally}: {trouble}"),
    }
}

async fn torment(rig: &mut Rig, wanted: u32, cuts: &mut u32) -> Result<(), Trouble> {
    while *cuts < wanted {
        rig.ordeal.work(WORK).await?;
        let who = Who::any(&mut rig.ordeal.rng);
        rig.cut(who).await;
        *cuts += 1;
        while *cuts < wanted && rig.ordeal.rng.random_ratio(1, 4) {
            who.places().iter().for_each(|place| rig.ordeal.nodes[*place].spawn());
            tokio::time::sleep(Span::from_millis(rig.ordeal.rng.random_range(START))).await;
            rig.cut(who).await;
            *cuts += 1;
        }
        rig.ordeal.revive(who).await?;
    }
    rig.ordeal.see_through().await?;
    rig.cut(Who::Both).await;
    rig.ordeal.revive(Who::Both).await?;
    rig.ordeal.audit().await
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
            Some(Err(trouble)) => panic!("a control does not even start: {trouble}"),
            Some(Ok(mut rig)) => control(&mut rig).await,
        };
        losses += u32::from(matches!(outcome, Err(Trouble::Lost(_))));
        match outcome {
            Ok(()) => announce(format_args!("control {cycle}: nothing lost")),
            Err(trouble) => announce(format_args!("control {cycle}: {trouble:.400}")),
        }
    }
    announce(format_args!("{wanted} power cuts without a sync, DAPBOX_SEED={seed}: {losses} losses"));
    assert!(losses > 0, "nothing was lost without a sync: this test would not notice if the sync were missing");
}

/// One cut in one round of work.
async fn control(rig: &mut Rig) -> Result<(), Trouble> {
    rig.ordeal.last_round();
    // So that it is not the tasks that are lost: reports are what matters.
    rig.ordeal.begun().await;
    rig.disks.iter().for_each(|disk| disk.sync().unwrap());
    rig.ordeal.work(CONTROL_WORK).await?;
    let who = Who::any(&mut rig.ordeal.rng);
    rig.cut(who).await;
    rig.ordeal.revive(who).await?;
    rig.ordeal.see_through().await?;
    rig.ordeal.audit().await
}

/// Whether the power is to be cut: a variable says how often, or the test may mount file systems.
fn is_wanted(variable: &str) -> bool {
    std::env::var_os(variable).is_some() || may_mount()
}

/// The rig, or what went wrong with it; nothing if this machine cannot have one and nobody insists.
fn possible(rig: Result<Rig, NoRig>, insists: &str) -> Option<Result<Rig, Trouble>> {
    match rig {
        Ok(rig) => Some(Ok(rig)),
        Err(NoRig::Trouble(trouble)) => Some(Err(trouble)),
        Err(NoRig::Impossible(why)) if std::env::var_os(insists).is_some() => {
            panic!("cannot cut the power here: {why}")
        }
        Err(NoRig::Impossible(why)) => {
            skip(&format!("cannot cut the power: {why}"));
            None
        }
    }
}

/// This program as a server that does not sync.
fn unsynced(config: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "power_cut::serves_without_sync", "--ignored", "--nocapture"]).env(SERVE, config);
    command
}

/// Not a test but the server of the control.
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
