//! Memory budgets.
//!
//! # Decision: memory is reserved before it is used
//!
//! The times of its reports determine the number of sums of a job before anything is prepared. A helper rejects a job
//! that does not fit (413). A leader's job reserves its memory before it loads reports. While its helper does not
//! respond, the job may lose its prepared reports to another job and prepare them again; the request is identical to
//! the byte. Uploads have their own budget, because they need no credentials.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Granularity of budgets, in bytes. Finer units would gain nothing, and the number of units fits into 32 bits.
const UNIT_BYTES: usize = 1024;

/// A memory budget shared by requests or jobs, in bytes.
#[derive(Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
}

/// A part of a budget, released when it is dropped.
pub struct Lease {
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

/// Number of units for `bytes`.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Budget {
    /// A budget of approximately `bytes`.
    pub fn new(bytes: usize) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let units = units(bytes).clamp(1, most);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// The size of the budget.
    pub fn bytes(&self) -> usize {
        self.units as usize * UNIT_BYTES
    }

    /// Waits for `bytes`, in order of requests. A request for more than the budget receives all of it.
    ///
    /// A lease is taken in one step, by a caller that holds nothing on which the release of other leases depends. This
    /// cannot deadlock.
    pub async fn take(&self, bytes: usize) -> Lease {
        let held = self.free.clone().acquire_many_owned(units(bytes).min(self.units)).await;
        Lease { budget: self.free.clone(), held: Some(held.expect("the semaphore is never closed")) }
    }

    /// An empty lease.
    pub fn open(&self) -> Lease {
        Lease { budget: self.free.clone(), held: None }
    }
}

impl Lease {
    /// The size of the lease.
    pub fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * UNIT_BYTES
    }

    /// Extends the lease to at least `bytes`. Returns `false` and changes nothing if the budget does not suffice.
    pub fn cover(&mut self, bytes: usize) -> bool {
        let held = self.bytes() / UNIT_BYTES;
        let more = (units(bytes) as usize).saturating_sub(held);
        if more == 0 {
            return true;
        }
        // More than the budget is never available; the semaphore reports that.
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        match (self.budget.clone().try_acquire_many_owned(more), &mut self.held) {
            (Ok(more), Some(held)) => held.merge(more),
            (Ok(more), held) => *held = Some(more),
            (Err(_), _) => return false,
        }
        true
    }

    /// Extends the lease to at least `bytes`, waiting for up to `patience`.
    pub async fn cover_within(&mut self, bytes: usize, patience: Duration) -> bool {
        let more = units(bytes).saturating_sub(units(self.bytes()));
        let taking = self.budget.clone().acquire_many_owned(more);
        match (tokio::time::timeout(patience, taking).await, &mut self.held) {
            (Ok(Ok(more)), Some(held)) => held.merge(more),
            (Ok(Ok(more)), held) => *held = Some(more),
            _ => return false,
        }
        true
    }

    /// Attaches the lease to the bytes: it is released with their last slice.
    pub fn guard(self, bytes: Bytes) -> Bytes {
        match self.held {
            Some(_) => Bytes::from_owner(LeasedBytes { bytes, _lease: self }),
            None => bytes,
        }
    }

    /// Releases what exceeds `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let keep = units(bytes) as usize;
        if let Some(held) = &mut self.held {
            drop(held.split(held.num_permits().saturating_sub(keep)));
        }
    }
}

/// Bytes with the lease of their memory.
struct LeasedBytes {
    bytes: Bytes,
    _lease: Lease,
}

impl AsRef<[u8]> for LeasedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The memory of a leader's aggregation jobs. Retried jobs use at most half of it, so that silent helpers never block
/// the other half.
pub struct JobMemory {
    all: Budget,
    again: Budget,
    /// Number of waiting jobs.
    waiting: watch::Sender<usize>,
}

/// The memory of one job.
pub struct JobLease {
    lease: Lease,
    again: Option<Lease>,
}

impl JobMemory {
    /// A budget of approximately `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { all: Budget::new(bytes), again: Budget::new(bytes / 2), waiting: watch::Sender::new(0) }
    }

    /// Maximum memory of a new job: one job can be prepared while another one waits for its helper.
    pub fn share(&self) -> usize {
        self.again.bytes()
    }

    /// Waits for the memory of a job. `again` marks a job that has returned its memory before.
    pub async fn take(&self, bytes: usize, again: bool) -> JobLease {
        let taking = self.take_in_turn(bytes, again);
        tokio::pin!(taking);
        tokio::select! {
            biased;
            lease = &mut taking => return lease,
            () = std::future::ready(()) => {}
        }
        let _waiting = WaitGuard::new(&self.waiting);
        taking.await
    }

    async fn take_in_turn(&self, bytes: usize, again: bool) -> JobLease {
        // In this order: a job that waits for the second budget may hold the first one, never the reverse.
        let again = match again {
            true => Some(self.again.take(bytes).await),
            false => None,
        };
        let bytes = again.as_ref().map_or(bytes, |again| again.bytes().min(bytes));
        JobLease { lease: self.all.take(bytes).await, again }
    }

    /// Resolves when a job waits for memory.
    pub async fn wanted(&self) {
        // `self` keeps the sender alive, so waiting cannot fail.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await;
    }
}

/// Counts a waiting job until it is dropped.
struct WaitGuard<'a>(&'a watch::Sender<usize>);

impl<'a> WaitGuard<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl JobLease {
    /// Releases what exceeds `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        self.lease.shrink(bytes);
        if let Some(again) = &mut self.again {
            again.shrink(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls the future once.
    async fn is_ready<T>(future: impl Future<Output = T>) -> bool {
        tokio::select! { biased; _ = future => true, () = std::future::ready(()) => false }
    }

    #[tokio::test]
    async fn lease_reserves_until_dropped() {
        let budget = Budget::new(10 * UNIT_BYTES);
        let (one, mut two) = (budget.take(7 * UNIT_BYTES).await, budget.open());
        assert!(two.cover(2 * UNIT_BYTES + 1));
        assert!(two.cover(UNIT_BYTES), "less than what is held");
        assert!(!two.cover(4 * UNIT_BYTES));
        assert!(!two.cover(usize::MAX));
        assert_eq!(two.bytes(), 3 * UNIT_BYTES);
        assert!(!is_ready(budget.take(1)).await);
        two.shrink(2 * UNIT_BYTES);
        assert!(is_ready(budget.take(UNIT_BYTES)).await);
        drop(one);
        assert!(two.cover(10 * UNIT_BYTES));
        drop(two);
        assert!(is_ready(budget.take(10 * UNIT_BYTES)).await);
    }

    #[tokio::test]
    async fn releases_memory_with_last_slice() {
        let budget = Budget::new(UNIT_BYTES);
        let mut lease = budget.open();
        assert!(lease.cover(1));
        let body = lease.guard(Bytes::from_static(b"a body"));
        assert_eq!(body, "a body");
        let part = body.slice(2..3);
        drop(body);
        assert!(!budget.open().cover(1));
        drop(part);
        assert!(budget.open().cover(1));
    }

    #[tokio::test]
    async fn caps_lease_at_budget() {
        let budget = Budget::new(10 * UNIT_BYTES);
        let all = budget.take(usize::MAX).await;
        assert_eq!(all.bytes(), 10 * UNIT_BYTES);
        assert!(!is_ready(budget.take(1)).await);
    }

    #[tokio::test]
    async fn retried_jobs_use_at_most_half() {
        let memory = JobMemory::new(10 * UNIT_BYTES);
        let again = memory.take(usize::MAX, true).await;
        assert!(!is_ready(memory.take(1, true)).await);
        let mut new = memory.take(memory.share(), false).await;
        assert!(!is_ready(memory.take(1, false)).await);
        new.shrink(UNIT_BYTES);
        assert!(is_ready(memory.take(memory.share() - UNIT_BYTES, false)).await);
        drop(again);
        assert!(is_ready(memory.take(memory.share(), true)).await);
    }
}
