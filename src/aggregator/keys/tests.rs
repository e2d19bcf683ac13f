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

/// The keys of a server, with a simulated clock.
struct KeyHarness {
    store: Store,
    policy: Policy,
    now: Time,
    _dir: TempDir,
}

impl KeyHarness {
    /// Creates a new server.
    async fn new(config: &Config) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(&dir.path().join("data"), Options::default()).unwrap();
        let mut harness = Self { store, policy: Policy::of(config), now: BEGIN, _dir: dir };
        harness.start().await;
        harness
    }

    /// Starts the server.
    async fn start(&mut self) -> Vec<KeyChange> {
        let (policy, now) = (self.policy.clone(), self.now);
        self.store.write(Point::Test, move |tx| begin(tx, now, &policy)).await.unwrap()
    }

    async fn ask(&self, request: Request) -> Result<Vec<KeyChange>, KeyError> {
        let (policy, now) = (self.policy.clone(), self.now);
        let changed = self.store.try_write(Point::Test, move |tx| change(tx, now, &policy, request)).await;
        changed.map_err(|error| match error {
            WriteError::Refused(refusal) => refusal,
            WriteError::Fault(fault) => panic!("{fault}"),
        })
    }

    /// Runs the key driver once.
    async fn look(&self) {
        let due = self.store.read(|view| Ok(is_due(view, self.now, &self.policy, true))).unwrap();
        if due {
            self.ask(Request::Advance { settled: true }).await.unwrap();
        }
    }

    /// Advances the clock and runs the key driver whenever it asks for it.
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

/// Checks every guarantee hour by hour for more than a year.
#[tokio::test]
async fn rotates_keys_over_a_year() {
    let mut config = config();
    config.hpke.post_quantum = true;
    let mut harness = KeyHarness::new(&config).await;
    harness.add_task(Some(14 * DAY)).await;
    let kept = 2 * DAY + config.limits.clock_skew.as_secs() + 14 * DAY;
    let (mut seen, mut last_offered, mut promised) =
        (BTreeMap::<u8, Time>::new(), BTreeMap::new(), BTreeMap::<u8, (KeyState, Time)>::new());
    let mut ids = BTreeSet::new();
    for hour in 0..400 * 24 {
        harness.now = BEGIN.saturating_add(Duration(hour * HOUR));
        harness.look().await;
        let (ring, list) = (harness.ring(), harness.list());
        let offered = ring.configs();
        let suites: Vec<_> = offered.iter().map(|config| config.kem_id).collect();
        assert_eq!(suites, [hpke::X25519, hpke::XWING], "the classical key comes first");
        for config in offered {
            // A nightly backup contains the key, unless it is the first one.
            assert!(
                hour == 0
                    || seen.get(&config.id).is_some_and(|first| *first <= BEGIN)
                    || seen[&config.id].saturating_add(Duration(DAY)) <= harness.now
            );
            last_offered.insert(config.id, harness.now);
        }
        for (id, last) in &last_offered {
            let must_open = harness.now < last.saturating_add(Duration(kept));
            assert!(!must_open || ring.get(*id).is_some(), "reports sealed to key {id} may still arrive");
            let may_open = harness.now <= last.saturating_add(Duration(kept + 2 * HOUR));
            assert!(may_open || ring.get(*id).is_none(), "key {id} is kept too long");
        }
        for key in &list {
            let id = key.status.id;
            seen.entry(id).or_insert(harness.now);
            ids.insert(id);
            // The listed time of the next change is correct.
            if let Some((state, until)) = promised.insert(id, (key.status.state, key.status.until.unwrap()))
                && state == key.status.state
            {
                assert!(harness.now < until.saturating_add(Duration(HOUR)), "{key:?}");
            }
        }
    }
    // Two initial keys, and two more at each of four rotations.
    assert_eq!(ids.len(), 10, "no id is used twice");
    assert_eq!(seen.len(), 10);
    harness.store.close().await;
}

#[tokio::test]
async fn new_key_is_pending_and_old_key_still_opens() {
    let mut harness = KeyHarness::new(&config()).await;
    let [first] = harness.ids(Active)[..] else { panic!("one key") };
    assert_eq!(harness.ask(Request::Advance { settled: true }).await, Ok(vec![]));
    let made = harness.ask(Request::Rotate { now: false }).await.unwrap();
    let [second] = harness.ids(Pending)[..] else { panic!("one more") };
    let until = harness.now.saturating_add(Duration(DAY));
    assert_eq!((made.len(), made[0].id, made[0].until), (1, second, Some(until)));
    assert_eq!(harness.list()[0].status.until, Some(until), "the list says when the old key is replaced");
    // A pending key is not replaced by another.
    assert_eq!(harness.ask(Request::Rotate { now: false }).await, Ok(vec![]));
    harness.pass(DAY - 1).await;
    assert_eq!(harness.ids(Active), [first]);
    harness.pass(1).await;
    assert_eq!((harness.ids(Active), harness.ids(Expired)), (vec![second], vec![first]));
    assert!(harness.ring().get(first).is_some());
    assert_eq!(harness.ring().configs().len(), 1);
    // Without tasks, only caches determine how long a key is kept.
    harness.pass(2 * DAY + 59).await;
    assert!(harness.ring().get(first).is_some());
    harness.pass(1).await;
    assert!(harness.ring().get(first).is_none() && harness.ring_for_repeats().get(first).is_none());
    harness.store.close().await;
}

#[tokio::test]
async fn rotates_immediately_on_request() {
    let harness = KeyHarness::new(&config()).await;
    let first = harness.ids(Active);
    harness.ask(Request::Rotate { now: true }).await.unwrap();
    let second = harness.ids(Active);
    assert_eq!((second.len(), harness.ids(Expired)), (1, first.clone()));
    harness.ask(Request::Rotate { now: false }).await.unwrap();
    let third = harness.ids(Pending);
    harness.ask(Request::Rotate { now: true }).await.unwrap();
    assert_eq!((harness.ids(Active), harness.ids(Pending)), (third, vec![]));
    assert_eq!(harness.ids(Expired).len(), 2);
    harness.store.close().await;
}

#[tokio::test]
async fn always_has_an_active_key() {
    let harness = KeyHarness::new(&config()).await;
    let first = harness.ids(Active)[0];
    // Disabling without a pending key creates one.
    harness.ask(Request::Disable(first)).await.unwrap();
    let second = harness.ids(Active)[0];
    assert_eq!(harness.ids(Expired), [first]);
    assert!(harness.ring().get(first).is_some());
    assert_eq!(harness.ask(Request::Disable(first)).await, Ok(vec![]), "it is already");
    harness.ask(Request::Rotate { now: false }).await.unwrap();
    let third = harness.ids(Pending)[0];
    let changes = harness.ask(Request::Delete(second)).await.unwrap();
    assert_eq!(
        changes.iter().map(|change| (change.id, change.after)).collect::<Vec<_>>(),
        [(second, None), (third, Some(Active))]
    );
    assert!(harness.ring().get(second).is_none());
    for request in [Request::Disable(second), Request::Delete(second), Request::Delete(unused(&harness))] {
        assert!(matches!(harness.ask(request).await, Err(KeyError::Unknown(_))));
    }
    // Deletes a key that was never offered.
    harness.ask(Request::Rotate { now: false }).await.unwrap();
    harness.ask(Request::Delete(harness.ids(Pending)[0])).await.unwrap();
    assert_eq!((harness.ids(Active), harness.ids(Pending)), (vec![third], vec![]));
    harness.store.close().await;
}

/// With two kinds of keys, the other kind is unaffected.
#[tokio::test]
async fn activates_pending_key_on_request() {
    let mut config = config();
    config.hpke.post_quantum = true;
    let harness = KeyHarness::new(&config).await;
    let before = harness.ids(Active);
    harness.ask(Request::Rotate { now: false }).await.unwrap();
    let pending = harness.ids(Pending);
    harness.ask(Request::Activate(pending[0])).await.unwrap();
    assert_eq!((harness.ids(Active), harness.ids(Pending)), (vec![pending[0], before[1]], vec![pending[1]]));
    assert_eq!(harness.ids(Expired), [before[0]]);
    assert_eq!(harness.ask(Request::Activate(pending[0])).await, Ok(vec![]), "it is already");
    assert_eq!(harness.ask(Request::Activate(before[0])).await, Err(KeyError::Expired(before[0])));
    let unused = unused(&harness);
    assert_eq!(harness.ask(Request::Activate(unused)).await, Err(KeyError::Unknown(unused)));
    harness.store.close().await;
}

fn unused(harness: &KeyHarness) -> u8 {
    harness.store.read(|view| Ok((0..=255).find(|id| !view.keys().contains_key(id)).unwrap())).unwrap()
}

#[tokio::test]
async fn rotates_to_configured_suite() {
    let mut config = config();
    let mut harness = KeyHarness::new(&config).await;
    let first = harness.ids(Active)[0];
    config.hpke.kem = crate::config::Kem::P256;
    (config.hpke.post_quantum, harness.policy) = (true, Policy::of(&config));
    harness.policy = Policy::of(&config);
    assert_eq!(harness.start().await.len(), 2);
    assert_eq!((harness.ids(Active), harness.ids(Pending).len()), (vec![first], 2));
    assert_eq!(harness.start().await, []);
    harness.pass(DAY).await;
    let kems = |harness: &KeyHarness| harness.ring().configs().iter().map(|config| config.kem_id).collect::<Vec<_>>();
    assert_eq!((kems(&harness), harness.ids(Expired)), (vec![hpke::P256, hpke::XWING], vec![first]));
    // Changes the suite back before the pending key was activated.
    (config.hpke.kem, config.hpke.post_quantum) = (crate::config::Kem::X25519, false);
    harness.policy = Policy::of(&config);
    harness.start().await;
    assert_eq!(
        (kems(&harness), harness.ids(Pending).len()),
        (vec![hpke::P256], 1),
        "the unwanted pending key is deleted"
    );
    config.hpke.kem = crate::config::Kem::P256;
    harness.policy = Policy::of(&config);
    harness.start().await;
    assert_eq!((kems(&harness), harness.ids(Pending).len()), (vec![hpke::P256], 0));
    harness.store.close().await;
}

#[tokio::test]
async fn keeps_key_for_task_without_report_expiry() {
    let mut harness = KeyHarness::new(&config()).await;
    let (first, task) = (harness.ids(Active)[0], harness.add_task(None).await);
    harness.add_task(Some(DAY)).await;
    harness.ask(Request::Rotate { now: true }).await.unwrap();
    harness.pass(1000 * DAY).await;
    let old = harness.list().into_iter().find(|key| key.status.id == first).unwrap();
    assert_eq!((old.status.state, old.status.until, old.kept_by), (Expired, None, Some(task)));
    let now = harness.now;
    harness.store.write(Point::Test, move |tx| tx.remove_task(&task, now)).await.unwrap();
    harness.look().await;
    assert!(harness.ring().get(first).is_none());
    harness.store.close().await;
}

/// A leader must be able to rebuild a request that the helper may have seen, also after a restart.
#[tokio::test]
async fn private_key_outlives_its_jobs() {
    let mut harness = KeyHarness::new(&config()).await;
    let (first, task, job) = (harness.ids(Active)[0], harness.add_task(Some(DAY)).await, AggregationJobId::random());
    let now = harness.now;
    let record = LeaderJobRecord {
        batch: PartialBatchSelector::FixedSize(BatchId::new([1; 32])),
        now,
        created: now,
        reports: Vec::new(),
        state: LeaderJobState::Sent { request_hash: [0; 32] },
        verify_key_id: None,
    };
    harness.store.write(Point::Test, move |tx| tx.put_leader_job(&task, job, record)).await.unwrap();
    harness.ask(Request::Delete(first)).await.unwrap();
    harness.pass(1000 * DAY).await;
    assert!(harness.ring().get(first).is_none(), "nothing new is opened with it");
    assert!(harness.ring_for_repeats().get(first).is_some());
    harness.store.write(Point::Test, move |tx| tx.end_leader_job(&task, &job)).await.unwrap();
    harness.look().await;
    assert!(harness.ring_for_repeats().get(first).is_none());
    let is_empty = |view: &View<'_>| Ok(view.keys()[&first].private_key.expose().is_empty());
    assert!(harness.store.read(is_empty).unwrap());
    harness.store.close().await;
}

#[tokio::test]
async fn recovers_from_wrong_clock() {
    let mut harness = KeyHarness::new(&config()).await;
    let first = harness.ids(Active)[0];
    harness.ask(Request::Rotate { now: true }).await.unwrap();
    // A server starts in the year 2100.
    harness.now = Time(4_102_444_800);
    harness.start().await;
    assert!(harness.ring().get(first).is_some(), "nothing is deleted before the clock had time to be set");
    assert_eq!(harness.ids(Pending).len(), 1);
    harness.now = Time(4_102_444_800 + DAY);
    harness.start().await;
    assert_eq!(harness.ids(Active).len(), 1);
    // The clock is corrected. The key created meanwhile is replaced, and keys that expired meanwhile are deleted.
    harness.now = BEGIN.saturating_add(Duration(DAY));
    harness.start().await;
    let misdated = harness.ids(Active);
    assert_eq!(harness.ids(Pending).len(), 0, "nothing is decided before the clock had time to be set");
    harness.look().await;
    assert_eq!((harness.ids(Active), harness.ids(Pending).len()), (misdated.clone(), 1));
    harness.pass(DAY).await;
    let active = harness.ids(Active);
    assert_ne!(active, misdated);
    // Rotation continues.
    harness.pass(89 * DAY).await;
    assert_eq!((harness.ids(Active), harness.ids(Pending).len(), harness.ids(Expired).len()), (active.clone(), 1, 0));
    harness.pass(DAY).await;
    assert_ne!(harness.ids(Active), active);
    // A clock that starts in 1970 expires nothing.
    let before = harness.list();
    harness.now = Time(0);
    harness.start().await;
    harness.now = BEGIN.saturating_add(Duration(181 * DAY));
    let states = |keys: &[ListedKey]| keys.iter().map(|key| (key.status.id, key.status.state)).collect::<Vec<_>>();
    assert_eq!(states(&harness.list()), states(&before));
    harness.store.close().await;
}

#[tokio::test]
async fn never_runs_out_of_key_ids() {
    let mut config = config();
    (config.hpke.rotate_every, config.hpke.pending_time) = (Seconds::new(2), Seconds::new(1));
    let mut harness = KeyHarness::new(&config).await;
    // A task without report expiry keeps all keys up to the limit.
    let task = harness.add_task(None).await;
    harness.pass(1000).await;
    assert_eq!((harness.list().len(), harness.ids(Active).len()), (MAX_KEYS, 1));
    assert_eq!(harness.ask(Request::Rotate { now: true }).await, Err(KeyError::TooMany));
    for _ in 0..40 {
        let disabled = harness.ask(Request::Disable(harness.ids(Active)[0])).await;
        assert!(disabled.is_ok() || disabled == Err(KeyError::TooMany));
    }
    assert_eq!(harness.ids(Active).len(), 1);
    let now = harness.now;
    harness.store.write(Point::Test, move |tx| tx.remove_task(&task, now)).await.unwrap();
    // All keys are deleted, and their ids become free.
    harness.pass(2 * DAY + 100).await;
    let rows = harness.store.read(|view| Ok(view.keys().len())).unwrap();
    assert!(rows <= MAX_KEYS + MAX_DELETED, "{rows}");
    assert_eq!(harness.ids(Active).len(), 1);
    harness.store.close().await;
}
