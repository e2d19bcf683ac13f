//! Errors of the client.

use crate::peer::RequestError;
use dapbox_protocol::{
    model::{ReportError, Role},
    vdaf::VdafError,
    wire::ProblemType,
};
use dapbox_support::Fault;

/// The reason why a measurement was not uploaded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The measurement is invalid for the task, or the task's parameters are invalid.
    #[error(transparent)]
    Vdaf(#[from] VdafError),
    /// The keys of an aggregator cannot be fetched.
    #[error("cannot fetch the {role}'s keys from {url}: {cause}")]
    Keys {
        /// The aggregator.
        role: Role,
        /// The aggregator's base URL.
        url: String,
        /// The failed request.
        cause: RequestError,
    },
    /// None of an aggregator's keys is usable.
    #[error("no usable key of the {role}: {why}")]
    NoUsableKey {
        /// The aggregator.
        role: Role,
        /// The problem with the keys.
        why: String,
    },
    /// Sealing failed, because a public key does not match its configuration.
    #[error("cannot seal to the {role}: {why}")]
    Seal {
        /// The recipient.
        role: Role,
        /// The problem.
        why: String,
    },
    /// The leader rejected the request, or the request failed.
    #[error("upload failed: {0}")]
    Upload(RequestError),
    /// The leader accepted the request and rejected the report.
    #[error("the leader rejected the report: {0}")]
    Refused(ReportError),
    /// An internal error.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ClientError {
    /// Whether the error concerns this measurement only, so that others may succeed.
    ///
    /// The rejection of a request applies to its report if there is only one. With several reports, it indicates that
    /// client and leader are incompatible.
    pub fn is_report_specific(&self) -> bool {
        match self {
            Self::Vdaf(_) => true,
            Self::Refused(_) => !self.is_outdated(),
            Self::Upload(RequestError::Refused(problem)) => matches!(
                problem.kind,
                ProblemType::ReportRejected | ProblemType::ReportTooEarly | ProblemType::InvalidMessage
            ),
            _ => false,
        }
    }

    /// Whether the leader does not know the key of the report, or no longer. Some leaders respond with the error of an
    /// aggregation job.
    pub fn is_outdated(&self) -> bool {
        match self {
            Self::Refused(error) => {
                matches!(error, ReportError::OutdatedConfig | ReportError::HpkeUnknownConfigId)
            }
            Self::Upload(error) => error.problem().is_some_and(|problem| problem.kind == ProblemType::OutdatedConfig),
            _ => false,
        }
    }

    /// A short name to count errors by: the protocol's name if it has one.
    pub fn reason(&self) -> String {
        match self {
            Self::Vdaf(_) => "invalidMeasurement".to_owned(),
            Self::Refused(error) => error.to_string(),
            Self::Upload(RequestError::Refused(problem)) => problem.kind.to_string(),
            Self::Upload(_) => "noAnswer".to_owned(),
            Self::Keys { .. } | Self::NoUsableKey { .. } | Self::Seal { .. } => "noKey".to_owned(),
            Self::Fault(_) => "fault".to_owned(),
        }
    }
}
