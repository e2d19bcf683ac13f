//! What is stored, as serde types. The tables that hold them are in `table.rs`.
//!
//! A record that changes gets a new version in its table.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{
    BatchSelector, Checksum, CollectionJobId, HpkeCiphertext, HpkeConfig, Interval, PartialBatchSelector, Query,
    Report, ReportId, ReportMetadata, Secret, Time,
};

/// An HPKE key pair that clients seal input shares to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The public part, as it is handed out.
    pub config: HpkeConfig,
    /// The private key as the KEM serialises it.
    pub private_key: Secret,
    /// When the pair was made.
    pub created: Time,
    /// What it is used for, and since when.
    pub stage: KeyStage,
}

/// The life of an HPKE key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyStage {
    /// It is not handed out yet.
    Pending {
        /// From when on it is.
        until: Time,
    },
    /// It is handed out.
    Active {
        /// Since when.
        since: Time,
    },
    /// It is not handed out any more, and still opens what is sealed to it.
    Expired {
        /// Since when.
        since: Time,
    },
    /// Only its id is still taken. The private key is there as long as a request may have to be made again for which it
    /// was used, and empty afterwards.
    Deleted {
        /// Since when.
        since: Time,
    },
}

/// The sum of the reports of one batch bucket, as it is stored. Memory holds its [`BucketHeader`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRecord {
    /// How many reports are in the sum.
    pub count: u64,
    /// Their checksum.
    pub checksum: Checksum,
    /// The earliest time of a report; the end of time while there is none.
    pub first: Time,
    /// The latest time of a report; the epoch while there is none.
    pub last: Time,
    /// The VDAF's encoding of the aggregate share; empty while there is none.
    #[serde(with = "serde_bytes")]
    pub share: Vec<u8>,
}

impl BucketRecord {
    /// The bucket without reports.
    pub const EMPTY: Self =
        Self { count: 0, checksum: Checksum::new([0; 32]), first: Time(u64::MAX), last: Time(0), share: Vec::new() };
}

/// What is held in memory of a batch bucket: everything but its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketHeader {
    /// How many reports are in the sum.
    pub count: u64,
    /// Their checksum.
    pub checksum: Checksum,
    /// The earliest time of a report; the end of time while there is none.
    pub first: Time,
    /// The latest time of a report; the epoch while there is none.
    pub last: Time,
    /// The length of the encoded aggregate share; 0 while there is none, and after the batch was collected.
    pub share_bytes: usize,
}

impl BucketHeader {
    /// The header of a bucket without reports.
    pub const EMPTY: Self =
        Self { count: 0, checksum: Checksum::new([0; 32]), first: Time(u64::MAX), last: Time(0), share_bytes: 0 };

    /// Combines the header with the encoded aggregate share that belongs to it.
    pub(super) fn with_share(self, share: Vec<u8>) -> BucketRecord {
        let Self { count, checksum, first, last, share_bytes: _ } = self;
        BucketRecord { count, checksum, first, last, share }
    }
}

impl From<&BucketRecord> for BucketHeader {
    fn from(record: &BucketRecord) -> Self {
        let BucketRecord { count, checksum, first, last, share } = record;
        Self { count: *count, checksum: *checksum, first: *first, last: *last, share_bytes: share.len() }
    }
}

impl fmt::Debug for BucketRecord {
    /// Shows everything but the share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, checksum, first, last, share: _ } = self;
        let mut shown = f.debug_struct("BucketRecord");
        shown.field("count", count).field("checksum", checksum).field("first", first).field("last", last);
        shown.finish_non_exhaustive()
    }
}

/// An aggregation job of the helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperJobRecord {
    /// SHA-256 of the request's body, by which a repeated request is known.
    pub request_hash: [u8; 32],
    /// When the request came.
    pub created: Time,
    /// How far it is.
    pub state: HelperJobState,
}

/// How far an aggregation job of the helper is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelperJobState {
    /// There is no answer yet.
    Pending,
    /// The body that was sent, for a repeated request.
    Answered(Bytes),
    /// It was answered so long ago that the answer is not kept any more.
    Expired,
    /// The leader deleted it.
    Deleted,
}

/// What is stored of an aggregation job of the helper for as long as its reports may come again. Its answer is in a row
/// of its own, which goes earlier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HelperJobRow {
    #[serde(with = "serde_bytes")]
    pub(super) request_hash: [u8; 32],
    pub(super) created: Time,
    pub(super) state: HelperJobRowState,
}

/// How far the job of a [`HelperJobRow`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum HelperJobRowState {
    /// There is no answer yet.
    Pending,
    /// There was an answer.
    Answered,
    /// There was an answer, and it stands here, as it did in the first version.
    AnsweredHere(Bytes),
    /// The leader deleted it.
    Deleted,
}

/// An aggregation job that the leader has under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderJobRecord {
    /// The batch of the job's reports, as far as it is known.
    pub batch: PartialBatchSelector,
    /// The time that all decisions about the job's content use, so that it can be made again.
    pub now: Time,
    /// When the job was made.
    pub created: Time,
    /// The job's reports, in the order of the request.
    pub reports: Vec<ReportRef>,
    /// How far it is.
    pub state: LeaderJobState,
}

/// How far one of the leader's aggregation jobs is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaderJobState {
    /// The reports were picked; nothing was sent.
    Picked,
    /// The helper may have seen the request.
    Sent {
        /// SHA-256 of the request's body.
        #[serde(with = "serde_bytes")]
        request_hash: [u8; 32],
    },
}

/// A batch that was collected: it is never collected again, and nothing is added to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedBatch {
    /// Which batch.
    pub batch: BatchSelector,
    /// How many reports it has.
    pub report_count: u64,
    /// Their checksum.
    pub checksum: Checksum,
    /// What is kept of the collection, which depends on our role.
    pub party: CollectedBy,
}

/// What an aggregator keeps of a collection.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectedBy {
    /// We lead the task.
    Leader {
        /// The job that collected the batch.
        job: CollectionJobId,
        /// The smallest aligned interval that holds the times of all reports.
        interval: Interval,
        /// What there is of the result.
        progress: CollectionProgress,
    },
    /// We help.
    Helper {
        /// SHA-256 of the request's body, by which a repeated request is known.
        #[serde(with = "serde_bytes")]
        request_hash: [u8; 32],
        /// The body that was sent, for a repeated request. Empty once the leader has deleted the share.
        #[serde(with = "serde_bytes")]
        answer: Vec<u8>,
    },
}

/// What there is of a collection's result at the leader.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectionProgress {
    /// Our part: the VDAF's encoding of our aggregate share. The helper may have been asked for its part.
    Share(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The body of the answer to the collector, for every job that asks for the same batch.
    Result(Bytes),
}

impl fmt::Debug for CollectedBy {
    /// Shows everything but the share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader { job, interval, progress: _ } => {
                f.debug_struct("Leader").field("job", job).field("interval", interval).finish_non_exhaustive()
            }
            Self::Helper { .. } => f.debug_struct("Helper").finish_non_exhaustive(),
        }
    }
}

/// What became of the result of a collected batch at the leader. The result itself stands with the batch, as it may be long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// How many reports the batch has.
    pub report_count: u64,
    /// The smallest aligned interval that holds the times of all reports.
    pub interval: Interval,
    /// When the batch was closed.
    pub closed: Time,
    /// How far the result is.
    pub stage: ResultStage,
}

/// How far the result of a collected batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultStage {
    /// The helper has not given its share.
    Pending,
    /// The collector can fetch it.
    Ready,
    /// It was sent to the collector.
    Fetched {
        /// When it was sent first.
        at: Time,
    },
    /// The helper refused its share for good.
    Failed {
        /// When the collector was told first.
        told: Option<Time>,
    },
}

/// A collector's job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionJobRecord {
    /// The body of the request, by which a repeated request is known.
    pub request: Bytes,
    /// Which batch it asks for.
    pub query: Query,
    /// The first position that no report had taken when the job was created: the job waits for those before.
    pub accepted_before: ReportRef,
    /// When the request came.
    pub created: Time,
    /// How far it is.
    pub state: CollectionState,
    /// When the sweeper first found that it had ended.
    #[serde(default)]
    pub ended: Option<Time>,
    /// The batch that the job was given, where the query does not name it.
    #[serde(default)]
    pub batch: Option<BatchSelector>,
}

/// How far a collection is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectionState {
    /// Its batch is not ready.
    Waiting,
    /// Its batch is closed; the helper may have been asked for its share.
    Closed {
        /// The batch, of which the store has a [`CollectedBatch`].
        batch: BatchSelector,
    },
    /// The collector can have the result.
    Done {
        /// The body of the answer.
        body: Bytes,
    },
    /// There will be no result.
    Failed {
        /// The problem type that the collector is told.
        kind: String,
        /// What the collector is told beyond it.
        detail: String,
    },
    /// The collector does not want it any more.
    Deleted,
}

impl LeaderJobRecord {
    /// Whether the helper may have seen the request.
    pub fn was_sent(&self) -> bool {
        matches!(self.state, LeaderJobState::Sent { .. })
    }
}

impl CollectionState {
    /// Whether there is still something to do, which is also whether the job is held in memory.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Waiting | Self::Closed { .. })
    }
}

/// Where a report is stored. The order is the order of upload within a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReportRef {
    /// The row that holds it.
    pub pack: u64,
    /// Its place in the row.
    pub slot: u32,
}

/// What remains of a task that was removed: its id is refused for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When it was removed.
    pub at: Time,
}

/// How often a resource was deleted that the same request had made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Generation {
    pub(super) count: u64,
    /// When the sweeper first found it with this count.
    pub(super) since: Option<Time>,
}

/// What happened how often. Whoever counts chooses the names.
pub type Counters = BTreeMap<String, u64>;

/// Reports that were uploaded in one group commit.
pub(super) type PackRecord = Vec<PackedReport>;

/// A report in a pack: arrays instead of maps, because there are many of them. It has no public extensions: we know
/// none, and a report with an extension that is not known is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackedReport(pub(super) ReportId, pub(super) Time, Bytes, PackedCiphertext, PackedCiphertext);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PackedCiphertext(u8, Bytes, Bytes);

impl ReportRef {
    /// After every report.
    pub const END: Self = Self { pack: u64::MAX, slot: u32::MAX };
}

impl PackedReport {
    /// About how many bytes the report takes.
    pub(super) fn size(&self) -> usize {
        let sealed = |c: &PackedCiphertext| c.1.len() + c.2.len();
        64 + self.2.len() + sealed(&self.3) + sealed(&self.4)
    }
}

impl From<&Report> for PackedReport {
    fn from(report: &Report) -> Self {
        let pack = |c: &HpkeCiphertext| PackedCiphertext(c.config_id, c.enc.clone(), c.payload.clone());
        let Report { metadata, extensions: _, public_share, leader_share, helper_share } = report;
        Self(metadata.id, metadata.time, public_share.clone(), pack(leader_share), pack(helper_share))
    }
}

impl From<PackedReport> for Report {
    fn from(packed: PackedReport) -> Self {
        let unpack = |PackedCiphertext(config_id, enc, payload)| HpkeCiphertext { config_id, enc, payload };
        let PackedReport(id, time, public_share, leader, helper) = packed;
        let metadata = ReportMetadata { id, time };
        let (leader_share, helper_share) = (unpack(leader), unpack(helper));
        Self { metadata, extensions: Vec::new(), public_share, leader_share, helper_share }
    }
}
