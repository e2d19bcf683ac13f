//! Uploading many measurements at once: several reports in one request where the protocol has that, several requests
//! at the same time.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{AggregatorKeys, Client, ClientError, make_report_with};
use crate::{
    model::{Fault, Report, ReportId, Time},
    vdaf::Measurement,
    wire,
};

/// A request of so many bytes gets no further report: larger ones would take memory and gain nothing.
const FULL_REQUEST: usize = 1 << 20;

/// What became of many measurements.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many the leader took.
    pub accepted: u64,
    /// How many were refused, by reason: the protocol's name for it where it has one.
    pub rejected: BTreeMap<String, u64>,
    /// The last refusal in words.
    pub last_rejection: Option<String>,
    /// What put an end to it before all were tried, if anything did: then no later measurement would have fared better.
    pub failure: Option<ClientError>,
}

impl Summary {
    /// How many were refused, for whatever reason.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Counts what became of a measurement that was uploaded alone or with others.
    fn take(&mut self, result: Result<ReportId, ClientError>, is_alone: bool) {
        match result {
            Ok(_) => self.accepted += 1,
            // Of several reports in a request that was refused as a whole, nobody knows which one it is about.
            Err(error) if error.is_about_the_report() && (is_alone || !matches!(error, ClientError::Upload(_))) => {
                *self.rejected.entry(error.reason()).or_default() += 1;
                self.last_rejection = Some(error.to_string());
            }
            Err(error) => self.failure = self.failure.take().or(Some(error)),
        }
    }
}

impl Client {
    /// Uploads measurements in requests of several where the protocol allows that, `concurrency` requests at once.
    /// `progress` is told after every one. Stops early when the aggregators cannot be reached or the task is not known
    /// there.
    pub async fn upload_many(
        &self,
        measurements: impl IntoIterator<Item = Measurement>,
        time: Option<Time>,
        concurrency: usize,
        mut progress: impl FnMut(&Summary),
    ) -> Summary {
        let mut summary = Summary::default();
        // Fetched once before, or each of the first uploads would fetch them.
        if let Err(error) = self.keys().await {
            summary.failure = Some(error);
            return summary;
        }
        let mut measurements = measurements.into_iter();
        let size = self.group_size(measurements.size_hint().0, concurrency);
        let groups = std::iter::from_fn(|| {
            let group: Arc<[Measurement]> = measurements.by_ref().take(size).collect();
            (!group.is_empty()).then_some(group)
        });
        let uploads = groups.map(|group| self.upload_together(group, time));
        let mut results = stream::iter(uploads).buffer_unordered(concurrency.max(1));
        while let Some(group) = results.next().await {
            let is_alone = group.len() == 1;
            group.into_iter().for_each(|result| summary.take(result, is_alone));
            progress(&summary);
            if summary.failure.is_some() {
                break;
            }
        }
        summary
    }

    /// How many measurements go together. Few are spread over the requests that may be in flight, or they would wait
    /// for each other with nothing gained.
    fn group_size(&self, measurements: usize, concurrency: usize) -> usize {
        let most = wire::of(self.task.revision).reports_per_upload().max(1);
        (measurements / concurrency.max(1)).clamp(1, most)
    }

    /// Uploads measurements together, made at `time` or now: what became of each, in their order. Those that were sealed
    /// to an outdated key are tried once more with what the aggregators have now (DAP-18 section 4.4.2).
    pub(super) async fn upload_together(
        &self,
        measurements: Arc<[Measurement]>,
        time: Option<Time>,
    ) -> Vec<Result<ReportId, ClientError>> {
        let time = time.unwrap_or_else(Time::now);
        let mut results = self.attempt(&measurements, time).await;
        let is_outdated = |result: &Result<_, ClientError>| result.as_ref().is_err_and(ClientError::is_outdated);
        let outdated: Vec<_> = (0..results.len()).filter(|index| is_outdated(&results[*index])).collect();
        if !outdated.is_empty() {
            let again: Arc<[_]> = outdated.iter().map(|index| measurements[*index].clone()).collect();
            for (index, result) in outdated.into_iter().zip(self.attempt(&again, time).await) {
                results[index] = result;
            }
        }
        results
    }

    /// Makes reports of measurements and sends them, in as many requests as their size demands.
    async fn attempt(&self, measurements: &Arc<[Measurement]>, time: Time) -> Vec<Result<ReportId, ClientError>> {
        let mut results = Vec::with_capacity(measurements.len());
        while results.len() < measurements.len() {
            match self.attempt_some(measurements, results.len(), time).await {
                Ok(some) => results.extend(some),
                // It is the same for all that are left.
                Err(error) => results.resize(measurements.len(), Err(error)),
            }
        }
        results
    }

    /// Makes and sends the reports of measurements from `first` on, as many as go into one request.
    async fn attempt_some(
        &self,
        measurements: &Arc<[Measurement]>,
        first: usize,
        time: Time,
    ) -> Result<Vec<Result<ReportId, ClientError>>, ClientError> {
        let keys = self.keys().await?;
        let made = self.make_some(Arc::clone(measurements), first, time, keys.clone()).await?;
        let (mut reports, mut results) = (Vec::with_capacity(made.len()), Vec::with_capacity(made.len()));
        for report in made {
            results.push(report.as_ref().map(|report| report.metadata.id).map_err(Clone::clone));
            reports.extend(report);
        }
        if reports.is_empty() {
            return Ok(results);
        }
        let refused = match self.send(&reports).await {
            Err(error) if error.is_outdated() => {
                self.forget(&keys);
                return Err(error);
            }
            refused => refused?,
        };
        for result in &mut results {
            if let Some((_, error)) = refused.iter().find(|(id, _)| result.as_ref().is_ok_and(|sent| sent == id)) {
                *result = Err(ClientError::Refused(*error));
            }
        }
        if results.iter().any(|result| result.as_ref().is_err_and(ClientError::is_outdated)) {
            self.forget(&keys);
        }
        Ok(results)
    }

    /// Makes the reports for one request, on a thread for blocking work.
    async fn make_some(
        &self,
        measurements: Arc<[Measurement]>,
        first: usize,
        time: Time,
        keys: AggregatorKeys,
    ) -> Result<Vec<Result<Report, ClientError>>, Fault> {
        let (task, preparer, extensions) = (self.task.clone(), Arc::clone(&self.preparer), self.extensions());
        let make = move || {
            let (mut made, mut size) = (Vec::new(), 0);
            for measurement in measurements.iter().skip(first).take(wire::of(task.revision).reports_per_upload()) {
                let report = make_report_with(&task, &*preparer, &keys, &extensions, measurement, time);
                size += report.as_ref().map_or(0, length);
                made.push(report);
                if size >= FULL_REQUEST {
                    break;
                }
            }
            made
        };
        tokio::task::spawn_blocking(make).await.map_err(|e| Fault::while_doing("making reports", e))
    }
}

/// About how many bytes a report takes.
fn length(report: &Report) -> usize {
    report.public_share.len() + report.leader_share.payload.len() + report.helper_share.payload.len()
}
