//! A log that cannot be written. The server works, answers, shuts down in order, and counts the lost lines.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, ErrorKind, PipeReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use dapbox::{
    model::{BatchMode, Revision, Task, VdafConfig},
    vdaf::{AggregateResult, Measurement},
    views::{overview::Overview, status::Health},
    wire,
};
use rstest::rstest;
use rustix::fs::OFlags;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    Parties, TEST_TIMEOUT,
    child::{Running, Signal},
    skip::{has_programs, skip},
};

/// The target of standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    /// Closed.
    Closed,
    /// A pipe without a reader.
    Broken,
    /// A full disk.
    Full,
    /// A full pipe that is never read.
    Unread,
}

impl Log {
    /// Whether the machine supports this target.
    #[track_caller]
    fn can_be(self) -> bool {
        match self {
            Self::Closed => has_programs(&["sh"]),
            Self::Full => Path::new("/dev/full").exists() || skip("there is no /dev/full"),
            Self::Broken | Self::Unread => true,
        }
    }
}

/// `dapbox` with this standard error, and a handle to keep while it runs.
fn dapbox(log: Log, arguments: &[&str]) -> (Command, Option<PipeReader>) {
    let program = env!("CARGO_BIN_EXE_dapbox");
    let mut command = match log {
        Log::Closed => {
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec \"$0\" \"$@\" 2>&-", program]);
            shell
        }
        _ => Command::new(program),
    };
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DAPBOX_")) {
        command.env_remove(name);
    }
    let options = [
        ("LOG__LEVEL", "trace"),
        ("MONITOR__LISTEN", ""),
        ("LEADER__MIN_JOB_SIZE", "1"),
        ("DISK__RESERVE_BYTES", "0"),
        ("DISK__BALLAST_BYTES", "0"),
    ];
    command.envs(options.map(|(name, value)| (format!("DAPBOX_{name}"), value)));
    let mut kept = None;
    match log {
        Log::Closed => {}
        Log::Broken => {
            command.stderr(io::pipe().unwrap().1);
        }
        Log::Full => {
            command.stderr(OpenOptions::new().write(true).open("/dev/full").unwrap());
        }
        Log::Unread => {
            let (reader, mut writer) = io::pipe().unwrap();
            rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
            while !matches!(writer.write(&[b'x'; 512]), Err(error) if error.kind() == ErrorKind::WouldBlock) {}
            rustix::fs::fcntl_setfl(&writer, OFlags::empty()).unwrap();
            // It fills up soon.
            command.stderr(writer).env("DAPBOX_LOG__QUEUE_BYTES", "4096");
            kept = Some(reader);
        }
    }
    (command, kept)
}

/// `dapbox serve` with such a log.
struct Served {
    child: Running,
    data: PathBuf,
    url: String,
    /// Dropping it would break the pipe.
    _unread: Option<PipeReader>,
}

impl Served {
    async fn start(dir: &Path, name: &str, log: Log, revision: Revision) -> Self {
        let data = dir.join(name);
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
        let (mut command, unread) = dapbox(log, &arguments);
        let child = Running::spawn(&mut command);
        let mut served = Self { child, data, url: String::new(), _unread: unread };
        let deadline = Instant::now() + TEST_TIMEOUT;
        let address = loop {
            if let Ok(answer) = served.control().get("http://control/health").send().await {
                break answer.json::<Health>().await.unwrap().address.unwrap();
            }
            assert!(served.child.try_wait().unwrap().is_none(), "{log:?}: it has ended");
            assert!(Instant::now() < deadline, "{log:?}: it does not serve");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        served.url = format!("http://{address}/{}/", wire::for_revision(revision).path_prefix());
        served
    }

    fn control(&self) -> reqwest::Client {
        reqwest::Client::builder().unix_socket(self.data.join("control.sock")).build().unwrap()
    }

    async fn add(&self, task: &Task) {
        assert_eq!(self.control().post("http://control/tasks").json(task).send().await.unwrap().status(), 201);
    }

    /// The output of a command about the server.
    async fn ask(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
        command.args(arguments).arg("--data-dir").arg(&self.data).stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap().stdout).await.unwrap()
    }

    async fn stop(&mut self) -> ExitStatus {
        self.child.signal(Signal::TERM);
        ended(&mut self.child).await
    }
}

/// Waits until a process has ended.
async fn ended(child: &mut Running) -> ExitStatus {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn works_without_log(
    #[values(Log::Closed, Log::Broken, Log::Full, Log::Unread)] log: Log,
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    if !log.can_be() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut leader = Served::start(dir.path(), "leader", log, revision).await;
    let mut helper = Served::start(dir.path(), "helper", log, revision).await;
    let (mode, urls) = (BatchMode::TimeInterval, [leader.url.clone(), helper.url.clone()]);
    let [leader_url, helper_url] = urls;
    let parties = Parties::new(revision, VdafConfig::Prio3Count, mode, leader_url, helper_url);
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    // Every driver of both nodes has work.
    for _ in 0..3 {
        parties.client().upload(Measurement::Flag(true), None).await.unwrap();
    }
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (3, AggregateResult::Number(3)));
    // Commands that query the server succeed and report lost lines. A closed standard error becomes the null device.
    let overview: Overview = serde_json::from_slice(&leader.ask(&["status", "-o", "json"]).await).unwrap();
    assert_eq!(overview.not_ready, Vec::<String>::new());
    assert_eq!(overview.log_lines_dropped > 0, log != Log::Closed, "{}", overview.log_lines_dropped);
    let findings: Value = serde_json::from_slice(&leader.ask(&["doctor", "--offline", "-o", "json"]).await).unwrap();
    let finding = findings.as_array().unwrap().iter().find(|finding| finding["name"] == "log").unwrap();
    assert_eq!(finding["outcome"], if log == Log::Closed { "ok" } else { "warning" }, "{finding}");
    for served in [&mut leader, &mut helper] {
        assert_eq!(served.stop().await.code(), Some(0), "{log:?}");
    }
}

/// A failing server says why where possible, and exits in any case.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn exits_with_error_without_log(#[values(Log::Closed, Log::Broken, Log::Full, Log::Unread)] log: Log) {
    if !log.can_be() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let running = Served::start(dir.path(), "data", Log::Broken, Revision::Dap18).await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", running.data.to_str().unwrap()];
    let (mut command, _unread) = dapbox(log, &arguments);
    let mut second = Running::spawn(&mut command);
    assert_eq!(ended(&mut second).await.code(), Some(1), "{log:?}");
    // And into a file.
    let path = dir.path().join("log");
    let mut second = Running::spawn(dapbox(Log::Broken, &arguments).0.stderr(File::create(&path).unwrap()));
    assert_eq!(ended(&mut second).await.code(), Some(1));
    let said = fs::read_to_string(&path).unwrap();
    assert!(said.lines().last().unwrap().contains("is in use by another process"), "{said}");
}

/// Log lines are flushed before the exit, and lost lines are counted in the log itself.
#[tokio::test(flavor = "multi_thread")]
async fn counts_lost_log_lines() {
    let dir = TempDir::new().unwrap();
    let mut served = Served::start(dir.path(), "data", Log::Unread, Revision::Dap18).await;
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        // One line each.
        let order = serde_json::json!({ "level": "info" });
        assert_eq!(served.control().post("http://control/log").json(&order).send().await.unwrap().status(), 200);
        let overview = served.control().get("http://control/overview").send().await.unwrap();
        if overview.json::<Overview>().await.unwrap().log_lines_dropped > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is dropped");
    }
    let reader = BufReader::new(served._unread.take().unwrap());
    let (sender, mut messages) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            let line = serde_json::from_str::<Value>(line.trim_start_matches('x')).unwrap_or_default();
            let _ = sender.send(line["message"].as_str().unwrap_or_default().to_owned());
        }
    });
    let mut until = async |wanted: &str| while messages.recv().await.expect(wanted) != wanted {};
    until("log lines dropped").await;
    assert_eq!(served.stop().await.code(), Some(0));
    until("stopped").await;
}
