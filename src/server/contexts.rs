//! Assembles the contexts of all rooms. Only [`Server::start`](crate::Server::start) uses it.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

use tokio::sync::Semaphore;

use crate::{
    dap::{
        context::{CollectionContext, DapContext, HelperContext, RequestContext, UploadContext},
        sampler::Sampler,
    },
    leader::context::LeaderContext,
    operator::{
        context::{ManagementContext, MonitorContext, OperatorContext, ReloadContext},
        controls::Controls,
        management::state::Management,
    },
    pool::Pool,
    public::PublicContext,
    results::{context::ResultsContext, leader_clock::LeaderClocks, render, status::ResultsStatus},
    shared::{
        clock::Clock, config_handle::ConfigHandle, keyed_locks::KeyedLocks, peer_transport::PeerTransport,
        stop::StopSignal, task_cache::TaskCache, taskprov_peers::TaskprovPeers, wakeups::Wakeups,
    },
    transport::{
        listen::{self, ListenContext},
        memory::{Budget, JobMemory},
        slots::Slots,
        tls::{CertificateFiles, Certificates, TlsContext},
    },
    upkeep::{
        context::UpkeepContext,
        disk::Disk,
        keys::Keys,
        recorder::Recorder,
        supervise::{Parts, Supervisor},
    },
};
use dapbox_aggregator::config::Config;
use dapbox_protocol::model::taskprov::PeerAggregator;
use dapbox_store::Store;
use dapbox_support::{Failpoints, Fault};

/// What the contexts are made of.
pub struct Parameters {
    pub clock: Arc<dyn Clock>,
    pub peers: Arc<dyn PeerTransport>,
    pub config: Config,
    pub store: Store,
    pub failpoints: Failpoints,
    pub taskprov_peers: Vec<PeerAggregator>,
    pub certificates: Arc<Certificates>,
    pub certificate_files: Option<Arc<CertificateFiles>>,
}

/// Addresses of the listeners.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub public: SocketAddr,
    pub monitor: Option<SocketAddr>,
    pub results: Option<SocketAddr>,
}

/// The contexts of all rooms.
pub struct Contexts {
    pub config: ConfigHandle,
    pub stop: StopSignal,
    pub supervisor: Supervisor,
    pub connections: Arc<Semaphore>,
    pub listen: ListenContext,
    pub tls: TlsContext,
    pub upkeep: Arc<UpkeepContext>,
    pub helper: Arc<HelperContext>,
    pub leader: Arc<LeaderContext>,
    pub results: Arc<ResultsContext>,
    pub public: Arc<PublicContext>,
    pub management: Arc<ManagementContext>,
    pub monitor: Arc<MonitorContext>,
    pub reload: Arc<ReloadContext>,
    pub operator: Arc<OperatorContext>,
}

/// What several contexts share.
struct Shared {
    clock: Arc<dyn Clock>,
    config: ConfigHandle,
    store: Store,
    failpoints: Failpoints,
    stop: StopSignal,
    wakeups: Arc<Wakeups>,
    pool: Pool,
    slots: Arc<Slots>,
    request_memory: Budget,
    tasks: Arc<TaskCache>,
    taskprov_peers: Arc<TaskprovPeers>,
    keys: Arc<Keys>,
    disk: Arc<Disk>,
    sampler: Arc<Sampler>,
    recorder: Arc<Recorder>,
    parts: Arc<Parts>,
    supervisor: Supervisor,
}

impl Contexts {
    /// Assembles the contexts. Makes the first HPKE keys and the secret of the management API, if they are missing.
    pub async fn assemble(parameters: Parameters, addresses: Addresses) -> Result<Self, Fault> {
        let Parameters { clock, peers, config, store, failpoints, taskprov_peers, certificates, certificate_files } =
            parameters;
        let shared = Shared::new(clock, config, store, failpoints, taskprov_peers).await?;
        let config = shared.config.get();
        let api = Management::begin(&config, &shared.store).await?;
        let (connections, controls) = (Arc::new(listen::connection_limit(&config)), Arc::new(OnceLock::new()));
        let helper = Arc::new(shared.helper(Budget::new(config.helper.max_memory_bytes)));
        let upkeep = Arc::new(shared.upkeep());
        let leader = Arc::new(shared.leader(&config, peers.clone()));
        let results = Arc::new(shared.results(addresses.results, peers.clone()));
        let management = Arc::new(shared.management(api));
        let monitor =
            shared.monitor(certificates.clone(), connections.clone(), controls.clone(), upkeep.clone(), &results);
        let monitor = Arc::new(monitor);
        let reload = Arc::new(shared.reload(certificates.clone(), certificate_files, peers, controls));
        let operator = shared.operator(addresses, monitor.clone(), reload.clone(), management.clone(), results.clone());
        let public = PublicContext {
            clock: shared.clock.clone(),
            config: shared.config.clone(),
            recorder: shared.recorder.clone(),
            dap: shared.dap(&config, helper.clone()),
            management: management.clone(),
            results: results.clone(),
        };
        Ok(Self {
            config: shared.config.clone(),
            stop: shared.stop.clone(),
            supervisor: shared.supervisor.clone(),
            connections,
            listen: shared.listen(),
            tls: shared.tls(certificates),
            upkeep,
            helper,
            leader,
            results,
            public: Arc::new(public),
            management,
            monitor,
            reload,
            operator: Arc::new(operator),
        })
    }
}

impl Shared {
    async fn new(
        clock: Arc<dyn Clock>,
        config: Config,
        store: Store,
        failpoints: Failpoints,
        taskprov_peers: Vec<PeerAggregator>,
    ) -> Result<Self, Fault> {
        let limits = &config.limits;
        let workers = match limits.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let pool = Pool::new(workers, limits.pool_queue)?;
        let slots = Arc::new(Slots::new(limits));
        let request_memory = Budget::new(limits.request_memory_bytes);
        let disk = Arc::new(Disk::new(&config, store.clone()));
        let config = ConfigHandle::new(config);
        let keys = Arc::new(Keys::begin(clock.clone(), config.clone(), store.clone()).await?);
        let (sampler, recorder) = (Arc::new(Sampler::default()), Arc::new(Recorder::new(clock.clone())));
        let taskprov_peers = Arc::new(TaskprovPeers::new(taskprov_peers));
        let tasks = TaskCache::new(store.clone(), taskprov_peers.clone(), vec![sampler.clone(), recorder.clone()]);
        let (tasks, stop, parts) = (Arc::new(tasks), StopSignal::new(clock.clone()), Arc::new(Parts::default()));
        let supervisor = Supervisor {
            clock: clock.clone(),
            parts: parts.clone(),
            store: store.clone(),
            stop: stop.clone(),
            failpoints: failpoints.clone(),
            tasks: tasks.clone(),
        };
        let wakeups = Arc::default();
        Ok(Self {
            clock,
            config,
            store,
            failpoints,
            stop,
            wakeups,
            pool,
            slots,
            request_memory,
            tasks,
            taskprov_peers,
            keys,
            disk,
            sampler,
            recorder,
            parts,
            supervisor,
        })
    }

    fn listen(&self) -> ListenContext {
        ListenContext { config: self.config.clone(), stop: self.stop.clone(), failpoints: self.failpoints.clone() }
    }

    fn tls(&self, certificates: Arc<Certificates>) -> TlsContext {
        TlsContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            certificates,
            stop: self.stop.clone(),
            failpoints: self.failpoints.clone(),
        }
    }

    fn upkeep(&self) -> UpkeepContext {
        UpkeepContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            stop: self.stop.clone(),
            failpoints: self.failpoints.clone(),
            wakeups: self.wakeups.clone(),
            tasks: self.tasks.clone(),
            keys: self.keys.clone(),
            disk: self.disk.clone(),
            started: self.recorder.started,
            never_contacted_removed: AtomicU64::new(0),
        }
    }

    fn helper(&self, memory: Budget) -> HelperContext {
        HelperContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            pool: self.pool.clone(),
            disk: self.disk.clone(),
            keys: self.keys.clone(),
            tasks: self.tasks.clone(),
            memory,
            job_locks: KeyedLocks::default(),
            share_locks: KeyedLocks::default(),
            wakeups: self.wakeups.clone(),
            supervisor: self.supervisor.clone(),
            stop: self.stop.clone(),
            failpoints: self.failpoints.clone(),
        }
    }

    fn dap(&self, config: &Config, helper: Arc<HelperContext>) -> DapContext {
        let requests = RequestContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            tasks: self.tasks.clone(),
            peers: self.taskprov_peers.clone(),
            keys: self.keys.clone(),
            disk: self.disk.clone(),
            slots: self.slots.clone(),
            memory: self.request_memory.clone(),
            wakeups: self.wakeups.clone(),
        };
        let uploads = UploadContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            pool: self.pool.clone(),
            disk: self.disk.clone(),
            keys: self.keys.clone(),
            sampler: self.sampler.clone(),
            slots: self.slots.clone(),
            memory: Budget::new(config.limits.upload_memory_bytes),
            wakeups: self.wakeups.clone(),
        };
        let collections = CollectionContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            disk: self.disk.clone(),
            wakeups: self.wakeups.clone(),
            stop: self.stop.clone(),
        };
        DapContext { requests, uploads, helper, collections }
    }

    fn leader(&self, config: &Config, peers: Arc<dyn PeerTransport>) -> LeaderContext {
        LeaderContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            pool: self.pool.clone(),
            keys: self.keys.clone(),
            tasks: self.tasks.clone(),
            memory: JobMemory::new(config.leader.max_memory_bytes),
            helper_memory_bytes: Budget::new(config.helper.max_memory_bytes).bytes(),
            peers,
            recorder: self.recorder.clone(),
            wakeups: self.wakeups.clone(),
            supervisor: self.supervisor.clone(),
            stop: self.stop.clone(),
            failpoints: self.failpoints.clone(),
        }
    }

    fn results(&self, address: Option<SocketAddr>, peers: Arc<dyn PeerTransport>) -> ResultsContext {
        ResultsContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            peers,
            leader_clocks: LeaderClocks::default(),
            status: ResultsStatus::default(),
            renders: Arc::new(Semaphore::new(render::RENDERS)),
            address,
            wakeups: self.wakeups.clone(),
            stop: self.stop.clone(),
            failpoints: self.failpoints.clone(),
        }
    }

    fn management(&self, api: Management) -> ManagementContext {
        ManagementContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            tasks: self.tasks.clone(),
            peers: self.taskprov_peers.clone(),
            keys: self.keys.clone(),
            slots: self.slots.clone(),
            memory: self.request_memory.clone(),
            wakeups: self.wakeups.clone(),
            api,
        }
    }

    fn monitor(
        &self,
        certificates: Arc<Certificates>,
        connections: Arc<Semaphore>,
        controls: Arc<OnceLock<Controls>>,
        upkeep: Arc<UpkeepContext>,
        results: &Arc<ResultsContext>,
    ) -> MonitorContext {
        MonitorContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            pool: self.pool.clone(),
            recorder: self.recorder.clone(),
            parts: self.parts.clone(),
            certificates,
            slots: self.slots.clone(),
            connections,
            controls,
            upkeep,
            results: results.clone(),
            stop: self.stop.clone(),
            failpoints: self.failpoints.clone(),
        }
    }

    fn reload(
        &self,
        certificates: Arc<Certificates>,
        certificate_files: Option<Arc<CertificateFiles>>,
        peers: Arc<dyn PeerTransport>,
        controls: Arc<OnceLock<Controls>>,
    ) -> ReloadContext {
        ReloadContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            disk: self.disk.clone(),
            keys: self.keys.clone(),
            certificates,
            certificate_files,
            peers,
            taskprov_peers: self.taskprov_peers.clone(),
            tasks: self.tasks.clone(),
            controls,
            lock: tokio::sync::Mutex::default(),
            wakeups: self.wakeups.clone(),
        }
    }

    fn operator(
        &self,
        addresses: Addresses,
        monitor: Arc<MonitorContext>,
        reload: Arc<ReloadContext>,
        management: Arc<ManagementContext>,
        results: Arc<ResultsContext>,
    ) -> OperatorContext {
        OperatorContext {
            clock: self.clock.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            tasks: self.tasks.clone(),
            peers: self.taskprov_peers.clone(),
            slots: self.slots.clone(),
            memory: self.request_memory.clone(),
            wakeups: self.wakeups.clone(),
            stop: self.stop.clone(),
            address: addresses.public,
            monitor_address: addresses.monitor,
            upkeep: monitor.upkeep.clone(),
            monitor,
            reload,
            management,
            results,
        }
    }
}
