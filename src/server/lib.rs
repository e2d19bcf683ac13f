//! The appliance: listens, answers, drives, and stops in order.
//!
//! [`Server::start`] brings up everything that `dapbox serve` is. Requests come in through `listen` and, by their
//! path, to the routes of a revision (`dap09`, `dap18`; what they share is in `routes`), which check method, token and
//! media type and hand on to `flow` and `jobs`. Two drivers, `drive_jobs` and `drive_collections`, do what a leader does
//! of its own accord, and `drive_deferred` what a helper has put off; `drive_sweep` forgets what is over, `drive_keys`
//! replaces HPKE keys; `supervise` restarts those that fail. The control socket (`admin`) is for the operator, the management API (`management`) for a control
//! plane, the private listener (`monitor`) for those who watch.

mod app;
mod dap;
mod leader;
mod operator;
pub mod pool;
mod transport;
mod upkeep;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rustls::pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};

use self::{
    app::{App, Known},
    dap::{dap09, dap18, drive_deferred, in_band::Peers},
    leader::{drive_collections, drive_jobs},
    operator::{admin, management, monitor, overview, reload},
    transport::{
        http::{self, Request},
        landing, listen,
        reserved::Reserved,
        tls,
    },
    upkeep::{
        disk, drive_keys, drive_sweep, keys,
        supervise::{self, drive, vital},
    },
};
use crate::pool::Pool;
use dapbox_aggregator::{
    config::{self, Config, TlsMode, taskprov::read_peers},
    tasks,
    views::status::TaskStatus,
};
use dapbox_client::peer::{Peer, PeerOptions, RootCertificates, RootCertificatesError, TokenHeader};
use dapbox_protocol::{
    model::{Revision, TaskId},
    wire::{self, Problem},
};
use dapbox_store as store;
use dapbox_store::{KeySource, OpenError, Store};
use dapbox_support::{Failpoints, Fault, Part};

pub use operator::backup::{PATH as BACKUP_PATH, WITH_KEY};
pub use operator::metrics::{Kind as MetricKind, METRICS, Metric};
pub use operator::page::{needs_attention, render as status_page};
pub use operator::pulse::Pulse;
pub use operator::reload::Controls;
pub use transport::tls::{CertificateError, describe as describe_certificate};
pub use transport::{posts, short_path::ShortPath};
pub use upkeep::disk::needed_bytes;

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
    /// Nothing can be heard on the address of the private listener.
    #[error(
        "cannot listen on {address} for those who watch: {error}; set monitor.listen to a free address, or to \"\" for \
         none"
    )]
    Monitor {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// Nothing can be heard on the address of the management API.
    #[error(
        "cannot listen on {address} for the management API: {error}; set management.listen to a free address, or to \"\" \
         for none"
    )]
    Management {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The control socket cannot be made.
    #[error("cannot make the control socket {path}: {error}")]
    Control {
        /// The socket's path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// There is no certificate for HTTPS.
    #[error("{0}; or set `tls.mode` to \"off\" behind a proxy that adds HTTPS")]
    Certificate(#[from] CertificateError),
    /// The roots in `peer.ca_file` cannot be used.
    #[error(transparent)]
    RootCertificates(#[from] RootCertificatesError),
    /// A peer's file cannot be used.
    #[error("{0}; correct it, or take it out of taskprov.peers")]
    Peers(String),
    /// Something of ours failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A running server. Dropping it does not stop it: call [`Server::stop`].
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    certificate_files: Option<Arc<tls::Files>>,
    parts: JoinSet<()>,
    management_address: Option<SocketAddr>,
    /// The private listener, which answers until all else has stopped.
    monitor: JoinSet<()>,
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
        // What may be wrong and is seen at once comes before what takes its time.
        let roots = RootCertificates::read(&config.peer.ca_file)?;
        let peers = read_peers(&config.taskprov.peers).map_err(StartError::Peers)?;
        let (certificate_files, certificate) = match config.tls.mode {
            TlsMode::Files => {
                tls::Files::open(&config.tls).map(|(files, first)| (Some(Arc::new(files)), Some(first)))?
            }
            TlsMode::Off | TlsMode::Acme => (None, None),
        };
        // Addresses are taken before the data directory is made: a start that fails must leave nothing behind.
        let public = Reserved::at(config.listen, |address, error| StartError::Listen { address, error })?;
        let monitor = config.monitor.listen.0;
        let monitor = Reserved::maybe_at(monitor, |address, error| StartError::Monitor { address, error })?;
        let management = config.management.listen.0;
        let management = Reserved::maybe_at(management, |address, error| StartError::Management { address, error })?;
        let store = open_store(&config, options).await?;
        let app = Arc::new(prepare(config, store, failpoints, roots, Peers::new(peers)).await?);
        if let Some(certificate) = certificate {
            app.certificates.replace(certificate);
        }
        let shared = app.clone();
        let tended = tokio::task::spawn_blocking(move || shared.disk.tend()).await;
        tended.map_err(|error| Fault::while_doing("looking at the disk", error))?;
        let config = &app.config;
        let (listener, address) = public.listen()?;
        let watchers = monitor.map(Reserved::listen).transpose()?;
        let managers = management.map(Reserved::listen).transpose()?;
        app.address.get_or_init(|| address);
        if let Some((_, address)) = &watchers {
            app.monitor_address.get_or_init(|| *address);
        }
        let control = bind_control(&config.control_socket())?;
        // Before anything happens: what happens then is news.
        overview::look(&app)?;

        let mut parts = JoinSet::new();
        if config.tls.mode == TlsMode::Acme {
            let shared = app.clone();
            parts.spawn(drive(app.clone(), Part::Acme, move || tls::acme::drive(shared.clone())));
        }
        warn_of_plain_http(config);
        let places = app.connections.clone();
        listen(&mut parts, app.clone(), Part::PublicListener, listener, places, answer)?;
        let management_address = managers.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = managers {
            // Places of its own: whoever floods the public address does not shut the control plane out.
            let places = Arc::new(listen::places(config));
            listen(&mut parts, app.clone(), Part::ManagementListener, listener, places, management::answer_at_root)?;
        }
        let control = listen::serve(app.clone(), Part::ControlSocket, control, admin::handle);
        parts.spawn(vital(app.clone(), Part::ControlSocket, control));
        start_drivers(&mut parts, &app);
        if let Some(files) = certificate_files.clone() {
            // A reload through the control socket looks at them too. They are set once.
            let _ = app.certificate_files.set(files.clone());
            let shared = app.clone();
            let watch = move || files.clone().drive(shared.clone());
            parts.spawn(drive(app.clone(), Part::CertificateFiles, watch));
        }
        parts.spawn(supervise::watch_store(app.clone()));
        let monitor = watchers.into_iter().map(|(listener, _)| {
            let served = monitor::serve(app.clone(), listener);
            vital(app.clone(), Part::MonitorListener, served)
        });
        let monitor = monitor.collect();
        Ok(Self { app, address, certificate_files, parts, management_address, monitor })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For whoever watches over the server.
    pub fn pulse(&self) -> Pulse {
        Pulse::new(self.app.clone())
    }

    /// Where the server is reached from this machine.
    pub fn url(&self) -> String {
        format!("{}://{}/", if self.is_https() { "https" } else { "http" }, self.address)
    }

    fn is_https(&self) -> bool {
        self.app.config.tls.mode != TlsMode::Off
    }

    /// Looks at the files of the certificate now. If they cannot be used, the certificate in use stays.
    pub fn reload_certificates(&self) -> Result<(), CertificateError> {
        self.certificate_files.as_ref().map_or(Ok(()), |files| files.look(&self.app.certificates))
    }

    /// The address of the private listener, if there is one.
    pub fn monitor_address(&self) -> Option<SocketAddr> {
        self.app.monitor_address.get().copied()
    }

    /// The management API's own address, if it has one.
    pub fn management_address(&self) -> Option<SocketAddr> {
        self.management_address
    }

    /// How many durable commits there were since the start.
    pub fn commits(&self) -> u64 {
        self.app.store.commits()
    }

    /// How far a task is, if it is there.
    pub fn task_status(&self, id: &TaskId) -> Result<Option<TaskStatus>, Fault> {
        self.app.store.read(|view| Ok(view.task(id).map(tasks::status)))
    }

    /// The ids of all tasks, in order.
    pub fn task_ids(&self) -> Result<Vec<TaskId>, Fault> {
        self.app.store.read(|view| Ok(view.tasks().map(|(id, _)| *id).collect()))
    }

    /// Resolves when the server cannot go on by itself, with the reason. It must then be stopped and started again.
    pub async fn failed(&self) -> Fault {
        self.app.parts.goes_down().await
    }

    /// Stops: no new requests, those in progress are finished, what is accepted is stored, the data directory is
    /// closed. What takes longer than the configured time is cut off; nothing acknowledged is lost by that.
    pub async fn stop(mut self) -> Result<(), Fault> {
        self.app.stopping.send_replace(true);
        let ended = async { while self.parts.join_next().await.is_some() {} };
        if tokio::time::timeout(*self.app.config.limits.stop_timeout, ended).await.is_err() {
            tracing::warn!("shutdown timed out");
            self.parts.shutdown().await;
        }
        let _ = std::fs::remove_file(self.app.config.control_socket());
        self.monitor.shutdown().await;
        self.app.store.close().await;
        Ok(())
    }
}

/// Starts what every server does in the background.
fn start_drivers(parts: &mut JoinSet<()>, app: &Arc<App>) {
    let shared = app.clone();
    parts.spawn(drive(app.clone(), Part::AggregationJobs, move || drive_jobs::drive(shared.clone())));
    let shared = app.clone();
    parts.spawn(drive(app.clone(), Part::CollectionJobs, move || drive_collections::drive(shared.clone())));
    let shared = app.clone();
    parts.spawn(drive(app.clone(), Part::DeferredJobs, move || drive_deferred::drive(shared.clone())));
    let shared = app.clone();
    parts.spawn(drive(app.clone(), Part::Sweep, move || drive_sweep::drive(shared.clone())));
    let shared = app.clone();
    parts.spawn(drive(app.clone(), Part::HpkeKeys, move || drive_keys::drive(shared.clone())));
    let shared = app.clone();
    parts.spawn(drive(app.clone(), Part::Disk, move || disk::drive(shared.clone())));
    let shared = app.clone();
    parts.spawn(drive(app.clone(), Part::History, move || overview::drive(shared.clone())));
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
        sum_cache_bytes: limits.sum_cache_bytes,
        queue: limits.store_queue,
        ballast_bytes: config.disk.ballast_bytes,
        key: key_source(&config.secrets),
        ..store::Options::default()
    }
}

/// The certificate that a server would begin with if it is in files, with those above it; or why it would not start.
pub fn certificate_in_files(tls: &config::Tls) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    tls::Files::open(tls).map(|(_, first)| first.cert)
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

async fn prepare(
    config: Config,
    store: Store,
    failpoints: Failpoints,
    roots: RootCertificates,
    peers: Peers,
) -> Result<App, Fault> {
    reload::note_clock_skew(&store, &config).await?;
    let keys = keys::Keys::begin(&config, &store).await?;
    let management = management::Management::begin(&config, &store).await?;
    let limits = &config.limits;
    let workers = match limits.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let pool = Pool::new(workers, limits.pool_queue)?;
    let token_header = if config.peer.dap_auth_token { TokenHeader::DapAuthToken } else { TokenHeader::Bearer };
    let options = PeerOptions { roots, failpoints: failpoints.clone(), token_header, ..PeerOptions::default() };
    let peer = Peer::new(&options)?;
    Ok(App::new(config, store, pool, Known { keys, management, peers }, peer, failpoints))
}

fn warn_of_plain_http(config: &Config) {
    if config.tls.mode == TlsMode::Off && !config.listen.ip().is_loopback() && config.proxy.trusted.is_empty() {
        tracing::warn!(
            listen = %config.listen,
            hint = "set tls.mode, or proxy.trusted to the proxy in front that adds HTTPS",
            "plain HTTP on public address"
        );
    }
}

/// Serves an address with `handle`, by HTTPS if that is wanted.
fn listen<H, F>(
    parts: &mut JoinSet<()>,
    app: Arc<App>,
    part: Part,
    listener: TcpListener,
    places: Arc<Semaphore>,
    handle: H,
) -> Result<(), Fault>
where
    H: Fn(Arc<App>, Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response> + Send + 'static,
{
    let tls = &app.config.tls;
    if tls.mode == TlsMode::Off {
        parts.spawn(vital(app.clone(), part, listen::serve_within(app, part, listener, places, handle)));
        return Ok(());
    }
    let shared = app.clone();
    let https = tls::Https::new(listener, app.certificates.clone(), move || *shared.config.tls.handshake_timeout)
        .map_err(|error| Fault::while_doing("preparing HTTPS", error))?;
    parts.spawn(vital(app.clone(), part, listen::serve_within(app, part, https, places, handle)));
    Ok(())
}

/// Makes the control socket, for us alone. A socket that a killed server left behind is ours to replace: we hold the
/// data directory's lock.
fn bind_control(path: &Path) -> Result<UnixListener, StartError> {
    let bind = || {
        let short = ShortPath::of(path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(short.path())?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|error| StartError::Control { path: path.to_owned(), error })
}

/// Answers a request from outside, and notes how long that took.
async fn answer(app: Arc<App>, request: Request) -> http::Response {
    let (begin, path) = (Instant::now(), request.path.clone());
    let response = route(app.clone(), request).await;
    app.recorder.answered(&path, response.status().as_u16(), begin.elapsed());
    response
}

/// Finds the revision by the path.
async fn route(app: Arc<App>, request: Request) -> http::Response {
    let path = request.path.clone();
    let (method, origin) = (request.method.clone(), request.origin);
    let below = |revision| {
        let rest = path.trim_start_matches('/').strip_prefix(wire::for_revision(revision).path_prefix())?;
        // Clients that join a base URL and a path with a slash of their own send two.
        rest.starts_with('/').then(|| rest.trim_start_matches('/'))
    };
    if landing::is_requested(&request) && management::below(&app.config, &path).is_none() {
        return landing::answer(&app).unwrap_or_else(http::failure);
    }
    let response = match Revision::ALL.into_iter().find_map(|revision| Some((revision, below(revision)?))) {
        Some((Revision::Dap09, path)) => dap09::handle(&app, path, request).await,
        Some((Revision::Dap18, path)) => dap18::handle(&app, path, request).await,
        None => match management::below(&app.config, &path) {
            Some(path) => management::handle(&app, path, request).await,
            None => http::failure(Problem::from_status(404).into()),
        },
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let (client, https) = (origin.client.map(|client| client.to_string()), origin.https);
        tracing::debug!(client, https, %method, path, status = status.as_u16(), "request rejected");
    }
    response
}
