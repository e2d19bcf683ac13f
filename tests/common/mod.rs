//! Shared by all tests with servers: real servers on free loopback ports, temporary data directories, and random tasks.
#![allow(dead_code)]

pub mod calls;
pub mod chaos;
pub mod child;
pub mod chromium;
pub mod collecting;
pub mod disk;
pub mod fake_leader;
pub mod fast_clock;
pub mod hostile;
pub mod process;
pub mod raw;
pub mod relay;
pub mod remote_node;
pub mod report_builder;
pub mod resources;
pub mod restore;
pub mod skip;
pub mod tls;
pub mod volume;

use std::{
    fs::File,
    path::Path,
    sync::{Arc, Once},
    time::Duration as Span,
};

use dapbox::{
    client::Client,
    collector::{Collector, CollectorTask},
    config::{Config, OptionalAddress, Seconds, TlsMode},
    hpke::{Keypair, Suite},
    model::{
        BatchMode, Duration, Interval, KeyState, Party, Query, Revision, Secret, Task, TaskId, TaskParameters, Time,
        TokenHash, VdafConfig,
    },
    peer::{Peer, PeerOptions, RetryPolicy},
    server::{Clock, Environment, Server, StartError, SystemClock, store_options},
    store::{OpenError, Options, Store},
    support::{Failpoints, clock},
    vdaf,
    views::{
        keys::{KeyChange, ListedKey, RotateRequest},
        privacy::{PrivacyAccount, PrivacyChange},
        status::{CloseRequest, Health, TaskStatus},
    },
    wire,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

/// Gets a URL on loopback. Ignores proxies of the environment.
pub async fn get(url: impl reqwest::IntoUrl) -> reqwest::Result<reqwest::Response> {
    reqwest::Client::builder().no_proxy().build()?.get(url).send().await
}

/// Timeout of every wait in a test.
pub const TEST_TIMEOUT: Span = Span::from_secs(120);

/// An aggregator that can be stopped and restarted on the same port and data.
pub struct Node {
    pub config: Config,
    pub dir: TempDir,
    clock: Arc<dyn Clock>,
    server: Option<Server>,
}

impl Node {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(Arc::new(SystemClock), change).await
    }

    /// Starts with another clock. Restarts keep it.
    pub async fn start_at(clock: Arc<dyn Clock>, change: impl FnOnce(&mut Config)) -> Self {
        raise_file_limit();
        let dir = TempDir::new().unwrap();
        let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.monitor.listen = OptionalAddress(None);
        config.leader.retry_initial = Seconds::millis(20);
        config.leader.retry_max = Seconds::millis(200);
        // Tests upload reports that only an aggregation job rejects.
        config.leader.upload_sample_ratio = 0;
        // Independent of the free space of the machine.
        (config.disk.reserve_bytes, config.disk.ballast_bytes) = (0, 0);
        change(&mut config);
        let environment = Environment { clock: clock.clone(), peers: None };
        let options = Options { migrate: true, ..store_options(&config) };
        let server = Server::start_in(environment, config.clone(), options).await.unwrap();
        config.listen = server.address();
        Self { config, dir, clock, server: Some(server) }
    }

    /// Restarts with failure points.
    pub async fn restart_with(&mut self, failpoints: Failpoints) {
        self.stop().await;
        self.resume_with(failpoints).await;
    }

    /// Base URL of the node for a revision.
    pub fn url(&self, revision: Revision) -> String {
        let scheme = if self.config.tls.mode == TlsMode::Off { "http" } else { "https" };
        format!("{scheme}://{}/{}/", self.config.listen, wire::for_revision(revision).path_prefix())
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Base URL of the private listener.
    pub fn monitor(&self) -> String {
        format!("http://{}/", self.server.as_ref().unwrap().monitor_address().unwrap())
    }

    /// Stops the server and waits until any process can open its data directory.
    pub async fn stop(&mut self) {
        self.server.take().unwrap().stop().await.unwrap();
        until_unlocked(&self.config.data_dir).await;
    }

    pub async fn resume(&mut self) {
        self.resume_with(Failpoints::default()).await;
    }

    async fn resume_with(&mut self, failpoints: Failpoints) {
        let options = Options { failpoints, ..store_options(&self.config) };
        let deadline = std::time::Instant::now() + TEST_TIMEOUT;
        let locked = |error: &StartError| matches!(error, StartError::Open { error: OpenError::Locked, .. });
        self.server = loop {
            let environment = Environment { clock: self.clock.clone(), peers: None };
            match Server::start_in(environment, self.config.clone(), options.clone()).await {
                Ok(server) => break Some(server),
                // See `until_unlocked`.
                Err(error) if locked(&error) && std::time::Instant::now() < deadline => {
                    tokio::time::sleep(Span::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.resume().await;
    }

    pub fn control(&self) -> reqwest::Client {
        reqwest::Client::builder().unix_socket(self.config.control_socket()).build().unwrap()
    }

    pub async fn add(&self, task: &Task) {
        assert_eq!(self.try_add(task).await, 201);
    }

    /// Adds a task; returns the status of the answer.
    pub async fn try_add(&self, task: &Task) -> u16 {
        let answer = self.control().post("http://control/tasks").json(task).send().await.unwrap();
        answer.status().as_u16()
    }

    pub async fn remove(&self, task: &TaskId) {
        let answer = self.control().delete(format!("http://control/tasks/{task}")).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    }

    /// Closes the past of a task, as an operator does after a restore of the other aggregator.
    pub async fn close_before(&self, task: TaskId, before: Time) -> Time {
        let request = CloseRequest { task, before };
        let answer = self.control().post("http://control/close").json(&request).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    pub async fn status(&self, task: &TaskId) -> TaskStatus {
        let url = format!("http://control/tasks/{task}");
        self.control().get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Changes the privacy budget of a task: the status of the answer and the account.
    pub async fn change_privacy(&self, change: &PrivacyChange) -> (u16, Option<PrivacyAccount>) {
        let answer = self.control().post("http://control/privacy").json(change).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.ok())
    }

    pub async fn health(&self) -> Health {
        self.control().get("http://control/health").send().await.unwrap().json().await.unwrap()
    }

    pub async fn counter(&self, task: &TaskId, name: &str) -> u64 {
        self.status(task).await.counters.get(name).copied().unwrap_or(0)
    }

    /// Waits until the status of the task satisfies a condition.
    pub async fn until(&self, task: &TaskId, is_right: impl Fn(&TaskStatus) -> bool) -> TaskStatus {
        let deadline = std::time::Instant::now() + TEST_TIMEOUT;
        loop {
            let status = self.status(task).await;
            if is_right(&status) {
                return status;
            }
            assert!(std::time::Instant::now() < deadline, "still not so: {status:#?}");
            tokio::time::sleep(Span::from_millis(10)).await;
        }
    }

    /// Its HPKE keys.
    pub async fn keys(&self) -> Vec<ListedKey> {
        self.control().get("http://control/keys").send().await.unwrap().json().await.unwrap()
    }

    /// The ids of its HPKE keys in a state, in order.
    pub async fn key_ids(&self, state: KeyState) -> Vec<u8> {
        self.keys().await.iter().filter(|key| key.status.state == state).map(|key| key.status.id).collect()
    }

    /// Rotates the HPKE keys.
    pub async fn rotate_keys(&self, now: bool) -> Vec<KeyChange> {
        let order = self.control().post("http://control/keys/rotate").json(&RotateRequest { now });
        order.send().await.unwrap().json().await.unwrap()
    }

    /// Deletes an HPKE key.
    pub async fn delete_key(&self, id: u8) {
        let answer = self.control().delete(format!("http://control/keys/{id}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }

    pub fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }
}

/// Waits until no process holds a lock on a closed data directory.
///
/// A child process that another test spawns inherits locks until it executes its own program.
async fn until_unlocked(data_dir: &Path) {
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    for name in ["dapbox-data", "tables/db"] {
        let Ok(file) = File::options().write(true).open(data_dir.join(name)) else { continue };
        while let Err(error) = file.try_lock() {
            assert!(std::time::Instant::now() < deadline, "{name} stays locked: {error}");
            tokio::time::sleep(Span::from_millis(1)).await;
        }
        // Closing the file would leave the lock with a child that was spawned meanwhile.
        file.unlock().unwrap();
    }
}

/// Raises the limit of open files to the hard limit: a pair of servers may run for each processor.
fn raise_file_limit() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    });
}

/// Opens the store of a stopped node. See [`until_unlocked`].
pub async fn open_store(dir: &Path, options: Options) -> Store {
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    loop {
        match Store::open(dir, options.clone()) {
            Ok(store) => return store,
            Err(OpenError::Locked) if std::time::Instant::now() < deadline => {
                tokio::time::sleep(Span::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Everything that the parties of a task know.
#[derive(Clone)]
pub struct Parties {
    pub leader: Task,
    pub helper: Task,
    pub helper_token: Secret,
    pub collector_token: Secret,
    pub keypair: Keypair,
}

impl Parties {
    /// A task between two base URLs with a minimum batch size of one and a precision of an hour.
    pub fn new(
        revision: Revision,
        vdaf: VdafConfig,
        batch_mode: BatchMode,
        leader_url: String,
        helper_url: String,
    ) -> Self {
        let key_length = vdaf::preparer(revision, &vdaf).unwrap().verify_key_length();
        let (helper_token, collector_token) = (Secret::random_token(), Secret::random_token());
        let keypair = Keypair::generate(7, Suite::DEFAULT).unwrap();
        let party = Party::Leader {
            helper_token: helper_token.clone(),
            collector_token: TokenHash::of(collector_token.expose()),
        };
        let public = TaskParameters {
            id: TaskId::random(),
            revision,
            info: info(revision).to_owned(),
            leader_url,
            helper_url,
            batch_mode,
            vdaf,
            min_batch_size: 1,
            time_precision: Duration(3600),
            task_expiration: None,
            task_interval: None,
            noise: None,
        };
        let leader = Task {
            public,
            verify_key: Secret::random(key_length),
            verify_key_id: 0,
            max_batch_query_count: 1,
            report_expiry_age: None,
            collector_hpke_config: keypair.config().clone(),
            party,
        };
        let party = Party::Helper { leader_token: TokenHash::of(helper_token.expose()) };
        let helper = Task { party, ..leader.clone() };
        Self { leader, helper, helper_token, collector_token, keypair }
    }

    /// A task that is added to two nodes.
    pub async fn between(
        revision: Revision,
        vdaf: VdafConfig,
        batch_mode: BatchMode,
        [leader, helper]: [&Node; 2],
    ) -> Self {
        let parties = Self::new(revision, vdaf, batch_mode, leader.url(revision), helper.url(revision));
        leader.add(&parties.leader).await;
        helper.add(&parties.helper).await;
        parties
    }

    /// Changes the task of both aggregators.
    pub fn with(mut self, change: impl Fn(&mut Task)) -> Self {
        change(&mut self.leader);
        change(&mut self.helper);
        self
    }

    pub fn id(&self) -> TaskId {
        self.leader.public.id
    }

    pub fn client(&self) -> Client {
        Client::new(self.leader.public.clone(), peer(), RetryPolicy::default()).unwrap()
    }

    pub fn collector(&self) -> Collector {
        let task = CollectorTask {
            public: self.leader.public.clone(),
            token: self.collector_token.clone(),
            previous_token: None,
        };
        Collector::new(task, self.keypair.clone(), peer(), RetryPolicy::default()).unwrap()
    }

    /// An interval that starts at the current unit of the task's precision, and has `more` further units.
    pub fn interval(&self, more: u64) -> Interval {
        let precision = self.leader.public.time_precision;
        Interval::new(clock::now().truncate(precision), Duration(precision.0 * (1 + more))).unwrap()
    }

    /// A query for the hours around now. No test lasts an hour.
    pub fn query_now(&self) -> Query {
        let precision = self.leader.public.time_precision;
        let start = clock::now().truncate(precision).saturating_sub(precision);
        Query::TimeInterval(Interval::new(start, Duration(precision.0 * 3)).unwrap())
    }
}

/// The task info that a revision requires.
fn info(revision: Revision) -> &'static str {
    match revision {
        Revision::Dap09 => "",
        Revision::Dap18 | Revision::Dap19 => "test",
    }
}

/// Leader-selected batches, with a maximum size where the revision has one.
pub fn batches_of(revision: Revision, most: u64) -> BatchMode {
    let max_batch_size = match revision {
        Revision::Dap09 => Some(most),
        Revision::Dap18 | Revision::Dap19 => None,
    };
    BatchMode::fixed_size(max_batch_size)
}

/// Ends a task at an aligned time. With a revision that has only an expiration, the last valid time is `end` itself.
pub fn end_at(task: &mut Task, end: Time) {
    match task.public.revision {
        Revision::Dap09 => task.public.task_expiration = Some(end),
        Revision::Dap18 | Revision::Dap19 => {
            let length = Duration(1000 * task.public.time_precision.0);
            task.public.task_interval = Interval::new(end.saturating_sub(length), length);
        }
    }
}

/// A leader and a helper with one task.
pub struct Pair {
    pub leader: Node,
    pub helper: Node,
    pub parties: Parties,
}

impl Pair {
    pub async fn start(revision: Revision, vdaf: VdafConfig, batch_mode: BatchMode) -> Self {
        Self::start_with(revision, vdaf, batch_mode, |_| {}, |_| {}).await
    }

    /// Changes the configuration of both nodes and the task.
    pub async fn start_with(
        revision: Revision,
        vdaf: VdafConfig,
        batch_mode: BatchMode,
        config: impl Fn(&mut Config),
        task: impl Fn(&mut Task),
    ) -> Self {
        let (leader, helper) = (Node::start_with(&config).await, Node::start_with(&config).await);
        let (leader_url, helper_url) = (leader.url(revision), helper.url(revision));
        let parties = Parties::new(revision, vdaf, batch_mode, leader_url, helper_url).with(task);
        leader.add(&parties.leader).await;
        helper.add(&parties.helper).await;
        Self { leader, helper, parties }
    }

    pub async fn stop(mut self) {
        self.leader.stop().await;
        self.helper.stop().await;
    }
}

/// The HTTP client of tests.
pub fn peer() -> Peer {
    Peer::new(&PeerOptions::default()).unwrap()
}
