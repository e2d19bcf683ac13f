//! One report share at a time: open it, check what is in it, and add what comes out to its batch bucket.

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

/// Opens the input shares that are sealed to us for one task.
pub struct InputShareOpener<'a> {
    context: &'a TaskContext,
    keys: &'a KeyRing,
    info: Vec<u8>,
}

impl<'a> InputShareOpener<'a> {
    /// Prepares to open shares of a task with our keys.
    pub fn new(context: &'a TaskContext, keys: &'a KeyRing) -> Self {
        Self { context, keys, info: context.wire.input_share_info(context.role()) }
    }

    /// Decrypts our share of a report and checks its extensions (DAP-09 sections 4.5.1.3 and 4.5.1.4, DAP-18 sections
    /// 4.5.3.3 and 4.5.3.4).
    /// Returns the VDAF's encoded input share.
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
        // Of the public ones we know none.
        if !extensions.is_empty() || !self.context.has_valid_extensions(&plaintext.extensions) {
            return Err(ReportError::InvalidMessage);
        }
        Ok(plaintext.payload)
    }
}

/// Works on one report. Should a hostile one find a panic in what works on it, it is refused alone: its job goes on.
pub fn catch_panic<T>(
    metadata: &ReportMetadata,
    work: impl FnOnce() -> Result<T, ReportError>,
) -> Result<T, ReportError> {
    // Nothing that the work had in its hands is looked at after a panic.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!("a report made its preparation panic and is refused; this is a bug in dapbox or in its VDAF");
        tracing::debug!(report = %metadata.id, "the report that panicked");
        Err(ReportError::VdafPrepError)
    })
}

/// The reports of one job that fell into one batch bucket.
pub struct BucketAccumulator {
    /// Which reports, in the order of the job.
    pub reports: Vec<ReportMetadata>,
    /// The checksum over their ids.
    pub checksum: Checksum,
    /// The sum of their output shares.
    pub share: AggregateShare,
}

/// What a job adds to each batch bucket, summed up as it comes so that no output share outlives its report.
#[derive(Default)]
pub struct BucketAccumulators(pub BTreeMap<Bucket, BucketAccumulator>);

impl BucketAccumulators {
    /// Adds one report's output share to its bucket.
    pub fn add(&mut self, preparer: &dyn Preparer, bucket: Bucket, metadata: ReportMetadata, share: OutputShare) {
        let sum = self.0.entry(bucket).or_insert_with(|| BucketAccumulator::empty(preparer));
        preparer.add(&mut sum.share, share);
        sum.checksum.add(&metadata.id);
        sum.reports.push(metadata);
    }

    /// Adds what another part of the same job came to.
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

    /// The ids and times of the reports, as the store remembers them.
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
