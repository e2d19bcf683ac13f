//! Backups, restores and compaction from the command line.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use dapbox::{
    model::{BatchMode, MaxMeasurement, Revision, Role, VdafConfig},
    store,
};
use tempfile::TempDir;

use crate::common::{Node, Parties};

const SUM: VdafConfig = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };

fn dapbox(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).env("RUST_BACKTRACE", "0").env_remove("DAPBOX_CONFIG");
    command
}

async fn run(mut command: Command, input: Vec<u8>) -> Output {
    let run = move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The program may stop reading early.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn backs_up_and_restores_from_command_line() {
    let mut node = Node::start().await;
    let parties = Parties::new(
        Revision::Dap09,
        SUM,
        BatchMode::TimeInterval,
        node.url(Revision::Dap09),
        "http://127.0.0.1:1/".to_owned(),
    );
    node.add(&parties.leader).await;
    let dir = TempDir::new().unwrap();
    let (file, data) = (dir.path().join("a.backup"), node.data_dir().to_owned());

    // To standard output and to a file, from a running server and from a stopped one's directory.
    let piped = run(dapbox(&["backup", "--data-dir", text(&data)]), Vec::new()).await;
    assert_code(&piped, 0);
    assert_eq!(store::verify(&piped.stdout[..], |_| ()).unwrap().tasks.len(), 1);
    let to_file = ["backup", "--out", text(&file), "--data-dir", text(&data)];
    assert_code(&run(dapbox(&to_file), Vec::new()).await, 0);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let there = assert_code(&run(dapbox(&to_file), Vec::new()).await, 1);
    assert!(there.contains("--force"), "{there}");
    let busy = assert_code(&run(dapbox(&["compact", "--data-dir", text(&data)]), Vec::new()).await, 1);
    assert!(busy.contains("stop it first"), "{busy}");
    node.stop().await;
    assert_code(&run(dapbox(&[&to_file[..], &["--force"]].concat()), Vec::new()).await, 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left behind");
    let with_key = run(dapbox(&["backup", "--with-key", "--data-dir", text(&data)]), Vec::new()).await;
    assert_code(&with_key, 0);
    let contents = store::verify(&with_key.stdout[..], |_| ()).unwrap();
    assert_eq!((contents.has_key, contents.tasks[0].role), (true, Some(Role::Leader)));

    // The summary of a backup.
    let verify = ["backup", "verify", text(&file), "-o", "json"];
    let verified = run(dapbox(&verify), Vec::new()).await;
    assert_code(&verified, 0);
    let json: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(
        (&json["tasks"][0]["id"], &json["has_key"]),
        (&parties.id().to_string().into(), &false.into()),
        "{json}"
    );
    let good = fs::read(&file).unwrap();
    assert_code(&run(dapbox(&["backup", "verify", "-"]), good.clone()).await, 0);
    for (bad, says) in [(good[..good.len() - 5].to_vec(), "truncated"), ([&good[..], &[0]].concat(), "damaged")] {
        let refused = assert_code(&run(dapbox(&["backup", "verify", "-"]), bad.clone()).await, 1);
        assert!(refused.contains(says), "{refused}");
        let nowhere = dir.path().join("nowhere");
        assert_code(&run(dapbox(&["restore", "-", "--data-dir", text(&nowhere)]), bad).await, 1);
        assert_eq!(fs::read_dir(&nowhere).map_or(0, Iterator::count), 0);
    }
    // Single flipped bits, a few hundred, spread over the file.
    for n in 0..400 {
        let mut bad = good.clone();
        let place = n * (good.len() - 1) / 399;
        bad[place] ^= 1 << (n % 8);
        assert!(store::verify(&bad[..], |_| ()).is_err(), "byte {place}");
    }

    // A restore into a new directory, never over an existing one.
    let copy = dir.path().join("copy");
    let no_key = run(dapbox(&["restore", text(&file), "--data-dir", text(&copy)]), Vec::new()).await;
    let no_key = assert_code(&no_key, 1);
    assert!(no_key.contains("--key-file"), "{no_key}");
    let key = data.join("secrets.key");
    let restore = ["restore", text(&file), "--data-dir", text(&copy), "--key-file", text(&key)];
    let restored = run(dapbox(&restore), Vec::new()).await;
    assert_code(&restored, 0);
    let says = String::from_utf8(restored.stdout).unwrap();
    assert!(says.contains(&format!("dapbox task close {} --before ", parties.id())), "{says}");
    let again = assert_code(&run(dapbox(&restore), Vec::new()).await, 1);
    assert!(again.contains("not empty"), "{again}");
    let compacted = run(dapbox(&["compact", "--data-dir", text(&copy), "-o", "json"]), Vec::new()).await;
    assert_code(&compacted, 0);
    let json: serde_json::Value = serde_json::from_slice(&compacted.stdout).unwrap();
    assert!(json["rows"].as_u64() > Some(0), "{json}");
    node.config.data_dir = copy;
    node.resume().await;
    assert_eq!(node.status(&parties.id()).await.role, Role::Leader);
    node.stop().await;
}
