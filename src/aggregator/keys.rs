//! Our HPKE key pairs: made, handed out, replaced, kept for what is sealed to them, and deleted.
//!
//! A key is *pending* first, so that a backup has it before anybody seals to it. Then it is *active*: clients are told of
//! it. When its successor is, it is *expired*, and still opens what comes: clients and caches keep keys for a while, and
//! reports wait. In the end it is *deleted*. `plan.rs` decides what happens when, as a function of the keys, the tasks, the
//! configuration and the clock; here it is carried out within one write.
//!
//! What is deleted leaves its id behind, so that no later key is taken for it (DAP-09 section 4.4.1: ids are not reused).

mod list;
mod plan;
mod policy;

use std::{collections::BTreeMap, sync::Arc};

use rand::seq::IteratorRandom;

use crate::views::keys::{KeyChange, ListedKey};
use dapbox_protocol::{
    hpke::{Keypair, Suite},
    model::{HpkeConfig, KeyState, Secret, Time},
};
use dapbox_store::{KeyRecord, KeyStage, Tx, View, WriteError};
use dapbox_support::Fault;

pub use plan::{KeyError, PlanStep, Request, plan};
pub use policy::{KeyRetention, Needs, Policy};

/// The key pairs that open reports.
#[derive(Default)]
pub struct KeyRing {
    pairs: BTreeMap<u8, Arc<Keypair>>,
    offered: Vec<HpkeConfig>,
}

impl KeyRing {
    /// The key pairs that were not deleted.
    pub fn load<'a>(records: impl IntoIterator<Item = &'a KeyRecord>) -> Result<Self, Fault> {
        Self::of(records, |record| !matches!(record.stage, KeyStage::Deleted { .. }))
    }

    /// All key pairs that there are, those included that were deleted and that requests may be left to be made again
    /// with: the leader repeats what the helper may have seen to the byte. Nothing else is to be opened with these.
    pub fn load_for_repeats<'a>(records: impl IntoIterator<Item = &'a KeyRecord>) -> Result<Self, Fault> {
        Self::of(records, |record| !is_erased(record))
    }

    fn of<'a>(
        records: impl IntoIterator<Item = &'a KeyRecord>,
        is_wanted: impl Fn(&KeyRecord) -> bool,
    ) -> Result<Self, Fault> {
        let mut ring = Self::default();
        for record in records.into_iter().filter(|record| is_wanted(record)) {
            let pair = Keypair::from_parts(record.config.clone(), record.private_key.clone())
                .map_err(|error| Fault::while_doing("reading an HPKE key pair from the store", error))?;
            ring.pairs.insert(record.config.id, Arc::new(pair));
            if matches!(record.stage, KeyStage::Active { .. }) {
                ring.offered.push(record.config.clone());
            }
        }
        // Clients that take the first that they know take what they always took.
        ring.offered.sort_by_key(|config| (Suite::of(config).is_post_quantum(), config.id));
        Ok(ring)
    }

    /// The key pair with the given configuration id.
    pub fn get(&self, id: u8) -> Option<&Keypair> {
        self.pairs.get(&id).map(Arc::as_ref)
    }

    /// What clients are told, in order of preference (DAP-09 section 4.4.1).
    pub fn configs(&self) -> Vec<HpkeConfig> {
        self.offered.clone()
    }
}

/// Does what is due at `now`, or what an operator wants as well, and says what changed. A refusal changes nothing.
pub fn change(
    tx: &mut Tx<'_>,
    now: Time,
    policy: &Policy,
    request: Request,
) -> Result<Vec<KeyChange>, WriteError<KeyError>> {
    let steps = plan(tx.keys(), &Needs::of(tx.tasks()), policy, now, request).map_err(WriteError::Refused)?;
    let mut changes = Vec::new();
    for step in steps {
        changes.extend(apply_step(tx, now, step)?);
    }
    Ok(changes)
}

/// Makes the keys of a new server, and of one whose configuration asks for others; and does what else is due.
pub fn begin(tx: &mut Tx<'_>, now: Time, policy: &Policy) -> Result<Vec<KeyChange>, Fault> {
    // The clock of a machine that has just started may be wrong, so that nothing is old yet.
    change(tx, now, policy, Request::Advance { settled: false }).map_err(|error| match error {
        WriteError::Refused(refusal) => Fault::while_doing("making HPKE keys", refusal),
        WriteError::Fault(fault) => fault,
    })
}

/// Whether [`change`] has something to do at `now`, even if nobody asks for it.
pub fn is_due(view: &View<'_>, now: Time, policy: &Policy, settled: bool) -> bool {
    let steps = plan(view.keys(), &Needs::of(view.tasks()), policy, now, Request::Advance { settled });
    steps.is_ok_and(|steps| !steps.is_empty())
}

/// Whether there are so many keys that no more are made but of necessity.
pub fn is_near_limit(view: &View<'_>) -> bool {
    view.keys().values().filter(|key| !is_erased(key)).count() >= plan::MAX_KEYS
}

/// When [`is_due`] is to be asked again, if nothing happens until then.
pub fn next(view: &View<'_>, now: Time, policy: &Policy) -> Option<Time> {
    plan::next(view.keys(), &Needs::of(view.tasks()), policy, now)
}

/// All keys that were not deleted, for operators.
pub fn listed(view: &View<'_>, now: Time, policy: &Policy) -> Vec<ListedKey> {
    list::list(view.keys(), &Needs::of(view.tasks()), policy, now)
}

fn apply_step(tx: &mut Tx<'_>, now: Time, step: PlanStep) -> Result<Option<KeyChange>, Fault> {
    match step {
        PlanStep::Make { suite, stage } => {
            let pair = Keypair::generate(free_id(tx)?, suite)
                .map_err(|error| Fault::while_doing("making an HPKE key pair", error))?;
            let (config, private_key) = (pair.config().clone(), pair.private_key().clone());
            let record = KeyRecord { config, private_key, created: now, stage };
            let change = changed(&record, None);
            tx.put_key(record)?;
            Ok(Some(change))
        }
        PlanStep::Move { id, stage } => {
            let Some(record) = tx.keys().get(&id).cloned() else { return Ok(None) };
            let before = state(&record.stage);
            let record = KeyRecord { stage, ..record };
            let change = changed(&record, before);
            tx.put_key(record)?;
            Ok((change.before != change.after).then_some(change))
        }
        PlanStep::Erase { id } => {
            let Some(record) = tx.keys().get(&id).cloned() else { return Ok(None) };
            tx.put_key(KeyRecord { private_key: Secret::new(Vec::new()), ..record })?;
            Ok(None)
        }
        PlanStep::Forget { id } => {
            tx.remove_key(id);
            Ok(None)
        }
    }
}

fn changed(record: &KeyRecord, before: Option<KeyState>) -> KeyChange {
    let until = match record.stage {
        KeyStage::Pending { until } => Some(until),
        _ => None,
    };
    let suite = Suite::of(&record.config).to_string();
    KeyChange { id: record.config.id, suite, before, after: state(&record.stage), until }
}

fn state(stage: &KeyStage) -> Option<KeyState> {
    match stage {
        KeyStage::Pending { .. } => Some(KeyState::Pending),
        KeyStage::Active { .. } => Some(KeyState::Active),
        KeyStage::Expired { .. } => Some(KeyState::Expired),
        KeyStage::Deleted { .. } => None,
    }
}

/// Whether nothing is left of a key but its id.
fn is_erased(record: &KeyRecord) -> bool {
    matches!(record.stage, KeyStage::Deleted { .. }) && record.private_key.expose().is_empty()
}

/// An id that no key has and none had lately.
///
/// It is random: an aggregator that was set up anew should not answer for its predecessor's key.
fn free_id(tx: &Tx<'_>) -> Result<u8, Fault> {
    let free = (0..=u8::MAX).filter(|id| !tx.keys().contains_key(id)).choose(&mut rand::rng());
    // The plan leaves some.
    free.ok_or_else(|| Fault::new("all 256 HPKE configuration ids are in use"))
}

#[cfg(test)]
mod tests;
