//! An aggregator in its own process. It can be killed at any time and restarted with the same address and data.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use tokio::{net::TcpSocket, sync::oneshot};

use super::{TEST_TIMEOUT, child};

/// Builds the command that serves with a configuration file.
pub type Program = fn(&Path) -> Command;

/// The number of kept log lines.
const KEPT: usize = 60;

/// The command `dapbox serve`.
pub fn dapbox(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.arg("serve").arg("--config").arg(config);
    command
}

/// An aggregator process, running or not.
pub struct Process {
    pub data_dir: PathBuf,
    pub address: SocketAddr,
    name: &'static str,
    program: Program,
    config: PathBuf,
    /// Bound but never listening, so that no other process gets the port while the aggregator is down.
    _port: TcpSocket,
    running: Option<Running>,
    log: Arc<Mutex<Log>>,
}

struct Running {
    child: child::Running,
    /// Resolves when the process serves; closed when it has ended.
    serves: Option<oneshot::Receiver<()>>,
}

/// The log of all runs.
#[derive(Default)]
struct Log {
    last: VecDeque<String>,
    errors: Vec<String>,
}

impl Process {
    /// Chooses an address and writes the configuration into `dir`. Starts nothing.
    pub fn new(name: &'static str, program: Program, dir: &Path, data_dir: PathBuf) -> Self {
        let port = TcpSocket::new_v4().unwrap();
        // Two sockets may bind an address if both set this option and only one of them listens.
        port.set_reuseaddr(true).unwrap();
        port.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = port.local_addr().unwrap();
        let config = dir.join(format!("{name}.toml"));
        fs::write(&config, configuration(address, &data_dir)).unwrap();
        Self { data_dir, address, name, program, config, _port: port, running: None, log: Arc::default() }
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        let mut command = (self.program)(&self.config);
        // Variables with the prefix `DAPBOX_` are options of the server; the tests have variables with the same prefix.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DAPBOX_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child::Running::spawn(&mut command);
        let (sender, serves) = oneshot::channel();
        let (log, stderr) = (self.log.clone(), child.stderr.take().unwrap());
        thread::spawn(move || read_log(stderr, &log, sender));
        self.running = Some(Running { child, serves: Some(serves) });
    }

    /// Waits until the process serves. If it ends first, returns its last log lines.
    pub async fn ready(&mut self) -> Result<(), String> {
        let serves = self.running.as_mut().and_then(|running| running.serves.take());
        match tokio::time::timeout(TEST_TIMEOUT, serves.unwrap()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(format!("the {} does not start: {}", self.name, self.last_words())),
            Err(_) => Err(format!("the {} neither starts nor ends: {}", self.name, self.last_words())),
        }
    }

    /// Sends SIGKILL. If the process had already ended, returns its last log lines.
    pub fn kill(&mut self) -> Result<(), String> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let ended = running.child.try_wait().unwrap();
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        match ended {
            None => Ok(()),
            Some(status) => Err(format!("the {} ended by itself ({status}): {}", self.name, self.last_words())),
        }
    }

    /// All log lines of level error.
    pub fn errors(&self) -> Vec<String> {
        self.log.lock().unwrap().errors.clone()
    }

    fn last_words(&self) -> String {
        let log = self.log.lock().unwrap();
        log.last.iter().map(|line| format!("\n    {line}")).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn read_log(stderr: ChildStderr, log: &Mutex<Log>, serves: oneshot::Sender<()>) {
    let mut serves = Some(serves);
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.contains(r#""message":"serving""#) {
            // The receiver may be gone.
            let _ = serves.take().map(|serves| serves.send(()));
        }
        let mut log = log.lock().unwrap();
        if line.contains(r#""level":"ERROR""#) {
            log.errors.push(line.clone());
        }
        log.last.push_back(line);
        if log.last.len() > KEPT {
            log.last.pop_front();
        }
    }
}

/// Small jobs, short pauses, and a helper that defers larger jobs: many state changes in little time.
fn configuration(address: SocketAddr, data_dir: &Path) -> String {
    format!(
        r#"
        listen = "{address}"
        data_dir = {data_dir:?}
        [monitor]
        listen = ""
        [leader]
        min_job_size = 4
        max_job_size = 16
        max_job_delay = "40ms"
        jobs_in_flight = 3
        retry_initial = "10ms"
        retry_max = "100ms"
        [helper]
        synchronous_reports = 8
        [limits]
        workers = 2
        store_cache_bytes = 8388608
        [log]
        level = "info"
        format = "json"
        "#
    )
}
