//! Unusable data directories. The operator sees one line with the directory and a hint, exit code 1, and no panic. The
//! store has the tests of a damaged database.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::common::{
    TEST_TIMEOUT,
    child::{Running, copy_program},
    volume::Volume,
};

/// The user id of `nobody`.
const NOBODY: u32 = 65534;

fn dapbox(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).env_remove("DAPBOX_CONFIG").env("RUST_BACKTRACE", "0").current_dir("/");
    command.env("DAPBOX_MONITOR__LISTEN", "");
    command
}

fn serve(dir: &Path) -> Command {
    dapbox(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()])
}

/// Asserts that a command fails with all of these texts in its output.
#[track_caller]
fn assert_fails(mut command: Command, parts: &[&str]) {
    let mut child = Running::spawn(command.stderr(Stdio::piped()));
    let deadline = Instant::now() + TEST_TIMEOUT;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            None => panic!("{command:?} goes on"),
        }
    };
    let text = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    // Log lines are JSON here.
    let said: Vec<_> = text.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(said.len(), 1, "{text}");
    for part in parts {
        assert!(said[0].contains(part), "{part:?} is not in {text}");
    }
}

/// A running server.
struct Server(Running);

impl Server {
    fn start(dir: &Path) -> Self {
        let server = Self(Running::spawn(serve(dir).stderr(Stdio::null())));
        let deadline = Instant::now() + TEST_TIMEOUT;
        while std::os::unix::net::UnixStream::connect(dir.join("control.sock")).is_err() {
            assert!(Instant::now() < deadline, "the server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn stop(self) {
        self.0.terminate();
    }
}

/// A directory of a stopped server.
fn used() -> TempDir {
    let dir = TempDir::new().unwrap();
    Server::start(&dir.path().join("data")).stop();
    dir
}

#[test]
fn locks_data_directory() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let running = Server::start(&data);
    assert_fails(serve(&data), &[data.to_str().unwrap(), "in use by another process", "stop that process"]);
    // The lock holds without the control socket.
    fs::remove_file(data.join("control.sock")).unwrap();
    let list = dapbox(&["task", "list", "--data-dir", data.to_str().unwrap()]);
    assert_fails(list, &[data.to_str().unwrap(), "in use by another process"]);
    running.stop();
}

#[test]
fn refuses_newer_foreign_or_damaged_directory_with_hint() {
    let dir = used();
    let data = dir.path().join("data");
    let marker = data.join("dapbox-data");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.trim_end().to_owned() + "000\n").unwrap();
    assert_fails(serve(&data), &[data.to_str().unwrap(), "newer release", "restore a backup"]);
    fs::write(&marker, "dapbox data").unwrap();
    assert_fails(serve(&data), &[data.to_str().unwrap(), "damaged", "restore a backup"]);
    fs::write(&marker, &text).unwrap();
    let database = fs::read(data.join("tables/db")).unwrap();
    for bad in [&database[..100], b"", b"something else altogether"] {
        fs::write(data.join("tables/db"), bad).unwrap();
        assert_fails(serve(&data), &[data.to_str().unwrap(), "damaged", "restore a backup"]);
    }
    fs::remove_file(&marker).unwrap();
    assert_fails(serve(&data), &[data.to_str().unwrap(), "other files", "use an empty or new directory"]);
    // A refused directory is unchanged and opens again after its repair.
    fs::write(&marker, &text).unwrap();
    fs::write(data.join("tables/db"), database).unwrap();
    Server::start(&data).stop();
}

#[test]
fn refuses_file_in_place_of_directory() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        assert_fails(serve(&path), &[path.to_str().unwrap(), "is a file", "use a directory"]);
    }
}

#[test]
fn refuses_read_only_file_system() {
    let Some(volume) = Volume::mount(80) else { return };
    let data = volume.path().join("data");
    Server::start(&data).stop();
    volume.remount("ro");
    assert_fails(serve(&data), &["read-only", "mount it for writing"]);
    assert_fails(serve(&volume.path().join("new")), &["read-only", "mount it for writing"]);
}

#[test]
fn refuses_directory_of_another_user_with_hint() {
    let dir = used();
    let data = dir.path().join("data");
    let mut command = serve(&data);
    // Permissions do not restrict the superuser.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let binary = dir.path().join("dapbox");
        copy_program(Path::new(env!("CARGO_BIN_EXE_dapbox")), &binary);
        command = Command::new(&binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
        command.env("RUST_BACKTRACE", "0").current_dir("/").uid(NOBODY).gid(NOBODY);
    } else {
        fs::set_permissions(data.join("dapbox-data"), fs::Permissions::from_mode(0o000)).unwrap();
    }
    assert_fails(command, &[data.to_str().unwrap(), "permission denied", "chown"]);
}
