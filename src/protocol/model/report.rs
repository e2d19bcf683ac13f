//! Reports: what clients upload, and why an aggregator may refuse one.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{HpkeCiphertext, ReportId, Time};

/// What is public about a report (DAP-09 section 4.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportMetadata {
    /// Unique within the task; also the VDAF nonce.
    pub id: ReportId,
    /// When the measurement was made, as the client states it.
    pub time: Time,
}

/// A measurement as its client uploads it: one sealed share for each aggregator (DAP-09 section 4.4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What is public about the report.
    pub metadata: ReportMetadata,
    /// Extensions for both aggregators, where the protocol has such; each is mandatory to understand.
    pub extensions: Vec<Extension>,
    /// The VDAF's public share, encoded.
    pub public_share: Bytes,
    /// The leader's input share, sealed to the leader.
    pub leader_share: HpkeCiphertext,
    /// The helper's input share, sealed to the helper.
    pub helper_share: HpkeCiphertext,
}

/// One aggregator's part of a report (DAP-09 section 4.5.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportShare {
    /// What is public about the report.
    pub metadata: ReportMetadata,
    /// Extensions for both aggregators, where the protocol has such; each is mandatory to understand.
    pub extensions: Vec<Extension>,
    /// The VDAF's public share, encoded.
    pub public_share: Bytes,
    /// The aggregator's input share, sealed to it.
    pub input_share: HpkeCiphertext,
}

/// What a sealed input share contains (DAP-09 section 4.4.2). `Debug` does not show the share: it is a client's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PlaintextInputShare {
    /// Extensions for this aggregator; each is mandatory to understand.
    pub extensions: Vec<Extension>,
    /// The VDAF's input share, encoded.
    pub payload: Bytes,
}

impl fmt::Debug for PlaintextInputShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PlaintextInputShare");
        shown.field("extensions", &self.extensions).field("length", &self.payload.len()).finish_non_exhaustive()
    }
}

/// A tag and its data: of a report (DAP-09 section 4.4.3, DAP-18 section 4.4.3), an aggregation job (DAP-18 section
/// 4.5.1) or a collection job (DAP-18 section 4.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The extension's registered number.
    pub kind: u16,
    /// Its content.
    pub data: Bytes,
}

/// Why one report is not taken or not aggregated (`PrepareError`, DAP-09 section 4.5.1.2; `ReportError`, DAP-18
/// section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ReportError {
    /// Its batch was collected already.
    #[error("batch_collected")]
    BatchCollected,
    /// It was aggregated already.
    #[error("report_replayed")]
    ReportReplayed,
    /// The aggregator cannot tell whether it is valid, for example because it is older than the retention window.
    #[error("report_dropped")]
    ReportDropped,
    /// Sealed to a key that the aggregator does not have.
    #[error("hpke_unknown_config_id")]
    HpkeUnknownConfigId,
    /// The sealed share does not open.
    #[error("hpke_decrypt_error")]
    HpkeDecryptError,
    /// The proof does not hold.
    #[error("vdaf_prep_error")]
    VdafPrepError,
    /// Its batch is full.
    #[error("batch_saturated")]
    BatchSaturated,
    /// Its time is after the end of the task.
    #[error("task_expired")]
    TaskExpired,
    /// Something in it does not decode, or has an extension that is unknown or repeated.
    #[error("invalid_message")]
    InvalidMessage,
    /// Its time is too far in the future.
    #[error("report_too_early")]
    ReportTooEarly,
    /// Its time is before the start of the task.
    #[error("task_not_started")]
    TaskNotStarted,
    /// The leader's share is sealed to a key that the leader does not have (any more).
    #[error("outdated_config")]
    OutdatedConfig,
    /// The peer's reason, by its number on the wire, is one that this release does not know.
    #[error("unknown_error_{0}")]
    Unknown(u8),
}
