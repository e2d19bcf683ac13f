//! The choice of uploaded reports that are opened before they are stored.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use rand::Rng;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::shared::task_cache::ForgetTask;
use dapbox_protocol::model::{Report, TaskId};

/// Maximum number of concurrent samples.
const MAX_CONCURRENT_SAMPLES: usize = 2;

/// Chooses the reports that are opened at upload, and limits the concurrent samples.
pub struct Sampler {
    permits: Semaphore,
    /// Pairs of task and HPKE key for which a report could be opened.
    good: Mutex<HashSet<(TaskId, u8)>>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { permits: Semaphore::new(MAX_CONCURRENT_SAMPLES), good: Mutex::default() }
    }
}

impl Sampler {
    /// Takes one of the permits for samples, if one is free and `ratio` enables sampling.
    pub fn try_acquire(&self, ratio: u32) -> Option<SemaphorePermit<'_>> {
        if ratio == 0 { None } else { self.permits.try_acquire().ok() }
    }

    /// Chooses the reports of a sample: one for each key without a successful open, and one in `ratio` of the others.
    pub fn choose(&self, task: TaskId, ratio: u32, reports: &[Report]) -> Vec<Report> {
        let (good, mut new) = (self.lock(), HashSet::new());
        let mut is_chosen = |report: &&Report| {
            let key = report.leader_share.config_id;
            (!good.contains(&(task, key)) && new.insert(key)) || rand::rng().random_ratio(1, ratio)
        };
        reports.iter().filter(|report| is_chosen(report)).cloned().collect()
    }

    /// Records keys for which a report could be opened.
    pub fn note_good(&self, keys: impl Iterator<Item = (TaskId, u8)>) {
        self.lock().extend(keys);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(TaskId, u8)>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ForgetTask for Sampler {
    fn forget(&self, task: &TaskId) {
        self.lock().retain(|(id, _)| id != task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::model::{HpkeCiphertext, ReportId, ReportMetadata, Time};

    fn report(config_id: u8) -> Report {
        let sealed = HpkeCiphertext { config_id, enc: "e".into(), payload: "p".into() };
        let metadata = ReportMetadata { id: ReportId::random(), time: Time(0) };
        let (leader_share, helper_share) = (sealed.clone(), sealed);
        Report { metadata, extensions: Vec::new(), public_share: "".into(), leader_share, helper_share }
    }

    #[test]
    fn samples_each_key_until_one_report_opens() {
        let (sampler, task) = (Sampler::default(), TaskId::new([1; 32]));
        let reports = [7, 7, 8, 7].map(report);
        let chosen = |sampler: &Sampler, task| {
            let keys = sampler.choose(task, u32::MAX, &reports);
            keys.iter().map(|report| report.leader_share.config_id).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&sampler, task), [7, 8]);
        sampler.note_good([(task, 7)].into_iter());
        assert_eq!(chosen(&sampler, task), [8]);
        assert_eq!(chosen(&sampler, TaskId::new([2; 32])), [7, 8], "of another task");
        assert_eq!(sampler.choose(task, 1, &reports).len(), 4, "one in one");
        sampler.forget(&task);
        assert_eq!(chosen(&sampler, task), [7, 8]);
    }

    #[test]
    fn limits_concurrent_samples() {
        let sampler = Sampler::default();
        assert!(sampler.try_acquire(0).is_none());
        let held: Vec<_> = (0..MAX_CONCURRENT_SAMPLES).map(|_| sampler.try_acquire(1).unwrap()).collect();
        assert!(sampler.try_acquire(1).is_none());
        drop(held);
        assert!(sampler.try_acquire(1).is_some());
    }
}
