//! The worker threads: the only place where reports are opened and proofs are verified.
//!
//! Asynchronous threads never compute. They cut a job into chunks, hand a few of them at a time to the workers, and
//! wait. Because a job never has more than a few chunks in the workers' queue, jobs share the workers evenly, however
//! many reports each of them has.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::model::{Fault, fault::panic_text};

/// The most items of a chunk. Preparing one report takes from a tenth of a millisecond up, so that a full chunk is
/// worth handing over, and short enough to wait for.
const MAX_CHUNK: usize = 16;

/// How many chunks of a job each worker may have before it: one to work on and one to go on with.
const CHUNKS_PER_WORKER: usize = 2;

/// The worker threads, with a limit on how many jobs they may have at once.
#[derive(Clone)]
pub struct Pool {
    workers: Arc<rayon::ThreadPool>,
    admission: Arc<Semaphore>,
}

/// The right to have work done. A slot is free again when the permit is dropped *and* all work that was begun with it
/// has ended, even if nobody waits for that work any more.
pub struct Permit(Arc<OwnedSemaphorePermit>);

impl Pool {
    /// Starts `threads` workers that admit up to `max_admitted` jobs at once; neither may be zero.
    pub fn new(threads: usize, max_admitted: usize) -> Result<Self, Fault> {
        if threads == 0 || !(1..=Semaphore::MAX_PERMITS).contains(&max_admitted) {
            return Err(Fault::new(format!("cannot make a pool of {threads} threads for {max_admitted} jobs")));
        }
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("worker-{index}"))
            .panic_handler(|panic| tracing::error!("a worker panicked: {}", panic_text(&*panic)))
            .build()
            .map_err(|error| Fault::while_doing("starting the worker threads", error))?;
        Ok(Self { workers: Arc::new(workers), admission: Arc::new(Semaphore::new(max_admitted)) })
    }

    /// Takes a slot if one is free. If not, whoever asked should come back later.
    pub fn try_admit(&self) -> Option<Permit> {
        self.admission.clone().try_acquire_owned().ok().map(|slot| Permit(Arc::new(slot)))
    }

    /// Waits for a slot, first come, first served.
    pub async fn admit(&self) -> Permit {
        let slot = self.admission.clone().acquire_owned().await;
        Permit(Arc::new(slot.expect("the semaphore is never closed")))
    }

    /// Runs `f` on a worker. A panic in `f` becomes a [`Fault`].
    pub async fn run<R, F>(&self, permit: &Permit, f: F) -> Result<R, Fault>
    where
        R: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
    {
        let call = |chunk: Vec<F>| chunk.into_iter().map(|f| f()).next();
        let result = self.begin(permit, vec![f], Arc::new(call)).await;
        let nothing = || Fault::new("a worker dropped its work");
        result.unwrap_or_else(|_| Err(nothing()))?.ok_or_else(nothing)
    }

    /// Cuts `items` into chunks and applies `f` to each, on the workers. Results are in the order of the chunks, and
    /// the chunks in the order of the items.
    ///
    /// A panic in `f` becomes a [`Fault`]. If the future is dropped, chunks that have not begun are not worked on.
    pub async fn map_chunks<T, R, F>(&self, permit: &Permit, items: Vec<T>, f: F) -> Result<Vec<R>, Fault>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Fn(Vec<T>) -> R + Send + Sync + 'static,
    {
        let mut results = Vec::new();
        self.each_chunk(permit, items, f, |result| results.push(result)).await?;
        Ok(results)
    }

    /// As [`Pool::map_chunks`], but each result is handed to `take` as soon as it is its turn, so that large ones need not
    /// be there together.
    pub async fn each_chunk<T, R, F>(
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
        let f = Arc::new(f);
        let window = CHUNKS_PER_WORKER * self.workers.current_num_threads();
        let size = items.len().div_ceil(window).clamp(1, MAX_CHUNK);
        let mut begun = VecDeque::with_capacity(window);
        let mut items = items.into_iter();
        loop {
            let chunk: Vec<T> = items.by_ref().take(size).collect();
            let last = chunk.is_empty();
            if !last {
                begun.push_back(self.begin(permit, chunk, f.clone()));
            }
            while begun.len() >= window || (last && !begun.is_empty()) {
                let Some(answer) = begun.pop_front() else { break };
                take(answer.await.unwrap_or_else(|_| Err(Fault::new("a worker dropped its chunk")))?);
            }
            if last {
                return Ok(());
            }
        }
    }

    /// Puts a chunk into the workers' queue.
    fn begin<T, R, F>(&self, permit: &Permit, chunk: Vec<T>, f: Arc<F>) -> oneshot::Receiver<Result<R, Fault>>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Fn(Vec<T>) -> R + Send + Sync + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        let slot = permit.0.clone();
        self.workers.spawn(move || {
            // Nobody waits any more: the chunk was queued, but its job is gone.
            if answer.is_closed() {
                return;
            }
            // Nothing is seen of a chunk that panicked but its fault, so there is no broken state to see.
            let result = catch_unwind(AssertUnwindSafe(|| f(chunk)))
                .map_err(|panic| Fault::new(format!("a computation panicked: {}", panic_text(&*panic))));
            // What is waited for is over: everything that it held is free before the answer is seen.
            drop((f, slot));
            // An answer that nobody waits for any more is dropped.
            let _ = answer.send(result);
        });
        receiver
    }
}

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

    /// Applies `f` to all items, one by one, on the workers.
    async fn map<T, R, F>(pool: &Pool, permit: &Permit, items: Vec<T>, f: F) -> Result<Vec<R>, Fault>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Fn(T) -> R + Send + Sync + 'static,
    {
        let chunks = pool.map_chunks(permit, items, move |chunk| chunk.into_iter().map(&f).collect::<Vec<R>>()).await?;
        Ok(chunks.into_iter().flatten().collect())
    }

    #[tokio::test]
    async fn results_are_in_order_whatever_the_number_of_items() {
        let pool = Pool::new(3, 1).unwrap();
        let permit = pool.admit().await;
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
    async fn chunks_cover_the_items_and_are_bounded() {
        let pool = Pool::new(2, 1).unwrap();
        let permit = pool.admit().await;
        for count in [0, 1, 3, 500] {
            let chunks = pool.map_chunks(&permit, (0..count).collect(), |chunk: Vec<usize>| chunk).await.unwrap();
            assert!(chunks.iter().all(|chunk| (1..=MAX_CHUNK).contains(&chunk.len())));
            assert!(chunks.len() >= count.min(2), "both workers have something to do");
            assert_eq!(chunks.concat(), (0..count).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_fault_and_the_pool_lives_on() {
        let pool = Pool::new(2, 1).unwrap();
        let permit = pool.try_admit().unwrap();
        let fault =
            map(&pool, &permit, (0..100).collect(), |item| assert!(item != 42, "the answer")).await.unwrap_err();
        assert_eq!(fault.to_string(), "a computation panicked: the answer");
        assert_eq!(map(&pool, &permit, vec![1, 2], |item| item + 1).await.unwrap(), [2, 3]);
        drop(permit);
        // Chunks of the job that failed may still run; they hold the slot, and give it back.
        pool.admit().await;
    }

    #[tokio::test]
    async fn a_full_pool_refuses_until_a_permit_is_dropped() {
        let pool = Pool::new(1, 2).unwrap();
        let (first, second) = (pool.try_admit().unwrap(), pool.try_admit().unwrap());
        assert!(pool.try_admit().is_none());
        map(&pool, &first, vec![1], |item| item).await.unwrap();
        assert!(pool.try_admit().is_none());
        drop(first);
        let third = pool.try_admit();
        assert!(third.is_some());
        drop(second);
        drop(third);
        let (_one, _two) = (pool.admit().await, pool.admit().await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn work_keeps_its_slot_when_its_future_is_dropped() {
        let pool = Pool::new(1, 1).unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let may_go_on = Mutex::new(may_go_on);
        let done = Arc::new(AtomicUsize::new(0));
        let counter = done.clone();
        let work = {
            let pool = pool.clone();
            tokio::spawn(async move {
                let permit = pool.admit().await;
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
        assert!(pool.try_admit().is_none(), "the work still runs");
        go_on.send(()).unwrap();
        let permit = pool.admit().await;
        assert_eq!(map(&pool, &permit, vec![7], |item| item).await.unwrap(), [7]);
        assert!(done.load(Ordering::SeqCst) <= MAX_CHUNK, "chunks that had not begun were worked on");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_small_job_does_not_wait_for_the_end_of_a_large_one() {
        let pool = Pool::new(1, 2).unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let counter = done.clone();
        let large = {
            let pool = pool.clone();
            tokio::spawn(async move {
                let permit = pool.admit().await;
                let slow = move |()| {
                    std::thread::sleep(Duration::from_millis(1));
                    counter.fetch_add(1, Ordering::SeqCst)
                };
                map(&pool, &permit, vec![(); 1000], slow).await
            })
        };
        while done.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let permit = pool.admit().await;
        map(&pool, &permit, vec![()], |()| ()).await.unwrap();
        assert!(done.load(Ordering::SeqCst) < 500, "the small job waited for the large one");
        large.await.unwrap().unwrap();
    }

    #[test]
    fn a_pool_of_nothing_is_refused() {
        assert!(Pool::new(0, 1).is_err());
        assert!(Pool::new(1, 0).is_err());
        assert!(Pool::new(1, usize::MAX).is_err());
    }
}
