//! The appliance: listens, answers, drives, and stops in order.
//!
//! [`Server::start`] brings up everything that `dapbox serve` is. Requests come in through `listen` and, by their
//! path, to the routes of a revision (`dap09`, `dap18`; what they share is in `routes`), which check method, token and
//! media type and hand on to `flow` and `jobs`. Two drivers, `drive_jobs` and `drive_collections`, do what a leader does
//! of its own accord, and `drive_deferred` what a helper has put off; `drive_sweep` forgets what is over. The control socket (`admin`) is for the operator.

mod admin;
mod app;
mod auth;
mod backup;
mod dap09;
mod dap18;
mod disk;
mod drive_collections;
mod drive_deferred;
mod drive_jobs;
mod drive_sweep;
mod flow;
mod http;
mod jobs;
mod leader_job;
mod listen;
mod memory;
mod persist;
mod pursue;
mod routes;
mod tls;
mod uploads;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};

use self::{app::App, http::Request};
use crate::{
    aggregator::{KeyRing, keys, tasks},
    config::{self, Config},
    model::{Failpoints, Fault, Point, Revision, TaskId, Time, status::TaskStatus},
    peer::{Peer, PeerOptions},
    pool::Pool,
    store::{self, KeySource, OpenError, Store},
    wire::{self, Problem},
};

pub use backup::{PATH as BACKUP_PATH, WITH_KEY};
pub use disk::needed_bytes;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("{}: {error}", dir.display())]
    Open {
        /// The data directory.
        dir: PathBuf,
        /// Why not.
        error: OpenError,
    },
    /// Nothing can be heard on the address.
    #[error("cannot listen on {address}: {error}; is another server running there? set `listen` to a free address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The control socket cannot be made.
    #[error("cannot make the control socket {path}: {error}; a shorter `data_dir` helps if the path is too long")]
    Control {
        /// The socket's path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Something of ours failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A running server. Dropping it does not stop it: call [`Server::stop`].
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    parts: JoinSet<()>,
    failed: watch::Receiver<Option<Fault>>,
}

impl Server {
    /// Opens the data directory and starts to listen, answer and drive.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let options = store::Options { migrate: true, ..store_options(&config) };
        Self::start_with(config, options).await
    }

    /// The same with options of the store that no configuration has, for tests: what they make fail, fails in the server
    /// too.
    pub async fn start_with(config: Config, options: store::Options) -> Result<Self, StartError> {
        let failpoints = options.failpoints.clone();
        let store = open_store(&config, options).await?;
        let app = Arc::new(prepare(config, store, failpoints).await?);
        let shared = app.clone();
        let tended = tokio::task::spawn_blocking(move || shared.disk.tend()).await;
        tended.map_err(|error| Fault::while_doing("looking at the disk", error))?;
        let config = &app.config;
        let listen_error = |error| StartError::Listen { address: config.listen, error };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        app.address.get_or_init(|| address);
        let control = bind_control(&config.control_socket())?;

        let (fail, failed) = watch::channel(None);
        let mut parts = JoinSet::new();
        parts.spawn(listen::serve(app.clone(), listener, answer));
        parts.spawn(listen::serve(app.clone(), control, admin::handle));
        parts.spawn(watched(fail.clone(), drive_jobs::drive(app.clone())));
        parts.spawn(watched(fail.clone(), drive_collections::drive(app.clone())));
        parts.spawn(watched(fail.clone(), drive_deferred::drive(app.clone())));
        parts.spawn(watched(fail.clone(), drive_sweep::drive(app.clone())));
        parts.spawn(watched(fail.clone(), disk::drive(app.clone())));
        let shared = app.clone();
        parts.spawn(watched(fail, async move {
            tokio::select! {
                fault = shared.store.poisoned() => Err(fault),
                () = shared.stopped() => Ok(()),
            }
        }));
        Ok(Self { app, address, parts, failed })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many durable commits there were since the start.
    pub fn commits(&self) -> u64 {
        self.app.store.commits()
    }

    /// How far a task is, if it is there.
    pub fn task_status(&self, id: &TaskId) -> Result<Option<TaskStatus>, Fault> {
        self.app.store.read(|view| Ok(view.task(id).map(tasks::status)))
    }

    /// Resolves when the server cannot go on by itself, with the reason. It must then be stopped and started again.
    pub async fn failed(&self) -> Fault {
        let mut failed = self.failed.clone();
        let fault = failed.wait_for(Option::is_some).await.ok().and_then(|fault| fault.clone());
        match fault {
            Some(fault) => fault,
            // All parts ended without a fault: the server is being stopped.
            None => std::future::pending().await,
        }
    }

    /// Stops: no new requests, those in progress are finished, what is accepted is stored, the data directory is
    /// closed. What takes longer than the configured time is cut off; nothing acknowledged is lost by that.
    pub async fn stop(mut self) -> Result<(), Fault> {
        self.app.stopping.send_replace(true);
        let ended = async { while self.parts.join_next().await.is_some() {} };
        if tokio::time::timeout(*self.app.config.limits.stop_timeout, ended).await.is_err() {
            tracing::warn!("requests or jobs in progress took too long and were cut off");
            self.parts.shutdown().await;
        }
        let _ = std::fs::remove_file(self.app.config.control_socket());
        self.app.store.close().await;
        Ok(())
    }
}

/// Runs a part of the server and keeps its fault for [`Server::failed`].
async fn watched(fail: watch::Sender<Option<Fault>>, part: impl Future<Output = Result<(), Fault>>) {
    if let Err(fault) = part.await {
        tracing::error!(%fault, "the server cannot go on and must be started again");
        fail.send_if_modified(|first| first.is_none() && first.replace(fault).is_none());
    }
}

async fn open_store(config: &Config, options: store::Options) -> Result<Store, StartError> {
    let dir = config.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir, options)).await;
    let opened = opened.map_err(|error| Fault::while_doing("opening the data directory", error))?;
    opened.map_err(|error| StartError::Open { dir: config.data_dir.clone(), error })
}

/// What the configuration says about the store.
pub fn store_options(config: &Config) -> store::Options {
    let limits = &config.limits;
    store::Options {
        cache_bytes: limits.store_cache_bytes,
        queue: limits.store_queue,
        ballast_bytes: config.disk.ballast_bytes,
        key: key_source(&config.secrets),
        ..store::Options::default()
    }
}

/// What the configuration says about requests to other parties.
pub fn peer_options(config: &Config) -> PeerOptions {
    PeerOptions {
        timeout: *config.leader.peer_timeout,
        max_answer_bytes: config.limits.max_answer_bytes,
        ..PeerOptions::default()
    }
}

fn key_source(secrets: &config::Secrets) -> KeySource {
    if !secrets.key.expose().is_empty() {
        KeySource::Given(secrets.key.clone())
    } else if secrets.key_file.as_os_str().is_empty() {
        KeySource::InDirectory
    } else {
        KeySource::File(secrets.key_file.clone())
    }
}

async fn prepare(config: Config, store: Store, failpoints: Failpoints) -> Result<App, Fault> {
    let (suite, now) = (config.hpke.suite(), Time::now());
    store.write(Point::KeysFirst, move |tx| keys::ensure_first(tx, suite, now)).await?;
    let ring = store.read(|view| KeyRing::load(view.keys().values()))?;
    let limits = &config.limits;
    let workers = match limits.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let pool = Pool::new(workers, limits.pool_queue)?;
    let peer = Peer::new(&PeerOptions { failpoints, ..peer_options(&config) })?;
    Ok(App::new(config, store, pool, ring, peer))
}

/// Makes the control socket, for us alone. A socket that a killed server left behind is ours to replace: we hold the
/// data directory's lock.
fn bind_control(path: &Path) -> Result<UnixListener, StartError> {
    let bind = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|error| StartError::Control { path: path.to_owned(), error })
}

/// Answers a request from outside: finds the revision by the path.
async fn answer(app: Arc<App>, request: Request) -> http::Response {
    let path = request.path.clone();
    let below = |revision| path.strip_prefix('/')?.strip_prefix(wire::of(revision).prefix())?.strip_prefix('/');
    match Revision::ALL.into_iter().find_map(|revision| Some((revision, below(revision)?))) {
        Some((Revision::Dap09, path)) => dap09::handle(&app, path, request).await,
        Some((Revision::Dap18, path)) => dap18::handle(&app, path, request).await,
        None => http::failure(Problem::about(404).into()),
    }
}
