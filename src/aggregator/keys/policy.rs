//! The inputs of HPKE key rotation: the configuration and the needs of the tasks.

use crate::config::{Config, Seconds};
use dapbox_protocol::{
    hpke::Suite,
    model::{Duration, TaskId, Time},
};
use dapbox_store::TaskState;

/// The configuration of key rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The suite of the classical key, which every client supports.
    pub classical: Suite,
    /// The suite of the post-quantum key, if one is offered.
    pub post_quantum: Option<Suite>,
    /// How long a key stays active; `None` if keys are not rotated.
    pub rotate_every: Option<Duration>,
    /// How long a new key stays pending.
    pub pending: Duration,
    /// How long clients may use a key that is no longer offered: cache times plus clock difference.
    pub client_cache_time: Duration,
}

impl Policy {
    /// Takes the policy from the configuration.
    pub fn of(config: &Config) -> Self {
        let hpke = &config.hpke;
        let cached = whole_seconds(hpke.cache_max_age).0.saturating_mul(2);
        Self {
            classical: hpke.suite(),
            post_quantum: hpke.post_quantum_suite(),
            rotate_every: Some(whole_seconds(hpke.rotate_every)).filter(|every| every.0 > 0),
            pending: whole_seconds(hpke.pending_time),
            client_cache_time: Duration(cached.saturating_add(whole_seconds(config.limits.clock_skew).0)),
        }
    }
}

fn whole_seconds(span: Seconds) -> Duration {
    Duration(span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0)))
}

/// What the tasks need of expired keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// How long a report may wait.
    pub kept: KeyRetention,
    /// The creation time of the oldest running aggregation job (leader).
    pub oldest_job: Option<Time>,
}

/// How long a report of any task may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRetention {
    /// At most this long; then it is rejected or deleted.
    For(Duration),
    /// Forever: this task never deletes reports.
    While(TaskId),
}

impl Needs {
    /// Computes the needs of tasks.
    pub fn of<'a>(tasks: impl Iterator<Item = (&'a TaskId, &'a TaskState)>) -> Self {
        let mut needs = Self { kept: KeyRetention::For(Duration(0)), oldest_job: None };
        for (id, state) in tasks {
            needs.kept = match (needs.kept, state.task.report_expiry_age) {
                (KeyRetention::For(longest), Some(age)) => KeyRetention::For(longest.max(age)),
                (KeyRetention::For(_), None) => KeyRetention::While(*id),
                (forever, _) => forever,
            };
            let oldest = state.leader_jobs.values().map(|job| job.created).min();
            needs.oldest_job = [needs.oldest_job, oldest].into_iter().flatten().min();
        }
        needs
    }

    /// How long to keep a key that expired at `since`.
    ///
    /// A helper cannot know the last report sealed to a key. A client may have fetched the key just before, from a
    /// cache that kept it for the full cache time, and may keep it as long again. Then its report may wait.
    pub(super) fn end(&self, policy: &Policy, since: Time) -> Option<Time> {
        match self.kept {
            KeyRetention::For(longest) => Some(since.saturating_add(policy.client_cache_time).saturating_add(longest)),
            KeyRetention::While(_) => None,
        }
    }
}
