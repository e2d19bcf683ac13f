//! Starts a server: reserves addresses, opens the data directory, assembles the contexts, and spawns listeners and drivers.

use std::{future::Future, io, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    contexts::{Addresses, Contexts, Parameters},
    dap::deferred_jobs,
    leader::{aggregation_driver, collection_driver},
    operator::{control_socket, management, monitor, overview, reload},
    public, results,
    server::Server,
    shared::{
        clock::{Clock, SystemClock},
        peer_transport::{HttpPeers, PeerTransport},
    },
    start_error::StartError,
    transport::{
        bound_address::BoundAddress,
        http::{Request, Response},
        listen,
        short_path::ShortPath,
        tls,
    },
    upkeep::{
        disk_driver, key_driver,
        store_options::store_options,
        supervise::{self, drive, vital},
        sweep_driver,
    },
};
use dapbox_aggregator::config::{Config, TlsMode, taskprov::read_peers};
use dapbox_client::peer::{RootCertificates, TokenHeader};
use dapbox_store::{self as store, Store};
use dapbox_support::{Fault, Part};

/// What a server takes from outside: time and outgoing requests.
pub struct Environment {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Sends requests to other aggregators; HTTPS if it is `None`.
    pub peers: Option<Arc<dyn PeerTransport>>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), peers: None }
    }
}

impl Server {
    /// Opens the data directory and starts to listen, answer and drive jobs.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let options = store::Options { migrate: true, ..store_options(&config) };
        Self::start_with(config, options).await
    }

    /// Starts with store options that the configuration does not have, for tests. Their failpoints apply to the whole
    /// server.
    pub async fn start_with(config: Config, options: store::Options) -> Result<Self, StartError> {
        Self::start_in(Environment::default(), config, options).await
    }

    /// Starts in another environment, such as a simulated one.
    pub async fn start_in(
        environment: Environment,
        config: Config,
        options: store::Options,
    ) -> Result<Self, StartError> {
        let Environment { clock, peers } = environment;
        let failpoints = options.failpoints.clone();
        // Cheap checks come before the slow ones.
        let roots = RootCertificates::read(&config.peer.ca_file)?;
        let taskprov_peers = read_peers(&config.taskprov.peers).map_err(StartError::Peers)?;
        let certificates = Arc::new(tls::Certificates::default());
        let certificate_files = match config.tls.mode {
            TlsMode::Files => {
                let (files, first) = tls::CertificateFiles::open(&config.tls, clock.now())?;
                certificates.replace(first);
                Some(Arc::new(files))
            }
            TlsMode::Off | TlsMode::Acme => None,
        };
        // Reserved before the data directory is created: a start that fails must leave nothing behind.
        let sockets = Sockets::reserve(&config)?;
        let store = open_store(&config, options).await?;
        reload::note_clock_skew(&store, &config).await?;
        let header = if config.peer.dap_auth_token { TokenHeader::DapAuthToken } else { TokenHeader::Bearer };
        let peers = match peers {
            Some(peers) => peers,
            None => Arc::new(HttpPeers::new(roots, failpoints.clone(), header)?),
        };
        let (addresses, management_address) = sockets.addresses()?;
        let control = config.control_socket();
        let parameters = Parameters {
            clock: clock.clone(),
            peers,
            config,
            store: store.clone(),
            failpoints,
            taskprov_peers,
            certificates,
            certificate_files: certificate_files.clone(),
        };
        let contexts = Contexts::assemble(parameters, addresses).await?;
        let disk = contexts.upkeep.disk.clone();
        let checked = tokio::task::spawn_blocking(move || disk.check_and_fill_ballast()).await;
        checked.map_err(|error| Fault::while_doing("checking the disk", error))?;
        let listeners = sockets.listen()?;
        let control = bind_control(&control)?;
        // Before the first request, so that the rates count from here.
        overview::look(&contexts.monitor)?;
        let (parts, monitor) = spawn(&contexts, listeners, control, certificate_files)?;
        Ok(Self {
            clock,
            config: contexts.config,
            store,
            stop: contexts.stop,
            state: contexts.supervisor.parts,
            reload: contexts.reload,
            parts,
            monitor,
            address: addresses.public,
            monitor_address: addresses.monitor,
            results_address: addresses.results,
            management_address,
        })
    }
}

/// Bound addresses.
struct Sockets {
    public: BoundAddress<StartError>,
    monitor: Option<BoundAddress<StartError>>,
    management: Option<BoundAddress<StartError>>,
    results: Option<BoundAddress<StartError>>,
}

/// Listening sockets.
struct Listeners {
    public: TcpListener,
    monitor: Option<TcpListener>,
    management: Option<TcpListener>,
    results: Option<TcpListener>,
}

impl Sockets {
    fn reserve(config: &Config) -> Result<Self, StartError> {
        let public = BoundAddress::at(config.listen, |address, error| StartError::Listen { address, error })?;
        let monitor = config.monitor.listen.0;
        let monitor = BoundAddress::at_optional(monitor, |address, error| StartError::Monitor { address, error })?;
        let management = config.management.listen.0;
        let management =
            BoundAddress::at_optional(management, |address, error| StartError::Management { address, error })?;
        let results = config.results.listen.0;
        let results = BoundAddress::at_optional(results, |address, error| StartError::Results { address, error })?;
        Ok(Self { public, monitor, management, results })
    }

    /// The addresses, with the ports that the system has chosen; the last one is that of the management API.
    fn addresses(&self) -> Result<(Addresses, Option<SocketAddr>), StartError> {
        let monitor = self.monitor.as_ref().map(BoundAddress::address).transpose()?;
        let management = self.management.as_ref().map(BoundAddress::address).transpose()?;
        let results = self.results.as_ref().map(BoundAddress::address).transpose()?;
        Ok((Addresses { public: self.public.address()?, monitor, results }, management))
    }

    fn listen(self) -> Result<Listeners, StartError> {
        let Self { public, monitor, management, results } = self;
        let public = public.listen()?;
        let monitor = monitor.map(BoundAddress::listen).transpose()?;
        let management = management.map(BoundAddress::listen).transpose()?;
        let results = results.map(BoundAddress::listen).transpose()?;
        Ok(Listeners { public, monitor, management, results })
    }
}

/// Spawns listeners and drivers. The second set is the monitoring listener, which stops last.
fn spawn(
    contexts: &Contexts,
    listeners: Listeners,
    control: UnixListener,
    certificate_files: Option<Arc<tls::CertificateFiles>>,
) -> Result<(JoinSet<()>, JoinSet<()>), StartError> {
    let config = contexts.config.get();
    let mut spawner = Spawner { contexts, parts: JoinSet::new() };
    if config.tls.mode == TlsMode::Acme {
        spawner.drive(Part::Acme, &contexts.tls, tls::acme::drive);
    }
    warn_of_plain_http(&config);
    let public = contexts.public.clone();
    let handle = move |request| public::answer(public.clone(), request);
    spawner.listen(Part::PublicListener, listeners.public, contexts.connections.clone(), handle)?;
    if let Some(listener) = listeners.management {
        // Its own connections: a flood of the public address does not lock out the control plane.
        let permits = Arc::new(listen::connection_limit(&config));
        let management = contexts.management.clone();
        let handle = move |request| management::answer_at_root(management.clone(), request);
        spawner.listen(Part::ManagementListener, listener, permits, handle)?;
    }
    let operator = contexts.operator.clone();
    let handle = move |request| control_socket::handle(operator.clone(), request);
    let control = listen::serve(contexts.listen.clone(), Part::ControlSocket, control, handle);
    spawner.parts.spawn(vital(contexts.supervisor.clone(), Part::ControlSocket, control));
    spawner.drive(Part::AggregationJobs, &contexts.leader, aggregation_driver::drive);
    spawner.drive(Part::CollectionJobs, &contexts.leader, collection_driver::drive);
    spawner.drive(Part::DeferredJobs, &contexts.helper, deferred_jobs::drive);
    spawner.drive(Part::Results, &contexts.results, results::driver::drive);
    spawner.drive(Part::Webhooks, &contexts.results, results::webhooks::drive);
    if let Some(listener) = listeners.results {
        let served = results::listener::serve(contexts.results.clone(), listener);
        spawner.parts.spawn(vital(contexts.supervisor.clone(), Part::ResultsListener, served));
    }
    spawner.drive(Part::Sweep, &contexts.upkeep, sweep_driver::drive);
    spawner.drive(Part::HpkeKeys, &contexts.upkeep, key_driver::drive);
    spawner.drive(Part::Disk, &contexts.upkeep, disk_driver::drive);
    spawner.drive(Part::History, &contexts.monitor, overview::drive);
    if let Some(files) = certificate_files {
        spawner.drive(Part::CertificateFiles, &contexts.tls, move |tls| files.clone().drive(tls));
    }
    let mut parts = spawner.parts;
    parts.spawn(supervise::watch_store(contexts.supervisor.clone()));
    let monitor = listeners.monitor.into_iter().map(|listener| {
        let served = monitor::serve(contexts.monitor.clone(), listener);
        vital(contexts.supervisor.clone(), Part::MonitorListener, served)
    });
    Ok((parts, monitor.collect()))
}

/// Spawns the components of a server.
struct Spawner<'a> {
    contexts: &'a Contexts,
    parts: JoinSet<()>,
}

impl Spawner<'_> {
    /// Spawns a driver, which is restarted if it fails.
    fn drive<C, F>(&mut self, part: Part, context: &C, run: impl Fn(C) -> F + Send + 'static)
    where
        C: Clone + Send + 'static,
        F: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let context = context.clone();
        self.parts.spawn(drive(self.contexts.supervisor.clone(), part, move || run(context.clone())));
    }

    /// Spawns a listener, with HTTPS if it is configured.
    fn listen<H, F>(
        &mut self,
        part: Part,
        listener: TcpListener,
        permits: Arc<Semaphore>,
        handle: H,
    ) -> Result<(), Fault>
    where
        H: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let (ctx, supervisor) = (self.contexts.listen.clone(), self.contexts.supervisor.clone());
        let config = self.contexts.config.clone();
        if config.get().tls.mode == TlsMode::Off {
            let served = listen::serve_within(ctx, part, listener, permits, handle);
            self.parts.spawn(vital(supervisor, part, served));
            return Ok(());
        }
        let certificates = self.contexts.tls.certificates.clone();
        let https = tls::Https::new(listener, certificates, move || *config.get().tls.handshake_timeout)
            .map_err(|error| Fault::while_doing("configuring HTTPS", error))?;
        self.parts.spawn(vital(supervisor, part, listen::serve_within(ctx, part, https, permits, handle)));
        Ok(())
    }
}

async fn open_store(config: &Config, options: store::Options) -> Result<Store, StartError> {
    let dir = config.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir, options)).await;
    let opened = opened.map_err(|error| Fault::while_doing("opening the data directory", error))?;
    opened.map_err(|error| StartError::Open { dir: config.data_dir.clone(), error })
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

/// Creates the control socket, accessible to the owner only. Replaces the socket of a killed server: the lock of the data
/// directory proves that no other server uses it.
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

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        time::{Duration, Instant},
    };

    use super::*;
    use dapbox_aggregator::config::OptionalAddress;
    use dapbox_protocol::model::Time;

    /// A clock that stands still.
    struct StoppedClock(Time, Instant);

    impl Clock for StoppedClock {
        fn now(&self) -> Time {
            self.0
        }

        fn instant(&self) -> Instant {
            self.1
        }

        fn sleep(&self, _delay: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn takes_time_from_environment() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Time(1_000_000_000));
        let mut config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.monitor.listen = OptionalAddress(None);
        let environment = Environment { clock: Arc::new(StoppedClock(now, Instant::now())), peers: None };
        let options = store_options(&config);
        let server = Server::start_in(environment, config, options).await.unwrap();
        let created = server.store.read(|view| Ok(view.keys().values().map(|key| key.created).collect::<Vec<_>>()));
        assert_eq!(created.unwrap(), [now]);
        server.stop().await.unwrap();
    }
}
