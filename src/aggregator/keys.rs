//! The HPKE key pairs of this server and their rotation.
//!
//! A new key is *pending*, so that a backup contains it before any report is sealed to it. Then it is *active*: clients
//! receive it. Once its successor is active it is *expired*, but still opens reports, because clients and caches keep
//! keys and reports wait. Finally it is *deleted*. `plan.rs` plans the changes; this file applies them within one
//! write.
//!
//! A deleted key keeps its id reserved for a while, so that no later key is mistaken for it (DAP-09 section 4.4.1: ids
//! are not reused).

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
    /// Loads the key pairs that are not deleted.
    pub fn load<'a>(records: impl IntoIterator<Item = &'a KeyRecord>) -> Result<Self, Fault> {
        Self::of(records, |record| !matches!(record.stage, KeyStage::Deleted { .. }))
    }

    /// Loads all key pairs, including deleted ones whose requests may have to be rebuilt: a leader repeats a request to
    /// the byte. Deleted keys must open nothing else.
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
        // Clients that take the first known key get the classical one.
        ring.offered.sort_by_key(|config| (Suite::of(config).is_post_quantum(), config.id));
        Ok(ring)
    }

    /// The key pair with the given configuration id.
    pub fn get(&self, id: u8) -> Option<&Keypair> {
        self.pairs.get(&id).map(Arc::as_ref)
    }

    /// The configurations for clients, in order of preference (DAP-09 section 4.4.1).
    pub fn configs(&self) -> Vec<HpkeConfig> {
        self.offered.clone()
    }
}

/// Applies what is due at `now` or what an operator requests. Returns the changes. A refusal changes nothing.
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

/// Creates the keys of a new server, or of a changed configuration, and applies what else is due.
pub fn begin(tx: &mut Tx<'_>, now: Time, policy: &Policy) -> Result<Vec<KeyChange>, Fault> {
    // The clock may be wrong right after boot, so no age is trusted yet.
    change(tx, now, policy, Request::Advance { settled: false }).map_err(|error| match error {
        WriteError::Refused(refusal) => Fault::while_doing("creating HPKE keys", refusal),
        WriteError::Fault(fault) => fault,
    })
}

/// Whether [`change`] has work at `now` without a request.
pub fn is_due(view: &View<'_>, now: Time, policy: &Policy, settled: bool) -> bool {
    let steps = plan(view.keys(), &Needs::of(view.tasks()), policy, now, Request::Advance { settled });
    steps.is_ok_and(|steps| !steps.is_empty())
}

/// Whether there are enough keys that new ones are only created when necessary.
pub fn is_near_limit(view: &View<'_>) -> bool {
    view.keys().values().filter(|key| !is_erased(key)).count() >= plan::MAX_KEYS
}

/// When [`is_due`] should be checked next.
pub fn next(view: &View<'_>, now: Time, policy: &Policy) -> Option<Time> {
    plan::next(view.keys(), &Needs::of(view.tasks()), policy, now)
}

/// Lists all keys that are not deleted, for operators.
pub fn listed(view: &View<'_>, now: Time, policy: &Policy) -> Vec<ListedKey> {
    list::list(view.keys(), &Needs::of(view.tasks()), policy, now)
}

fn apply_step(tx: &mut Tx<'_>, now: Time, step: PlanStep) -> Result<Option<KeyChange>, Fault> {
    match step {
        PlanStep::Make { suite, stage } => {
            let pair = Keypair::generate(free_id(tx)?, suite)
                .map_err(|error| Fault::while_doing("creating an HPKE key pair", error))?;
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

/// Whether only the id of a key is left.
fn is_erased(record: &KeyRecord) -> bool {
    matches!(record.stage, KeyStage::Deleted { .. }) && record.private_key.expose().is_empty()
}

/// A random id that no key has or recently had. A server that was set up anew should not be mistaken for its
/// predecessor.
fn free_id(tx: &Tx<'_>) -> Result<u8, Fault> {
    let free = (0..=u8::MAX).filter(|id| !tx.keys().contains_key(id)).choose(&mut rand::rng());
    // The plan keeps ids free.
    free.ok_or_else(|| Fault::new("all 256 HPKE configuration ids are in use"))
}

#[cfg(test)]
mod tests;
