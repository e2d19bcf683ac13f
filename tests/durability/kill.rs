//! Processes are killed with SIGKILL at random moments, and nothing acknowledged is lost.
//!
//! # Guarantees
//!
//! Every success that an aggregator has answered stays true when its process is killed immediately afterwards. An
//! accepted
//! report is aggregated exactly once, an added task exists, a removed task stays removed, and a collected batch keeps
//! its
//! result. Leader and helper agree. A killed server starts again, even if it was killed during its start.
//!
//! # Method
//!
//! A leader and a helper run as `dapbox serve` processes with their own data directories, under the workload of
//! `common/chaos.rs`, which checks that every report counts exactly once. One or both are killed after 0 to 300 ms of
//! work or
//! during their start, and restarted. At the end both are killed once more and everything is checked again. A
//! collection
//! also proves that both sides have the same reports: the helper refuses its share if count or checksum differ. No
//! server
//! may log an error or exit on its own.
//!
//! # Running it
//!
//! `cargo test --test durability kill` kills twelve times. The long form takes a seed. The seed determines the moments
//! of the
//! kills, but not the state of the processes at these moments:
//!
//! ```text
//! DAPBOX_KILLS=300 DAPBOX_SEED=1 cargo test --release --test durability kill -- --nocapture
//! ```

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration as Span, Instant},
};

use rand::Rng;

use crate::common::{
    TEST_TIMEOUT,
    chaos::{ChaosError, ChaosRig, Victims, announce, variable},
    child::Running,
    process::{self, Process},
};

/// Kills in the short form.
const KILLS: u32 = 12;
/// Work between two kills, in milliseconds.
const WORK: std::ops::Range<u64> = 0..300;
/// Delay of a kill after the start of a process, in milliseconds.
const START: std::ops::Range<u64> = 0..80;

/// Kills and their victims.
#[derive(Debug, Default)]
struct Kills {
    all: u32,
    leader: u32,
    helper: u32,
    while_starting: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_nothing_acknowledged_when_killed() {
    let (wanted, seed) = (variable("DAPBOX_KILLS", KILLS), variable("DAPBOX_SEED", rand::random()));
    announce(format_args!("killing {wanted} times, DAPBOX_SEED={seed}"));
    let start = Instant::now();
    let dir = tempfile::TempDir::new().unwrap();
    let node = |name| Process::new(name, process::dapbox, dir.path(), dir.path().join(name));
    let mut rig = ChaosRig::start([node("leader"), node("helper")], seed, 2).await.unwrap();
    let mut kills = Kills::default();
    match run_kills(&mut rig, wanted, &mut kills).await {
        Ok(()) => announce(format_args!("{kills:?} in {:?}: {}", start.elapsed(), rig.tally())),
        Err(error) => panic!("DAPBOX_SEED={seed}, {kills:?}, {}: {error}", rig.tally()),
    }
}

async fn run_kills(rig: &mut ChaosRig, wanted: u32, kills: &mut Kills) -> Result<(), ChaosError> {
    while kills.all < wanted {
        rig.work(WORK).await?;
        let victims = Victims::any(&mut rig.rng);
        kill(rig, victims, kills)?;
        while kills.all < wanted && rig.rng.random_ratio(1, 4) {
            victims.indices().iter().for_each(|index| rig.nodes[*index].spawn());
            tokio::time::sleep(Span::from_millis(rig.rng.random_range(START))).await;
            kill(rig, victims, kills)?;
            kills.while_starting += 1;
        }
        rig.restart(victims).await?;
    }
    rig.finish_work().await?;
    kill(rig, Victims::Both, kills)?;
    rig.restart(Victims::Both).await?;
    rig.audit().await?;
    let errors: Vec<String> = rig.nodes.iter().flat_map(Process::errors).collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ChaosError::Lost(format!("errors were logged: {errors:#?}"))),
    }
}

fn kill(rig: &mut ChaosRig, victims: Victims, kills: &mut Kills) -> Result<(), ChaosError> {
    for index in victims.indices() {
        rig.nodes[*index].kill().map_err(ChaosError::Lost)?;
        *[&mut kills.leader, &mut kills.helper][*index] += 1;
    }
    kills.all += 1;
    Ok(())
}

/// The variable with the data directory of the server of [`serves_until_killed`].
const DIRECTORY: &str = "TEST_KILLED_DIRECTORY";

/// The test program that the next test kills.
#[test]
#[ignore = "a part of another test"]
fn serves_until_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let mut command = process::dapbox(&dir.join("appliance.toml"));
    let _server = Running::spawn(command.stderr(Stdio::null()));
    std::io::stdout().write_all(b"started\n").unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn kills_servers_of_killed_test_program() {
    let dir = tempfile::TempDir::new().unwrap();
    let text =
        format!("data_dir = {:?}\nlisten = \"127.0.0.1:0\"\n[monitor]\nlisten = \"\"\n", dir.path().join("data"));
    std::fs::write(dir.path().join("appliance.toml"), text).unwrap();
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--ignored", "--exact", "kill::serves_until_killed", "--nocapture"]).env(DIRECTORY, dir.path());
    let mut program = Running::spawn(program.stdout(Stdio::piped()));
    // The server inherits this standard output, so that reading remotes when both processes have ended.
    let mut output = program.stdout.take().unwrap();
    let mut said = String::new();
    let mut byte = [0];
    while !said.contains("started") {
        assert_eq!(output.read(&mut byte).unwrap(), 1, "the program ended: {said}");
        said.push(char::from(byte[0]));
    }
    program.kill().unwrap();
    program.wait().unwrap();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(std::io::copy(&mut output, &mut std::io::sink()).is_ok()));
    assert_eq!(ended.recv_timeout(TEST_TIMEOUT), Ok(true), "the server outlives its test");
}
