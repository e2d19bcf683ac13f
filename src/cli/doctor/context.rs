//! What the checks look at, found once.

use std::{path::PathBuf, time::Duration};

use rustls::RootCertStore;

use crate::{
    aggregator::{keys::Policy, offline::Offline},
    cli::{Failure, args::Sources, control::Socket, show},
    config::Config,
    model::{Revision, Role, TaskId, Time},
    peer::{Peer, PeerOptions, Proxies, Proxy, Resolver, RootCertificates},
    server,
    store::{self, OpenError, name::TaskName},
    views::{
        overview::{KeyStatus, Overview, TimeAhead},
        status::{Health, TaskStatus},
    },
    wire,
};

/// The most tasks that one peer is asked about.
const MAX_TASKS: usize = 10;

/// What the checks look at.
pub struct DoctorContext {
    /// The configuration.
    pub config: Config,
    /// Where it comes from.
    pub sources: Sources,
    /// The data directory.
    pub dir: PathBuf,
    /// What the running server says, or why it says nothing; `None` if there is none.
    pub health: Option<Result<Health, String>>,
    /// The server's process, if it runs and the system tells.
    pub process: Option<i32>,
    /// All that the running server shows, if it does.
    pub overview: Option<Overview>,
    /// The tasks, or why they cannot be read; `None` if there is nothing to read them from.
    pub tasks: Option<Result<Vec<TaskStatus>, DataDirError>>,
    /// The HPKE keys, as far as they can be seen.
    pub keys: Vec<KeyStatus>,
    /// The stored times that are ahead of the clock.
    pub times_ahead: Vec<TimeAhead>,
    /// How long each look at the network may take.
    pub timeout: Duration,
    /// Where hosts are, as the server finds them.
    pub names: Resolver,
    /// What requests to others are made with, as the server makes them.
    pub peer: Peer,
    /// The proxies that these requests go through: the server's, if it runs.
    pub proxies: Proxies,
    /// Whose certificates are believed, as by the server.
    pub roots: RootCertStore,
}

/// Why nothing was read from the data directory.
pub enum DataDirError {
    /// It cannot be opened.
    Open(OpenError),
    /// Something else.
    Other(String),
}

/// Another aggregator, as tasks have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAggregator {
    /// Its base URL.
    pub url: String,
    /// The protocol revision that it speaks there.
    pub revision: Revision,
    /// A task of it.
    pub task: TaskId,
    /// What the operator calls that task.
    pub name: Option<TaskName>,
    /// Whether that was set up in-band: its helper may not have heard of it yet, and has the same keys for all such tasks.
    pub is_in_band: bool,
    /// What it is in that task.
    pub role: Role,
}

/// The tasks and the keys in a data directory, and the times in it that are ahead of the clock.
type Contents = (Result<Vec<TaskStatus>, DataDirError>, Vec<KeyStatus>, Vec<TimeAhead>);
/// The same if there is a directory.
type Found = (Option<Result<Vec<TaskStatus>, DataDirError>>, Vec<KeyStatus>, Vec<TimeAhead>);

impl DoctorContext {
    /// Looks around.
    pub async fn gather(config: Config, sources: Sources, timeout: Duration) -> Result<Self, Failure> {
        let socket = Socket::new(config.control_socket())?;
        let health = match socket.is_alive().await {
            Ok(true) => Some(with_timeout(timeout, socket.health()).await),
            // Whoever may not use the socket learns of it from the check of the permissions.
            Ok(false) | Err(_) => None,
        };
        let process = if health.is_some() { socket.process().await } else { None };
        let mut overview = None;
        let mut times_ahead = Vec::new();
        let (tasks, keys) = match &health {
            Some(Ok(_)) => {
                overview = with_timeout(timeout, socket.overview()).await.ok();
                times_ahead = with_timeout(timeout, socket.times_ahead()).await.unwrap_or_default();
                let keys = overview.as_ref().map(|overview: &Overview| overview.keys.clone());
                (
                    Some(with_timeout(timeout, socket.tasks()).await.map_err(DataDirError::Other)),
                    keys.unwrap_or_default(),
                )
            }
            Some(Err(_)) => (None, Vec::new()),
            None => {
                let (tasks, keys, ahead) = read_directory(config.clone()).await?;
                times_ahead = ahead;
                (tasks, keys)
            }
        };
        let proxies = match &health {
            Some(_) => with_timeout(timeout, socket.proxies()).await.ok(),
            None => None,
        };
        let proxies = proxies.unwrap_or_else(Proxies::from_env);
        // That they cannot be read is another check.
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
            tasks,
            keys,
            times_ahead,
            timeout,
            names: Resolver::default().within(timeout),
            peer,
            proxies,
            roots,
        })
    }

    /// The proxy that requests to a URL go through.
    pub fn proxy(&self, url: &str) -> Option<Proxy> {
        self.proxies.for_url(&url::Url::parse(url).ok()?)
    }

    /// Whether there is a directory with data of ours in it.
    pub fn has_data(&self) -> bool {
        self.dir.join("dapbox-data").exists()
    }

    /// What a server says that runs and answers.
    pub fn live_health(&self) -> Option<&Health> {
        self.health.as_ref()?.as_ref().ok()
    }

    /// Whether a server runs and answers.
    pub fn is_running(&self) -> bool {
        self.live_health().is_some()
    }

    /// The address that the server listens on, or would.
    pub fn listen_address(&self) -> std::net::SocketAddr {
        self.live_health().and_then(|health| health.address).unwrap_or(self.config.listen)
    }

    /// The address for those who watch, that the server has or would have.
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

    /// The other aggregators of tasks that go on, each with one of its tasks unless it is asked about each by the
    /// protocol; at most `limit`.
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
    /// The task, as it is shown.
    pub fn label(&self) -> String {
        show::task_label(self.name.as_ref(), &self.task)
    }

    /// What it is asked for its keys with; in some revisions that names the task.
    fn query_key(&self) -> (&str, String) {
        (&self.url, self.call().path)
    }

    /// What asks it for its keys.
    pub fn call(&self) -> wire::RequestSpec {
        wire::for_revision(self.revision).hpke_config_request(Some(&self.task).filter(|_| !self.is_in_band))
    }
}

/// Whether nothing is to be expected of a task any more.
fn is_finished(task: &TaskStatus) -> bool {
    let end = task.task_expiration.or_else(|| task.task_interval.map(|interval| interval.end()));
    end.is_some_and(|end| end < Time::now()) && task.waiting == 0 && task.collections_waiting == 0
}

/// Waits for an answer of the server for a while.
async fn with_timeout<T>(timeout: Duration, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, String> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer.map_err(|failure| failure.message().to_owned()),
        Err(_) => Err("not in time".to_owned()),
    }
}

/// What is in the directory, opened if nobody else has it.
async fn read_directory(config: Config) -> Result<Found, Failure> {
    if !config.data_dir.join("dapbox-data").exists() {
        return Ok((None, Vec::new(), Vec::new()));
    }
    let read = move || -> Contents {
        // Looking must not cost the ballast.
        let options = store::Options { ballast_bytes: 0, ..server::store_options(&config) };
        let data = match Offline::open(&config.data_dir, options) {
            Ok(data) => data,
            Err(error) => return (Err(DataDirError::Open(error)), Vec::new(), Vec::new()),
        };
        let keys = data.keys(Time::now(), &Policy::of(&config)).unwrap_or_default();
        let keys = keys.into_iter().map(|key| key.status).collect();
        let ahead = data.times_ahead(Time::now()).unwrap_or_default();
        (data.tasks().map_err(|fault| DataDirError::Other(fault.to_string())), keys, ahead)
    };
    let (tasks, keys, ahead) = tokio::task::spawn_blocking(read).await?;
    Ok((Some(tasks), keys, ahead))
}
