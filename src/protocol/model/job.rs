//! Aggregation job messages between leader and helper.

use bytes::Bytes;

use crate::model::{Extension, PartialBatchSelector, ReportError, ReportId, ReportShare};

/// The leader's request to aggregate a set of reports (`AggregationJobInitReq`, DAP-09 section 4.5.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregationJobInitReq {
    /// The verification key in use, if the revision identifies it.
    pub verify_key_id: Option<u8>,
    /// The VDAF's aggregation parameter; empty for Prio3.
    pub aggregation_parameter: Bytes,
    /// The batch of the job's reports, as far as it is determined.
    pub batch: PartialBatchSelector,
    /// Extensions with unknown types, if the revision has job extensions.
    pub extensions: Vec<Extension>,
    /// The reports, each with the leader's first message.
    pub prepare_inits: Vec<PrepareInit>,
}

/// A report share with the leader's first preparation message (`PrepareInit`, DAP-09 section 4.5.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareInit {
    /// The helper's share of the report.
    pub share: ReportShare,
    /// The leader's encoded ping-pong message.
    pub message: Bytes,
}

/// The helper's answer about one report (`PrepareResp`, DAP-09 section 4.5.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareResp {
    /// The report.
    pub report_id: ReportId,
    /// The helper's decision.
    pub outcome: PrepareOutcome,
}

/// The helper's decision about one report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareOutcome {
    /// Preparation continues with this encoded ping-pong message.
    Continue(Bytes),
    /// Preparation is complete without a message.
    Finished,
    /// The report is rejected and not aggregated.
    Reject(ReportError),
}
