//! What HPKE key management depends on: the configuration and the tasks.

use crate::config::{Config, Seconds};
use dapbox_protocol::{
    hpke::Suite,
    model::{Duration, TaskId, Time},
};
use dapbox_store::TaskState;

/// What the configuration says about keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The suite of the keys that every client knows.
    pub classical: Suite,
    /// The suite of the keys that are offered beside them.
    pub post_quantum: Option<Suite>,
    /// How long a key is handed out, if it is replaced by itself.
    pub rotate_every: Option<Duration>,
    /// How long a new key is not handed out yet.
    pub pending: Duration,
    /// How long a client may have a key, from a cache, that is not handed out any more; and how far its clock may be ahead.
    pub client_cache_time: Duration,
}

impl Policy {
    /// What the configuration says.
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

/// What the tasks need of keys that are not handed out any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// How long a report may wait.
    pub kept: KeyRetention,
    /// When the oldest aggregation job was made that is under way (leader).
    pub oldest_job: Option<Time>,
}

/// How long a report may wait, in whatever task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRetention {
    /// So long; then it is refused, or forgotten.
    For(Duration),
    /// As long as this task exists, which never forgets a report.
    While(TaskId),
}

impl Needs {
    /// What these tasks need.
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

    /// Until when a key is kept that is not handed out any more since a time.
    ///
    /// A helper cannot know the last report that is sealed to a key. A client may have fetched it just before, from a cache
    /// that had kept it for as long as a cache may, and keep it for as long again; and then the report may wait.
    pub(super) fn end(&self, policy: &Policy, since: Time) -> Option<Time> {
        match self.kept {
            KeyRetention::For(longest) => Some(since.saturating_add(policy.client_cache_time).saturating_add(longest)),
            KeyRetention::While(_) => None,
        }
    }
}
