//! The stored records, as serde types. `table.rs` defines the tables that hold them.
//!
//! A changed record gets a new version in its table.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{
    BatchSelector, Checksum, CollectionJobId, Epsilon, HpkeCiphertext, HpkeConfig, Interval, PartialBatchSelector,
    Query, Report, ReportId, ReportMetadata, Secret, Time,
};

/// The privacy budget of a task with noise, and what its collected batches do not tell about the budget's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PrivacyRecord {
    /// The largest sum of the epsilons of all batches; `None` for no limit.
    pub budget: Option<Epsilon>,
    /// Collected batches that this directory does not know, as the operator has said.
    pub unknown_batches: u64,
    /// Whether the directory was restored from a backup, so that there may be more of them.
    pub is_uncertain: bool,
}

/// An HPKE key pair that clients seal input shares to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The public configuration for clients.
    pub config: HpkeConfig,
    /// The private key as serialized by the KEM.
    pub private_key: Secret,
    /// When the pair was created.
    pub created: Time,
    /// The stage of the key.
    pub stage: KeyStage,
}

/// The stage of an HPKE key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyStage {
    /// The key is not offered yet.
    Pending {
        /// When it becomes active.
        until: Time,
    },
    /// The key is offered to clients.
    Active {
        /// Since when.
        since: Time,
    },
    /// The key is not offered any more, but opens reports.
    Expired {
        /// Since when.
        since: Time,
    },
    /// Only the id is reserved. The private key is kept while a request that used it may have to be rebuilt, and is
    /// empty afterwards.
    Deleted {
        /// Since when.
        since: Time,
    },
}

/// A batch bucket with its sum. Memory holds its [`BucketHeader`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRecord {
    /// The number of reports in the sum.
    pub count: u64,
    /// The checksum of their ids.
    pub checksum: Checksum,
    /// The earliest time of a report; the maximum while there is none.
    pub first: Time,
    /// The latest time of a report; zero while there is none.
    pub last: Time,
    /// The encoded aggregate share; empty while there is none.
    #[serde(with = "serde_bytes")]
    pub share: Vec<u8>,
}

impl BucketRecord {
    /// A bucket without reports.
    pub const EMPTY: Self =
        Self { count: 0, checksum: Checksum::new([0; 32]), first: Time(u64::MAX), last: Time(0), share: Vec::new() };
}

/// A batch bucket without its sum, held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketHeader {
    /// The number of reports in the sum.
    pub count: u64,
    /// The checksum of their ids.
    pub checksum: Checksum,
    /// The earliest time of a report; the maximum while there is none.
    pub first: Time,
    /// The latest time of a report; zero while there is none.
    pub last: Time,
    /// The length of the encoded aggregate share; 0 while there is none, and after the collection.
    pub share_bytes: usize,
}

impl BucketHeader {
    /// A bucket without reports.
    pub const EMPTY: Self =
        Self { count: 0, checksum: Checksum::new([0; 32]), first: Time(u64::MAX), last: Time(0), share_bytes: 0 };

    /// Adds the encoded aggregate share.
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
    /// SHA-256 of the body of the request, to recognize repeats.
    pub request_hash: [u8; 32],
    /// When the request arrived.
    pub created: Time,
    /// The state of the job.
    pub state: HelperJobState,
}

/// The state of a helper's aggregation job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelperJobState {
    /// Not answered yet.
    Pending,
    /// Answered with this body, for repeats of the request.
    Answered(Bytes),
    /// Answered; the answer has expired.
    Expired,
    /// Deleted by the leader.
    Deleted,
}

/// The stored part of a helper's aggregation job, kept while its reports may be repeated. Its answer has its own row,
/// which expires earlier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HelperJobRow {
    #[serde(with = "serde_bytes")]
    pub(super) request_hash: [u8; 32],
    pub(super) created: Time,
    pub(super) state: HelperJobRowState,
}

/// The state of a [`HelperJobRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum HelperJobRowState {
    /// Not answered yet.
    Pending,
    /// Answered.
    Answered,
    /// Answered; the answer is inline, as in version 1.
    #[serde(rename = "AnsweredHere")]
    AnsweredInline(Bytes),
    /// Deleted by the leader.
    Deleted,
}

/// A running aggregation job of the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderJobRecord {
    /// The batch of the job's reports, as far as it is known.
    pub batch: PartialBatchSelector,
    /// The time for all decisions about the content of the job, so that it can be rebuilt.
    pub now: Time,
    /// When the job was created.
    pub created: Time,
    /// The reports, in the order of the request.
    pub reports: Vec<ReportRef>,
    /// The state of the job.
    pub state: LeaderJobState,
    /// The verification key of the job, unless it is the one that the task began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_key_id: Option<u8>,
}

/// The state of a leader's aggregation job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaderJobState {
    /// The reports are picked; nothing is sent.
    Picked,
    /// The helper may have seen the request.
    Sent {
        /// SHA-256 of the body of the request.
        #[serde(with = "serde_bytes")]
        request_hash: [u8; 32],
    },
}

/// A collected batch. It is closed and never collected again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedBatch {
    /// The batch.
    pub batch: BatchSelector,
    /// The number of reports.
    pub report_count: u64,
    /// The checksum of their ids.
    pub checksum: Checksum,
    /// The part of our role.
    pub party: CollectedBy,
}

/// The part of a collected batch that depends on the role.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectedBy {
    /// The leader's part.
    Leader {
        /// The job that collected the batch.
        job: CollectionJobId,
        /// The smallest aligned interval that contains the times of all reports.
        interval: Interval,
        /// The progress of the result.
        progress: CollectionProgress,
    },
    /// The helper's part.
    Helper {
        /// SHA-256 of the body of the request, to recognize repeats.
        #[serde(with = "serde_bytes")]
        request_hash: [u8; 32],
        /// The answer, for repeats of the request. Empty once the leader has deleted the share.
        #[serde(with = "serde_bytes")]
        answer: Vec<u8>,
    },
}

/// The progress of a collection at the leader.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectionProgress {
    /// Our encoded aggregate share. The helper may have been asked for its share.
    Share(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The result: the body of the answer for all jobs of this batch.
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

/// The state of the result of a collected batch at the leader. The result itself is in [`CollectedBatch`], because it
/// may be long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The number of reports.
    pub report_count: u64,
    /// The smallest aligned interval that contains the times of all reports.
    pub interval: Interval,
    /// When the batch was closed.
    pub closed: Time,
    /// The stage of the result.
    pub stage: ResultStage,
}

/// The stage of the result of a collected batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultStage {
    /// The helper's share is missing.
    Pending,
    /// The collector can fetch the result.
    Ready,
    /// The result was sent to the collector.
    Fetched {
        /// When it was first sent.
        at: Time,
    },
    /// The helper refused its share permanently.
    Failed {
        /// When the failure was first reported to the collector.
        #[serde(rename = "told")]
        reported: Option<Time>,
    },
}

/// A collection job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionJobRecord {
    /// The body of the request, to recognize repeats.
    pub request: Bytes,
    /// The query.
    pub query: Query,
    /// The position after all reports accepted before the job. The job waits for these reports.
    pub accepted_before: ReportRef,
    /// When the request arrived.
    pub created: Time,
    /// The state of the job.
    pub state: CollectionState,
    /// When the sweeper first found the job ended.
    #[serde(default)]
    pub ended: Option<Time>,
    /// The batch that the job was assigned, if the query does not name one.
    #[serde(default)]
    pub batch: Option<BatchSelector>,
}

/// The state of a collection job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectionState {
    /// Its batch is open.
    Waiting,
    /// Its batch is closed; the helper may have been asked for its share.
    Closed {
        /// The batch, which has a [`CollectedBatch`].
        batch: BatchSelector,
    },
    /// The result is available.
    Done {
        /// The body of the answer.
        body: Bytes,
    },
    /// The collection failed permanently.
    Failed {
        /// The problem type for the collector.
        kind: String,
        /// The details for the collector.
        detail: String,
    },
    /// Deleted by the collector.
    Deleted,
}

impl LeaderJobRecord {
    /// Whether the helper may have seen the request.
    pub fn was_sent(&self) -> bool {
        matches!(self.state, LeaderJobState::Sent { .. })
    }
}

impl CollectionState {
    /// Whether the job has work left. Such jobs are held in memory.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Waiting | Self::Closed { .. })
    }
}

/// The position of a stored report. Positions are ordered by upload within a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReportRef {
    /// The pack that holds the report.
    pub pack: u64,
    /// The slot in the pack.
    pub slot: u32,
}

/// The tombstone of a removed task, whose id is rejected permanently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When the task was removed.
    pub at: Time,
}

/// How often the resource of a request was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Generation {
    pub(super) count: u64,
    /// When the sweeper first found this count.
    pub(super) since: Option<Time>,
}

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;

/// Reports uploaded in one group of writes.
pub(super) type PackRecord = Vec<PackedReport>;

/// A report in a pack: an array instead of a map, because there are many. It has no public extensions, because reports
/// with unknown extensions are rejected and none is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackedReport(pub(super) ReportId, pub(super) Time, Bytes, PackedCiphertext, PackedCiphertext);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PackedCiphertext(u8, Bytes, Bytes);

impl ReportRef {
    /// A position after every report.
    pub const END: Self = Self { pack: u64::MAX, slot: u32::MAX };
}

impl PackedReport {
    /// The approximate size, in bytes.
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
