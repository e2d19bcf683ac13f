//! Requests in progress, with a limit for each kind of sender, and the bodies that are still awaited.
//!
//! Anybody may upload, so uploads must not take what peers and control planes need: each kind has slots of its own. A
//! request takes its slot once its body has arrived and its token was checked: a client that sends nothing, or the wrong
//! token, holds no slot. What it does hold is its place among the bodies that are awaited. Where those are too many, the one
//! ends that has sent nothing for the longest time: a client that sends its body is not shut out by those that do not. The
//! same holds for the memory that bodies have: where it is short, those end that have sent nothing for a while.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use dapbox_aggregator::{Error, config::Limits};

/// The slots for requests in progress, and the bodies that are awaited.
pub struct Slots {
    /// Slots for each kind.
    most: usize,
    uploads: Semaphore,
    peers: Semaphore,
    management: Semaphore,
    /// Bodies of uploads, which anybody may send.
    pub upload_bodies: PendingBodies,
    /// Bodies of requests with a token.
    pub request_bodies: PendingBodies,
}

/// A request in progress.
pub type Slot<'a> = SemaphorePermit<'a>;

impl Slots {
    /// As many slots and bodies as the configuration allows.
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
    pub fn upload(&self) -> Result<Slot<'_>, Error> {
        self.uploads.try_acquire().map_err(|_| Error::Busy)
    }

    /// Waits for a slot for an upload that has begun.
    pub async fn next_upload(&self) -> Slot<'_> {
        self.uploads.acquire().await.expect("the semaphore is never closed")
    }

    /// Takes a slot for a request of an aggregator or a collector, if one is free.
    pub fn peer(&self) -> Result<Slot<'_>, Error> {
        self.peers.try_acquire().map_err(|_| Error::Busy)
    }

    /// Takes a slot for a request to the management API, if one is free.
    pub fn management(&self) -> Result<Slot<'_>, Error> {
        self.management.try_acquire().map_err(|_| Error::Busy)
    }

    /// How many requests of all kinds are in progress.
    pub fn in_use(&self) -> u64 {
        let free = [&self.uploads, &self.peers, &self.management].map(Semaphore::available_permits);
        free.into_iter().map(|free| self.most.saturating_sub(free) as u64).sum()
    }

    /// How many bodies are awaited.
    pub fn pending_bodies(&self) -> u64 {
        (self.upload_bodies.len() + self.request_bodies.len()) as u64
    }
}

/// Bodies that are awaited at once, at most so many.
#[derive(Clone)]
pub struct PendingBodies {
    most: usize,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// The number of the next one.
    next: u64,
    /// Those that wait, by number: the first has sent nothing for the longest time.
    bodies: BTreeMap<u64, Body>,
}

/// A body of which more is to come.
struct Body {
    /// Says that it is not awaited any longer.
    ended: Arc<Notify>,
    /// When a part of it last came.
    since: Instant,
    /// How many bytes of a memory budget it holds.
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

/// A body that is awaited, until this is dropped.
pub struct PendingBody {
    waiting: Arc<Mutex<Waiting>>,
    number: u64,
    ended: Arc<Notify>,
}

/// Whole values only, so that a panic elsewhere leaves them usable.
fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PendingBodies {
    /// At most so many.
    pub fn new(most: usize) -> Self {
        Self { most, waiting: Arc::default() }
    }

    /// Awaits one more. If there are too many, the one ends that has sent nothing for the longest time.
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

    /// Ends bodies that have sent nothing for at least `silence` and hold so many bytes together. False, and none is ended,
    /// if they do not.
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
    /// Resolves when the body is not awaited any longer, because there are too many.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Notes that a part of the body has come.
    pub fn touch(&mut self) {
        let mut waiting = lock(&self.waiting);
        // One that was ended stays so.
        if let Some(body) = waiting.bodies.remove(&self.number) {
            self.number = waiting.add(body);
        }
    }

    /// Notes how many bytes of a memory budget the body holds.
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
    fn one_kind_of_request_does_not_take_the_slots_of_another() {
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
