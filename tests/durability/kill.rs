//! Processes are killed with SIGKILL at any moment, and nothing that was acknowledged is lost.
//!
//! # What is promised
//!
//! Whatever an aggregator has answered with success stays true when its process is killed the moment after: a report that
//! was taken is in the aggregate exactly once, a task that was added is there, one that was removed does not come back, a
//! batch that was collected stays collected with the same result. Leader and helper agree on all of it. And a server that
//! was killed starts again, also if it was killed while it started.
//!
//! # How it is tested
//!
//! A leader and a helper, each `dapbox serve` as a process with its own data directory, work for clients and a collector
//! (`common/ordeal.rs` says on what and how it is checked that every report counts exactly once), both revisions and both
//! batch modes at once. Meanwhile one of them, or both, are killed, after 0 to 300 ms of work, or while they start, and
//! started again. In the end both are killed and started once more, and everything is looked at again. The collections
//! themselves prove that both sides have the same reports: the helper refuses its share if count or checksum differ.
//! Nothing may be logged as an error, and no server may end by itself.
//!
//! # How to run it
//!
//! `cargo test --test durability kill` kills a dozen times. The long form, with its seed if it is to be the same again (the moments are
//! chosen by the seed; what the processes are at then is not):
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
    PATIENCE,
    chaos::{Ordeal, Trouble, Who, announce, variable},
    child::Running,
    process::{self, Process},
};

/// How many times is killed in short.
const KILLS: u32 = 12;
/// For how long the work goes on between two kills, in milliseconds.
const WORK: std::ops::Range<u64> = 0..300;
/// When a process that starts is killed, in milliseconds.
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
    let mut ordeal = Ordeal::start([node("leader"), node("helper")], seed, 2).await.unwrap();
    let mut kills = Kills::default();
    match torment(&mut ordeal, wanted, &mut kills).await {
        Ok(()) => announce(format_args!("{kills:?} in {:?}: {}", start.elapsed(), ordeal.tally())),
        Err(trouble) => panic!("DAPBOX_SEED={seed}, {kills:?}, {}: {trouble}", ordeal.tally()),
    }
}

async fn torment(ordeal: &mut Ordeal, wanted: u32, kills: &mut Kills) -> Result<(), Trouble> {
    while kills.all < wanted {
        ordeal.work(WORK).await?;
        let who = Who::any(&mut ordeal.rng);
        kill(ordeal, who, kills)?;
        while kills.all < wanted && ordeal.rng.random_ratio(1, 4) {
            who.places().iter().for_each(|place| ordeal.nodes[*place].spawn());
            tokio::time::sleep(Span::from_millis(ordeal.rng.random_range(START))).await;
            kill(ordeal, who, kills)?;
            kills.while_starting += 1;
        }
        ordeal.revive(who).await?;
    }
    ordeal.see_through().await?;
    kill(ordeal, Who::Both, kills)?;
    ordeal.revive(Who::Both).await?;
    ordeal.audit().await?;
    let errors: Vec<String> = ordeal.nodes.iter().flat_map(Process::errors).collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Trouble::Lost(format!("errors were logged: {errors:#?}"))),
    }
}

fn kill(ordeal: &mut Ordeal, who: Who, kills: &mut Kills) -> Result<(), Trouble> {
    for place in who.places() {
        ordeal.nodes[*place].kill().map_err(Trouble::Lost)?;
        *[&mut kills.leader, &mut kills.helper][*place] += 1;
    }
    kills.all += 1;
    Ok(())
}

/// Where the server of [`serves_until_killed`] has its data.
const DIRECTORY: &str = "TEST_KILLED_DIRECTORY";

/// The test program that is killed by the test below.
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
    // The server has the same standard output, so that it ends with the last of the two.
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
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(true), "the server outlives its test");
}
