//! What a failed request to a leader means for a window.

use dapbox_client::{collector::CollectError, peer::RequestError};
use dapbox_protocol::{
    model::Time,
    wire::{Problem, ProblemType},
};
use dapbox_results::{
    LossReason,
    ledger::{Failure, FailureKind},
};

/// Classifies the failure of a request for a window. `deadline` is when the aggregators delete its reports, if known.
pub fn failure(error: &CollectError, deadline: Option<Time>, now: Time) -> Failure {
    let kind = match error {
        CollectError::Deleted => FailureKind::Deleted,
        CollectError::UnsupportedQuery(_) => FailureKind::Lost(LossReason::Rejected),
        CollectError::Request(RequestError::Refused(problem)) => {
            refusal(error, problem, deadline.is_some_and(|deadline| deadline <= now))
        }
        _ => FailureKind::Retryable,
    };
    Failure { kind, detail: error.to_string() }
}

fn refusal(error: &CollectError, problem: &Problem, is_expired: bool) -> FailureKind {
    if dapbox_client::peer::is_retryable(problem.status) {
        return FailureKind::Retryable;
    }
    match problem.kind {
        _ if error.concerns_collector() => FailureKind::Unauthorized,
        // Not of a DAP leader, but of a proxy in front of it. It says nothing about the window.
        ProblemType::HttpStatus(_) => FailureKind::Unauthorized,
        ProblemType::ReportTooEarly => FailureKind::Retryable,
        ProblemType::InvalidBatchSize => FailureKind::TooFewReports,
        ProblemType::BatchOverlap | ProblemType::BatchQueriedTooManyTimes => {
            FailureKind::Lost(LossReason::CollectedElsewhere)
        }
        ProblemType::BatchMismatch => FailureKind::Lost(LossReason::Mismatch),
        _ if is_expired => FailureKind::Lost(LossReason::Expired),
        _ => FailureKind::Lost(LossReason::Rejected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_client::peer::PeerError;

    #[test]
    fn only_dap_problems_lose_windows() {
        let refused = |problem| CollectError::Request(RequestError::Refused(Box::new(problem)));
        let lost = FailureKind::Lost;
        for (error, kind) in [
            (CollectError::Deleted, FailureKind::Deleted),
            (refused(Problem::from_status(503)), FailureKind::Retryable),
            (refused(Problem::from_status(429)), FailureKind::Retryable),
            (refused(Problem::from_status(404)), FailureKind::Unauthorized),
            (refused(Problem::from_status(400)), FailureKind::Unauthorized),
            (refused(Problem::from_status(302)), FailureKind::Unauthorized),
            (refused(Problem::new(ProblemType::UnauthorizedRequest)), FailureKind::Unauthorized),
            (refused(Problem::new(ProblemType::UnrecognizedTask)), FailureKind::Unauthorized),
            (refused(Problem::new(ProblemType::InvalidBatchSize)), FailureKind::TooFewReports),
            (refused(Problem::new(ProblemType::BatchOverlap)), lost(LossReason::CollectedElsewhere)),
            (refused(Problem::new(ProblemType::BatchMismatch)), lost(LossReason::Mismatch)),
            (refused(Problem::new(ProblemType::BatchInvalid)), lost(LossReason::Rejected)),
            (CollectError::AnswerMismatch("neither a result nor a location"), FailureKind::Retryable),
            (
                CollectError::Request(RequestError::NoAnswer(PeerError::Timeout { url: String::new() })),
                FailureKind::Retryable,
            ),
        ] {
            assert_eq!(failure(&error, None, Time(10)).kind, kind, "{error}");
            assert_eq!(failure(&error, Some(Time(11)), Time(10)).kind, kind, "{error}");
        }
        let error = refused(Problem::new(ProblemType::BatchInvalid));
        assert_eq!(failure(&error, Some(Time(10)), Time(10)).kind, lost(LossReason::Expired));
    }
}
