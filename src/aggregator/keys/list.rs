//! The list of HPKE keys for operators.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    policy::{KeyRetention, Needs, Policy},
    state,
};
use crate::views::{keys::ListedKey, overview::KeyStatus};
use dapbox_protocol::{
    hpke::Suite,
    model::{Duration, KeyState, Time},
};
use dapbox_store::{KeyRecord, KeyStage};

/// Lists the keys that are not deleted: active ones in order of preference, then pending ones, then expired ones,
/// newest first.
pub fn list(keys: &BTreeMap<u8, KeyRecord>, needs: &Needs, policy: &Policy, now: Time) -> Vec<ListedKey> {
    let listed = keys.values().filter_map(|key| {
        let state = state(&key.stage)?;
        let suite = Suite::of(&key.config);
        let (until, kept_by) = match key.stage {
            KeyStage::Pending { until } => (Some(until), None),
            KeyStage::Active { since } => (replaced(keys, policy, suite, since), None),
            KeyStage::Expired { since } => match needs.kept {
                KeyRetention::For(_) => (needs.end(policy, since), None),
                KeyRetention::While(task) => (None, Some(task)),
            },
            KeyStage::Deleted { .. } => return None,
        };
        let status = KeyStatus { id: key.config.id, suite: suite.to_string(), state, created: key.created, until };
        let rank = match state {
            KeyState::Active => 0,
            KeyState::Pending => 1,
            KeyState::Expired => 2,
        };
        let age = Duration(now.0.saturating_sub(key.created.0));
        let order = (rank, suite.is_post_quantum() && rank < 2, Reverse(key.created), key.config.id);
        Some((order, ListedKey { status, age, kept_by }))
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort_by_key(|(order, _)| *order);
    listed.into_iter().map(|(_, key)| key).collect()
}

/// When an active key is rotated.
fn replaced(keys: &BTreeMap<u8, KeyRecord>, policy: &Policy, suite: Suite, since: Time) -> Option<Time> {
    let successor = keys.values().filter_map(|key| match key.stage {
        KeyStage::Pending { until } if Suite::of(&key.config).is_post_quantum() == suite.is_post_quantum() => {
            Some(until)
        }
        _ => None,
    });
    successor.min().or_else(|| policy.rotate_every.map(|every| since.saturating_add(every)))
}
