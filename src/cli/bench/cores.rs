//! Work on all cores with nothing around it: plain threads that share a list.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration as Span, Instant},
};

use indicatif::ProgressBar;

use crate::cli::Failure;

/// As many threads as a server has workers by default.
pub fn count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Makes so many of something on all cores, in no particular order.
pub fn make<T: Send>(
    number: usize,
    bar: &ProgressBar,
    one: impl Fn() -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let next = AtomicUsize::new(0);
    let part = || {
        let mut made = Vec::with_capacity(number / count() + 1);
        while next.fetch_add(1, Ordering::Relaxed) < number {
            made.push(one()?);
            bar.inc(1);
        }
        Ok::<_, Failure>(made)
    };
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = (0..count()).map(|_| scope.spawn(part)).collect();
        threads.into_iter().map(joined).collect::<Vec<_>>()
    });
    let mut all = Vec::with_capacity(number);
    for part in parts {
        all.extend(part??);
    }
    Ok(all)
}

/// Does `one` to the items, over and over, on all cores for about `time`, after a warm-up of a tenth of that.
/// Returns how many were done in a second.
pub fn rate<T: Sync>(items: &[T], time: Span, one: impl Fn(&T) -> Result<(), Failure> + Sync) -> Result<f64, Failure> {
    let (warm, over, done) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    // Asking for it opens files, which must not be measured.
    let threads = count();
    let start = Barrier::new(threads + 1);
    let part = |first: usize| {
        let work = |place: &mut usize, stop: &AtomicBool| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                one(&items[*place % items.len()])?;
                *place += threads;
                number += 1;
            }
            Ok::<u64, Failure>(number)
        };
        let mut place = first;
        let warmed = work(&mut place, &warm);
        start.wait();
        done.fetch_add(warmed.and_then(|_| work(&mut place, &over))?, Ordering::Relaxed);
        Ok::<_, Failure>(())
    };
    let part = &part;
    let (elapsed, ended) = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|first| scope.spawn(move || part(first))).collect();
        thread::sleep(time / 10);
        warm.store(true, Ordering::Relaxed);
        start.wait();
        let begin = Instant::now();
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        // What is begun is finished and counts, with the time that it takes.
        let ended: Vec<_> = threads.into_iter().map(joined).collect();
        (begin.elapsed(), ended)
    });
    for end in ended {
        end??;
    }
    Ok(done.into_inner() as f64 / elapsed.as_secs_f64())
}

/// What a thread came to.
pub fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> Result<T, Failure> {
    thread.join().map_err(|_| Failure::new("a thread panicked"))
}
