//! Limits of a helper's aggregation job: its memory, and the batch buckets that it opens.

use std::collections::BTreeSet;

use crate::{TaskContext, config::Limits, shares::bucket_of};
use dapbox_protocol::model::{AggregationJobInitReq, Bucket, Duration, ReportError, TaskId};
use dapbox_store::TaskState;

/// The approximate bytes per report besides its request: its decoded form and its part of the answer.
const REPORT_OVERHEAD_BYTES: usize = 1024;

/// How many copies of each bucket's sum are in memory when a job is stored: decoded, encoded, and in the commit.
pub(crate) const SUM_COPIES: usize = 3;

/// The memory of a job besides its request. It follows from the times of the reports, before anything is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobMemory {
    reports: usize,
    buckets: usize,
    sum_bytes: usize,
}

impl JobMemory {
    /// Computes the memory for a request.
    pub fn of(context: &TaskContext, init: &AggregationJobInitReq) -> Self {
        let buckets: BTreeSet<Bucket> =
            init.prepare_inits.iter().map(|each| bucket_of(&context.task, init.batch, &each.share.metadata)).collect();
        let (reports, buckets) = (init.prepare_inits.len(), buckets.len());
        Self { reports, buckets, sum_bytes: context.preparer.aggregate_share_bytes() }
    }

    /// The minimum memory of the job, in bytes.
    pub fn min_bytes(&self) -> usize {
        self.bytes(SUM_COPIES * self.buckets)
    }

    /// The memory of the job, in bytes, if all reports are prepared in one pass of up to `chunks` parallel parts. Each
    /// part has its own sums.
    pub fn preferred_bytes(&self, chunks: usize) -> usize {
        let of_parts = self.reports.min(self.buckets.saturating_mul(chunks));
        self.bytes((SUM_COPIES * self.buckets).max(self.buckets + of_parts))
    }

    /// Whether the job fits into `most` bytes. A job of one report always fits, because it cannot be smaller.
    pub fn fits(&self, most: usize) -> bool {
        self.reports <= 1 || self.min_bytes() <= most
    }

    /// How many reports to prepare per pass with `bytes` of memory, in up to `chunks` parallel parts, so that the sums
    /// of the parts fit besides those of the job.
    pub fn reports_per_pass(&self, bytes: usize, chunks: usize) -> usize {
        let sums = bytes.saturating_sub(self.reports * REPORT_OVERHEAD_BYTES) / self.sum_bytes.max(1);
        let of_parts = sums.saturating_sub(self.buckets);
        let all_parts = self.buckets.saturating_mul(chunks);
        if all_parts <= of_parts { self.reports.max(1) } else { of_parts.max(1) }
    }

    fn bytes(&self, sums: usize) -> usize {
        (self.reports * REPORT_OVERHEAD_BYTES).saturating_add(sums.saturating_mul(self.sum_bytes))
    }
}

/// Limits for the reports of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How far ahead of our clock a report's time may be, in seconds.
    pub clock_skew: Duration,
    /// The most open batch buckets of a task.
    pub max_open_buckets: usize,
}

impl Bounds {
    /// Takes the limits from the configuration. A helper allows twice as many open buckets as a leader: it learns later
    /// that a batch is collected, and reports that it rejects are lost.
    pub fn of(limits: &Limits) -> Self {
        let max_open_buckets = limits.max_open_buckets.saturating_mul(2);
        Self { clock_skew: Duration(limits.clock_skew.as_secs()), max_open_buckets }
    }
}

/// Counts the batch buckets that a job would open.
pub(super) struct BucketLimiter {
    most: usize,
    new: BTreeSet<Bucket>,
    /// The number of rejected reports or sums.
    refused: usize,
}

impl BucketLimiter {
    pub(super) fn new(most: usize) -> Self {
        Self { most, new: BTreeSet::new(), refused: 0 }
    }

    /// Rejects a report whose bucket would exceed the limit. The leader drops such a report too, so both aggregators
    /// agree.
    pub(super) fn admit(&mut self, state: &TaskState, bucket: Bucket) -> Result<(), ReportError> {
        if state.is_open(&bucket) || self.new.contains(&bucket) {
            return Ok(());
        }
        if state.open_buckets() + self.new.len() >= self.most {
            self.refused += 1;
            return Err(ReportError::ReportDropped);
        }
        self.new.insert(bucket);
        Ok(())
    }

    /// Logs the rejected reports, which the other aggregator sees as dropped.
    pub(super) fn log(&self, task: &TaskId) {
        if self.refused > 0 {
            let (max_open_buckets, refused) = (self.most, self.refused);
            tracing::warn!(task_id = %task, max_open_buckets, report_count = refused, "reports rejected: too many open batch buckets");
        }
    }
}
