//! The context of all checks, gathered once.

use std::{path::PathBuf, time::Duration};

use rustls::RootCertStore;

use crate::{
    aggregator::{keys::Policy, offline::Offline},
    cli::{Failure, args::ConfigSources, control::Socket, results, show},
    config::Config,
    model::{Revision, Role, TaskId},
    peer::{Peer, PeerOptions, Proxies, Proxy, Resolver, RootCertificates},
    server,
    store::{self, OpenError, name::TaskName},
    support::clock,
    views::{
        overview::{FutureTimestamp, KeyStatus, Overview},
        results::CollectorTaskStatus,
        status::{Health, TaskStatus},
    },
    wire,
};

/// Maximum number of tasks per peer.
const MAX_TASKS: usize = 10;

/// The context of all checks.
pub struct DoctorContext {
    /// The configuration.
    pub config: Config,
    /// Where it comes from.
    pub sources: ConfigSources,
    /// The data directory.
    pub dir: PathBuf,
    /// The health of the running server, or why it does not answer; `None` if no server runs.
    pub health: Option<Result<Health, String>>,
    /// Process id of the server, if known.
    pub process: Option<i32>,
    /// The overview of the running server.
    pub overview: Option<Overview>,
    /// The tasks, or why they cannot be read; `None` if there is no data.
    pub tasks: Option<Result<Vec<TaskStatus>, DataDirError>>,
    /// The tasks that the server collects, as far as they can be read.
    pub collected: Vec<CollectorTaskStatus>,
    /// The HPKE keys, as far as they can be read.
    pub keys: Vec<KeyStatus>,
    /// Stored times ahead of the clock.
    pub future_timestamps: Vec<FutureTimestamp>,
    /// Time limit for each network check.
    pub timeout: Duration,
    /// The server's name resolver.
    pub names: Resolver,
    /// The server's client for outgoing requests.
    pub peer: Peer,
    /// Proxies for outgoing requests: the server's, if it runs.
    pub proxies: Proxies,
    /// Trusted root certificates of the server.
    pub roots: RootCertStore,
}

/// Why the data directory cannot be read.
pub enum DataDirError {
    /// It cannot be opened.
    Open(OpenError),
    /// Another error.
    Other(String),
}

/// The other aggregator of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAggregator {
    /// Its base URL.
    pub url: String,
    /// The protocol revision.
    pub revision: Revision,
    /// One of its tasks.
    pub task: TaskId,
    /// The operator's name of that task.
    pub name: Option<TaskName>,
    /// Whether that task was set up in-band: its helper may not know it yet, and has the same keys for all such tasks.
    pub is_in_band: bool,
    /// Its role in that task.
    pub role: Role,
}

/// The contents of a data directory.
#[derive(Default)]
struct Contents {
    /// The tasks; `None` if there is no directory.
    tasks: Option<Result<Vec<TaskStatus>, DataDirError>>,
    collected: Vec<CollectorTaskStatus>,
    keys: Vec<KeyStatus>,
    /// Times ahead of the clock.
    future_timestamps: Vec<FutureTimestamp>,
}

impl DoctorContext {
    /// Gathers the context.
    pub async fn gather(config: Config, sources: ConfigSources, timeout: Duration) -> Result<Self, Failure> {
        let socket = Socket::new(config.control_socket())?;
        let health = match socket.is_alive().await {
            Ok(true) => Some(with_timeout(timeout, socket.health()).await),
            // If the socket is not accessible, the check of the permissions reports it.
            Ok(false) | Err(_) => None,
        };
        let process = if health.is_some() { socket.process().await } else { None };
        let mut overview = None;
        let contents = match &health {
            Some(Ok(_)) => {
                overview = with_timeout(timeout, socket.overview()).await.ok();
                Contents {
                    tasks: Some(with_timeout(timeout, socket.tasks()).await.map_err(DataDirError::Other)),
                    collected: with_timeout(timeout, results::tasks(&socket)).await.unwrap_or_default(),
                    keys: overview.as_ref().map(|overview: &Overview| overview.keys.clone()).unwrap_or_default(),
                    future_timestamps: with_timeout(timeout, socket.future_timestamps()).await.unwrap_or_default(),
                }
            }
            Some(Err(_)) => Contents::default(),
            None => read_directory(config.clone()).await?,
        };
        let proxies = match &health {
            Some(_) => with_timeout(timeout, socket.proxies()).await.ok(),
            None => None,
        };
        let proxies = proxies.unwrap_or_else(Proxies::from_env);
        // Another check reports invalid roots.
        let roots = RootCertificates::read(&config.peer.ca_file).unwrap_or_default();
        let peer = Peer::new(&PeerOptions {
            connect_timeout: timeout,
            timeout,
            max_answer_bytes: config.limits.max_message_bytes,
            roots: roots.clone(),
            proxies: proxies.clone(),
            ..PeerOptions::default()
        })?;
        let roots = roots.store()?;
        let dir = config.data_dir.clone();
        Ok(Self {
            config,
            sources,
            dir,
            health,
            process,
            overview,
            tasks: contents.tasks,
            collected: contents.collected,
            keys: contents.keys,
            future_timestamps: contents.future_timestamps,
            timeout,
            names: Resolver::default().for_connect_timeout(timeout),
            peer,
            proxies,
            roots,
        })
    }

    /// The proxy for requests to a URL.
    pub fn proxy(&self, url: &str) -> Option<Proxy> {
        self.proxies.for_url(&url::Url::parse(url).ok()?)
    }

    /// Whether the directory contains data.
    pub fn has_data(&self) -> bool {
        self.dir.join("dapbox-data").exists()
    }

    /// The health of a server that runs and answers.
    pub fn live_health(&self) -> Option<&Health> {
        self.health.as_ref()?.as_ref().ok()
    }

    /// Whether a server runs and answers.
    pub fn is_running(&self) -> bool {
        self.live_health().is_some()
    }

    /// The server's listen address, actual or configured.
    pub fn listen_address(&self) -> std::net::SocketAddr {
        self.live_health().and_then(|health| health.address).unwrap_or(self.config.listen)
    }

    /// The address of the private listener, actual or configured.
    pub fn monitor_address(&self) -> Option<std::net::SocketAddr> {
        match self.live_health() {
            Some(health) => health.monitor,
            None => self.config.monitor.listen.0.filter(|monitor| monitor.port() != 0),
        }
    }

    /// The tasks, as far as they can be read.
    pub fn known_tasks(&self) -> &[TaskStatus] {
        self.tasks.as_ref().and_then(|tasks| tasks.as_ref().ok()).map_or(&[], Vec::as_slice)
    }

    /// The other aggregators of unfinished tasks, at most `limit`: one entry per peer, or per task if the revision's
    /// request for keys names the task.
    pub fn peers(&self, limit: usize) -> Vec<PeerAggregator> {
        let mut found: Vec<PeerAggregator> = Vec::new();
        for task in self.known_tasks().iter().filter(|task| !is_finished(task)) {
            let (url, role) = match task.role {
                Role::Helper => (&task.leader_url, Role::Leader),
                _ => (&task.helper_url, Role::Helper),
            };
            let (url, is_in_band) = (url.clone(), task.in_band.is_some());
            let other = PeerAggregator {
                url,
                revision: task.revision,
                task: task.id,
                name: task.name.clone(),
                is_in_band,
                role,
            };
            let asked = found.iter().filter(|known| known.url == other.url).count();
            if found.len() < limit
                && asked < MAX_TASKS
                && found.iter().all(|known| known.query_key() != other.query_key())
            {
                found.push(other);
            }
        }
        found
    }
}

impl PeerAggregator {
    /// The task's name or id.
    pub fn label(&self) -> String {
        show::task_label(self.name.as_ref(), &self.task)
    }

    /// Identifies the request for its keys, which in some revisions names the task.
    fn query_key(&self) -> (&str, String) {
        (&self.url, self.call().path)
    }

    /// The request for its keys.
    pub fn call(&self) -> wire::RequestSpec {
        wire::for_revision(self.revision).hpke_config_request(Some(&self.task).filter(|_| !self.is_in_band))
    }
}

/// Whether a task is over and has no work left.
fn is_finished(task: &TaskStatus) -> bool {
    let end = task.task_expiration.or_else(|| task.task_interval.map(|interval| interval.end()));
    end.is_some_and(|end| end < clock::now()) && task.waiting == 0 && task.collections_waiting == 0
}

/// Limits the time of a request to the server.
async fn with_timeout<T>(timeout: Duration, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, String> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer.map_err(|failure| failure.message().to_owned()),
        Err(_) => Err("timed out".to_owned()),
    }
}

/// Reads the data directory, unless a process has it open.
async fn read_directory(config: Config) -> Result<Contents, Failure> {
    if !config.data_dir.join("dapbox-data").exists() {
        return Ok(Contents::default());
    }
    let read = move || -> Contents {
        // Opening must not release the ballast.
        let options = store::Options { ballast_bytes: 0, ..server::store_options(&config) };
        let data = match Offline::open(&config.data_dir, options) {
            Ok(data) => data,
            Err(error) => return Contents { tasks: Some(Err(DataDirError::Open(error))), ..Contents::default() },
        };
        let keys = data.keys(clock::now(), &Policy::of(&config)).unwrap_or_default();
        Contents {
            tasks: Some(data.tasks().map_err(|fault| DataDirError::Other(fault.to_string()))),
            collected: data.collector_tasks(clock::now()).unwrap_or_default(),
            keys: keys.into_iter().map(|key| key.status).collect(),
            future_timestamps: data.future_timestamps(clock::now()).unwrap_or_default(),
        }
    };
    Ok(tokio::task::spawn_blocking(read).await?)
}
