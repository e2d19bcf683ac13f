//! Limits of requests in progress for each kind of sender, and of pending bodies.
//!
//! # Decision: a request takes its slot when its body is complete
//!
//! Uploads need no credentials, so they must not use the slots of peers and control planes: each kind has its own. A
//! request takes a slot once its body is complete and its token was checked. A client that is idle or has no valid
//! token holds only a pending body. Above the limit of pending bodies, the one that has been silent for longest is
//! aborted, so that idle clients do not displace active ones. If memory is scarce, silent bodies are aborted as well.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use dapbox_aggregator::{Error, config::Limits};

/// The slots of requests in progress, and the pending bodies.
pub struct Slots {
    /// Number of slots of each kind.
    most: usize,
    uploads: Semaphore,
    peers: Semaphore,
    management: Semaphore,
    /// Bodies of uploads.
    pub upload_bodies: PendingBodies,
    /// Bodies of requests with a token.
    pub request_bodies: PendingBodies,
}

/// A request in progress.
pub type RequestSlot<'a> = SemaphorePermit<'a>;

impl Slots {
    /// Creates the configured numbers of slots and pending bodies.
    pub fn new(limits: &Limits) -> Self {
        let most = limits.max_requests.min(Semaphore::MAX_PERMITS);
        let slots = || Semaphore::new(most);
        let bodies = || PendingBodies::new(limits.max_pending_bodies);
        Self {
            most,
            uploads: slots(),
            peers: slots(),
            management: slots(),
            upload_bodies: bodies(),
            request_bodies: bodies(),
        }
    }

    /// Takes a slot for an upload, if one is free.
    pub fn upload(&self) -> Result<RequestSlot<'_>, Error> {
        self.uploads.try_acquire().map_err(|_| Error::Busy)
    }

    /// Waits for a slot for an upload in progress.
    pub async fn next_upload(&self) -> RequestSlot<'_> {
        self.uploads.acquire().await.expect("the semaphore is never closed")
    }

    /// Takes a slot for a request of an aggregator or a collector, if one is free.
    pub fn peer(&self) -> Result<RequestSlot<'_>, Error> {
        self.peers.try_acquire().map_err(|_| Error::Busy)
    }

    /// Takes a slot for a request to the management API, if one is free.
    pub fn management(&self) -> Result<RequestSlot<'_>, Error> {
        self.management.try_acquire().map_err(|_| Error::Busy)
    }

    /// Number of requests in progress.
    pub fn in_use(&self) -> u64 {
        let free = [&self.uploads, &self.peers, &self.management].map(Semaphore::available_permits);
        free.into_iter().map(|free| self.most.saturating_sub(free) as u64).sum()
    }

    /// Number of pending bodies.
    pub fn pending_bodies(&self) -> u64 {
        (self.upload_bodies.len() + self.request_bodies.len()) as u64
    }
}

/// A limited set of pending bodies.
#[derive(Clone)]
pub struct PendingBodies {
    most: usize,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// The next number.
    next: u64,
    /// The bodies by number: the first one has been silent for longest.
    bodies: BTreeMap<u64, Body>,
}

/// A pending body.
struct Body {
    /// Notifies the body that it is aborted.
    ended: Arc<Notify>,
    /// When the last chunk arrived.
    since: Instant,
    /// Leased memory, in bytes.
    held: usize,
}

impl Waiting {
    fn add(&mut self, body: Body) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bodies.insert(number, Body { since: Instant::now(), ..body });
        number
    }
}

/// A pending body, registered until this is dropped.
pub struct PendingBody {
    waiting: Arc<Mutex<Waiting>>,
    number: u64,
    ended: Arc<Notify>,
}

/// Locks the set. It contains whole values only, so poisoning is ignored.
fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PendingBodies {
    /// A set of at most `most` bodies.
    pub fn new(most: usize) -> Self {
        Self { most, waiting: Arc::default() }
    }

    /// Registers a body. Above the limit, aborts the one that has been silent for longest.
    pub fn add(&self) -> PendingBody {
        let (mut waiting, ended) = (lock(&self.waiting), Arc::new(Notify::new()));
        if waiting.bodies.len() >= self.most
            && let Some((_, oldest)) = waiting.bodies.pop_first()
        {
            oldest.ended.notify_one();
        }
        let number = waiting.add(Body { ended: ended.clone(), since: Instant::now(), held: 0 });
        PendingBody { waiting: self.waiting.clone(), number, ended }
    }

    /// Aborts bodies that have been silent for at least `silence`, to free `bytes`. Returns `false` and aborts none if
    /// they hold less.
    pub fn end_silent(&self, silence: Duration, bytes: usize) -> bool {
        let mut waiting = lock(&self.waiting);
        let (mut freed, mut chosen) = (0, Vec::new());
        for (number, body) in waiting.bodies.iter().take_while(|(_, body)| body.since.elapsed() >= silence) {
            if freed < bytes && body.held > 0 {
                freed += body.held;
                chosen.push(*number);
            }
        }
        if freed < bytes {
            return false;
        }
        for body in chosen.iter().filter_map(|number| waiting.bodies.remove(number)) {
            body.ended.notify_one();
        }
        true
    }

    fn len(&self) -> usize {
        lock(&self.waiting).bodies.len()
    }
}

impl PendingBody {
    /// Resolves when the body is aborted.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Records the arrival of a chunk.
    pub fn touch(&mut self) {
        let mut waiting = lock(&self.waiting);
        // An aborted body stays aborted.
        if let Some(body) = waiting.bodies.remove(&self.number) {
            self.number = waiting.add(body);
        }
    }

    /// Records the leased memory of the body.
    pub fn hold(&self, bytes: usize) {
        if let Some(body) = lock(&self.waiting).bodies.get_mut(&self.number) {
            body.held = bytes;
        }
    }
}

impl Drop for PendingBody {
    fn drop(&mut self) {
        lock(&self.waiting).bodies.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn has_ended(body: &PendingBody) -> bool {
        tokio::select! { biased; () = body.ended() => true, () = std::future::ready(()) => false }
    }

    #[tokio::test]
    async fn ends_the_body_that_was_silent_for_longest() {
        let bodies = PendingBodies::new(2);
        let (mut first, second) = (bodies.add(), bodies.add());
        first.touch();
        let third = bodies.add();
        assert!(has_ended(&second).await && !has_ended(&first).await && !has_ended(&third).await);
        assert_eq!(bodies.len(), 2);
        drop(second);
        drop(third);
        assert_eq!(bodies.len(), 1);
        let _fourth = bodies.add();
        assert!(!has_ended(&first).await);
    }

    #[tokio::test]
    async fn ends_silent_bodies_only_if_that_frees_enough_memory() {
        let bodies = PendingBodies::new(10);
        let held: Vec<_> = [5, 0, 7].map(|bytes| (bodies.add(), bytes)).into_iter().collect();
        held.iter().for_each(|(body, bytes)| body.hold(*bytes));
        assert!(!bodies.end_silent(Duration::from_secs(3600), 1), "none is silent");
        assert!(!bodies.end_silent(Duration::ZERO, 13), "there is not so much");
        assert!(bodies.end_silent(Duration::ZERO, 6));
        let mut ended = Vec::new();
        for (body, _) in &held {
            ended.push(has_ended(body).await);
        }
        assert_eq!(ended, [true, false, true]);
    }

    #[test]
    fn separates_slots_by_sender() {
        let slots = Slots::new(&Limits { max_requests: 1, ..Limits::default() });
        let upload = slots.upload().unwrap();
        assert!(slots.upload().is_err());
        let (peer, management) = (slots.peer().unwrap(), slots.management().unwrap());
        assert!(slots.peer().is_err() && slots.management().is_err());
        assert_eq!(slots.in_use(), 3);
        drop((upload, peer, management));
        assert_eq!(slots.in_use(), 0);
    }
}
