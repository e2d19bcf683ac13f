//! Report shares: opens them, checks their content, and adds output shares to batch buckets.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;

use super::{KeyRing, TaskContext};
use dapbox_protocol::{
    model::{
        Bucket, Checksum, Extension, HpkeCiphertext, PartialBatchSelector, ReportError, ReportId, ReportMetadata, Task,
        Time,
    },
    vdaf::{AggregateShare, OutputShare, Preparer},
};

/// Opens the input shares of one task.
pub struct InputShareOpener<'a> {
    context: &'a TaskContext,
    keys: &'a KeyRing,
    info: Vec<u8>,
}

impl<'a> InputShareOpener<'a> {
    /// Creates an opener for a task with our keys.
    pub fn new(context: &'a TaskContext, keys: &'a KeyRing) -> Self {
        Self { context, keys, info: context.wire.input_share_info(context.role()) }
    }

    /// Decrypts our share of a report and checks its extensions (DAP-09 sections 4.5.1.3 and 4.5.1.4, DAP-18 sections
    /// 4.5.3.3 and 4.5.3.4). Returns the VDAF's encoded input share.
    pub fn open(
        &self,
        metadata: &ReportMetadata,
        extensions: &[Extension],
        public_share: &[u8],
        sealed: &HpkeCiphertext,
    ) -> Result<Bytes, ReportError> {
        let keypair = self.keys.get(sealed.config_id).ok_or(ReportError::HpkeUnknownConfigId)?;
        let aad = self.context.wire.input_share_aad(&self.context.task.public, metadata, extensions, public_share);
        let opened = keypair.open(&self.info, &aad, sealed).map_err(|_| ReportError::HpkeDecryptError)?;
        let plaintext =
            self.context.wire.decode_plaintext(&Bytes::from(opened)).map_err(|_| ReportError::InvalidMessage)?;
        // No public extension is known.
        if !extensions.is_empty() || !self.context.has_valid_extensions(&plaintext.extensions) {
            return Err(ReportError::InvalidMessage);
        }
        Ok(plaintext.payload)
    }
}

/// Processes one report and turns a panic into a rejection of this report, so that a hostile report cannot end its job.
pub fn catch_panic<T>(
    metadata: &ReportMetadata,
    work: impl FnOnce() -> Result<T, ReportError>,
) -> Result<T, ReportError> {
    // The state of the closure is dropped after a panic.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!("report preparation panicked");
        tracing::debug!(report_id = %metadata.id, "panicked report");
        Err(ReportError::VdafPrepError)
    })
}

/// The reports of a job in one batch bucket.
pub struct BucketAccumulator {
    /// The reports, in the order of the job.
    pub reports: Vec<ReportMetadata>,
    /// The checksum of their ids.
    pub checksum: Checksum,
    /// The sum of their output shares.
    pub share: AggregateShare,
}

/// The sums of a job by batch bucket. Output shares are added immediately, so none outlives its report.
#[derive(Default)]
pub struct BucketAccumulators(pub BTreeMap<Bucket, BucketAccumulator>);

impl BucketAccumulators {
    /// Adds the output share of a report to its bucket.
    pub fn add(&mut self, preparer: &dyn Preparer, bucket: Bucket, metadata: ReportMetadata, share: OutputShare) {
        let sum = self.0.entry(bucket).or_insert_with(|| BucketAccumulator::empty(preparer));
        preparer.add(&mut sum.share, share);
        sum.checksum.add(&metadata.id);
        sum.reports.push(metadata);
    }

    /// Adds the sums of another part of the job.
    pub fn merge(&mut self, preparer: &dyn Preparer, other: Self) {
        for (bucket, theirs) in other.0 {
            match self.0.entry(bucket) {
                Entry::Vacant(place) => drop(place.insert(theirs)),
                Entry::Occupied(mut ours) => {
                    let sum = ours.get_mut();
                    preparer.merge(&mut sum.share, &theirs.share);
                    sum.checksum.merge(&theirs.checksum);
                    sum.reports.extend(theirs.reports);
                }
            }
        }
    }
}

impl BucketAccumulator {
    fn empty(preparer: &dyn Preparer) -> Self {
        Self { reports: Vec::new(), checksum: Checksum::default(), share: preparer.zero() }
    }

    /// The ids and times of the reports, for replay protection.
    pub fn ids_and_times(&self) -> Vec<(ReportId, Time)> {
        self.reports.iter().map(|metadata| (metadata.id, metadata.time)).collect()
    }
}

/// The batch bucket of a report in a job.
pub fn bucket_of(task: &Task, batch: PartialBatchSelector, metadata: &ReportMetadata) -> Bucket {
    match batch {
        PartialBatchSelector::TimeInterval => Bucket::Time(metadata.time.truncate(task.public.time_precision)),
        PartialBatchSelector::FixedSize(id) => Bucket::Batch(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::model::Time;

    #[test]
    fn panic_rejects_one_report_only() {
        let metadata = ReportMetadata { id: ReportId::random(), time: Time(0) };
        assert_eq!(catch_panic(&metadata, || Ok(1)), Ok(1));
        assert_eq!(catch_panic::<()>(&metadata, || panic!("hostile")), Err(ReportError::VdafPrepError));
    }
}
