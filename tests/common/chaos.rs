//! A workload of leader, helper, clients and collectors during kills and power cuts. It checks that every report counts
//! once.
//!
//! Work consists of [`Workload`]s. Each adds a task to both aggregators, uploads [`UPLOADS`] measurements from several
//! clients
//! and collects them. The task is then either removed or kept until the end. Several workloads always run concurrently,
//! in
//! both revisions and both batch modes.
//!
//! The measurement of upload number n is the histogram bin number n, and no other upload uses that bin. The aggregate
//! must be
//! one in each of these bins and zero in all others. A lost report leaves a zero, a report counted twice makes a two,
//! and a
//! report that no client uploaded lands in another bin. No two errors cancel out.
//!
//! A client repeats each request with the same bytes until it succeeds. Each success must stay true: a task exists or
//! is
//! removed, a report is accepted, a batch is collected with this result.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration as Span,
};

use dapbox::{
    client::{Client, ClientError},
    collector::{CollectError, CollectedAggregate, Collector, CollectorTask},
    model::{BatchMode, FixedSizeQuery, Query, Revision, Role, VdafConfig},
    peer::{Peer, PeerOptions, RequestError, RetryPolicy},
    support::clock,
    vdaf::{AggregateResult, Measurement},
    views::status::TaskStatus,
    wire,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};

use super::{Parties, TEST_TIMEOUT, batches_of, process::Process, remote_node::RemoteNode};

/// Reports of a workload, each with its own bin.
pub const UPLOADS: u64 = 96;
/// Bins of a small histogram, and of one whose reports and sums exceed the longest row of the store. The last bins must
/// stay empty.
const BINS: [usize; 2] = [UPLOADS as usize + 4, 5000];
/// The batch size in leader-selected mode.
const BATCH: u64 = 32;
/// Clients that upload to a task concurrently.
const CLIENTS: usize = 4;
/// The longest pause of a client between two uploads, in milliseconds.
const CLIENT_PAUSE: Range<u64> = 0..20;

/// A failed check.
#[derive(Debug)]
pub enum ChaosError {
    /// Something that was acknowledged is not true.
    Lost(String),
    /// An operation does not end.
    Stuck(String),
}

impl fmt::Display for ChaosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(text) => write!(f, "lost: {text}"),
            Self::Stuck(text) => write!(f, "stuck: {text}"),
        }
    }
}

pub fn lost<T>(text: impl Into<String>) -> Result<T, ChaosError> {
    Err(ChaosError::Lost(text.into()))
}

/// The aggregators to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    Leader,
    Helper,
    Both,
}

impl Victims {
    pub fn any(rng: &mut StdRng) -> Self {
        [Self::Leader, Self::Helper, Self::Both][rng.random_range(0..3)]
    }

    /// The indices of the victims in [`ChaosRig::nodes`].
    pub fn indices(self) -> &'static [usize] {
        match self {
            Self::Leader => &[0],
            Self::Helper => &[1],
            Self::Both => &[0, 1],
        }
    }
}

/// What was completed and verified.
#[derive(Debug, Default)]
pub struct Tally {
    pub uploads: AtomicU64,
    pub batches: AtomicU64,
    pub tasks: AtomicU64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [uploads, batches, tasks] = [&self.uploads, &self.batches, &self.tasks].map(|n| n.load(Ordering::Relaxed));
        write!(f, "{uploads} uploads, {batches} batches, {tasks} tasks")
    }
}

/// A leader and a helper under load.
pub struct ChaosRig {
    /// The leader and the helper.
    pub nodes: [Process; 2],
    pub rng: StdRng,
    shared: Arc<Shared>,
    workers: JoinSet<Result<(), ChaosError>>,
}

/// State that all workers share.
struct Shared {
    remotes: [RemoteNode; 2],
    is_over: AtomicBool,
    /// Workloads whose tasks both aggregators know.
    begun: watch::Sender<u64>,
    /// Finished tasks, to be checked again at the end.
    finished: Mutex<Vec<Finished>>,
    tally: Tally,
}

/// A finished task.
enum Finished {
    Kept(Box<Workload>, Vec<CollectedAggregate>),
    Removed(Box<Parties>),
}

impl ChaosRig {
    /// Starts both nodes and the workers: `workers` for each revision and batch mode. Each runs one workload after
    /// another.
    pub async fn start(mut nodes: [Process; 2], seed: u64, workers: usize) -> Result<Self, ChaosError> {
        for node in &mut nodes {
            node.spawn();
            node.ready().await.map_err(ChaosError::Lost)?;
        }
        let remotes = nodes.each_ref().map(RemoteNode::of);
        let (is_over, begun) = (AtomicBool::new(false), watch::Sender::new(0));
        let shared = Arc::new(Shared { remotes, is_over, begun, finished: Mutex::default(), tally: Tally::default() });
        let mut rng = StdRng::seed_from_u64(seed);
        let mut set = JoinSet::new();
        for _ in 0..workers {
            for revision in Revision::ALL {
                for mode in [BatchMode::TimeInterval, batches_of(revision, 2 * BATCH)] {
                    set.spawn(worker(shared.clone(), revision, mode, StdRng::seed_from_u64(rng.random())));
                }
            }
        }
        Ok(Self { nodes, rng, shared, workers: set })
    }

    /// Lets the workers run for a random time, in milliseconds. Ends early with the error of a worker.
    pub async fn work(&mut self, millis: Range<u64>) -> Result<(), ChaosError> {
        let pause = Span::from_millis(self.rng.random_range(millis));
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            Some(ended) = self.workers.join_next() => ended.unwrap(),
        }
    }

    /// Starts killed nodes and waits until they serve.
    pub async fn restart(&mut self, victims: Victims) -> Result<(), ChaosError> {
        for index in victims.indices() {
            self.nodes[*index].spawn();
        }
        for index in victims.indices() {
            self.nodes[*index].ready().await.map_err(ChaosError::Lost)?;
        }
        Ok(())
    }

    /// Waits until every worker has begun a workload.
    pub async fn begun(&self) {
        let workers = self.workers.len() as u64;
        self.shared.begun.subscribe().wait_for(|begun| *begun >= workers).await.unwrap();
    }

    /// Lets each worker end after its current workload.
    pub fn stop_new_workloads(&self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }

    /// Waits until all workers have ended.
    pub async fn finish_work(&mut self) -> Result<(), ChaosError> {
        self.stop_new_workloads();
        while let Some(ended) = self.workers.join_next().await {
            ended.unwrap()?;
        }
        Ok(())
    }

    /// Checks all finished tasks again.
    pub async fn audit(&self) -> Result<(), ChaosError> {
        for finished in &*self.shared.finished.lock().await {
            match finished {
                Finished::Kept(workload, batches) => workload.check_again(batches).await?,
                Finished::Removed(parties) => {
                    for (remote, task) in self.shared.remotes.iter().zip([&parties.leader, &parties.helper]) {
                        remote.check_removed(task).await?;
                    }
                }
            }
        }
        Ok(())
    }

    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }
}

/// Runs one workload after another, at least one.
async fn worker(shared: Arc<Shared>, revision: Revision, mode: BatchMode, mut rng: StdRng) -> Result<(), ChaosError> {
    loop {
        let length = BINS[usize::from(rng.random_ratio(1, 4))];
        let workload = Workload::start(&shared, revision, mode, length).await?;
        workload.upload(&mut rng).await?;
        let batches = workload.collect().await?;
        workload.check(&batches).await?;
        shared.tally.uploads.fetch_add(UPLOADS, Ordering::Relaxed);
        shared.tally.batches.fetch_add(batches.len() as u64, Ordering::Relaxed);
        shared.tally.tasks.fetch_add(1, Ordering::Relaxed);
        let finished = if rng.random() {
            for remote in &shared.remotes {
                remote.remove(&workload.parties.leader).await?;
            }
            Finished::Removed(Box::new(workload.parties))
        } else {
            Finished::Kept(Box::new(workload), batches)
        };
        shared.finished.lock().await.push(finished);
        if shared.is_over.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

/// A task with its uploads.
struct Workload {
    parties: Parties,
    remotes: [RemoteNode; 2],
    /// The collector's query.
    query: Query,
    /// Bins of the histogram.
    length: usize,
}

impl Workload {
    async fn start(shared: &Shared, revision: Revision, mode: BatchMode, length: usize) -> Result<Self, ChaosError> {
        let remotes = shared.remotes.clone();
        let vdaf = VdafConfig::Prio3Histogram { length, chunk_length: 10 + length / 50 };
        let [leader, helper] = remotes.each_ref().map(|remote| remote.url(revision));
        let parties = Parties::new(revision, vdaf, mode, leader, helper).with(|task| {
            if mode != BatchMode::TimeInterval {
                task.public.min_batch_size = BATCH;
            }
        });
        remotes[0].add(&parties.leader).await?;
        remotes[1].add(&parties.helper).await?;
        shared.begun.send_modify(|begun| *begun += 1);
        let query = match mode {
            BatchMode::TimeInterval => parties.query_now(),
            BatchMode::FixedSize { .. } => Query::FixedSize(FixedSizeQuery::CurrentBatch),
        };
        Ok(Self { parties, remotes, query, length })
    }

    /// Uploads all measurements from several clients, each until it is accepted.
    async fn upload(&self, rng: &mut StdRng) -> Result<(), ChaosError> {
        let client = Client::new(self.parties.leader.public.clone(), peer(), retries()).unwrap();
        let (client, next) = (Arc::new(client), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let rng = StdRng::seed_from_u64(rng.random());
            clients.spawn(upload(client.clone(), next.clone(), rng));
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap()?;
        }
        Ok(())
    }

    /// Collects all batches.
    async fn collect(&self) -> Result<Vec<CollectedAggregate>, ChaosError> {
        let batches = match self.parties.leader.public.batch_mode {
            BatchMode::TimeInterval => 1,
            BatchMode::FixedSize { .. } => UPLOADS / BATCH,
        };
        let mut collected = Vec::new();
        for _ in 0..batches {
            // A lost report would let the collection wait forever.
            let batch = tokio::select! {
                batch = self.collect_one() => batch?,
                error = self.detect_loss() => return Err(error),
            };
            collected.push(batch);
        }
        Ok(collected)
    }

    async fn collect_one(&self) -> Result<CollectedAggregate, ChaosError> {
        let collector = self.collector();
        let collected = collector.collect(self.query, Some(TEST_TIMEOUT), |_| {}).await;
        let collected = collected.map_err(|error| match error {
            CollectError::TimedOut(_) => ChaosError::Stuck(format!("a collection: {error}")),
            CollectError::Request(cause) if cause.is_retryable() => ChaosError::Stuck(format!("a collection: {cause}")),
            error => ChaosError::Lost(format!("a collection: {error}")),
        })?;
        if self.query == Query::FixedSize(FixedSizeQuery::CurrentBatch) {
            match collector.release(&collected).await {
                Ok(()) => {}
                // Released by an earlier request whose answer was lost.
                Err(CollectError::Request(RequestError::Refused(problem))) if matches!(problem.status, 404 | 410) => {}
                Err(error) => return Err(ChaosError::Stuck(format!("giving up a batch: {error}"))),
            }
        }
        Ok(collected)
    }

    fn collector(&self) -> Collector {
        let task = CollectorTask {
            public: self.parties.leader.public.clone(),
            token: self.parties.collector_token.clone(),
            previous_token: None,
        };
        Collector::new(task, self.parties.keypair.clone(), peer(), retries()).unwrap()
    }

    /// Returns when the leader has aggregated all its reports but not as many as were uploaded, or when a task is
    /// missing.
    async fn detect_loss(&self) -> ChaosError {
        loop {
            tokio::time::sleep(Span::from_millis(100)).await;
            for remote in &self.remotes {
                let status = match remote.status(&self.parties.leader).await {
                    Ok(status) => status,
                    Err(error) => return error,
                };
                let done = status.counters.get("aggregate_success").copied().unwrap_or(0);
                if status.role == Role::Leader && (status.waiting, status.jobs) == (0, 0) && done != UPLOADS {
                    return ChaosError::Lost(format!("{done} of {UPLOADS} reports were aggregated: {status:?}"));
                }
            }
        }
    }

    /// Checks that each report was collected exactly once and that both aggregators agree.
    async fn check(&self, batches: &[CollectedAggregate]) -> Result<(), ChaosError> {
        let mut bins = vec![0; self.length];
        let mut count = 0;
        for batch in batches {
            let AggregateResult::Vector(result) = &batch.result else { panic!("{batch:?}") };
            bins.iter_mut().zip(result).for_each(|(bin, more)| *bin += more);
            count += batch.report_count;
        }
        let expected = |bin: usize| u128::from((bin as u64) < UPLOADS);
        let wrong: Vec<_> = bins.iter().enumerate().filter(|(bin, found)| **found != expected(*bin)).collect();
        if (count, wrong.len()) != (UPLOADS, 0) {
            return lost(format!(
                "{count} of {UPLOADS} reports are collected; wrong bins and what is in them: {wrong:?}"
            ));
        }
        for remote in &self.remotes {
            check_status(&remote.status(&self.parties.leader).await?, batches.len())?;
        }
        Ok(())
    }

    /// Checks a finished task again; a repeated collection must return the same result.
    async fn check_again(&self, batches: &[CollectedAggregate]) -> Result<(), ChaosError> {
        self.check(batches).await?;
        if self.parties.leader.public.batch_mode == BatchMode::TimeInterval {
            let again = self.collect_one().await?;
            if again.result != batches[0].result {
                return lost(format!("a result: {:?} is {:?} now", batches[0].result, again.result));
            }
        }
        Ok(())
    }
}

/// One client: uploads the measurements that no other client has taken, several in a request where the protocol allows
/// it.
async fn upload(client: Arc<Client>, next: Arc<AtomicU64>, mut rng: StdRng) -> Result<(), ChaosError> {
    loop {
        let most = wire::for_revision(client.task().revision).reports_per_upload().min(3) as u64;
        let several = rng.random_range(1..=most);
        let first = next.fetch_add(several, Ordering::Relaxed);
        let mut reports = Vec::new();
        for bin in (first..first + several).filter(|bin| *bin < UPLOADS) {
            reports.push(client.prepare(Measurement::Number(bin.into()), clock::now()).await.map_err(upload_error)?);
        }
        if reports.is_empty() {
            return Ok(());
        }
        let refused = client.send(&reports).await.map_err(upload_error)?;
        if !refused.is_empty() {
            return lost(format!("reports are refused: {refused:?}"));
        }
        tokio::time::sleep(Span::from_millis(rng.random_range(CLIENT_PAUSE))).await;
    }
}

fn upload_error(error: ClientError) -> ChaosError {
    match &error {
        ClientError::Upload(cause) | ClientError::Keys { cause, .. } if cause.is_retryable() => {
            ChaosError::Stuck(format!("an upload: {error}"))
        }
        _ => ChaosError::Lost(format!("an upload: {error}")),
    }
}

/// Checks that an aggregator has aggregated every report and has no pending work.
fn check_status(status: &TaskStatus, batches: usize) -> Result<(), ChaosError> {
    let mut counters = status.counters.clone();
    // Clients repeat unanswered requests.
    counters.remove("upload_repeated");
    let expected: &[(&str, u64)] = match status.role {
        Role::Leader => &[("aggregate_success", UPLOADS), ("report_success", UPLOADS)],
        _ => &[("aggregate_success", UPLOADS)],
    };
    let counts = counters.iter().map(|(name, count)| (name.as_str(), *count));
    let rest = (status.waiting, status.jobs, status.aggregated, status.batches_collected);
    if !counts.eq(expected.iter().copied()) || rest != (0, 0, 0, batches as u64) {
        return lost(format!("the books are wrong: {status:?}"));
    }
    Ok(())
}

fn peer() -> Peer {
    Peer::new(&PeerOptions { timeout: Span::from_secs(20), ..PeerOptions::default() }).unwrap()
}

fn retries() -> RetryPolicy {
    RetryPolicy { initial: Span::from_millis(10), max: Span::from_millis(200), give_up_after: TEST_TIMEOUT }
}

/// The value of an environment variable, or the default.
pub fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// Prints a line that the test harness does not capture.
pub fn announce(text: impl fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
