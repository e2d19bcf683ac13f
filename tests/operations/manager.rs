//! `dapbox serve` under a service manager: its notifications, and a watchdog that stops when the server hangs.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use dapbox::{
    config::Config,
    server::{Server, store_options},
    support::{Act, Failpoints, Phase, Point},
};
use tempfile::TempDir;

use crate::common::{
    self, TEST_TIMEOUT,
    child::{Running, Signal},
};

/// The manager's end of the socket in `NOTIFY_SOCKET`.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        Self(socket)
    }

    /// The next message, as lines.
    fn next(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("nothing more is told");
        String::from_utf8(message[..length].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    /// The next message with a line that starts with this prefix.
    fn until(&self, wanted: &str) -> Vec<String> {
        loop {
            let message = self.next();
            if message.iter().any(|line| line.starts_with(wanted)) {
                return message;
            }
        }
    }
}

#[test]
fn notifies_start_reload_and_stop() {
    let dir = TempDir::new().unwrap();
    let (socket, file) = (dir.path().join("notify"), dir.path().join("appliance.toml"));
    let manager = Manager::new(&socket);
    let text =
        format!("data_dir = {:?}\nlisten = \"127.0.0.1:0\"\n[monitor]\nlisten = \"\"\n", dir.path().join("data"));
    fs::write(&file, &text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.arg("serve").arg("--config").arg(&file).stderr(Stdio::null());
    let mut served = Running::spawn(command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "20000"));

    // The start timeout is extended as long as the start takes.
    let first = manager.next();
    assert_eq!(first, ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=opening the data directory"]);
    let ready = manager.until("READY=1");
    let status = ready.iter().find_map(|line| line.strip_prefix("STATUS=serving on http://")).unwrap();
    let address: SocketAddr = status.trim_end_matches('/').parse().unwrap();
    TcpStream::connect(address).expect("it listens when it says that it is ready");
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }

    // A successful and a refused reload: both end, and the server keeps serving.
    for text in [format!("{text}[leader]\nmax_job_size = 400\n"), "nonsense = 1".to_owned()] {
        fs::write(&file, text).unwrap();
        served.signal(Signal::HUP);
        let reloading = manager.until("RELOADING=1");
        let since = reloading.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!(since.parse::<u64>().unwrap() > 0);
        assert_eq!(manager.until("READY=1"), ready);
    }
    TcpStream::connect(address).unwrap();

    served.signal(Signal::TERM);
    manager.until("STOPPING=1");
    assert!(manager.until("EXTEND_TIMEOUT_USEC=").contains(&"STATUS=stopping".to_owned()));
    assert!(served.wait().unwrap().success());
}

/// A hanging commit, as with a disk that does not answer, stops the liveness probe and thereby the watchdog messages.
#[tokio::test(flavor = "multi_thread")]
async fn hung_store_stops_watchdog() {
    let dir = TempDir::new().unwrap();
    let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.monitor.listen.0 = None;
    (config.disk.reserve_bytes, config.disk.ballast_bytes) = (0, 0);
    let (hangs, notice) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (hangs, released) = (Mutex::new(hangs), Mutex::new(released));
    let plan = move |point, phase| {
        if (point, phase) == (Point::TaskAdd, Phase::Before) {
            hangs.lock().unwrap().send(()).unwrap();
            let _ = released.lock().unwrap().recv();
        }
        Act::Go
    };
    let options = dapbox::store::Options { failpoints: Failpoints::new(plan), migrate: true, ..store_options(&config) };
    let control = reqwest::Client::builder().unix_socket(config.control_socket()).build().unwrap();
    let server = Server::start_with(config, options).await.unwrap();
    let pulse = server.liveness_probe();
    pulse.check().await.unwrap();

    let parties = common::Parties::new(
        dapbox::model::Revision::Dap09,
        dapbox::model::VdafConfig::Prio3Count,
        dapbox::model::BatchMode::TimeInterval,
        "http://127.0.0.1:1/".to_owned(),
        "http://127.0.0.1:2/".to_owned(),
    );
    let added = tokio::spawn(control.post("http://control/tasks").json(&parties.leader).send());
    tokio::task::spawn_blocking(move || notice.recv().unwrap()).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let felt = tokio::spawn({
        let (pulse, over) = (pulse.clone(), over.clone());
        async move { (pulse.check().await, over.load(Ordering::SeqCst)) }
    });
    // Each of these requests takes longer than a probe of a healthy store.
    for _ in 0..20 {
        assert_eq!(control.get("http://control/health").send().await.unwrap().status(), 200);
    }
    over.store(true, Ordering::SeqCst);
    drop(release);
    let (felt, was_over) = felt.await.unwrap();
    assert!(felt.is_ok() && was_over, "it was said to live while its store hung");
    assert_eq!(added.await.unwrap().unwrap().status(), 201);
    server.stop().await.unwrap();
    assert!(pulse.check().await.is_err(), "a store that is closed is not alive");
}
