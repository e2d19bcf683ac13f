use std::collections::BTreeSet;

use tempfile::TempDir;

use super::{
    super::testing,
    plan::{MAX_DELETED, MAX_KEYS},
    *,
};
use crate::{
    config::{Config, Seconds},
    views::keys::ListedKey,
};
use dapbox_protocol::{
    hpke,
    model::{
        AggregationJobId, BatchId, Duration,
        KeyState::{Active, Expired, Pending},
        PartialBatchSelector, Task, TaskId,
    },
};
use dapbox_store::{LeaderJobRecord, LeaderJobState, Options, Store};
use dapbox_support::Point;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const BEGIN: Time = Time(1_700_000_000);

/// A server's keys, and a clock that only we move.
struct World {
    store: Store,
    policy: Policy,
    now: Time,
    _dir: TempDir,
}

impl World {
    /// A new server.
    async fn new(config: &Config) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(&dir.path().join("data"), Options::default()).unwrap();
        let mut world = Self { store, policy: Policy::of(config), now: BEGIN, _dir: dir };
        world.start().await;
        world
    }

    /// What a server does when it starts.
    async fn start(&mut self) -> Vec<KeyChange> {
        let (policy, now) = (self.policy.clone(), self.now);
        self.store.write(Point::Test, move |tx| begin(tx, now, &policy)).await.unwrap()
    }

    async fn ask(&self, request: Request) -> Result<Vec<KeyChange>, KeyError> {
        let (policy, now) = (self.policy.clone(), self.now);
        self.store.write(Point::Test, move |tx| change(tx, now, &policy, request)).await.unwrap()
    }

    /// What the driver does when it looks.
    async fn look(&self) {
        let due = self.store.read(|view| Ok(is_due(view, self.now, &self.policy, true))).unwrap();
        if due {
            self.ask(Request::Turn { settled: true }).await.unwrap();
        }
    }

    /// Lets time pass, as the driver sees it: it looks when it says that there is something to do next.
    async fn pass(&mut self, duration: u64) {
        let end = self.now.saturating_add(Duration(duration));
        while self.now < end {
            let next = self.store.read(|view| Ok(next(view, self.now, &self.policy))).unwrap();
            self.now = next.map_or(end, |next| next.min(end));
            self.look().await;
        }
    }

    fn list(&self) -> Vec<ListedKey> {
        self.store.read(|view| Ok(listed(view, self.now, &self.policy))).unwrap()
    }

    /// The ids of the keys in a state, in the order of the list.
    fn ids(&self, state: KeyState) -> Vec<u8> {
        self.list().iter().filter(|key| key.status.state == state).map(|key| key.status.id).collect()
    }

    fn ring(&self) -> KeyRing {
        self.store.read(|view| KeyRing::load(view.keys().values())).unwrap()
    }

    fn ring_for_repeats(&self) -> KeyRing {
        self.store.read(|view| KeyRing::load_for_repeats(view.keys().values())).unwrap()
    }

    async fn add_task(&self, age: Option<u64>) -> TaskId {
        let task =
            Task { report_expiry_age: age.map(Duration), ..testing::task(dapbox_protocol::model::Revision::Dap18) };
        let id = task.public.id;
        self.store.write(Point::Test, move |tx| tx.add_task(task)).await.unwrap();
        id
    }
}

fn config() -> Config {
    let config = Config::default();
    assert_eq!(config.hpke.rotate_every, Seconds::new(90 * DAY));
    config
}

/// Everything that is promised of a key, over a year and more, hour by hour.
#[tokio::test]
async fn a_year_goes_by() {
    let mut config = config();
    config.hpke.post_quantum = true;
    let mut world = World::new(&config).await;
    world.add_task(Some(14 * DAY)).await;
    let kept = 2 * DAY + config.limits.clock_skew.as_secs() + 14 * DAY;
    let (mut seen, mut last_offered, mut promised) =
        (BTreeMap::<u8, Time>::new(), BTreeMap::new(), BTreeMap::<u8, (KeyState, Time)>::new());
    let mut ids = BTreeSet::new();
    for hour in 0..400 * 24 {
        world.now = BEGIN.saturating_add(Duration(hour * HOUR));
        world.look().await;
        let (ring, list) = (world.ring(), world.list());
        let offered = ring.configs();
        let suites: Vec<_> = offered.iter().map(|config| config.kem_id).collect();
        assert_eq!(suites, [hpke::X25519, hpke::XWING], "the one that all know comes first");
        for config in offered {
            // A backup of every night has it, unless it is the first.
            assert!(
                hour == 0
                    || seen.get(&config.id).is_some_and(|first| *first <= BEGIN)
                    || seen[&config.id].saturating_add(Duration(DAY)) <= world.now
            );
            last_offered.insert(config.id, world.now);
        }
        for (id, last) in &last_offered {
            let must_open = world.now < last.saturating_add(Duration(kept));
            assert!(!must_open || ring.get(*id).is_some(), "what is sealed to key {id} may still come");
            let may_open = world.now <= last.saturating_add(Duration(kept + 2 * HOUR));
            assert!(may_open || ring.get(*id).is_none(), "key {id} is kept for too long");
        }
        for key in &list {
            let id = key.status.id;
            seen.entry(id).or_insert(world.now);
            ids.insert(id);
            // What the list says about the next change comes true.
            if let Some((state, until)) = promised.insert(id, (key.status.state, key.status.until.unwrap()))
                && state == key.status.state
            {
                assert!(world.now < until.saturating_add(Duration(HOUR)), "{key:?}");
            }
        }
    }
    // Two to begin with, and two on each of four days.
    assert_eq!(ids.len(), 10, "no id is used twice");
    assert_eq!(seen.len(), 10);
    world.store.close().await;
}

#[tokio::test]
async fn a_new_key_is_pending_first_and_its_predecessor_still_opens() {
    let mut world = World::new(&config()).await;
    let [first] = world.ids(Active)[..] else { panic!("one key") };
    assert_eq!(world.ask(Request::Turn { settled: true }).await, Ok(vec![]));
    let made = world.ask(Request::Rotate { now: false }).await.unwrap();
    let [second] = world.ids(Pending)[..] else { panic!("one more") };
    let until = world.now.saturating_add(Duration(DAY));
    assert_eq!((made.len(), made[0].id, made[0].until), (1, second, Some(until)));
    assert_eq!(world.list()[0].status.until, Some(until), "the list says when the old key is replaced");
    // One is enough.
    assert_eq!(world.ask(Request::Rotate { now: false }).await, Ok(vec![]));
    world.pass(DAY - 1).await;
    assert_eq!(world.ids(Active), [first]);
    world.pass(1).await;
    assert_eq!((world.ids(Active), world.ids(Expired)), (vec![second], vec![first]));
    assert!(world.ring().get(first).is_some());
    assert_eq!(world.ring().configs().len(), 1);
    // No task: only caches have to be waited for.
    world.pass(2 * DAY + 59).await;
    assert!(world.ring().get(first).is_some());
    world.pass(1).await;
    assert!(world.ring().get(first).is_none() && world.ring_for_repeats().get(first).is_none());
    world.store.close().await;
}

#[tokio::test]
async fn at_once_means_at_once() {
    let world = World::new(&config()).await;
    let first = world.ids(Active);
    world.ask(Request::Rotate { now: true }).await.unwrap();
    let second = world.ids(Active);
    assert_eq!((second.len(), world.ids(Expired)), (1, first.clone()));
    world.ask(Request::Rotate { now: false }).await.unwrap();
    let third = world.ids(Pending);
    world.ask(Request::Rotate { now: true }).await.unwrap();
    assert_eq!((world.ids(Active), world.ids(Pending)), (third, vec![]));
    assert_eq!(world.ids(Expired).len(), 2);
    world.store.close().await;
}

#[tokio::test]
async fn there_is_always_a_key_to_hand_out() {
    let world = World::new(&config()).await;
    let first = world.ids(Active)[0];
    // Without a successor one is made, with one that is taken.
    world.ask(Request::Disable(first)).await.unwrap();
    let second = world.ids(Active)[0];
    assert_eq!(world.ids(Expired), [first]);
    assert!(world.ring().get(first).is_some());
    assert_eq!(world.ask(Request::Disable(first)).await, Ok(vec![]), "it is already");
    world.ask(Request::Rotate { now: false }).await.unwrap();
    let third = world.ids(Pending)[0];
    let changes = world.ask(Request::Delete(second)).await.unwrap();
    assert_eq!(
        changes.iter().map(|change| (change.id, change.after)).collect::<Vec<_>>(),
        [(second, None), (third, Some(Active))]
    );
    assert!(world.ring().get(second).is_none());
    for request in [Request::Disable(second), Request::Delete(second), Request::Delete(unused(&world))] {
        assert!(matches!(world.ask(request).await, Err(KeyError::Unknown(_))));
    }
    // One that nobody was told of.
    world.ask(Request::Rotate { now: false }).await.unwrap();
    world.ask(Request::Delete(world.ids(Pending)[0])).await.unwrap();
    assert_eq!((world.ids(Active), world.ids(Pending)), (vec![third], vec![]));
    world.store.close().await;
}

/// One of two kinds: the other stays as it is.
#[tokio::test]
async fn a_pending_key_is_handed_out_when_that_is_wanted() {
    let mut config = config();
    config.hpke.post_quantum = true;
    let world = World::new(&config).await;
    let before = world.ids(Active);
    world.ask(Request::Rotate { now: false }).await.unwrap();
    let pending = world.ids(Pending);
    world.ask(Request::Activate(pending[0])).await.unwrap();
    assert_eq!((world.ids(Active), world.ids(Pending)), (vec![pending[0], before[1]], vec![pending[1]]));
    assert_eq!(world.ids(Expired), [before[0]]);
    assert_eq!(world.ask(Request::Activate(pending[0])).await, Ok(vec![]), "it is already");
    assert_eq!(world.ask(Request::Activate(before[0])).await, Err(KeyError::Expired(before[0])));
    let unused = unused(&world);
    assert_eq!(world.ask(Request::Activate(unused)).await, Err(KeyError::Unknown(unused)));
    world.store.close().await;
}

fn unused(world: &World) -> u8 {
    world.store.read(|view| Ok((0..=255).find(|id| !view.keys().contains_key(id)).unwrap())).unwrap()
}

#[tokio::test]
async fn another_suite_takes_its_turn() {
    let mut config = config();
    let mut world = World::new(&config).await;
    let first = world.ids(Active)[0];
    config.hpke.kem = crate::config::Kem::P256;
    (config.hpke.post_quantum, world.policy) = (true, Policy::of(&config));
    world.policy = Policy::of(&config);
    assert_eq!(world.start().await.len(), 2);
    assert_eq!((world.ids(Active), world.ids(Pending).len()), (vec![first], 2));
    assert_eq!(world.start().await, []);
    world.pass(DAY).await;
    let kems = |world: &World| world.ring().configs().iter().map(|config| config.kem_id).collect::<Vec<_>>();
    assert_eq!((kems(&world), world.ids(Expired)), (vec![hpke::P256, hpke::XWING], vec![first]));
    // Back again, and back once more before anybody has seen it.
    (config.hpke.kem, config.hpke.post_quantum) = (crate::config::Kem::X25519, false);
    world.policy = Policy::of(&config);
    world.start().await;
    assert_eq!((kems(&world), world.ids(Pending).len()), (vec![hpke::P256], 1), "what is not wanted goes at once");
    config.hpke.kem = crate::config::Kem::P256;
    world.policy = Policy::of(&config);
    world.start().await;
    assert_eq!((kems(&world), world.ids(Pending).len()), (vec![hpke::P256], 0));
    world.store.close().await;
}

#[tokio::test]
async fn a_key_is_kept_for_a_task_that_never_forgets() {
    let mut world = World::new(&config()).await;
    let (first, task) = (world.ids(Active)[0], world.add_task(None).await);
    world.add_task(Some(DAY)).await;
    world.ask(Request::Rotate { now: true }).await.unwrap();
    world.pass(1000 * DAY).await;
    let old = world.list().into_iter().find(|key| key.status.id == first).unwrap();
    assert_eq!((old.status.state, old.status.until, old.kept_by), (Expired, None, Some(task)));
    let now = world.now;
    world.store.write(Point::Test, move |tx| tx.remove_task(&task, now)).await.unwrap();
    world.look().await;
    assert!(world.ring().get(first).is_none());
    world.store.close().await;
}

/// A leader makes a request that the helper may have seen again to the byte, over restarts too: what it opened then it must
/// be able to open again.
#[tokio::test]
async fn a_private_key_outlives_the_jobs_that_began_with_it() {
    let mut world = World::new(&config()).await;
    let (first, task, job) = (world.ids(Active)[0], world.add_task(Some(DAY)).await, AggregationJobId::random());
    let now = world.now;
    let record = LeaderJobRecord {
        batch: PartialBatchSelector::FixedSize(BatchId::new([1; 32])),
        now,
        created: now,
        reports: Vec::new(),
        state: LeaderJobState::Sent { request_hash: [0; 32] },
    };
    world.store.write(Point::Test, move |tx| tx.put_leader_job(&task, job, record)).await.unwrap();
    world.ask(Request::Delete(first)).await.unwrap();
    world.pass(1000 * DAY).await;
    assert!(world.ring().get(first).is_none(), "nothing new is opened with it");
    assert!(world.ring_for_repeats().get(first).is_some());
    world.store.write(Point::Test, move |tx| tx.end_leader_job(&task, &job)).await.unwrap();
    world.look().await;
    assert!(world.ring_for_repeats().get(first).is_none());
    let is_empty = |view: &View<'_>| Ok(view.keys()[&first].private_key.expose().is_empty());
    assert!(world.store.read(is_empty).unwrap());
    world.store.close().await;
}

#[tokio::test]
async fn a_clock_that_was_wrong_does_no_lasting_harm() {
    let mut world = World::new(&config()).await;
    let first = world.ids(Active)[0];
    world.ask(Request::Rotate { now: true }).await.unwrap();
    // Just started, in the year 2100.
    world.now = Time(4_102_444_800);
    world.start().await;
    assert!(world.ring().get(first).is_some(), "nothing is deleted before the clock had time to be set");
    assert_eq!(world.ids(Pending).len(), 1);
    world.now = Time(4_102_444_800 + DAY);
    world.start().await;
    assert_eq!(world.ids(Active).len(), 1);
    // The clock is right again. The key that was made meanwhile is replaced, and what has expired meanwhile is deleted.
    world.now = BEGIN.saturating_add(Duration(DAY));
    world.start().await;
    let misdated = world.ids(Active);
    assert_eq!(world.ids(Pending).len(), 0, "nothing is decided before the clock had time to be set");
    world.look().await;
    assert_eq!((world.ids(Active), world.ids(Pending).len()), (misdated.clone(), 1));
    world.pass(DAY).await;
    let active = world.ids(Active);
    assert_ne!(active, misdated);
    // Keys are replaced as before.
    world.pass(89 * DAY).await;
    assert_eq!((world.ids(Active), world.ids(Pending).len(), world.ids(Expired).len()), (active.clone(), 1, 0));
    world.pass(DAY).await;
    assert_ne!(world.ids(Active), active);
    // A clock that starts in 1970 makes nothing old.
    let before = world.list();
    world.now = Time(0);
    world.start().await;
    world.now = BEGIN.saturating_add(Duration(181 * DAY));
    let states = |keys: &[ListedKey]| keys.iter().map(|key| (key.status.id, key.status.state)).collect::<Vec<_>>();
    assert_eq!(states(&world.list()), states(&before));
    world.store.close().await;
}

#[tokio::test]
async fn ids_do_not_run_out() {
    let mut config = config();
    (config.hpke.rotate_every, config.hpke.pending_time) = (Seconds::new(2), Seconds::new(1));
    let mut world = World::new(&config).await;
    // Keys pile up for a task that never forgets: there is an end to that, and a server to the end.
    let task = world.add_task(None).await;
    world.pass(1000).await;
    assert_eq!((world.list().len(), world.ids(Active).len()), (MAX_KEYS, 1));
    assert_eq!(world.ask(Request::Rotate { now: true }).await, Err(KeyError::TooMany));
    for _ in 0..40 {
        let disabled = world.ask(Request::Disable(world.ids(Active)[0])).await;
        assert!(disabled.is_ok() || disabled == Err(KeyError::TooMany));
    }
    assert_eq!(world.ids(Active).len(), 1);
    let now = world.now;
    world.store.write(Point::Test, move |tx| tx.remove_task(&task, now)).await.unwrap();
    // All are deleted, and their ids are used again last of all.
    world.pass(2 * DAY + 100).await;
    let rows = world.store.read(|view| Ok(view.keys().len())).unwrap();
    assert!(rows <= MAX_KEYS + MAX_DELETED, "{rows}");
    assert_eq!(world.ids(Active).len(), 1);
    world.store.close().await;
}
