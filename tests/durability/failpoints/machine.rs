//! A machine with a server that fails at one point and then restarts.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration as Span,
};

use dapbox::{
    config::{Config, OptionalAddress, Seconds},
    model::{KeyState, Revision, Task, TaskId, Time, tokens::TokenChange, verify_keys::VerifyKeyChange},
    server::{Server, StartError, store_options},
    store::{OpenError, Options},
    support::{Act, Failpoints, Phase, Point},
    views::{
        keys::ListedKey,
        privacy::PrivacyChange,
        status::{CloseRequest, NeverContactedRequest, RenameRequest, TaskStatus},
    },
    wire::{self, management::MEDIA_TYPE},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, watch},
};

use crate::common::TEST_TIMEOUT;

/// The additional duration of a slow operation.
const DELAY: Span = Span::from_millis(40);
/// The pause before a retry.
pub const RETRY_PAUSE: Span = Span::from_millis(5);

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The disk or the network fails.
    Error,
    /// It takes longer.
    Delay,
    /// The process is gone.
    Crash,
}

/// A fault at one passing of one point.
#[derive(Clone, Copy, Debug)]
pub struct InjectedFault {
    pub point: Point,
    pub phase: Phase,
    pub kind: FaultKind,
    pub passing: usize,
}

/// How often each point was passed.
pub type PassCounts = BTreeMap<(Point, Phase), usize>;

/// The fault of a machine, over all its server runs.
pub struct FaultInjector {
    fault: Option<InjectedFault>,
    /// A point that is always slow.
    slow: Option<(Point, Phase, Span)>,
    pass_counts: watch::Sender<PassCounts>,
    fired: AtomicBool,
}

impl FaultInjector {
    pub fn new(fault: Option<InjectedFault>, slow: Option<(Point, Phase, Span)>) -> Arc<Self> {
        Arc::new(Self { fault, slow, pass_counts: watch::Sender::default(), fired: AtomicBool::new(false) })
    }

    /// Whether the fault has happened.
    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }

    pub fn pass_counts(&self) -> PassCounts {
        self.pass_counts.borrow().clone()
    }

    /// Waits until a point is passed.
    pub async fn passed(&self, point: Point, phase: Phase) {
        self.pass_counts.subscribe().wait_for(|pass_counts| pass_counts.contains_key(&(point, phase))).await.unwrap();
    }

    fn pass(&self, point: Point, phase: Phase) -> Option<FaultKind> {
        let mut count = 0;
        self.pass_counts.send_modify(|pass_counts| {
            let passing = pass_counts.entry((point, phase)).or_default();
            *passing += 1;
            count = *passing;
        });
        let fault = self.fault.filter(|it| (it.point, it.phase, it.passing) == (point, phase, count))?;
        self.fired.store(true, Ordering::SeqCst);
        Some(fault.kind)
    }
}

/// One run of a server, from start to end.
#[derive(Default)]
struct ServerRun {
    /// Nothing is written after this.
    is_over: AtomicBool,
    crashed: Notify,
    /// A copy of the data directory at the moment of the crash, if one was made.
    image: Mutex<Option<PathBuf>>,
    released: Mutex<bool>,
    release_signal: Condvar,
}

impl ServerRun {
    /// The action at a point of this run.
    fn act(&self, injector: &FaultInjector, data_dir: &Path, point: Point, phase: Phase) -> Act {
        if self.is_over.load(Ordering::SeqCst) {
            return Act::Fail;
        }
        match injector.pass(point, phase) {
            Some(FaultKind::Error) => Act::Fail,
            Some(FaultKind::Delay) => Act::Wait(DELAY),
            Some(FaultKind::Crash) => self.crash(data_dir),
            None => match injector.slow {
                Some((slow, when, delay)) if (slow, when) == (point, phase) => Act::Wait(delay),
                _ => Act::Go,
            },
        }
    }

    /// Crashes the process. In the store's thread no write is in progress: the files are as a kill leaves them, and the
    /// thread blocks until everything else is gone. In other threads the request hangs until its task is gone; the
    /// directory then includes the commit in progress, if any.
    fn crash(&self, data_dir: &Path) -> Act {
        self.is_over.store(true, Ordering::SeqCst);
        if thread::current().name() != Some("store") {
            self.crashed.notify_one();
            return Act::Wait(TEST_TIMEOUT);
        }
        let image = data_dir.with_extension("image");
        copy(data_dir, &image).unwrap();
        *self.image.lock().unwrap() = Some(image);
        self.crashed.notify_one();
        let released = self.released.lock().unwrap();
        drop(self.release_signal.wait_while(released, |released| !*released).unwrap());
        Act::Fail
    }

    fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.release_signal.notify_all();
    }
}

/// Copies everything but sockets.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// A machine.
pub struct Machine {
    pub address: SocketAddr,
    /// The runtime of the current run.
    data_dir: watch::Receiver<PathBuf>,
    switch: watch::Sender<bool>,
    keeper: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl Machine {
    /// Starts a machine and waits until its server answers. The address is exclusive.
    pub async fn start(host: [u8; 4], injector: Arc<FaultInjector>, change: impl FnOnce(&mut Config)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
        let nowhere = SocketAddr::from((host, 0));
        // A fixed address, so that the configuration can name it.
        config.listen = std::net::TcpListener::bind(nowhere).unwrap().local_addr().unwrap();
        config.monitor.listen = OptionalAddress(None);
        (config.leader.retry_initial, config.leader.retry_max) = (Seconds::millis(10), Seconds::millis(40));
        config.leader.collection_retry_after = Seconds::millis(10);
        (config.limits.workers, config.limits.store_cache_bytes) = (1, 1 << 20);
        change(&mut config);
        let (address, mut addresses) = watch::channel(nowhere);
        let (place, data_dir) = watch::channel(config.data_dir.clone());
        let switch = watch::Sender::new(true);
        let keeper = Supervisor { config, injector, address, place, switch: switch.subscribe() };
        let keeper = thread::spawn(move || keeper.run());
        let address = *addresses.wait_for(|address| address.port() > 0).await.unwrap();
        Self { address, data_dir, switch, keeper: Some(keeper), _dir: dir }
    }

    /// Base URL of the server for a revision.
    pub fn url(&self, revision: Revision) -> String {
        format!("http://{}/{}/", self.address, wire::for_revision(revision).path_prefix())
    }

    /// Stops the server gracefully, then the machine.
    pub async fn stop(mut self) {
        self.switch.send_replace(false);
        let keeper = self.keeper.take().unwrap();
        tokio::task::spawn_blocking(move || keeper.join()).await.unwrap().expect("the keeper of a server has panicked");
    }

    /// Sends a request to the current control socket until it is answered.
    pub async fn control(&self, ask: impl Fn(reqwest::Client) -> reqwest::RequestBuilder) -> reqwest::Response {
        loop {
            self.check();
            let socket = self.data_dir.borrow().join("control.sock");
            let control = reqwest::Client::builder().unix_socket(socket).build().unwrap();
            match ask(control).send().await {
                Ok(answer) if !answer.status().is_server_error() => return answer,
                _ => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Adds a task unless it exists; returns the status.
    pub async fn add(&self, task: &Task) -> u16 {
        self.control(|control| control.post("http://control/tasks").json(task)).await.status().as_u16()
    }

    /// Removes a task unless it is gone; returns the status.
    pub async fn remove(&self, task: &TaskId) -> u16 {
        self.control(|control| control.delete(format!("http://control/tasks/{task}"))).await.status().as_u16()
    }

    /// Removes never-contacted tasks provisioned until a time; lists them unless they are gone.
    pub async fn remove_never_contacted(&self, until: Time) -> Vec<TaskId> {
        let request = NeverContactedRequest { until, remove: true };
        loop {
            let answer = self.control(|control| control.post("http://control/never_contacted").json(&request)).await;
            if let Ok(removed) = answer.json().await {
                return removed;
            }
        }
    }

    /// Closes the past of a task; returns the status.
    pub async fn close(&self, request: &CloseRequest) -> u16 {
        self.control(|control| control.post("http://control/close").json(request)).await.status().as_u16()
    }

    /// Rotates a token of a task; returns the status.
    pub async fn change_token(&self, change: &TokenChange) -> u16 {
        self.control(|control| control.post("http://control/tokens").json(change)).await.status().as_u16()
    }

    /// Changes the verification keys of a task; returns the status.
    pub async fn change_verify_keys(&self, change: &VerifyKeyChange) -> u16 {
        let url = format!("http://control/verify_keys/{}", change.task);
        self.control(|control| control.post(&url).json(&change.change)).await.status().as_u16()
    }

    /// Changes the privacy budget of a task; returns the status.
    pub async fn change_privacy(&self, change: &PrivacyChange) -> u16 {
        self.control(|control| control.post("http://control/privacy").json(change)).await.status().as_u16()
    }

    /// Renames a task; returns the status.
    pub async fn rename(&self, request: &RenameRequest) -> u16 {
        self.control(|control| control.post("http://control/names").json(request)).await.status().as_u16()
    }

    /// Creates or revokes an API token; returns the status.
    pub async fn api_token(&self, method: &str, path: &str, body: &str) -> u16 {
        let url = format!("http://control/api_tokens{path}");
        let method: reqwest::Method = method.parse().unwrap();
        let ask = |control: reqwest::Client| control.request(method.clone(), &url).body(body.to_owned());
        self.control(ask).await.status().as_u16()
    }

    /// Sends a management request until a healthy server answers; returns the status, and the body if it is JSON.
    pub async fn manage(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        loop {
            self.check();
            let mut request = http.request(method.parse().unwrap(), format!("http://{}/api{path}", self.address));
            request = request.bearer_auth(token).header("accept", MEDIA_TYPE);
            if let Some(body) = body {
                request = request.header("content-type", MEDIA_TYPE).body(body.to_string());
            }
            if let Ok(answer) = request.send().await
                && !answer.status().is_server_error()
            {
                let status = answer.status().as_u16();
                if let Ok(body) = answer.bytes().await {
                    return (status, serde_json::from_slice(&body).unwrap_or_default());
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Sends a command about HPKE keys; returns the status.
    pub async fn order(&self, method: &str, path: &str, body: &str) -> u16 {
        let url = format!("http://control/keys/{path}");
        let method: reqwest::Method = method.parse().unwrap();
        let ask = |control: reqwest::Client| control.request(method.clone(), &url).body(body.to_owned());
        self.control(ask).await.status().as_u16()
    }

    /// The ids of the HPKE keys in a state.
    pub async fn keys(&self, state: KeyState) -> Vec<u8> {
        loop {
            let answer = self.control(|control| control.get("http://control/keys")).await;
            if let Ok(keys) = answer.json::<Vec<ListedKey>>().await {
                return keys.iter().filter(|key| key.status.state == state).map(|key| key.status.id).collect();
            }
        }
    }

    /// Waits until the active HPKE keys satisfy a condition.
    pub async fn until_keys(&self, is_right: impl Fn(&Vec<u8>) -> bool) {
        while !is_right(&self.keys(KeyState::Active).await) {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    pub async fn status(&self, task: &TaskId) -> TaskStatus {
        loop {
            let answer = self.control(|control| control.get(format!("http://control/tasks/{task}"))).await;
            // The server may go down during its answer; then the request is repeated.
            if let Ok(status) = answer.json().await {
                return status;
            }
        }
    }

    /// Waits until the status of the task satisfies a condition.
    pub async fn until(&self, task: &TaskId, is_right: impl Fn(&TaskStatus) -> bool) -> TaskStatus {
        loop {
            let status = self.status(task).await;
            if is_right(&status) {
                return status;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Panics if the server has stopped for good.
    pub fn check(&self) {
        let is_over = self.keeper.as_ref().is_none_or(JoinHandle::is_finished);
        assert!(!is_over, "the server at {} does not come back", self.address);
    }
}

impl Drop for Machine {
    /// After a failed scenario no server may continue to send requests.
    fn drop(&mut self) {
        self.switch.send_replace(false);
    }
}

/// Restarts the server whenever it has ended.
#[derive(Clone)]
struct Supervisor {
    config: Config,
    injector: Arc<FaultInjector>,
    address: watch::Sender<SocketAddr>,
    place: watch::Sender<PathBuf>,
    switch: watch::Receiver<bool>,
}

impl Supervisor {
    fn run(mut self) {
        while *self.switch.borrow() {
            let life = Arc::<ServerRun>::default();
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            // In its own task: leftovers of a crash are dropped with the runtime, not here.
            let living = runtime.spawn(self.clone().live(life.clone()));
            runtime.block_on(async {
                tokio::select! {
                    ended = living => ended.unwrap(),
                    () = life.crashed.notified() => {}
                }
            });
            self.end(runtime, &life);
        }
    }

    /// Runs a server from its start to its end, unless it crashes.
    async fn live(self, life: Arc<ServerRun>) {
        let server = self.start(&life).await;
        self.place.send_replace(self.config.data_dir.clone());
        self.address.send_replace(server.address());
        let mut switch = self.switch.clone();
        tokio::select! {
            // Like `dapbox serve`: requests in progress finish, then the process ends.
            _ = server.failed() => {}
            () = async { drop(switch.wait_for(|is_on| !is_on).await) } => {}
        }
        server.stop().await.unwrap();
    }

    async fn start(&self, life: &Arc<ServerRun>) -> Server {
        loop {
            let (injector, data_dir) = (self.injector.clone(), self.config.data_dir.clone());
            let shared = life.clone();
            let failpoints = Failpoints::new(move |point, phase| shared.act(&injector, &data_dir, point, phase));
            let options = Options { failpoints, ..store_options(&self.config) };
            match Server::start_with(self.config.clone(), options).await {
                Ok(server) => return server,
                // The last run may still hold the directory and the address; an injected failure is retried.
                Err(
                    StartError::Open { error: OpenError::Locked, .. }
                    | StartError::Listen { .. }
                    | StartError::Fault(_),
                ) => {}
                Err(error) => panic!("the server does not start: {error}"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Ends a run, possibly by a crash: all tasks and connections are dropped in their current state.
    fn end(&mut self, runtime: Runtime, life: &ServerRun) {
        life.is_over.store(true, Ordering::SeqCst);
        runtime.shutdown_background();
        life.release();
        self.config.listen = *self.address.borrow();
        if let Some(image) = life.image.lock().unwrap().take() {
            self.config.data_dir = image;
        }
    }
}
