//! Aggregation jobs: what leader and helper say to each other about a set of reports.

use bytes::Bytes;

use crate::model::{Extension, PartialBatchSelector, ReportError, ReportId, ReportShare};

/// The leader's request to aggregate a set of reports (`AggregationJobInitReq`, DAP-09 section 4.5.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregationJobInitReq {
    /// Which verification key the leader uses, where the protocol says so.
    pub verify_key_id: Option<u8>,
    /// The VDAF's aggregation parameter; empty for Prio3.
    pub aggregation_parameter: Bytes,
    /// The batch of the job's reports, as far as it is known.
    pub batch: PartialBatchSelector,
    /// Extensions that we do not know, where the protocol has such.
    pub extensions: Vec<Extension>,
    /// The reports, each with the leader's first message.
    pub prepare_inits: Vec<PrepareInit>,
}

/// A report share with the leader's first preparation message (`PrepareInit`, DAP-09 section 4.5.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareInit {
    /// The helper's part of the report.
    pub share: ReportShare,
    /// The leader's encoded ping-pong message.
    pub message: Bytes,
}

/// The helper's answer about one report (`PrepareResp`, DAP-09 section 4.5.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareResp {
    /// The report that the answer is about.
    pub report_id: ReportId,
    /// What became of it.
    pub outcome: PrepareOutcome,
}

/// What became of a report at the helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareOutcome {
    /// Preparation goes on with this encoded ping-pong message.
    Continue(Bytes),
    /// Preparation is complete, nothing to say.
    Finished,
    /// The report is not aggregated.
    Reject(ReportError),
}
