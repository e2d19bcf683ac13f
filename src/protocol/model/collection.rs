//! Collection messages: between collector and leader, and between leader and helper.

use bytes::Bytes;

use crate::model::{BatchSelector, Checksum, Extension, HpkeCiphertext, Interval, PartialBatchSelector, Query};

/// A collector's request (`CollectionReq`, DAP-09 section 4.6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionReq {
    /// The requested batch.
    pub query: Query,
    /// The VDAF's aggregation parameter; empty for Prio3.
    pub aggregation_parameter: Bytes,
    /// Extensions in the order of the message, if the revision has them. The recipient must understand each.
    pub extensions: Vec<Extension>,
}

/// The result for the collector (`Collection`, DAP-09 section 4.6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// The batch, if the revision reports it to the collector.
    pub batch: Option<PartialBatchSelector>,
    /// Number of reports in the batch.
    pub report_count: u64,
    /// The smallest aligned interval that contains the times of all reports.
    pub interval: Interval,
    /// The leader's aggregate share, sealed to the collector.
    pub leader_share: HpkeCiphertext,
    /// The helper's aggregate share, sealed to the collector.
    pub helper_share: HpkeCiphertext,
}

/// The leader's request for the helper's aggregate share (`AggregateShareReq`, DAP-09 section 4.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateShareReq {
    /// The requested batch.
    pub batch: BatchSelector,
    /// The VDAF's aggregation parameter; empty for Prio3.
    pub aggregation_parameter: Bytes,
    /// Number of reports in the leader's batch.
    pub report_count: u64,
    /// The leader's checksum of the batch.
    pub checksum: Checksum,
    /// The collector's request. The leader always has it; the helper has it if the revision forwards it.
    pub collection: Option<ForwardedCollectionReq>,
}

/// A collector's request that the leader forwards to the helper (DAP-18 section 4.6.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedCollectionReq {
    /// The decoded request.
    pub request: CollectionReq,
    /// The encoded request, which aggregate shares are bound to.
    pub bytes: Bytes,
}
