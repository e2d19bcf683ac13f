//! Reports: uploads of clients, and the reasons to reject one.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{HpkeCiphertext, ReportId, Time};

/// Public data of a report (DAP-09 section 4.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportMetadata {
    /// Unique within the task; also the VDAF nonce.
    pub id: ReportId,
    /// Time of the measurement, as stated by the client.
    pub time: Time,
}

/// An uploaded measurement: one sealed share for each aggregator (DAP-09 section 4.4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Public data of the report.
    pub metadata: ReportMetadata,
    /// Extensions for both aggregators, if the revision has them. The recipient must understand each.
    pub extensions: Vec<Extension>,
    /// The VDAF's public share, encoded.
    pub public_share: Bytes,
    /// The leader's input share, sealed to the leader.
    pub leader_share: HpkeCiphertext,
    /// The helper's input share, sealed to the helper.
    pub helper_share: HpkeCiphertext,
}

/// One aggregator's share of a report (DAP-09 section 4.5.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportShare {
    /// Public data of the report.
    pub metadata: ReportMetadata,
    /// Extensions for both aggregators, if the revision has them. The recipient must understand each.
    pub extensions: Vec<Extension>,
    /// The VDAF's public share, encoded.
    pub public_share: Bytes,
    /// The aggregator's input share, sealed to it.
    pub input_share: HpkeCiphertext,
}

/// The plaintext of a sealed input share (DAP-09 section 4.4.2). `Debug` omits the share, which is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PlaintextInputShare {
    /// Extensions for this aggregator. The recipient must understand each.
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

/// An extension of a report (DAP-09 section 4.4.3, DAP-18 section 4.4.3), an aggregation job (DAP-18 section 4.5.1) or
/// a collection job (DAP-18 section 4.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The registered extension type.
    pub kind: u16,
    /// The content of the extension.
    pub data: Bytes,
}

/// The reason to reject one report (`PrepareError`, DAP-09 section 4.5.1.2; `ReportError`, DAP-18 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ReportError {
    /// The batch of the report was already collected.
    #[error("batch_collected")]
    BatchCollected,
    /// The report was already aggregated.
    #[error("report_replayed")]
    ReportReplayed,
    /// The aggregator cannot decide whether the report is valid, for example because it is older than the retention
    /// period.
    #[error("report_dropped")]
    ReportDropped,
    /// The report is sealed to a key that the aggregator does not have.
    #[error("hpke_unknown_config_id")]
    HpkeUnknownConfigId,
    /// The sealed share cannot be opened.
    #[error("hpke_decrypt_error")]
    HpkeDecryptError,
    /// The proof is invalid.
    #[error("vdaf_prep_error")]
    VdafPrepError,
    /// The batch of the report is full.
    #[error("batch_saturated")]
    BatchSaturated,
    /// The time of the report is after the end of the task.
    #[error("task_expired")]
    TaskExpired,
    /// The report is malformed, or has an unknown or repeated extension.
    #[error("invalid_message")]
    InvalidMessage,
    /// The time of the report is too far in the future.
    #[error("report_too_early")]
    ReportTooEarly,
    /// The time of the report is before the start of the task.
    #[error("task_not_started")]
    TaskNotStarted,
    /// The leader's share is sealed to a key that the leader does not have, or no longer has.
    #[error("outdated_config")]
    OutdatedConfig,
    /// The aggregator has no verification key with the id of the job.
    #[error("unknown_verification_key_id")]
    UnknownVerificationKeyId,
    /// The report has an extension that the leader does not know.
    #[error("unsupported_extension")]
    UnsupportedExtension,
    /// An error code of the peer that this release does not know.
    #[error("unknown_error_{0}")]
    Unknown(u8),
}

impl ReportError {
    /// All errors that have a meaning.
    pub const KNOWN: [Self; 14] = [
        Self::BatchCollected,
        Self::ReportReplayed,
        Self::ReportDropped,
        Self::HpkeUnknownConfigId,
        Self::HpkeDecryptError,
        Self::VdafPrepError,
        Self::BatchSaturated,
        Self::TaskExpired,
        Self::InvalidMessage,
        Self::ReportTooEarly,
        Self::TaskNotStarted,
        Self::OutdatedConfig,
        Self::UnknownVerificationKeyId,
        Self::UnsupportedExtension,
    ];
}
