//! Collections: how a collector gets an aggregate, and how the leader gets the helper's share of it.

use bytes::Bytes;

use crate::model::{BatchSelector, Checksum, Extension, HpkeCiphertext, Interval, PartialBatchSelector, Query};

/// A collector's request (`CollectionReq`, DAP-09 section 4.6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionReq {
    /// Which batch.
    pub query: Query,
    /// The VDAF's aggregation parameter; empty for Prio3.
    pub aggregation_parameter: Bytes,
    /// Extensions, in the order of the message, where the protocol has such; each is mandatory to understand.
    pub extensions: Vec<Extension>,
}

/// What the collector gets (`Collection`, DAP-09 section 4.6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// The batch, as far as the query left it open, where the protocol tells the collector.
    pub batch: Option<PartialBatchSelector>,
    /// How many reports the batch has.
    pub report_count: u64,
    /// The smallest aligned interval that holds the times of all reports.
    pub interval: Interval,
    /// The leader's aggregate share, sealed to the collector.
    pub leader_share: HpkeCiphertext,
    /// The helper's aggregate share, sealed to the collector.
    pub helper_share: HpkeCiphertext,
}

/// The leader's request for the helper's aggregate share (`AggregateShareReq`, DAP-09 section 4.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateShareReq {
    /// Which batch.
    pub batch: BatchSelector,
    /// The VDAF's aggregation parameter; empty for Prio3.
    pub aggregation_parameter: Bytes,
    /// How many reports the leader has in the batch.
    pub report_count: u64,
    /// The leader's checksum of the batch.
    pub checksum: Checksum,
    /// What the collector asked the leader for: known to the leader, and to the helper where the protocol passes it on.
    pub collection: Option<ForwardedCollectionReq>,
}

/// A collector's request as the leader passes it on to the helper (DAP-18 section 4.6.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedCollectionReq {
    /// What the collector asks for.
    pub request: CollectionReq,
    /// The bytes of that request, which aggregate shares are bound to.
    pub bytes: Bytes,
}
