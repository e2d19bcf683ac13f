//! Runs work on all cores with plain threads.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration as Span, Instant},
};

use indicatif::ProgressBar;

use super::cpu;
use crate::cli::failure::Failure;

/// Number of threads: the default number of a server's workers.
pub fn count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Generates `number` items on all cores, in no particular order.
pub fn generate<T: Send>(
    number: usize,
    bar: &ProgressBar,
    one: impl Fn() -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let next = AtomicUsize::new(0);
    let part = || {
        let mut items = Vec::with_capacity(number / count() + 1);
        while next.fetch_add(1, Ordering::Relaxed) < number {
            items.push(one()?);
            bar.inc(1);
        }
        Ok::<_, Failure>(items)
    };
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = (0..count()).map(|_| scope.spawn(part)).collect();
        threads.into_iter().map(join_thread).collect::<Vec<_>>()
    });
    let mut all = Vec::with_capacity(number);
    for part in parts {
        all.extend(part??);
    }
    Ok(all)
}

/// A measured rate.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Core time per item.
    pub each: Span,
    /// Share of the cores that this process had; other processes used the rest.
    pub share: f64,
}

impl Rate {
    /// Items per second if all cores were available.
    pub fn per_second(&self) -> f64 {
        count() as f64 / self.each.as_secs_f64()
    }

    /// The mean of two rates.
    pub fn mean(self, other: Self) -> Self {
        Self { each: (self.each + other.each) / 2, share: self.share.min(other.share) }
    }
}

/// Applies `one` to the items repeatedly, on all cores for about `time`, after a warm-up of a tenth of that.
///
/// The rate is derived from CPU time. On a busy machine, a limit by wall-clock time would be too low, and everything
/// compared with it would look better than it is.
pub fn measure_rate<T: Sync>(
    items: &[T],
    time: Span,
    one: impl Fn(&T) -> Result<(), Failure> + Sync,
) -> Result<Rate, Failure> {
    let (warm, over) = (AtomicBool::new(false), AtomicBool::new(false));
    // Read once: the call reads several files.
    let threads = count();
    let start = Barrier::new(threads + 1);
    let part = |first: usize| {
        let work = |position: &mut usize, stop: &AtomicBool| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                one(&items[*position % items.len()])?;
                *position += threads;
                number += 1;
            }
            Ok::<u64, Failure>(number)
        };
        let mut position = first;
        let warmed = work(&mut position, &warm);
        start.wait();
        warmed?;
        let begin = cpu::thread_time();
        let number = work(&mut position, &over)?;
        Ok::<_, Failure>((number, cpu::thread_time().saturating_sub(begin)))
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
        // A started item is finished and counts, with its time.
        let ended: Vec<_> = threads.into_iter().map(join_thread).collect();
        (begin.elapsed(), ended)
    });
    let (mut number, mut used) = (0, Span::ZERO);
    for end in ended {
        let (part, time) = end??;
        number += part;
        used += time;
    }
    let each = used.as_secs_f64() / number.max(1) as f64;
    Ok(Rate { each: Span::from_secs_f64(each), share: used.as_secs_f64() / (elapsed.as_secs_f64() * threads as f64) })
}

/// Joins a thread; a panic becomes an error.
pub fn join_thread<T>(thread: thread::ScopedJoinHandle<'_, T>) -> Result<T, Failure> {
    thread.join().map_err(|_| Failure::new("a thread panicked"))
}
