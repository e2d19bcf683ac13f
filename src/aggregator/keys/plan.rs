//! Plans the changes of HPKE keys. A pure function that changes nothing.
//!
//! # Decision: key rotation is a pure function
//!
//! All decisions about keys depend on the keys, the tasks, the configuration and the clock only. One function computes
//! the steps, so tests can run years of rotation. A key is pending before it is active, so that a backup has it before
//! any report is sealed to it. A wrong clock must not delete keys: irreversible steps wait until the server has run for
//! a while.

use std::collections::BTreeMap;

use super::{
    is_erased,
    policy::{Needs, Policy},
};
use dapbox_protocol::{
    hpke::Suite,
    model::{Duration, Time},
};
use dapbox_store::{KeyRecord, KeyStage};
use dapbox_support::Point;

/// The most keys that still open reports; beyond it new keys are only created when necessary. There are 256 ids.
pub(super) const MAX_KEYS: usize = 160;
/// How many more keys may be created to replace an active key that is disabled or deleted.
const SPARE_KEYS: usize = 30;
/// How many ids of deleted keys stay reserved. The oldest are released first.
pub(super) const MAX_DELETED: usize = 64;
/// How far ahead a key's timestamp must be to prove that the clock was wrong, in seconds.
const AHEAD: Duration = Duration(86_400);

/// A request to change keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Apply what is due.
    Advance {
        /// Whether the clock is trusted, because the server has run for a while. Irreversible steps need that.
        settled: bool,
    },
    /// Create new keys.
    Rotate {
        /// Activate them immediately. Otherwise they are pending first, and existing pending keys are kept.
        now: bool,
    },
    /// Activate a pending key immediately.
    Activate(u8),
    /// Stop offering a key; it still opens reports.
    Disable(u8),
    /// Delete a key; it opens no further reports.
    Delete(u8),
}

impl Request {
    /// The name of the write that applies the request.
    pub fn point(self) -> Point {
        match self {
            Self::Advance { .. } => Point::KeysAdvance,
            Self::Rotate { .. } => Point::KeysRotate,
            Self::Activate(_) => Point::KeysActivate,
            Self::Disable(_) => Point::KeysDisable,
            Self::Delete(_) => Point::KeysDelete,
        }
    }
}

/// Why an operator's request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such key.
    #[error("HPKE key {0} does not exist; list them with 'dapbox keys list'")]
    Unknown(u8),
    /// The key was active before and has expired.
    #[error("HPKE key {0} has expired and cannot be activated; create a new one with 'dapbox keys rotate'")]
    Expired(u8),
    /// There are too many keys.
    #[error(
        "{MAX_KEYS} HPKE keys exist, which is the maximum; delete some with 'dapbox keys delete' ('dapbox keys list' \
         shows why each is kept)"
    )]
    TooMany,
}

/// A step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanStep {
    /// Create a key.
    Make {
        /// Its algorithms.
        suite: Suite,
        /// Its initial stage.
        stage: KeyStage,
    },
    /// Change the stage of a key.
    Move {
        /// The id of the key.
        id: u8,
        /// The new stage.
        stage: KeyStage,
    },
    /// Erase the private key of a deleted key.
    Erase {
        /// The id of the key.
        id: u8,
    },
    /// Release the id of a deleted key.
    Forget {
        /// The id of the key.
        id: u8,
    },
}

/// The kind of a key. At most one key of each kind is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Classical,
    PostQuantum,
}

const KINDS: [Kind; 2] = [Kind::Classical, Kind::PostQuantum];

fn kind_of(suite: Suite) -> Kind {
    if suite.is_post_quantum() { Kind::PostQuantum } else { Kind::Classical }
}

/// The configured suite of a kind of keys.
fn suite_of(policy: &Policy, kind: Kind) -> Option<Suite> {
    match kind {
        Kind::Classical => Some(policy.classical),
        Kind::PostQuantum => policy.post_quantum,
    }
}

/// Plans the steps at `now`, in order.
pub fn plan(
    keys: &BTreeMap<u8, KeyRecord>,
    needs: &Needs,
    policy: &Policy,
    now: Time,
    request: Request,
) -> Result<Vec<PlanStep>, KeyError> {
    let sketch = |record: &KeyRecord| PlannedKey {
        origin: Origin::Stored(record.config.id),
        suite: Suite::of(&record.config),
        stage: record.stage,
        created: record.created,
        is_erased: is_erased(record),
    };
    let (is_new, settled) = (keys.is_empty(), request == Request::Advance { settled: true });
    let keys = keys.values().map(sketch).collect();
    let mut draft = Planner { keys, steps: Vec::new(), policy, needs, now, is_new, settled };
    if settled {
        draft.correct();
    }
    draft.activate_due();
    draft.apply_request(request)?;
    for kind in KINDS {
        draft.maintain(kind);
    }
    if settled {
        draft.expire();
    }
    draft.erase();
    draft.forget();
    Ok(draft.steps)
}

/// When the next step is due without a request.
pub fn next(keys: &BTreeMap<u8, KeyRecord>, needs: &Needs, policy: &Policy, now: Time) -> Option<Time> {
    let times = keys.values().filter_map(|key| match key.stage {
        KeyStage::Pending { until } => Some(until),
        KeyStage::Active { since } => {
            policy.rotate_every.map(|every| since.saturating_add(every).saturating_sub(policy.pending))
        }
        KeyStage::Expired { since } => needs.end(policy, since),
        KeyStage::Deleted { .. } => None,
    });
    times.filter(|time| *time > now).min()
}

/// A key in a plan.
struct PlannedKey {
    origin: Origin,
    suite: Suite,
    stage: KeyStage,
    created: Time,
    is_erased: bool,
}

/// The origin of a key in a plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A stored key with this id.
    Stored(u8),
    /// A new key, created in this step.
    Made(usize),
}

impl PlannedKey {
    fn id(&self) -> Option<u8> {
        match self.origin {
            Origin::Stored(id) => Some(id),
            Origin::Made(_) => None,
        }
    }
}

/// A plan under construction.
struct Planner<'a> {
    keys: Vec<PlannedKey>,
    steps: Vec<PlanStep>,
    policy: &'a Policy,
    needs: &'a Needs,
    now: Time,
    is_new: bool,
    settled: bool,
}

/// Whether a stored timestamp is so far ahead that the clock was or is wrong.
pub(super) fn is_ahead(time: Time, now: Time) -> bool {
    time > now.saturating_add(AHEAD)
}

impl Planner<'_> {
    /// Corrects timestamps of a fast clock. Such keys would never be rotated or deleted.
    fn correct(&mut self) {
        let (now, horizon) = (self.now, self.now.saturating_add(AHEAD));
        for at in 0..self.keys.len() {
            match self.keys[at].stage {
                KeyStage::Active { since } if since > horizon => {
                    self.set_stage(at, KeyStage::Active { since: self.keys[at].created.min(now) });
                }
                KeyStage::Expired { since } if since > horizon => self.set_stage(at, KeyStage::Expired { since: now }),
                KeyStage::Deleted { since } if since > horizon => self.set_stage(at, KeyStage::Deleted { since: now }),
                KeyStage::Pending { until } if until > horizon.saturating_add(self.policy.pending) => {
                    let until = now.saturating_add(self.policy.pending);
                    self.set_stage(at, KeyStage::Pending { until });
                }
                _ => {}
            }
        }
    }

    /// Activates keys whose pending time is over.
    fn activate_due(&mut self) {
        let mut due: Vec<_> = self.pending().filter(|(_, until)| *until <= self.now).collect();
        due.sort_by_key(|(_, until)| *until);
        for (at, _) in due {
            self.activate(at);
        }
    }

    fn apply_request(&mut self, request: Request) -> Result<(), KeyError> {
        match request {
            Request::Advance { .. } => {}
            Request::Rotate { now } => {
                for kind in KINDS {
                    self.rotate(kind, now)?;
                }
            }
            Request::Activate(id) => {
                let at = self.find(id)?;
                match self.keys[at].stage {
                    KeyStage::Pending { .. } => self.activate(at),
                    KeyStage::Active { .. } => {}
                    KeyStage::Expired { .. } | KeyStage::Deleted { .. } => return Err(KeyError::Expired(id)),
                }
            }
            Request::Disable(id) | Request::Delete(id) => {
                let at = self.find(id)?;
                let kind = kind_of(self.keys[at].suite);
                let (since, was) = (self.now, self.keys[at].stage);
                let successor = suite_of(self.policy, kind).filter(|_| matches!(was, KeyStage::Active { .. }));
                if successor.is_some_and(|suite| self.pending_of(kind, suite).is_none()) && !self.has_room(SPARE_KEYS) {
                    return Err(KeyError::TooMany);
                }
                match request {
                    Request::Delete(_) => self.set_stage(at, KeyStage::Deleted { since }),
                    _ if matches!(was, KeyStage::Expired { .. }) => {}
                    _ => self.set_stage(at, KeyStage::Expired { since }),
                }
                if successor.is_some() {
                    self.replace(kind);
                }
            }
        }
        Ok(())
    }

    /// Creates a new key, or uses the pending one.
    fn rotate(&mut self, kind: Kind, at_once: bool) -> Result<(), KeyError> {
        let Some(suite) = suite_of(self.policy, kind) else { return Ok(()) };
        if at_once && self.pending_of(kind, suite).is_some() {
            self.replace(kind);
        } else if self.pending_of(kind, suite).is_none() {
            if !self.has_room(0) {
                return Err(KeyError::TooMany);
            }
            let pending = if at_once { Duration(0) } else { self.policy.pending };
            self.make(suite, pending);
        }
        Ok(())
    }

    /// Activates the pending key or a new one immediately.
    fn replace(&mut self, kind: Kind) {
        let Some(suite) = suite_of(self.policy, kind) else { return };
        match self.pending_of(kind, suite) {
            Some(at) => self.activate(at),
            None => self.make(suite, Duration(0)),
        }
    }

    /// Ensures that a kind has an active key of the configured suite and that it is rotated in time.
    fn maintain(&mut self, kind: Kind) {
        let wanted = suite_of(self.policy, kind);
        for at in self.of_kind(kind) {
            let since = self.now;
            match self.keys[at].stage {
                // It was never offered.
                KeyStage::Pending { .. } if Some(self.keys[at].suite) != wanted => {
                    self.set_stage(at, KeyStage::Deleted { since });
                }
                KeyStage::Active { .. } if wanted.is_none() => self.set_stage(at, KeyStage::Expired { since }),
                _ => {}
            }
        }
        let Some(suite) = wanted else { return };
        let active = self.of_kind(kind).into_iter().find_map(|at| match self.keys[at].stage {
            KeyStage::Active { since } => Some((self.keys[at].suite, since, self.keys[at].created)),
            _ => None,
        });
        let is_pending = self.pending_of(kind, suite).is_some();
        match active {
            // Without an active key, clients could not upload.
            None if kind == Kind::Classical || self.is_new => self.replace(kind),
            None if is_pending => {}
            None => self.make(suite, self.policy.pending),
            Some(_) if is_pending => {}
            Some((old, since, created)) => {
                // The age of a key with a future timestamp is unknown.
                let is_misdated = self.settled && is_ahead(created, self.now);
                let over = self.policy.rotate_every.map(|every| since.saturating_add(every));
                let is_due = over.is_some_and(|over| self.now.saturating_add(self.policy.pending) >= over);
                if (old != suite || is_due || is_misdated) && self.has_room(0) {
                    self.make(suite, self.policy.pending);
                }
            }
        }
    }

    /// Deletes expired keys once no report sealed to them can arrive.
    fn expire(&mut self) {
        for at in 0..self.keys.len() {
            if let KeyStage::Expired { since } = self.keys[at].stage
                && self.needs.end(self.policy, since).is_some_and(|end| end <= self.now)
            {
                self.set_stage(at, KeyStage::Deleted { since: self.now });
            }
        }
    }

    /// Erases the private keys of deleted keys once no job needs them. A leader may have to repeat a request and open
    /// the same reports.
    fn erase(&mut self) {
        for at in 0..self.keys.len() {
            let PlannedKey { origin, stage, is_erased, .. } = self.keys[at];
            if let (KeyStage::Deleted { since }, Origin::Stored(id), false) = (stage, origin, is_erased)
                && self.needs.oldest_job.is_none_or(|job| job > since)
            {
                self.keys[at].is_erased = true;
                self.steps.push(PlanStep::Erase { id });
            }
        }
    }

    fn forget(&mut self) {
        let mut erased: Vec<_> = self.keys.iter().filter(|key| key.is_erased).collect();
        erased.sort_by_key(|key| match key.stage {
            KeyStage::Deleted { since } => since,
            _ => Time(u64::MAX),
        });
        let old = erased.iter().take(erased.len().saturating_sub(MAX_DELETED)).filter_map(|key| key.id());
        self.steps.extend(old.map(|id| PlanStep::Forget { id }));
    }

    fn make(&mut self, suite: Suite, pending: Duration) {
        let stage = match pending {
            Duration(0) => KeyStage::Active { since: self.now },
            pending => KeyStage::Pending { until: self.now.saturating_add(pending) },
        };
        if matches!(stage, KeyStage::Active { .. }) {
            self.expire_active(kind_of(suite));
        }
        let (origin, created) = (Origin::Made(self.steps.len()), self.now);
        self.keys.push(PlannedKey { origin, suite, stage, created, is_erased: false });
        self.steps.push(PlanStep::Make { suite, stage });
    }

    fn activate(&mut self, at: usize) {
        self.expire_active(kind_of(self.keys[at].suite));
        self.set_stage(at, KeyStage::Active { since: self.now });
    }

    /// Expires the active key of a kind.
    fn expire_active(&mut self, kind: Kind) {
        for at in self.of_kind(kind) {
            if matches!(self.keys[at].stage, KeyStage::Active { .. }) {
                self.set_stage(at, KeyStage::Expired { since: self.now });
            }
        }
    }

    fn set_stage(&mut self, at: usize, stage: KeyStage) {
        self.keys[at].stage = stage;
        match self.keys[at].origin {
            Origin::Stored(id) => self.steps.push(PlanStep::Move { id, stage }),
            Origin::Made(step) => {
                if let PlanStep::Make { stage: from_the_beginning, .. } = &mut self.steps[step] {
                    *from_the_beginning = stage;
                }
            }
        }
    }

    fn find(&self, id: u8) -> Result<usize, KeyError> {
        let is_it = |key: &PlannedKey| key.id() == Some(id) && !matches!(key.stage, KeyStage::Deleted { .. });
        self.keys.iter().position(is_it).ok_or(KeyError::Unknown(id))
    }

    fn of_kind(&self, kind: Kind) -> Vec<usize> {
        (0..self.keys.len()).filter(|at| kind_of(self.keys[*at].suite) == kind).collect()
    }

    fn pending(&self) -> impl Iterator<Item = (usize, Time)> {
        self.keys.iter().enumerate().filter_map(|(at, key)| match key.stage {
            KeyStage::Pending { until } => Some((at, until)),
            _ => None,
        })
    }

    fn pending_of(&self, kind: Kind, suite: Suite) -> Option<usize> {
        let is_it = |at: &usize| kind_of(self.keys[*at].suite) == kind && self.keys[*at].suite == suite;
        self.pending().map(|(at, _)| at).find(is_it)
    }

    fn has_room(&self, more: usize) -> bool {
        self.keys.iter().filter(|key| !key.is_erased).count() < MAX_KEYS + more
    }
}
