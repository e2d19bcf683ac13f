//! The worker pool: the only place where reports are opened and proofs are verified.
//!
//! Asynchronous threads never compute. They split a job into chunks of a few milliseconds, submit a few chunks at a
//! time to the workers, and wait. A task has at most a few chunks in the workers' queue, and at most half of the
//! admitted jobs. Tasks therefore share the workers evenly, regardless of the number and size of their jobs.
//!
//! # Decision: the jobs of a task take turns
//!
//! The jobs of one task submit their chunks one after another: the next job begins once the previous one has submitted
//! its last chunk. If they shared the workers instead, all would finish at the same time, and the workers would be idle
//! while all results are stored.

use std::{
    any::TypeId,
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use dapbox_protocol::model::TaskId;
use dapbox_support::{Fault, fault::panic_text};

/// Target duration of a chunk: long enough to amortize the hand-over, short enough to wait for.
const CHUNK_TIME: Duration = Duration::from_millis(4);
/// Number of items of a chunk while the duration of an item is unknown.
const INITIAL_CHUNK_LEN: usize = 8;
/// Minimum duration of a chunk. Smaller chunks would only let the workers finish closer together.
const MIN_CHUNK_TIME: Duration = Duration::from_micros(500);
/// Maximum number of items of a chunk. Bounds the memory of its results, which are held until the chunk is done.
const MAX_CHUNK_LEN: usize = 128;

/// Number of chunks of one task per worker: one to process and one queued.
const CHUNKS_PER_WORKER: usize = 2;

/// Niceness of the workers relative to the threads that serve requests and write to the store. Workers use all
/// remaining CPU time, which is nearly all.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// A pool of worker threads with a limit on admitted jobs.
#[derive(Clone)]
pub struct Pool {
    workers: Arc<rayon::ThreadPool>,
    admission: Arc<Semaphore>,
    /// Maximum number of admitted jobs.
    max_jobs: usize,
    /// Number of jobs that wait for admission.
    waiting: Arc<AtomicUsize>,
    /// Maximum number of admitted jobs of one task.
    max_jobs_per_task: usize,
    queues: Arc<Mutex<HashMap<TaskId, Weak<TaskQueue>>>>,
}

/// The share of one task in the pool.
struct TaskQueue {
    /// Admitted jobs.
    jobs: Arc<Semaphore>,
    /// Chunks in the workers' queue.
    chunks: Arc<Semaphore>,
    /// Held by the job that submits chunks.
    turn: Arc<Semaphore>,
    /// Number of jobs that wait to submit chunks.
    waiting: AtomicUsize,
    /// Last duration per item, by the type of the computation.
    paces: Mutex<HashMap<TypeId, Duration>>,
}

/// Permission to run work of a task. The slot is free once the permit is dropped and all work submitted with it has
/// ended, even if its future was dropped.
pub struct Permit(Arc<Slot>);

struct Slot {
    queue: Arc<TaskQueue>,
    _job: OwnedSemaphorePermit,
    _admission: OwnedSemaphorePermit,
}

impl TaskQueue {
    /// Waits until the job may submit chunks, first come, first served.
    async fn turn(&self) -> OwnedSemaphorePermit {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = WaitGuard(&self.waiting);
        acquire(&self.turn).await
    }

    /// Whether a job waits to submit chunks.
    fn has_waiting_job(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Number of items of the next chunk: `part`, within the duration limits of a chunk.
    fn chunk_len(&self, what: TypeId, part: usize) -> usize {
        let pace = self.paces.lock().unwrap_or_else(PoisonError::into_inner).get(&what).copied();
        let Some(pace) = pace else { return part.min(INITIAL_CHUNK_LEN) };
        let items = |time: Duration| {
            let items = time.as_nanos() / pace.as_nanos().max(1);
            usize::try_from(items).unwrap_or(usize::MAX).clamp(1, MAX_CHUNK_LEN)
        };
        part.clamp(items(MIN_CHUNK_TIME), items(CHUNK_TIME))
    }

    /// Records the duration of an item.
    fn record_pace(&self, what: TypeId, pace: Duration) {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner).insert(what, pace);
    }
}

/// Counts a waiting job until dropped.
struct WaitGuard<'a>(&'a AtomicUsize);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Starts `threads` workers that admit up to `max_admitted` jobs at a time. Fails if either is zero.
    pub fn new(threads: usize, max_admitted: usize) -> Result<Self, Fault> {
        if threads == 0 || !(1..=Semaphore::MAX_PERMITS).contains(&max_admitted) {
            return Err(Fault::new(format!("cannot create a pool of {threads} threads for {max_admitted} jobs")));
        }
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("worker-{index}"))
            .start_handler(|_| lower_priority())
            .panic_handler(|panic| tracing::error!(error = panic_text(&*panic), "worker panicked"))
            .build()
            .map_err(|error| Fault::while_doing("starting the worker threads", error))?;
        Ok(Self {
            workers: Arc::new(workers),
            admission: Arc::new(Semaphore::new(max_admitted)),
            max_jobs: max_admitted,
            waiting: Arc::default(),
            max_jobs_per_task: max_admitted.div_ceil(2),
            queues: Arc::default(),
        })
    }

    /// Takes a slot for a task; `None` if no slot is free.
    pub fn try_admit(&self, task: &TaskId) -> Option<Permit> {
        let queue = self.queue(task);
        let job = queue.jobs.clone().try_acquire_owned().ok()?;
        let admission = self.admission.clone().try_acquire_owned().ok()?;
        Some(Permit(Arc::new(Slot { queue, _job: job, _admission: admission })))
    }

    /// Waits for a slot for a task, first come, first served.
    pub async fn admit(&self, task: &TaskId) -> Permit {
        let queue = self.queue(task);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = WaitGuard(&self.waiting);
        let job = acquire(&queue.jobs).await;
        let admission = acquire(&self.admission).await;
        Permit(Arc::new(Slot { queue, _job: job, _admission: admission }))
    }

    /// Number of admitted jobs.
    pub fn admitted(&self) -> usize {
        self.max_jobs - self.admission.available_permits()
    }

    /// Number of jobs that wait for admission.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn queue(&self, task: &TaskId) -> Arc<TaskQueue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(task).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let (jobs, chunks, turn) = (semaphore(self.max_jobs_per_task), semaphore(self.window()), semaphore(1));
        let queue = Arc::new(TaskQueue { jobs, chunks, turn, waiting: AtomicUsize::new(0), paces: Mutex::default() });
        queues.insert(*task, Arc::downgrade(&queue));
        queue
    }

    /// Whether the admitted jobs occupy all workers, or jobs wait for admission.
    pub fn is_busy(&self) -> bool {
        self.waiting() > 0 || self.admitted() >= self.workers.current_num_threads()
    }

    /// Maximum number of chunks of one task that are queued, running, or done and not received.
    pub fn window(&self) -> usize {
        CHUNKS_PER_WORKER * self.workers.current_num_threads()
    }

    /// Runs `f` on a worker. A panic in `f` becomes a [`Fault`].
    pub async fn run<R, F>(&self, permit: &Permit, f: F) -> Result<R, Fault>
    where
        R: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
    {
        let call = |chunk: Vec<F>| chunk.into_iter().map(|f| f()).next();
        let (result, _) = receive(self.submit(permit, vec![f], Arc::new(call)).await).await?;
        result.ok_or_else(|| Fault::new("a worker dropped its result"))
    }

    /// Splits `items` into chunks and applies `f` to each on the workers. Passes the results to `take` in the order of
    /// the items, as soon as they are available.
    ///
    /// A panic in `f` becomes a [`Fault`]. If the future is dropped, chunks that have not started are skipped.
    pub async fn map_chunks<T, R, F>(
        &self,
        permit: &Permit,
        items: Vec<T>,
        f: F,
        mut take: impl FnMut(R),
    ) -> Result<(), Fault>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Fn(Vec<T>) -> R + Send + Sync + 'static,
    {
        let (f, window, queue) = (Arc::new(f), self.window(), &permit.0.queue);
        let mut begun = VecDeque::with_capacity(window);
        let mut turn = Some(queue.turn().await);
        let whole = items.len().div_ceil(self.workers.current_num_threads());
        let mut items = items.into_iter();
        loop {
            // If another job follows, the workers need not finish together; large chunks have less overhead.
            let part = if queue.has_waiting_job() { whole } else { items.len().div_ceil(window) };
            let chunk: Vec<T> = items.by_ref().take(queue.chunk_len(TypeId::of::<F>(), part)).collect();
            let last = chunk.is_empty();
            if !last {
                begun.push_back((chunk.len(), self.submit(permit, chunk, f.clone()).await));
            }
            if items.len() == 0 {
                drop(turn.take());
            }
            while begun.len() >= window || (last && !begun.is_empty()) {
                let Some((length, answer)) = begun.pop_front() else { break };
                let (result, time) = receive(answer).await?;
                queue.record_pace(TypeId::of::<F>(), time / u32::try_from(length).unwrap_or(u32::MAX));
                take(result);
            }
            if last {
                return Ok(());
            }
        }
    }

    /// Submits a chunk to the workers, once the task may have another one queued.
    async fn submit<T, R, F>(&self, permit: &Permit, chunk: Vec<T>, f: Arc<F>) -> ChunkResult<R>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Fn(Vec<T>) -> R + Send + Sync + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        let slot = permit.0.clone();
        let place = acquire(&slot.queue.chunks).await;
        self.workers.spawn(move || {
            // The job is gone, so the queued chunk is skipped.
            if answer.is_closed() {
                return;
            }
            let begin = Instant::now();
            // A panic only yields a fault, so a broken state of the chunk is never observed.
            let result = catch_unwind(AssertUnwindSafe(|| f(chunk)))
                .map_err(|panic| Fault::new(format!("a computation panicked: {}", panic_text(&*panic))));
            // Release all resources before the receiver sees the result.
            drop((f, slot, place));
            // The receiver may be gone.
            let _ = answer.send(result.map(|result| (result, begin.elapsed())));
        });
        receiver
    }
}

/// The pending result of a chunk, with its duration.
type ChunkResult<R> = oneshot::Receiver<Result<(R, Duration), Fault>>;

async fn receive<R>(answer: ChunkResult<R>) -> Result<(R, Duration), Fault> {
    answer.await.unwrap_or_else(|_| Err(Fault::new("a worker dropped its result")))
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_owned().await.expect("the semaphore is never closed")
}

/// Lowers the priority of this thread. Linux only: elsewhere niceness applies to the whole process.
#[cfg(target_os = "linux")]
fn lower_priority() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "cannot lower worker priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use super::*;

    const TASK: TaskId = TaskId::new([1; 32]);
    const OTHER: TaskId = TaskId::new([2; 32]);

    /// Applies `f` to each item on the workers.
    async fn map<T, R, F>(pool: &Pool, permit: &Permit, items: Vec<T>, f: F) -> Result<Vec<R>, Fault>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Fn(T) -> R + Send + Sync + 'static,
    {
        let mut results = Vec::new();
        let f = move |chunk: Vec<T>| chunk.into_iter().map(&f).collect::<Vec<R>>();
        pool.map_chunks(permit, items, f, |chunk| results.extend(chunk)).await?;
        Ok(results)
    }

    #[tokio::test]
    async fn is_busy_while_jobs_take_all_workers() {
        let pool = Pool::new(2, 8).unwrap();
        let first = pool.admit(&TASK).await;
        assert!(!pool.is_busy());
        let second = pool.admit(&OTHER).await;
        assert!(pool.is_busy());
        drop((first, second));
        assert!(!pool.is_busy());
    }

    #[tokio::test]
    async fn keeps_results_in_order() {
        let pool = Pool::new(3, 1).unwrap();
        let permit = pool.admit(&TASK).await;
        for count in [0, 1, 5, 6, 7, 95, 96, 97, 1000] {
            let items: Vec<u64> = (0..count).collect();
            let expected: Vec<u64> = items.iter().map(|item| item * item).collect();
            // Later items are faster.
            let slow = |item: u64| {
                std::thread::sleep(Duration::from_micros(300_u64.saturating_sub(item)));
                item * item
            };
            assert_eq!(map(&pool, &permit, items, slow).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn chunks_cover_all_items_within_limits() {
        for count in [0, 1, 3, 500] {
            // A new pool has no durations recorded.
            let pool = Pool::new(2, 1).unwrap();
            let permit = pool.admit(&TASK).await;
            let mut chunks: Vec<Vec<usize>> = Vec::new();
            pool.map_chunks(&permit, (0..count).collect(), |chunk| chunk, |chunk| chunks.push(chunk)).await.unwrap();
            assert!(chunks.iter().all(|chunk| (1..=MAX_CHUNK_LEN).contains(&chunk.len())));
            assert!(chunks.len() >= count.min(2), "both workers have something to do");
            assert_eq!(chunks.concat(), (0..count).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn panic_becomes_fault_and_pool_survives() {
        let pool = Pool::new(2, 1).unwrap();
        let permit = pool.try_admit(&TASK).unwrap();
        let fault =
            map(&pool, &permit, (0..100).collect(), |item| assert!(item != 42, "the answer")).await.unwrap_err();
        assert_eq!(fault.to_string(), "a computation panicked: the answer");
        assert_eq!(map(&pool, &permit, vec![1, 2], |item| item + 1).await.unwrap(), [2, 3]);
        drop(permit);
        // Chunks of the failed job may still run; they release the slot when they end.
        pool.admit(&TASK).await;
    }

    #[tokio::test]
    async fn full_pool_rejects_until_permit_is_dropped() {
        let pool = Pool::new(1, 2).unwrap();
        let (first, second) = (pool.try_admit(&TASK).unwrap(), pool.try_admit(&OTHER).unwrap());
        let third = TaskId::new([3; 32]);
        assert!(pool.try_admit(&third).is_none());
        map(&pool, &first, vec![1], |item| item).await.unwrap();
        assert!(pool.try_admit(&third).is_none());
        drop(first);
        let third = pool.try_admit(&third);
        assert!(third.is_some());
        drop(second);
        drop(third);
        let (_one, _two) = (pool.admit(&TASK).await, pool.admit(&OTHER).await);
    }

    #[tokio::test]
    async fn limits_slots_per_task() {
        let pool = Pool::new(1, 5).unwrap();
        let held: Vec<_> = std::iter::from_fn(|| pool.try_admit(&TASK)).collect();
        assert_eq!(held.len(), 3);
        let others: Vec<_> = std::iter::from_fn(|| pool.try_admit(&OTHER)).collect();
        assert_eq!(others.len(), 2);
        drop(held);
        assert_eq!(std::iter::from_fn(|| pool.try_admit(&TASK)).collect::<Vec<_>>().len(), 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn running_work_keeps_its_slot() {
        let pool = Pool::new(1, 1).unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let may_go_on = Mutex::new(may_go_on);
        let done = Arc::new(AtomicUsize::new(0));
        let counter = done.clone();
        let work = {
            let pool = pool.clone();
            tokio::spawn(async move {
                let permit = pool.admit(&TASK).await;
                map(&pool, &permit, vec![(); 1000], move |()| {
                    if counter.fetch_add(1, Ordering::SeqCst) == 0 {
                        begun.send(()).unwrap();
                        may_go_on.lock().unwrap().recv().unwrap();
                    }
                })
                .await
            })
        };
        has_begun.recv().unwrap();
        work.abort();
        assert!(work.await.unwrap_err().is_cancelled());
        assert!(pool.try_admit(&TASK).is_none(), "the work still runs");
        go_on.send(()).unwrap();
        let permit = pool.admit(&TASK).await;
        assert_eq!(map(&pool, &permit, vec![7], |item| item).await.unwrap(), [7]);
        assert!(done.load(Ordering::SeqCst) <= INITIAL_CHUNK_LEN, "chunks that had not begun were worked on");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn small_job_overtakes_large_jobs_of_another_task() {
        let pool = Pool::new(1, 20).unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let mut large = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (pool, counter) = (pool.clone(), done.clone());
            large.spawn(async move {
                let permit = pool.admit(&TASK).await;
                let slow = move |()| {
                    std::thread::sleep(Duration::from_millis(1));
                    counter.fetch_add(1, Ordering::SeqCst)
                };
                map(&pool, &permit, vec![(); 100], slow).await
            });
        }
        while done.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let permit = pool.admit(&OTHER).await;
        map(&pool, &permit, vec![()], |()| ()).await.unwrap();
        assert!(done.load(Ordering::SeqCst) < 500, "the small job waited for the large ones");
        large.join_all().await.into_iter().for_each(|done| drop(done.unwrap()));
    }

    #[test]
    fn rejects_empty_pool() {
        assert!(Pool::new(0, 1).is_err());
        assert!(Pool::new(1, 0).is_err());
        assert!(Pool::new(1, usize::MAX).is_err());
    }
}
