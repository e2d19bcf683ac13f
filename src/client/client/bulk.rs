//! Uploading many measurements at once: several reports in one request where the protocol has that, several requests
//! at the same time.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{AggregatorKeys, Client, ClientError, InFlight, Journal, make_report_with};
use dapbox_protocol::{
    model::{Report, ReportError, ReportId, Time},
    vdaf::Measurement,
    wire,
};
use dapbox_support::Fault;

/// A request of so many bytes gets no further report: larger ones would take memory and gain nothing.
const TARGET_REQUEST_BYTES: usize = 1 << 20;

/// Rows of a journal, in the order of their measurements.
struct JournalRows<'a> {
    journal: &'a Journal,
    numbers: Vec<u64>,
}

impl<'a> JournalRows<'a> {
    /// Those at some places.
    fn only(&self, indexes: &[usize]) -> JournalRows<'a> {
        let numbers = indexes.iter().filter_map(|index| self.numbers.get(*index)).copied().collect();
        JournalRows { journal: self.journal, numbers }
    }
}

/// What became of many measurements.
#[derive(Clone, Debug, Default)]
pub struct UploadSummary {
    /// How many the leader took.
    pub accepted: u64,
    /// How many were refused, by reason: the protocol's name for it where it has one.
    pub rejected: BTreeMap<String, u64>,
    /// The last refusal in words.
    pub last_rejection: Option<String>,
    /// What put an end to it before all were tried, if anything did: then no later measurement would have fared better.
    pub failure: Option<ClientError>,
}

impl UploadSummary {
    /// How many were refused, for whatever reason.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Counts what became of a measurement that was uploaded alone or with others.
    fn take(&mut self, result: &Result<ReportId, ClientError>, is_alone: bool) {
        match result {
            Ok(_) => self.accepted += 1,
            Err(error) if rejects_report(error, is_alone) => {
                *self.rejected.entry(error.reason()).or_default() += 1;
                self.last_rejection = Some(error.to_string());
            }
            Err(error) => self.failure = self.failure.take().or(Some(error.clone())),
        }
    }
}

/// Whether an error is about one report, and not about its request. Of several reports in a request that was refused as a
/// whole, it is unknown which one is meant.
pub fn rejects_report(error: &ClientError, is_alone: bool) -> bool {
    error.is_report_specific() && (is_alone || !matches!(error, ClientError::Upload(_)))
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
        mut progress: impl FnMut(&UploadSummary),
    ) -> UploadSummary {
        let rows = (0..).zip(measurements);
        self.upload_rows(rows, time, concurrency, None, |summary, _| progress(summary)).await
    }

    /// The same for measurements with numbers, such as the lines of a file. `observe` gets the outcome of each. `journal`
    /// has the reports before they are sent; `observe` settles them.
    pub async fn upload_rows(
        &self,
        rows: impl IntoIterator<Item = (u64, Measurement)>,
        time: Option<Time>,
        concurrency: usize,
        journal: Option<&Journal>,
        mut observe: impl FnMut(&UploadSummary, &[(u64, Result<ReportId, ClientError>)]),
    ) -> UploadSummary {
        let mut summary = UploadSummary::default();
        // Fetched once before, or each of the first uploads would fetch them.
        if let Err(error) = self.keys().await {
            summary.failure = Some(error);
            return summary;
        }
        let mut rows = rows.into_iter();
        let size = self.group_size(rows.size_hint().0, concurrency);
        let groups = std::iter::from_fn(|| {
            let (numbers, group): (Vec<u64>, Vec<Measurement>) = rows.by_ref().take(size).unzip();
            (!group.is_empty()).then_some((numbers, group))
        });
        let uploads = groups.map(async |(numbers, group)| {
            let rows = journal.map(|journal| JournalRows { journal, numbers: numbers.clone() });
            let results = self.upload_rows_together(Arc::from(group), time, rows.as_ref()).await;
            numbers.into_iter().zip(results).collect::<Vec<_>>()
        });
        let mut results = stream::iter(uploads).buffer_unordered(concurrency.max(1));
        while let Some(group) = results.next().await {
            let is_alone = group.len() == 1;
            group.iter().for_each(|(_, result)| summary.take(result, is_alone));
            observe(&summary, &group);
            if summary.failure.is_some() {
                break;
            }
        }
        summary
    }

    /// How many measurements go together. Few are spread over the requests that may be in flight, or they would wait
    /// for each other with nothing gained.
    fn group_size(&self, measurements: usize, concurrency: usize) -> usize {
        let most = wire::for_revision(self.task.revision).reports_per_upload().max(1);
        (measurements / concurrency.max(1)).clamp(1, most)
    }

    /// Uploads measurements together, made at `time` or now. Returns the outcome of each, in their order.
    pub(super) async fn upload_together(
        &self,
        measurements: Arc<[Measurement]>,
        time: Option<Time>,
    ) -> Vec<Result<ReportId, ClientError>> {
        self.upload_rows_together(measurements, time, None).await
    }

    /// The same for rows that a journal has. Those that were sealed to an outdated key are tried once more with what the
    /// aggregators have now (DAP-18 section 4.4.2).
    async fn upload_rows_together(
        &self,
        measurements: Arc<[Measurement]>,
        time: Option<Time>,
        rows: Option<&JournalRows<'_>>,
    ) -> Vec<Result<ReportId, ClientError>> {
        let time = time.unwrap_or_else(Time::now);
        let mut results = self.attempt(&measurements, time, rows).await;
        let is_outdated = |result: &Result<_, ClientError>| result.as_ref().is_err_and(ClientError::is_outdated);
        let outdated: Vec<_> = (0..results.len()).filter(|index| is_outdated(&results[*index])).collect();
        if !outdated.is_empty() {
            let again: Arc<[_]> = outdated.iter().map(|index| measurements[*index].clone()).collect();
            let rows = rows.map(|rows| rows.only(&outdated));
            for (index, result) in outdated.into_iter().zip(self.attempt(&again, time, rows.as_ref()).await) {
                results[index] = result;
            }
        }
        results
    }

    /// Makes reports of measurements and sends them, in as many requests as their size demands.
    async fn attempt(
        &self,
        measurements: &Arc<[Measurement]>,
        time: Time,
        rows: Option<&JournalRows<'_>>,
    ) -> Vec<Result<ReportId, ClientError>> {
        let mut results = Vec::with_capacity(measurements.len());
        while results.len() < measurements.len() {
            match self.attempt_request(measurements, results.len(), time, rows).await {
                Ok(some) => results.extend(some),
                // It is the same for all that are left.
                Err(error) => results.resize(measurements.len(), Err(error)),
            }
        }
        results
    }

    /// Makes and sends the reports of measurements from `first` on, as many as go into one request.
    async fn attempt_request(
        &self,
        measurements: &Arc<[Measurement]>,
        first: usize,
        time: Time,
        rows: Option<&JournalRows<'_>>,
    ) -> Result<Vec<Result<ReportId, ClientError>>, ClientError> {
        let keys = self.keys().await?;
        let made = self.make_reports(Arc::clone(measurements), first, time, keys.clone()).await?;
        let (mut reports, mut results) = (Vec::with_capacity(made.len()), Vec::with_capacity(made.len()));
        let mut sent = Vec::new();
        for (index, report) in made.into_iter().enumerate() {
            sent.extend(report.as_ref().ok().map(|_| first + index));
            results.push(report.as_ref().map(|report| report.metadata.id).map_err(Clone::clone));
            reports.extend(report);
        }
        if reports.is_empty() {
            return Ok(results);
        }
        if let Some(JournalRows { journal, numbers }) = rows.map(|rows| rows.only(&sent)) {
            let request = wire::for_revision(self.task.revision).encode_upload(&self.task, &reports);
            journal.record_sent(&numbers, &request).map_err(|e| Fault::while_doing("recording reports", e))?;
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

    /// Sends reports again whose outcome is not known, as they are: the outcome of each now.
    pub async fn resend(&self, sent: &InFlight) -> Result<Vec<Result<ReportId, ClientError>>, ClientError> {
        let wire = wire::for_revision(self.task.revision);
        let reports = wire.decode_upload(&self.task, &sent.request);
        let reports = reports.map_err(|e| Fault::while_doing("reading reports that were sent", e))?;
        let refused = match self.send(&reports).await {
            Ok(refused) => refused,
            Err(error) if rejects_report(&error, reports.len() == 1) || error.is_outdated() => {
                return Ok(reports.iter().map(|_| Err(error.clone())).collect());
            }
            Err(error) => return Err(error),
        };
        let outcome = |report: &Report| match refused.iter().find(|(id, _)| *id == report.metadata.id) {
            // It was taken the first time.
            None | Some((_, ReportError::ReportReplayed)) => Ok(report.metadata.id),
            Some((_, error)) => Err(ClientError::Refused(*error)),
        };
        Ok(reports.iter().map(outcome).collect())
    }

    /// Makes the reports for one request, on a thread for blocking work.
    async fn make_reports(
        &self,
        measurements: Arc<[Measurement]>,
        first: usize,
        time: Time,
        keys: AggregatorKeys,
    ) -> Result<Vec<Result<Report, ClientError>>, Fault> {
        let (task, preparer, extensions) = (self.task.clone(), Arc::clone(&self.preparer), self.extensions());
        let make = move || {
            let (mut made, mut size) = (Vec::new(), 0);
            for measurement in
                measurements.iter().skip(first).take(wire::for_revision(task.revision).reports_per_upload())
            {
                let report = make_report_with(&task, &*preparer, &keys, &extensions, measurement, time);
                size += report.as_ref().map_or(0, length);
                made.push(report);
                if size >= TARGET_REQUEST_BYTES {
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
