//! The verification keys of a task at one of its aggregators.
//!
//! # Decision: the oldest key is used until it is retired
//!
//! A verification key must be known to both aggregators before it is used, and chosen before the reports that it
//! verifies (DAP-18 section 4.5.3, security considerations). A leader therefore uses the oldest key that is not retired.
//! A new key is added to both aggregators in any order. Only when the leader retires the old key, the new one is used,
//! for reports of later times. Reports from before then are verified with the old key, which stays until no report can
//! need it. A helper that learned a key after a report was made refuses to verify that report with it.

use serde::{Deserialize, Serialize};

use crate::model::{Secret, Task, TaskId, Time};

/// The most usable verification keys of a task.
pub const MAX_VERIFY_KEYS: usize = 8;

/// The verification keys of a task, the oldest first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyKeys(Vec<KnownVerifyKey>);

/// A verification key of a task at one of its aggregators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownVerifyKey {
    id: u8,
    /// Empty once the key is deleted and no job needs it.
    key: Secret,
    /// When this aggregator learned the key; zero for the key that the task began with.
    since: Time,
    stage: VerifyKeyStage,
}

/// The stage of a verification key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum VerifyKeyStage {
    /// The key is used, or will be used after an older one.
    Active,
    /// The key verifies reports from before this time only.
    Retired {
        /// Since when.
        at: Time,
    },
    /// The key verifies no report. Its id is never used again.
    Deleted {
        /// Since when.
        at: Time,
    },
}

/// What an operator sees of a verification key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyKeyStatus {
    /// Identifies the key among those of the task.
    pub id: u8,
    /// When this aggregator learned the key; `None` for the key that the task began with.
    pub since: Option<Time>,
    /// The stage.
    #[serde(flatten)]
    pub stage: VerifyKeyStage,
    /// Whether a leader uses the key for reports that are made now.
    pub is_current: bool,
}

/// A request of the operator to change the verification keys of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyKeyChange {
    /// The task.
    pub task: TaskId,
    /// The change.
    pub change: VerifyKeyAction,
}

/// A change of the verification keys of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyKeyAction {
    /// Add a key.
    Add {
        /// Its id, which no key of the task ever had.
        id: u8,
        /// The key.
        key: Secret,
    },
    /// Use a key only for reports made until now.
    Retire {
        /// Its id.
        id: u8,
    },
    /// Use a key for no report any more.
    Delete {
        /// Its id.
        id: u8,
    },
}

/// Why the verification keys are not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyKeyError {
    /// The id was used before.
    #[error("the task has or had a verification key with the id {0}; choose another id")]
    Known(u8),
    /// The task has too many keys.
    #[error("the task has {MAX_VERIFY_KEYS} verification keys; retire one first")]
    TooMany,
    /// There is no such key.
    #[error("the task has no verification key with the id {0}; list them with 'dapbox task verify-key list'")]
    Unknown(u8),
    /// The key is retired.
    #[error("the verification key with the id {0} is retired already")]
    Retired(u8),
    /// There is no other key.
    #[error("the task has no other active verification key; add one with 'dapbox task verify-key add' first")]
    Last,
}

impl VerifyKeys {
    /// The key that a task begins with.
    pub fn of(task: &Task) -> Self {
        let (id, key) = (task.verify_key_id, task.verify_key.clone());
        Self(vec![KnownVerifyKey { id, key, since: Time(0), stage: VerifyKeyStage::Active }])
    }

    /// The key with this id, unless it was deleted.
    pub fn get(&self, id: u8) -> Option<&Secret> {
        self.0.iter().find(|known| known.id == id && !known.is_deleted()).map(|known| &known.key)
    }

    /// The key with this id for a job that was picked with it, even if the key was deleted since.
    pub fn of_job(&self, id: u8) -> Option<&Secret> {
        self.0.iter().find(|known| known.id == id && !known.key.expose().is_empty()).map(|known| &known.key)
    }

    /// The id of the key that a leader uses for reports of this time; `None` if it was deleted.
    pub fn for_report(&self, time: Time) -> Option<u8> {
        let known = self.0.iter().find(|known| known.end().is_none_or(|end| time < end))?;
        (!known.is_deleted()).then_some(known.id)
    }

    /// Whether a helper verifies reports of this time with the key. `latest` is the time of the report plus the allowed
    /// clock difference.
    pub fn accepts(&self, id: u8, latest: Time) -> bool {
        self.0.iter().any(|known| known.id == id && !known.is_deleted() && known.since <= latest)
    }

    /// What an operator sees.
    pub fn statuses(&self, now: Time) -> Vec<VerifyKeyStatus> {
        let current = self.for_report(now);
        let status = |known: &KnownVerifyKey| VerifyKeyStatus {
            id: known.id,
            since: Some(known.since).filter(|since| *since > Time(0)),
            stage: known.stage,
            is_current: current == Some(known.id),
        };
        self.0.iter().map(status).collect()
    }

    /// Applies a change.
    ///
    /// # Errors
    ///
    /// Refuses an id that was used before, too many keys, an unknown key, and to retire or delete the last active key.
    pub fn change(&mut self, action: VerifyKeyAction, now: Time) -> Result<(), VerifyKeyError> {
        match action {
            VerifyKeyAction::Add { id, key } => self.add(id, key, now),
            VerifyKeyAction::Retire { id } => match self.find(id)?.stage {
                VerifyKeyStage::Active => self.set_stage(id, VerifyKeyStage::Retired { at: now }),
                _ => Err(VerifyKeyError::Retired(id)),
            },
            VerifyKeyAction::Delete { id } => match self.find(id)?.stage {
                VerifyKeyStage::Active => self.set_stage(id, VerifyKeyStage::Deleted { at: now }),
                VerifyKeyStage::Retired { at } => self.set_stage(id, VerifyKeyStage::Deleted { at }),
                VerifyKeyStage::Deleted { .. } => Ok(()),
            },
        }
    }

    fn add(&mut self, id: u8, key: Secret, now: Time) -> Result<(), VerifyKeyError> {
        if self.0.iter().any(|known| known.id == id) {
            return Err(VerifyKeyError::Known(id));
        }
        if self.0.iter().filter(|known| !known.is_deleted()).count() >= MAX_VERIFY_KEYS {
            return Err(VerifyKeyError::TooMany);
        }
        self.0.push(KnownVerifyKey { id, key, since: now, stage: VerifyKeyStage::Active });
        Ok(())
    }

    fn find(&self, id: u8) -> Result<&KnownVerifyKey, VerifyKeyError> {
        self.0.iter().find(|known| known.id == id).ok_or(VerifyKeyError::Unknown(id))
    }

    fn set_stage(&mut self, id: u8, stage: VerifyKeyStage) -> Result<(), VerifyKeyError> {
        let is_other = |known: &&KnownVerifyKey| known.id != id && known.stage == VerifyKeyStage::Active;
        if !self.0.iter().any(|known| is_other(&known)) {
            return Err(VerifyKeyError::Last);
        }
        self.0.iter_mut().filter(|known| known.id == id).for_each(|known| known.stage = stage);
        Ok(())
    }

    /// Uses the key before this one for reports until `now`, because the helper does not have this one. Returns whether
    /// there is such a key.
    pub fn fall_back(&mut self, id: u8, now: Time) -> bool {
        let place = self.0.iter().position(|known| known.id == id).unwrap_or_default();
        let earlier = self.0[..place].iter_mut().rev().map(|known| &mut known.stage);
        for stage in earlier {
            if let VerifyKeyStage::Retired { at } = stage {
                *at = now.max(*at);
                return true;
            }
        }
        false
    }

    /// Deletes the keys that were retired before `horizon`, and empties deleted keys that `is_needed` does not name.
    /// Returns the ids of the deleted keys; `None` if nothing changes.
    pub fn sweep(&mut self, horizon: Time, is_needed: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
        let (mut deleted, mut is_changed) = (Vec::new(), false);
        for known in self.0.iter_mut().filter(|known| !is_needed(known.id)) {
            if let VerifyKeyStage::Retired { at } = known.stage
                && at <= horizon
            {
                known.stage = VerifyKeyStage::Deleted { at };
                deleted.push(known.id);
            }
            if known.is_deleted() && !known.key.expose().is_empty() {
                known.key = Secret::new(Vec::new());
                is_changed = true;
            }
        }
        is_changed.then_some(deleted)
    }
}

impl KnownVerifyKey {
    fn is_deleted(&self) -> bool {
        matches!(self.stage, VerifyKeyStage::Deleted { .. })
    }

    /// The time from which on reports use a later key.
    fn end(&self) -> Option<Time> {
        match self.stage {
            VerifyKeyStage::Active => None,
            VerifyKeyStage::Retired { at } | VerifyKeyStage::Deleted { at } => Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Secret {
        Secret::new(vec![n; 16])
    }

    fn with_second_key() -> VerifyKeys {
        let first = KnownVerifyKey { id: 7, key: key(7), since: Time(0), stage: VerifyKeyStage::Active };
        let mut keys = VerifyKeys(vec![first]);
        keys.change(VerifyKeyAction::Add { id: 8, key: key(8) }, Time(100)).unwrap();
        keys
    }

    #[test]
    fn uses_new_key_for_reports_made_after_retirement_of_old_one() {
        let mut keys = with_second_key();
        assert_eq!(keys.for_report(Time(500)), Some(7));
        keys.change(VerifyKeyAction::Retire { id: 7 }, Time(200)).unwrap();
        assert_eq!([199, 200].map(|time| keys.for_report(Time(time))), [Some(7), Some(8)]);
        assert!(keys.accepts(8, Time(100)) && !keys.accepts(8, Time(99)) && keys.accepts(7, Time(0)));
        assert!(keys.fall_back(8, Time(300)) && !keys.fall_back(7, Time(300)));
        assert_eq!([299, 300].map(|time| keys.for_report(Time(time))), [Some(7), Some(8)]);

        assert_eq!(keys.sweep(Time(299), |_| false), None);
        assert_eq!(keys.sweep(Time(300), |id| id == 7), None, "a job still needs it");
        assert_eq!(keys.sweep(Time(300), |_| false), Some(vec![7]));
        assert_eq!((keys.for_report(Time(299)), keys.get(7), keys.of_job(7)), (None, None, None));
        assert_eq!(keys.sweep(Time(900), |_| false), None, "the active key stays");
    }

    #[test]
    fn deleted_key_serves_jobs_in_flight_only() {
        let mut keys = with_second_key();
        keys.change(VerifyKeyAction::Delete { id: 7 }, Time(200)).unwrap();
        assert_eq!([199, 200].map(|time| keys.for_report(Time(time))), [None, Some(8)]);
        assert_eq!((keys.get(7), keys.of_job(7)), (None, Some(&key(7))));
        assert!(!keys.accepts(7, Time(500)) && !keys.fall_back(8, Time(300)));
        assert_eq!(keys.sweep(Time(0), |id| id == 7), None);
        assert_eq!((keys.sweep(Time(0), |_| false), keys.of_job(7)), (Some(vec![]), None));
    }

    #[test]
    fn refuses_reused_ids_and_loss_of_last_key() {
        use VerifyKeyAction::{Add, Delete, Retire};
        let mut keys = with_second_key();
        let mut change = |action| keys.change(action, Time(300));
        assert_eq!(change(Add { id: 7, key: key(1) }), Err(VerifyKeyError::Known(7)));
        assert_eq!(change(Retire { id: 9 }), Err(VerifyKeyError::Unknown(9)));
        change(Retire { id: 8 }).unwrap();
        assert_eq!(change(Retire { id: 8 }), Err(VerifyKeyError::Retired(8)));
        assert_eq!([change(Retire { id: 7 }), change(Delete { id: 7 })], [Err(VerifyKeyError::Last); 2]);
        change(Delete { id: 8 }).unwrap();
        assert_eq!(change(Add { id: 8, key: key(1) }), Err(VerifyKeyError::Known(8)));
        for id in 10..17 {
            change(Add { id, key: key(1) }).unwrap();
        }
        assert_eq!(change(Add { id: 17, key: key(1) }), Err(VerifyKeyError::TooMany));
    }
}
