//! Latency histograms.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The upper bounds of the buckets in milliseconds, from a commit on a good disk to a helper close to its timeout. A
/// last bucket has no bound.
const BOUNDS: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000];

/// A histogram of latencies. Threads may record concurrently.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl LatencyHistogram {
    /// Records a latency.
    pub fn observe(&self, time: Duration) {
        let class = BOUNDS.partition_point(|bound| Duration::from_millis(*bound) < time);
        self.buckets[class].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The counts of the buckets with their upper bounds in seconds; the last bound is infinite.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1000.0).chain([f64::INFINITY]);
        bounds.zip(self.buckets.iter().map(|count| count.load(Ordering::Relaxed))).collect()
    }

    /// The sum of all latencies, in seconds.
    pub fn total_seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_latency_in_the_first_bucket_that_holds_it() {
        let latencies = LatencyHistogram::default();
        for millis in [0, 1, 3, 30_000, 40_000] {
            latencies.observe(Duration::from_millis(millis));
        }
        let buckets: Vec<_> = latencies.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(buckets, [(0.001, 2), (0.005, 1), (30.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(latencies.total_seconds(), 70.004);
    }
}
