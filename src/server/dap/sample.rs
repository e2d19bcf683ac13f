//! Opening a sample of uploaded reports before they are stored, so that a client learns that its reports cannot be
//! aggregated (`leader.upload_sample_ratio`).
//!
//! A sample is a service and never in the way: it takes workers that have nothing else to do, few at once, for a short time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::Rng;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::app::App;
use dapbox_aggregator::{
    TaskContext,
    upload::{Sampled, try_share},
};
use dapbox_protocol::model::{Report, TaskId};

/// Samples that are opened at once.
const MOST: usize = 2;

/// How long an upload waits for its sample. After that it is stored unseen.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which reports are opened at upload.
pub struct Sampler {
    places: Semaphore,
    /// The keys of tasks that a report was sealed to as it should.
    good: Mutex<HashSet<(TaskId, u8)>>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { places: Semaphore::new(MOST), good: Mutex::default() }
    }
}

impl Sampler {
    /// Forgets a task.
    pub fn forget(&self, task: &TaskId) {
        self.lock().retain(|(id, _)| id != task);
    }

    /// A place to open a sample, if there is one and `ratio` asks for samples.
    fn place(&self, ratio: u32) -> Option<SemaphorePermit<'_>> {
        if ratio == 0 { None } else { self.places.try_acquire().ok() }
    }

    /// The reports of a sample: one for each key that none was good for yet, and one in `ratio` of the others.
    fn choose(&self, task: TaskId, ratio: u32, reports: &[Report]) -> Vec<Report> {
        let (good, mut new) = (self.lock(), HashSet::new());
        let mut is_chosen = |report: &&Report| {
            let key = report.leader_share.config_id;
            (!good.contains(&(task, key)) && new.insert(key)) || rand::rng().random_ratio(1, ratio)
        };
        reports.iter().filter(|report| is_chosen(report)).cloned().collect()
    }

    fn note_good(&self, keys: impl Iterator<Item = (TaskId, u8)>) {
        self.lock().extend(keys);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(TaskId, u8)>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a sample of the reports. Returns those that cannot be aggregated.
pub async fn take(app: &Arc<App>, context: &Arc<TaskContext>, reports: &[Report]) -> Sampled {
    try_take(app, context, reports).await.unwrap_or_default()
}

async fn try_take(app: &Arc<App>, context: &Arc<TaskContext>, reports: &[Report]) -> Option<Sampled> {
    let ratio = app.config.leader.upload_sample_ratio;
    let task = context.task.public.id;
    if app.pool.is_busy() {
        return None;
    }
    let _place = app.sampler.place(ratio)?;
    let ring = app.keys.ring();
    let mut sample = app.sampler.choose(task, ratio, reports);
    // What is sealed to another key is refused anyway.
    sample.retain(|report| ring.get(report.leader_share.config_id).is_some());
    if sample.is_empty() {
        return None;
    }
    let permit = app.pool.try_admit(&task)?;
    let shared = context.clone();
    let open = move || {
        let keyed = |report: Report| {
            let (id, key) = (report.metadata.id, report.leader_share.config_id);
            (id, key, try_share(&shared, &ring, report))
        };
        sample.into_iter().map(keyed).collect::<Vec<_>>()
    };
    let opened = tokio::time::timeout(PATIENCE, app.pool.run(&permit, open)).await.ok()?.ok()?;
    app.sampler.note_good(opened.iter().filter(|(_, _, tried)| tried.is_ok()).map(|(_, key, _)| (task, *key)));
    Some(opened.into_iter().filter_map(|(id, _, tried)| Some((id, tried.err()?))).collect())
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
    fn chooses_one_report_of_each_key_until_one_is_good() {
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
    fn opens_few_samples_at_once_and_none_without_a_ratio() {
        let sampler = Sampler::default();
        assert!(sampler.place(0).is_none());
        let held: Vec<_> = (0..MOST).map(|_| sampler.place(1).unwrap()).collect();
        assert!(sampler.place(1).is_none());
        drop(held);
        assert!(sampler.place(1).is_some());
    }
}
