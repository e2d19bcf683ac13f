//! What all requests and drivers of a running server share.

use std::{
    collections::HashMap,
    hash::Hash,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, watch};

use crate::pool::Pool;
use crate::{
    dap::{in_band::Peers, sample::Sampler},
    operator::{live::Live, management::Management, recorder::Recorder, reload::Controls},
    transport::{
        listen,
        memory::{Budget, JobMemory},
        slots::Slots,
        tls::{Certificates, Files},
    },
    upkeep::{disk::Disk, keys::Keys, supervise::Parts},
};
use dapbox_aggregator::{TaskContext, config::Config, never_contacted};
use dapbox_client::peer::{Peer, RootCertificates};
use dapbox_protocol::model::{AggregationJobId, TaskId, Time, TokenHash};
use dapbox_store::{Store, TaskState, View};
use dapbox_support::{Failpoints, Fault};

/// How much longer an answer of a helper is waited for when the server is asked to stop.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// What all requests and drivers of a running server share.
pub struct App {
    /// The configuration. What is held of it stays as it is; whoever wants to notice a reload looks again.
    pub config: Live,
    /// What whoever runs the server can do for it.
    pub controls: OnceLock<Controls>,
    /// One reload after the other.
    pub reloading: tokio::sync::Mutex<()>,
    /// The address that the server listens on, as soon as it does.
    pub address: OnceLock<SocketAddr>,
    /// The address for those who watch, if there is one.
    pub monitor_address: OnceLock<SocketAddr>,
    /// The data directory.
    pub store: Store,
    /// The disk that it is on.
    pub disk: Disk,
    /// Where VDAF and HPKE work runs.
    pub pool: Pool,
    /// Our HPKE keys.
    pub keys: Keys,
    /// What the management API has.
    pub management: Management,
    /// The peers whose tasks are set up in-band.
    pub peers: Peers,
    peer: Mutex<Peer>,
    /// The memory of our aggregation jobs as the leader.
    pub job_memory: JobMemory,
    /// The memory of aggregation jobs of ours as the helper, beside their requests.
    pub helper_memory: Budget,
    /// The memory of uploads, which anybody may send.
    pub upload_memory: Budget,
    /// The memory of all other requests, whose senders have a token.
    pub request_memory: Budget,
    /// Which uploads are opened before they are stored.
    pub sampler: Sampler,
    /// Requests in progress, and bodies that are awaited.
    pub slots: Slots,
    /// Places for connections to the public address; one that is taken is a connection that is open.
    pub connections: Arc<Semaphore>,
    /// Connections that were closed at once because there was no place, since the start.
    pub refused_connections: AtomicU64,
    /// Tasks that were removed because nobody ever contacted them, since the start.
    pub swept_tasks: AtomicU64,
    /// The TLS certificate, if the public address has one.
    pub certificates: Arc<Certificates>,
    /// The files that it is from, if it is from files.
    pub certificate_files: OnceLock<Arc<Files>>,
    /// Wakes the driver of aggregation jobs.
    pub jobs: Notify,
    /// Wakes the driver of collection jobs.
    pub collections: Notify,
    /// Wakes the driver of aggregation jobs that are answered later.
    pub deferred: Notify,
    /// Wakes the driver that forgets what is over.
    pub sweeps: Notify,
    /// Wakes those who poll when a collection job has ended.
    pub results: Notify,
    /// Becomes true when the server is asked to stop.
    pub stopping: watch::Sender<bool>,
    /// How it goes, for those who watch.
    pub recorder: Recorder,
    /// How the background parts are.
    pub parts: Parts,
    /// What a test makes fail.
    pub failpoints: Failpoints,
    /// Helper jobs being worked on: a repeat of one waits for it.
    pub helper_jobs: KeyedLocks<(TaskId, AggregationJobId)>,
    /// Tasks whose aggregate share is being given: one at a time.
    pub share_turns: KeyedLocks<TaskId>,
    contexts: Mutex<HashMap<TaskId, Arc<TaskContext>>>,
    trouble: Mutex<HashMap<TaskId, String>>,
    job_caps: Mutex<HashMap<TaskId, usize>>,
    token_uses: Mutex<HashMap<(TaskId, TokenHash), Time>>,
}

/// What is known of keys, API tokens and peers when a server starts.
pub struct Known {
    /// Our HPKE keys.
    pub keys: Keys,
    /// What the management API has.
    pub management: Management,
    /// The peers whose tasks are set up in-band.
    pub peers: Peers,
}

impl App {
    /// Puts together what a server needs.
    pub fn new(config: Config, store: Store, pool: Pool, known: Known, peer: Peer, failpoints: Failpoints) -> Self {
        let Known { keys, management, peers } = known;
        Self {
            slots: Slots::new(&config.limits),
            connections: Arc::new(listen::places(&config)),
            refused_connections: AtomicU64::new(0),
            swept_tasks: AtomicU64::new(0),
            certificates: Arc::default(),
            certificate_files: OnceLock::new(),
            job_memory: JobMemory::new(config.leader.max_memory_bytes),
            helper_memory: Budget::new(config.helper.max_memory_bytes),
            upload_memory: Budget::new(config.limits.upload_memory_bytes),
            request_memory: Budget::new(config.limits.request_memory_bytes),
            disk: Disk::new(&config, store.clone()),
            config: Live::new(config),
            controls: OnceLock::new(),
            reloading: tokio::sync::Mutex::default(),
            address: OnceLock::new(),
            monitor_address: OnceLock::new(),
            store,
            pool,
            keys,
            sampler: Sampler::default(),
            management,
            peers,
            peer: Mutex::new(peer),
            jobs: Notify::new(),
            collections: Notify::new(),
            deferred: Notify::new(),
            sweeps: Notify::new(),
            results: Notify::new(),
            stopping: watch::Sender::new(false),
            recorder: Recorder::new(),
            parts: Parts::default(),
            failpoints,
            helper_jobs: KeyedLocks::default(),
            share_turns: KeyedLocks::default(),
            contexts: Mutex::default(),
            trouble: Mutex::default(),
            job_caps: Mutex::default(),
            token_uses: Mutex::default(),
        }
    }

    /// The task with the given id, if we have it.
    pub fn context(&self, id: &TaskId) -> Result<Option<Arc<TaskContext>>, Fault> {
        if let Some(context) = lock(&self.contexts).get(id) {
            return Ok(Some(context.clone()));
        }
        let stored = |view: &View<'_>| {
            let of = |state: &TaskState| {
                let tokens = self.peers.tokens(view, state);
                (state.task.clone(), tokens, never_contacted::is_unused(state), state.in_band.clone())
            };
            Ok(view.task(id).map(of))
        };
        let Some((task, tokens, is_never_contacted, in_band)) = self.store.read(stored)? else { return Ok(None) };
        let context =
            TaskContext::new(task).map_err(|error| Fault::while_doing("making a stored task's VDAF", error))?;
        let context = context.with_tokens(tokens).with_never_contacted(is_never_contacted);
        let context = Arc::new(match in_band {
            Some(in_band) => context.with_advertisement(&in_band.bytes),
            None => context,
        });
        lock(&self.contexts).insert(*id, context.clone());
        // What was forgotten meanwhile may have been so before it was remembered here: the task was removed, or a token
        // replaced.
        let is_so = |view: &View<'_>| Ok(view.task(id).map(|state| self.peers.tokens(view, state) == context.tokens));
        match self.store.read(is_so)? {
            Some(true) => Ok(Some(context)),
            Some(false) => {
                self.reread(id);
                self.context(id)
            }
            None => {
                self.forget(id);
                Ok(None)
            }
        }
    }

    /// Reads a task again when it is next asked for, since its tokens were replaced.
    pub fn reread(&self, id: &TaskId) {
        lock(&self.contexts).remove(id);
    }

    /// Reads the tasks that were set up in-band again when they are next asked for, since their peers may have other tokens.
    pub fn reread_in_band(&self) {
        lock(&self.contexts).retain(|_, context| context.advertisement.is_none());
    }

    /// Forgets a task that was removed.
    pub fn forget(&self, id: &TaskId) {
        lock(&self.contexts).remove(id);
        lock(&self.trouble).remove(id);
        lock(&self.job_caps).remove(id);
        lock(&self.token_uses).retain(|(task, _), _| task != id);
        self.sampler.forget(id);
        self.recorder.forget(id);
    }

    /// The most reports that a task's helper can be sent in one job, as far as it has let us know.
    pub fn job_cap(&self, id: &TaskId) -> usize {
        lock(&self.job_caps).get(id).copied().unwrap_or(usize::MAX)
    }

    /// Notes that a task's helper found a job of that many reports too long. Its limit is its operator's: what was
    /// learnt of it holds until the next start.
    pub fn lower_job_cap(&self, id: &TaskId, refused: usize) {
        let mut caps = lock(&self.job_caps);
        let cap = caps.entry(*id).or_insert(usize::MAX);
        *cap = (refused / 2).clamp(1, *cap);
    }

    /// Notes that a token was presented while others were good too, so that the operator sees when nobody uses the old one
    /// any more.
    pub fn note_token(&self, id: &TaskId, hash: TokenHash, now: Time) {
        lock(&self.token_uses).insert((*id, hash), now);
    }

    /// When a token was last presented while others were good too.
    pub fn token_use(&self, id: &TaskId, hash: TokenHash) -> Option<Time> {
        lock(&self.token_uses).get(&(*id, hash)).copied()
    }

    /// Notes for the operator what a task's driver ran into, or that it is over.
    pub fn set_trouble(&self, id: &TaskId, trouble: Option<String>) {
        match trouble {
            Some(trouble) => lock(&self.trouble).insert(*id, trouble),
            None => lock(&self.trouble).remove(id),
        };
    }

    /// What a task's driver last ran into, if it is not over.
    pub fn trouble(&self, id: &TaskId) -> Option<String> {
        lock(&self.trouble).get(id).cloned()
    }

    /// The client for a request to a helper.
    pub fn peer(&self) -> Peer {
        lock(&self.peer).with_limits(*self.config.leader.peer_timeout, self.config.limits.max_answer_bytes)
    }

    /// Reads the roots again that vouch for helpers. Requests that have begun go on with those of before.
    pub fn reread_roots(&self) -> Result<(), String> {
        let roots = RootCertificates::read(&self.config.peer.ca_file).map_err(|error| error.to_string())?;
        let known = lock(&self.peer).clone();
        if let Some(new) = known.with_roots(roots).map_err(|fault| fault.to_string())? {
            *lock(&self.peer) = new;
        }
        Ok(())
    }

    /// Resolves when the server is asked to stop.
    pub async fn stopped(&self) {
        // The sender lives as long as the app: waiting cannot fail.
        let _ = self.stopping.subscribe().wait_for(|stop| *stop).await;
    }

    /// Waits for a helper's answer. None if the server is asked to stop and the answer does not come at once: the
    /// helper may have acted on the request, which is sent again after the next start.
    pub async fn unless_stopped<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let out_of_time = async {
            self.stopped().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        tokio::select! {
            answer = answer => Some(answer),
            () = out_of_time => None,
        }
    }
}

/// These maps hold whole values only, so that a panic elsewhere leaves them usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One lock for each key that somebody holds or waits for.
pub struct KeyedLocks<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> KeyedLocks<K> {
    /// Waits until nobody else holds the key.
    pub async fn lock(&self, key: K) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut locks = lock(&self.0);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let held = locks.get(&key).and_then(Weak::upgrade);
            held.unwrap_or_else(|| {
                let mutex = Arc::default();
                locks.insert(key, Arc::downgrade(&mutex));
                mutex
            })
        };
        mutex.lock_owned().await
    }
}
