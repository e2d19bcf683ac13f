//! `dapbox serve` with ACME certificates, and its log.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpSocket, sync::mpsc};

use super::authority::Means;
use crate::common::child::Running;

/// Timeout of every wait in these tests.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A reserved port.
pub struct Reserved {
    pub address: SocketAddr,
    _socket: TcpSocket,
}

/// Lets the system choose a port.
pub fn reserve() -> Reserved {
    let socket = TcpSocket::new_v4().unwrap();
    // Two sockets may bind an address if both set this option and only one of them listens.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    Reserved { address: socket.local_addr().unwrap(), _socket: socket }
}

/// `dapbox serve`, which can be stopped and restarted.
pub struct Appliance {
    pub address: SocketAddr,
    dir: TempDir,
    settings: String,
    process: Option<Running>,
    lines: mpsc::UnboundedReceiver<String>,
    sender: mpsc::UnboundedSender<String>,
    log: Arc<Mutex<String>>,
    _port: Reserved,
}

impl Appliance {
    /// Writes a configuration. Starts nothing.
    pub fn new(port: Reserved, domains: &[&str], means: &Means) -> Self {
        let dir = TempDir::new().unwrap();
        let settings = format!(
            r#"
            listen = "{}"
            data_dir = {:?}
            [tls]
            mode = "acme"
            [monitor]
            listen = ""
            [disk]
            reserve_bytes = 0
            ballast_bytes = 0
            [log]
            level = "trace"
            format = "json"
            [acme]
            directory = "{}"
            directory_ca_file = {:?}
            contact_email = "admin@example.test"
            retry_initial = "100ms"
            retry_max = "500ms"
            "#,
            port.address,
            dir.path().join("data"),
            means.directory(),
            means.ca_file(),
        );
        let (sender, lines) = mpsc::unbounded_channel();
        let (address, log) = (port.address, Arc::default());
        let appliance = Self { address, dir, settings, process: None, lines, sender, log, _port: port };
        appliance.set_domains(domains);
        appliance
    }

    /// Changes the domains for the next start.
    pub fn set_domains(&self, domains: &[&str]) {
        fs::write(self.config(), format!("{}domains = {domains:?}\n", self.settings)).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("appliance.toml")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts it and waits until it serves.
    pub async fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
        command.arg("serve").arg("--config").arg(self.config());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DAPBOX_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Running::spawn(&mut command);
        let (stderr, sender, log) = (process.stderr.take().unwrap(), self.sender.clone(), self.log.clone());
        thread::spawn(move || read_log(stderr, &sender, &log));
        self.process = Some(process);
        self.wait_for("serving").await;
    }

    /// Stops it as its operator would.
    pub fn stop(&mut self) {
        self.process.take().unwrap().terminate();
    }

    /// Waits for the next log line with this message.
    pub async fn wait_for(&mut self, message: &str) -> Value {
        self.wait_for_field(message, "message", message).await
    }

    /// Waits for the next log line with this message and a text in a field.
    pub async fn wait_for_field(&mut self, message: &str, field: &str, text: &str) -> Value {
        let lines = &mut self.lines;
        let found = async {
            loop {
                let line: Value = serde_json::from_str(&lines.recv().await.unwrap()).unwrap_or_default();
                if line["message"] == message && line[field].as_str().is_some_and(|value| value.contains(text)) {
                    return line;
                }
            }
        };
        match tokio::time::timeout(TEST_TIMEOUT, found).await {
            Ok(line) => line,
            Err(_) => panic!("the log never says '{message}': {}", self.log()),
        }
    }

    /// The whole log.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

fn read_log(stderr: ChildStderr, lines: &mpsc::UnboundedSender<String>, log: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        log.lock().unwrap().push_str(&format!("{line}\n"));
        // The receiver may be gone.
        let _ = lines.send(line);
    }
}
