//! Bulk uploads: several reports per request if the revision allows it, several requests in parallel.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{AggregatorKeys, Client, ClientError, InFlight, Journal, make_report_with};
use dapbox_protocol::{
    model::{Report, ReportError, ReportId, Time},
    vdaf::Measurement,
    wire,
};
use dapbox_support::Fault;
use dapbox_support::clock;

/// A request of this size in bytes gets no further report. Larger requests use more memory without being faster.
const TARGET_REQUEST_BYTES: usize = 1 << 20;

/// Journal rows in the order of their measurements.
struct JournalRows<'a> {
    journal: &'a Journal,
    numbers: Vec<u64>,
}

impl<'a> JournalRows<'a> {
    /// The rows at these indexes.
    fn select(&self, indexes: &[usize]) -> JournalRows<'a> {
        let numbers = indexes.iter().filter_map(|index| self.numbers.get(*index)).copied().collect();
        JournalRows { journal: self.journal, numbers }
    }
}

/// Outcome of a bulk upload.
#[derive(Clone, Debug, Default)]
pub struct UploadSummary {
    /// Number of accepted measurements.
    pub accepted: u64,
    /// Number of rejected measurements by reason; the protocol's name if it has one.
    pub rejected: BTreeMap<String, u64>,
    /// Description of the last rejection.
    pub last_rejection: Option<String>,
    /// The error that stopped the upload early. It applies to all later measurements as well.
    pub failure: Option<ClientError>,
}

impl UploadSummary {
    /// Total number of rejected measurements.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Counts one outcome. `is_alone` is true if the request had no other report.
    fn record(&mut self, result: &Result<ReportId, ClientError>, is_alone: bool) {
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

/// Whether an error rejects one report rather than its request. If a request with several reports is rejected, the
/// faulty report is unknown.
pub fn rejects_report(error: &ClientError, is_alone: bool) -> bool {
    error.is_report_specific() && (is_alone || !matches!(error, ClientError::Upload(_)))
}

impl Client {
    /// Uploads measurements with up to `concurrency` parallel requests, each with several reports if the revision
    /// allows it.
    ///
    /// Calls `progress` after every request. Stops early if the aggregators are unreachable or do not know the task.
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

    /// Uploads numbered measurements, such as the lines of a file.
    ///
    /// Calls `observe` with the outcome of each row. Stores reports in `journal` before they are sent; `observe`
    /// settles them.
    pub async fn upload_rows(
        &self,
        rows: impl IntoIterator<Item = (u64, Measurement)>,
        time: Option<Time>,
        concurrency: usize,
        journal: Option<&Journal>,
        mut observe: impl FnMut(&UploadSummary, &[(u64, Result<ReportId, ClientError>)]),
    ) -> UploadSummary {
        let mut summary = UploadSummary::default();
        // Fill the cache first; otherwise each of the first uploads would fetch the keys.
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
            group.iter().for_each(|(_, result)| summary.record(result, is_alone));
            observe(&summary, &group);
            if summary.failure.is_some() {
                break;
            }
        }
        summary
    }

    /// Number of measurements per request. Few measurements are spread over the parallel requests.
    fn group_size(&self, measurements: usize, concurrency: usize) -> usize {
        let most = wire::for_revision(self.task.revision).reports_per_upload().max(1);
        (measurements / concurrency.max(1)).clamp(1, most)
    }

    /// Uploads measurements in one group, made at `time` or now. Returns their outcomes in order.
    pub(super) async fn upload_together(
        &self,
        measurements: Arc<[Measurement]>,
        time: Option<Time>,
    ) -> Vec<Result<ReportId, ClientError>> {
        self.upload_rows_together(measurements, time, None).await
    }

    /// Uploads the rows of a journal in one group. Reports with an outdated key are remade once with the current keys
    /// (DAP-18 section 4.4.2).
    async fn upload_rows_together(
        &self,
        measurements: Arc<[Measurement]>,
        time: Option<Time>,
        rows: Option<&JournalRows<'_>>,
    ) -> Vec<Result<ReportId, ClientError>> {
        let time = time.unwrap_or_else(clock::now);
        let mut results = self.attempt(&measurements, time, rows).await;
        let is_outdated = |result: &Result<_, ClientError>| result.as_ref().is_err_and(ClientError::is_outdated);
        let outdated: Vec<_> = (0..results.len()).filter(|index| is_outdated(&results[*index])).collect();
        if !outdated.is_empty() {
            let again: Arc<[_]> = outdated.iter().map(|index| measurements[*index].clone()).collect();
            let rows = rows.map(|rows| rows.select(&outdated));
            for (index, result) in outdated.into_iter().zip(self.attempt(&again, time, rows.as_ref()).await) {
                results[index] = result;
            }
        }
        results
    }

    /// Creates and sends reports, in as many requests as their size requires.
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
                // The error applies to all remaining measurements.
                Err(error) => results.resize(measurements.len(), Err(error)),
            }
        }
        results
    }

    /// Creates and sends the reports of one request, for the measurements from `first` on.
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
        if let Some(JournalRows { journal, numbers }) = rows.map(|rows| rows.select(&sent)) {
            let request = wire::for_revision(self.task.revision).encode_upload(&self.task, &reports);
            journal.record_sent(&numbers, &request).map_err(|e| Fault::while_doing("storing reports in flight", e))?;
        }
        let refused = match self.send(&reports).await {
            Err(error) if error.is_outdated() => {
                self.invalidate_keys(&keys);
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
            self.invalidate_keys(&keys);
        }
        Ok(results)
    }

    /// Sends reports with an unknown outcome again, unchanged. Returns the outcome of each.
    pub async fn resend(&self, sent: &InFlight) -> Result<Vec<Result<ReportId, ClientError>>, ClientError> {
        let wire = wire::for_revision(self.task.revision);
        let reports = wire.decode_upload(&self.task, &sent.request);
        let reports = reports.map_err(|e| Fault::while_doing("decoding reports in flight", e))?;
        let refused = match self.send(&reports).await {
            Ok(refused) => refused,
            Err(error) if rejects_report(&error, reports.len() == 1) || error.is_outdated() => {
                return Ok(reports.iter().map(|_| Err(error.clone())).collect());
            }
            Err(error) => return Err(error),
        };
        let outcome = |report: &Report| match refused.iter().find(|(id, _)| *id == report.metadata.id) {
            // The first attempt was accepted.
            None | Some((_, ReportError::ReportReplayed)) => Ok(report.metadata.id),
            Some((_, error)) => Err(ClientError::Refused(*error)),
        };
        Ok(reports.iter().map(outcome).collect())
    }

    /// Creates the reports of one request, on a blocking thread.
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
        tokio::task::spawn_blocking(make).await.map_err(|e| Fault::while_doing("creating reports", e))
    }
}

/// Approximate length of a report in bytes.
fn length(report: &Report) -> usize {
    report.public_share.len() + report.leader_share.payload.len() + report.helper_share.payload.len()
}
