//! Memory that is shared out before it is used, so that what goes on at once stays within what the operator allows.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// What is counted: finer would gain nothing, and a budget of any machine fits into a number of these.
const UNIT: usize = 1024;

/// So many bytes, for all who want some of them.
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
}

/// A part of a budget; it is given back when this is dropped.
pub struct Lease {
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

/// As many units as `bytes` take.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Budget {
    /// A budget of about so many bytes.
    pub fn new(bytes: usize) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let units = units(bytes).clamp(1, most);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// How much there is in all.
    pub fn bytes(&self) -> usize {
        self.units as usize * UNIT
    }

    /// Waits for so much, first come, first served. Whoever wants more than there is gets all of it.
    ///
    /// What is taken is taken in one piece, and by someone who holds nothing that others need to give theirs back: so
    /// nobody waits for ever.
    pub async fn take(&self, bytes: usize) -> Lease {
        let held = self.free.clone().acquire_many_owned(units(bytes).min(self.units)).await;
        Lease { budget: self.free.clone(), held: Some(held.expect("the semaphore is never closed")) }
    }

    /// A lease of nothing yet.
    pub fn open(&self) -> Lease {
        Lease { budget: self.free.clone(), held: None }
    }
}

impl Lease {
    /// How much is held.
    pub fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * UNIT
    }

    /// Makes sure that at least so much is held. False if there is not enough; what was held stays.
    pub fn cover(&mut self, bytes: usize) -> bool {
        let held = self.bytes() / UNIT;
        let more = (units(bytes) as usize).saturating_sub(held);
        if more == 0 {
            return true;
        }
        // More than there can be is not there: the semaphore says so.
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        match (self.budget.clone().try_acquire_many_owned(more), &mut self.held) {
            (Ok(more), Some(held)) => held.merge(more),
            (Ok(more), held) => *held = Some(more),
            (Err(_), _) => return false,
        }
        true
    }

    /// The same, and waits for as long as `patience` for what is missing.
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

    /// The same bytes, which hold the lease now, and so does every part of them.
    pub fn guard(self, bytes: Bytes) -> Bytes {
        match self.held {
            Some(_) => Bytes::from_owner(Guarded { bytes, _lease: self }),
            None => bytes,
        }
    }

    /// Gives back what is held beyond so much.
    pub fn shrink(&mut self, bytes: usize) {
        let keep = units(bytes) as usize;
        if let Some(held) = &mut self.held {
            drop(held.split(held.num_permits().saturating_sub(keep)));
        }
    }
}

/// Bytes and the lease of their memory.
struct Guarded {
    bytes: Bytes,
    _lease: Lease,
}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The memory of a leader's aggregation jobs. Those that are tried again, because their helper did not answer, have at
/// most half of it at once: however many helpers are silent, the other half goes round.
pub struct JobMemory {
    all: Budget,
    again: Budget,
    /// How many jobs wait for their part.
    waiting: watch::Sender<usize>,
}

/// A job's part of a [`JobMemory`].
pub struct JobLease {
    lease: Lease,
    again: Option<Lease>,
}

impl JobMemory {
    /// Shares out so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { all: Budget::new(bytes), again: Budget::new(bytes / 2), waiting: watch::Sender::new(0) }
    }

    /// The most that a new job should have: while one waits for its helper, there is room to prepare another.
    pub fn share(&self) -> usize {
        self.again.bytes()
    }

    /// Waits for a job's part. `again` says that the job had its part before and gave it back.
    pub async fn take(&self, bytes: usize, again: bool) -> JobLease {
        let taking = self.take_in_turn(bytes, again);
        tokio::pin!(taking);
        tokio::select! {
            biased;
            lease = &mut taking => return lease,
            () = std::future::ready(()) => {}
        }
        let _waiting = Waits::new(&self.waiting);
        taking.await
    }

    async fn take_in_turn(&self, bytes: usize, again: bool) -> JobLease {
        // In this order: who waits for the second may hold the first, but nobody the other way round.
        let again = match again {
            true => Some(self.again.take(bytes).await),
            false => None,
        };
        let bytes = again.as_ref().map_or(bytes, |again| again.bytes().min(bytes));
        JobLease { lease: self.all.take(bytes).await, again }
    }

    /// Resolves when a job waits for its part.
    pub async fn wanted(&self) {
        // The sender lives as long as this: waiting cannot fail.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await;
    }
}

/// Counts one that waits, until it is dropped.
struct Waits<'a>(&'a watch::Sender<usize>);

impl<'a> Waits<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl JobLease {
    /// Gives back what is held beyond so much.
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

    /// Whether the future is ready at once.
    async fn is_ready<T>(future: impl Future<Output = T>) -> bool {
        tokio::select! { biased; _ = future => true, () = std::future::ready(()) => false }
    }

    #[tokio::test]
    async fn what_is_taken_is_missing_until_it_is_given_back() {
        let budget = Budget::new(10 * UNIT);
        let (one, mut two) = (budget.take(7 * UNIT).await, budget.open());
        assert!(two.cover(2 * UNIT + 1));
        assert!(two.cover(UNIT), "less than what is held");
        assert!(!two.cover(4 * UNIT));
        assert!(!two.cover(usize::MAX));
        assert_eq!(two.bytes(), 3 * UNIT);
        assert!(!is_ready(budget.take(1)).await);
        two.shrink(2 * UNIT);
        assert!(is_ready(budget.take(UNIT)).await);
        drop(one);
        assert!(two.cover(10 * UNIT));
        drop(two);
        assert!(is_ready(budget.take(10 * UNIT)).await);
    }

    #[tokio::test]
    async fn memory_is_given_back_when_the_last_part_of_a_body_is_gone() {
        let budget = Budget::new(UNIT);
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
    async fn whoever_wants_more_than_there_is_gets_all_of_it() {
        let budget = Budget::new(10 * UNIT);
        let all = budget.take(usize::MAX).await;
        assert_eq!(all.bytes(), 10 * UNIT);
        assert!(!is_ready(budget.take(1)).await);
    }

    #[tokio::test]
    async fn jobs_that_are_tried_again_leave_half_of_the_memory_to_others() {
        let memory = JobMemory::new(10 * UNIT);
        let again = memory.take(usize::MAX, true).await;
        assert!(!is_ready(memory.take(1, true)).await);
        let mut new = memory.take(memory.share(), false).await;
        assert!(!is_ready(memory.take(1, false)).await);
        new.shrink(UNIT);
        assert!(is_ready(memory.take(memory.share() - UNIT, false)).await);
        drop(again);
        assert!(is_ready(memory.take(memory.share(), true)).await);
    }
}
