//! Why a measurement was not uploaded.

use crate::peer::RequestError;
use dapbox_protocol::{
    model::{ReportError, Role},
    vdaf::VdafError,
    wire::ProblemType,
};
use dapbox_support::Fault;

/// Why a measurement was not uploaded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The measurement does not fit the task, or the task's parameters are wrong.
    #[error(transparent)]
    Vdaf(#[from] VdafError),
    /// An aggregator's keys cannot be had.
    #[error("the {role}'s keys, at {url}: {cause}")]
    Keys {
        /// Whose keys.
        role: Role,
        /// The aggregator's base URL.
        url: String,
        /// Why not.
        cause: RequestError,
    },
    /// An aggregator's keys are of no use.
    #[error("the {role}'s keys: {why}")]
    NoUsableKey {
        /// Whose keys.
        role: Role,
        /// What is wrong with them.
        why: String,
    },
    /// Sealing failed: a public key is not what its configuration says.
    #[error("sealing to the {role}: {why}")]
    Seal {
        /// Whose key.
        role: Role,
        /// What is wrong.
        why: String,
    },
    /// The leader did not take the request that the report is in.
    #[error("upload: {0}")]
    Upload(RequestError),
    /// The leader took the request and refused the report.
    #[error("the leader refuses the report: {0}")]
    Refused(ReportError),
    /// Something on our side broke.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ClientError {
    /// Whether another measurement may fare better: this one was refused, not all of them. What is said of a request is
    /// said of its report if there is only one; of several it says that we and the leader do not understand each other.
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

    /// Whether the leader does not know the key that the report is sealed to (any more). Some leaders say so in the words of
    /// an aggregation job.
    pub fn is_outdated(&self) -> bool {
        match self {
            Self::Refused(error) => {
                matches!(error, ReportError::OutdatedConfig | ReportError::HpkeUnknownConfigId)
            }
            Self::Upload(error) => error.problem().is_some_and(|problem| problem.kind == ProblemType::OutdatedConfig),
            _ => false,
        }
    }

    /// A short name to count by: the protocol's where it has one.
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
