//! Problem documents (RFC 9457): encoding for responses, and lenient decoding of a peer's documents.

use std::fmt;

use serde_json::{Map, Value};

use super::codec::Malformed;
use crate::model::{AggregationJobId, CollectionJobId, TaskId};

/// The media type of problem documents.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Prefix of the protocol's problem types (DAP-09 section 3.2).
const URN_PREFIX: &str = "urn:ietf:params:ppm:dap:error:";

/// Maximum length of a parsed document in bytes; longer ones are ignored.
const MAX_DOCUMENT: usize = 64 * 1024;
/// `Retry-After` of a busy aggregator in seconds. No job takes longer.
const BUSY_RETRY_AFTER: u64 = 2;
/// Maximum length of a peer's text in characters; the rest is cut.
const MAX_TEXT: usize = 500;

/// The type of a problem (DAP-09 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemType {
    /// A message is malformed or otherwise invalid.
    InvalidMessage,
    /// The task is unknown.
    UnrecognizedTask,
    /// The aggregation job is unknown.
    UnrecognizedAggregationJob,
    /// A report is sealed to an unknown or expired key.
    OutdatedConfig,
    /// A report is rejected.
    ReportRejected,
    /// A report's time is too far in the future.
    ReportTooEarly,
    /// The bounds of a batch are invalid.
    BatchInvalid,
    /// A batch has too few or too many reports.
    InvalidBatchSize,
    /// The query limit of a batch is reached.
    BatchQueriedTooManyTimes,
    /// Leader and helper aggregated different reports.
    BatchMismatch,
    /// The credentials are missing or wrong.
    UnauthorizedRequest,
    /// A request for HPKE configurations lacks the task id.
    MissingTaskId,
    /// Leader and helper are at different steps of an aggregation job.
    StepMismatch,
    /// Reports of the batch were already collected in another batch.
    BatchOverlap,
    /// The aggregation parameter is invalid for the task's VDAF.
    InvalidAggregationParameter,
    /// An extension is unknown.
    UnsupportedExtension,
    /// Extensions are unsorted or malformed.
    InvalidExtension,
    /// The advertised task is rejected (draft-wang-ppm-dap-taskprov-06).
    InvalidTask,
    /// Any other problem, identified by its HTTP status. The protocol forbids its own type names for these.
    HttpStatus(u16),
}

impl ProblemType {
    /// All types that the protocol defines.
    pub const DEFINED: [Self; 18] = [
        Self::InvalidMessage,
        Self::UnrecognizedTask,
        Self::UnrecognizedAggregationJob,
        Self::OutdatedConfig,
        Self::ReportRejected,
        Self::ReportTooEarly,
        Self::BatchInvalid,
        Self::InvalidBatchSize,
        Self::BatchQueriedTooManyTimes,
        Self::BatchMismatch,
        Self::UnauthorizedRequest,
        Self::MissingTaskId,
        Self::StepMismatch,
        Self::BatchOverlap,
        Self::InvalidAggregationParameter,
        Self::UnsupportedExtension,
        Self::InvalidExtension,
        Self::InvalidTask,
    ];

    /// The protocol's name of the type; `None` for types that the protocol does not define.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::InvalidMessage => "invalidMessage",
            Self::UnrecognizedTask => "unrecognizedTask",
            Self::UnrecognizedAggregationJob => "unrecognizedAggregationJob",
            Self::OutdatedConfig => "outdatedConfig",
            Self::ReportRejected => "reportRejected",
            Self::ReportTooEarly => "reportTooEarly",
            Self::BatchInvalid => "batchInvalid",
            Self::InvalidBatchSize => "invalidBatchSize",
            Self::BatchQueriedTooManyTimes => "batchQueriedTooManyTimes",
            Self::BatchMismatch => "batchMismatch",
            Self::UnauthorizedRequest => "unauthorizedRequest",
            Self::MissingTaskId => "missingTaskID",
            Self::StepMismatch => "stepMismatch",
            Self::BatchOverlap => "batchOverlap",
            Self::InvalidAggregationParameter => "invalidAggregationParameter",
            Self::UnsupportedExtension => "unsupportedExtension",
            Self::InvalidExtension => "invalidExtension",
            Self::InvalidTask => "invalidTask",
            Self::HttpStatus(_) => return None,
        })
    }

    /// The `type` member of the document.
    pub fn urn(self) -> String {
        self.name().map_or_else(|| "about:blank".to_owned(), |token| format!("{URN_PREFIX}{token}"))
    }

    /// Finds the type with this `type` member, if the protocol defines it.
    pub fn from_urn(urn: &str) -> Option<Self> {
        let token = urn.strip_prefix(URN_PREFIX)?;
        Self::DEFINED.into_iter().find(|kind| kind.name() == Some(token))
    }

    /// The `title` member of the document: a description of the type, or the phrase of the HTTP status.
    pub fn title(self) -> &'static str {
        match self {
            Self::InvalidMessage => "The message is malformed or invalid.",
            Self::UnrecognizedTask => "The task is unknown.",
            Self::UnrecognizedAggregationJob => "The aggregation job is unknown.",
            Self::OutdatedConfig => "The report is sealed to an unknown or expired HPKE key.",
            Self::ReportRejected => "The report is rejected.",
            Self::ReportTooEarly => "The report's time is too far in the future.",
            Self::BatchInvalid => "The bounds of the batch are invalid for the task.",
            Self::InvalidBatchSize => "The batch has too few or too many reports.",
            Self::BatchQueriedTooManyTimes => "The query limit of the batch is reached.",
            Self::BatchMismatch => "Leader and helper aggregated different reports.",
            Self::UnauthorizedRequest => "The credentials are missing or wrong.",
            Self::MissingTaskId => "The request for HPKE configurations lacks the task id.",
            Self::StepMismatch => "Leader and helper are at different steps of the aggregation job.",
            Self::BatchOverlap => "Reports of the batch were already collected in another batch.",
            Self::InvalidAggregationParameter => "The aggregation parameter is invalid for the task's VDAF.",
            Self::UnsupportedExtension => "An extension is unknown.",
            Self::InvalidExtension => "The extensions are unsorted or malformed.",
            Self::InvalidTask => "The advertised task is rejected.",
            Self::HttpStatus(status) => status_phrase(status),
        }
    }

    /// The HTTP status of a response with this problem.
    ///
    /// The protocol's "abort" is 400 (section 3.2). The protocol leaves authentication open; dapbox responds with 403,
    /// as deployed peers do.
    pub fn status(self) -> u16 {
        match self {
            Self::UnauthorizedRequest => 403,
            Self::HttpStatus(status) => status,
            _ => 400,
        }
    }
}

impl fmt::Display for ProblemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or_else(|| self.title()))
    }
}

/// A problem: its document, its HTTP status, and when to retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The type of the problem.
    pub kind: ProblemType,
    /// The HTTP status.
    pub status: u16,
    /// Human-readable description of this occurrence; may be empty.
    pub detail: String,
    /// The task, if known.
    pub task_id: Option<TaskId>,
    /// The aggregation job, if any.
    pub aggregation_job_id: Option<AggregationJobId>,
    /// The collection job, if any.
    pub collection_job_id: Option<CollectionJobId>,
    /// Numbers of the unknown extensions, if any.
    pub unsupported_extensions: Vec<u16>,
    /// Delay before a retry in seconds: the `Retry-After` header, not part of the document.
    pub retry_after: Option<u64>,
}

impl Problem {
    /// Creates a problem with the status of its type.
    pub fn new(kind: ProblemType) -> Self {
        Self {
            kind,
            status: kind.status(),
            detail: String::new(),
            task_id: None,
            aggregation_job_id: None,
            collection_job_id: None,
            unsupported_extensions: Vec::new(),
            retry_after: None,
        }
    }

    /// Creates a problem that the protocol does not define, from an HTTP status.
    pub fn from_status(status: u16) -> Self {
        Self::new(ProblemType::HttpStatus(status))
    }

    /// The aggregator is overloaded: retry shortly.
    pub fn busy() -> Self {
        Self::from_status(503).with_detail("the aggregator is busy").with_retry_after(BUSY_RETRY_AFTER)
    }

    /// Sets the description.
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// Sets the task, which the protocol requires if it is known.
    ///
    /// Set it for every request whose path or query names a task, also with [`ProblemType::HttpStatus`]: the JavaScript
    /// client of DAP-09 fails to parse a document without `taskid`.
    pub fn with_task(self, task: TaskId) -> Self {
        Self { task_id: Some(task), ..self }
    }

    /// Sets the aggregation job.
    pub fn with_aggregation_job(self, job: AggregationJobId) -> Self {
        Self { aggregation_job_id: Some(job), ..self }
    }

    /// Sets the collection job.
    pub fn with_collection_job(self, job: CollectionJobId) -> Self {
        Self { collection_job_id: Some(job), ..self }
    }

    /// Sets the numbers of the unknown extensions (DAP-18 section 4.4.2).
    pub fn with_unsupported_extensions(self, numbers: impl IntoIterator<Item = u16>) -> Self {
        Self { unsupported_extensions: numbers.into_iter().collect(), ..self }
    }

    /// Sets the delay before a retry, in seconds.
    pub fn with_retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Encodes the document.
    pub fn to_json(&self) -> String {
        let mut document = Map::new();
        let mut member = |name: &str, value: Value| document.insert(name.to_owned(), value);
        member("type", self.kind.urn().into());
        member("title", self.kind.title().into());
        member("status", self.status.into());
        if !self.detail.is_empty() {
            member("detail", self.detail.as_str().into());
        }
        if let Some(id) = self.task_id {
            member("taskid", id.to_string().into());
        }
        if let Some(id) = self.aggregation_job_id {
            member("aggregation_job_id", id.to_string().into());
        }
        if let Some(id) = self.collection_job_id {
            member("collection_job_id", id.to_string().into());
        }
        if !self.unsupported_extensions.is_empty() {
            member("unsupported_extensions", self.unsupported_extensions.clone().into());
        }
        Value::Object(document).to_string()
    }

    /// Decodes a peer's problem from an HTTP status and an arbitrary body.
    ///
    /// The status is that of the HTTP response; the one in the document is advisory (RFC 9457 section 3.1.2). An
    /// unknown type becomes [`ProblemType::HttpStatus`], with the document's title in the detail. Text is truncated and
    /// stripped of control characters, because logs and terminals show it.
    pub fn from_json(status: u16, body: &[u8]) -> Self {
        let body = if body.len() <= MAX_DOCUMENT { body } else { &[] };
        let document: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = ProblemType::from_urn(text("type"));
        let mut detail = readable(text("detail"));
        if kind.is_none() {
            let title = readable(text("title"));
            detail = match (title.is_empty() || title == status_phrase(status), detail.is_empty()) {
                (true, _) => detail,
                (false, true) => title,
                (false, false) => format!("{title} {detail}"),
            };
        }
        Self {
            kind: kind.unwrap_or(ProblemType::HttpStatus(status)),
            status,
            detail,
            task_id: text("taskid").parse().ok(),
            aggregation_job_id: text("aggregation_job_id").parse().ok(),
            collection_job_id: text("collection_job_id").parse().ok(),
            unsupported_extensions: numbers(document.get("unsupported_extensions")),
            retry_after: None,
        }
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        let is_too_long = malformed.is_too_long();
        // Only queries and batch selectors contain intervals.
        let kind = if malformed.is_out_of_range() { ProblemType::BatchInvalid } else { ProblemType::InvalidMessage };
        let problem = Self::new(kind).with_detail(malformed.to_string());
        // The status tells a leader that a shorter job may be accepted.
        if is_too_long { Self { status: 413, ..problem } } else { problem }
    }
}

/// `400 batchMismatch: helper has 12 reports`, `503 Service Unavailable`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.kind)?;
        match (self.detail.as_str(), self.kind) {
            ("", ProblemType::HttpStatus(_)) => Ok(()),
            ("", kind) => write!(f, ": {}", kind.title()),
            (detail, _) => write!(f, ": {detail}"),
        }
    }
}

impl std::error::Error for Problem {}

/// The valid extension numbers of a peer's list.
fn numbers(list: Option<&Value>) -> Vec<u16> {
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_u64).filter_map(|number| number.try_into().ok()).collect()
}

/// A peer's text as one line of limited length.
fn readable(text: &str) -> String {
    let line: String = text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().to_owned()
}

/// The phrase of an HTTP status (RFC 9110 section 15), which RFC 9457 section 4.2.1 requires for `about:blank`.
fn status_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        507 => "Insufficient Storage",
        _ if status / 100 == 4 => "Client Error",
        _ if status / 100 == 5 => "Server Error",
        _ => "Unexpected Status",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TASK: TaskId = TaskId::new([7; 32]);

    #[test]
    fn document_has_required_members() {
        let problem = Problem::new(ProblemType::BatchMismatch).with_task(TASK).with_detail("12 reports, not 13");
        let document: Value = serde_json::from_str(&problem.to_json()).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "urn:ietf:params:ppm:dap:error:batchMismatch",
                "title": "Leader and helper aggregated different reports.",
                "status": 400,
                "detail": "12 reports, not 13",
                "taskid": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
            })
        );
    }

    #[test]
    fn uses_about_blank_outside_the_protocol() {
        let problem = Problem::from_status(429).with_retry_after(30);
        let document: Value = serde_json::from_str(&problem.to_json()).unwrap();
        let expected = serde_json::json!({ "type": "about:blank", "title": "Too Many Requests", "status": 429 });
        assert_eq!(document, expected);
    }

    #[test]
    fn round_trips_every_type() {
        for kind in ProblemType::DEFINED {
            assert_eq!(ProblemType::from_urn(&kind.urn()), Some(kind));
            let problem = Problem::new(kind)
                .with_task(TASK)
                .with_detail("why")
                .with_aggregation_job(AggregationJobId::new([1; 16]))
                .with_collection_job(CollectionJobId::new([2; 16]))
                .with_unsupported_extensions([23, 42]);
            assert_eq!(Problem::from_json(problem.status, problem.to_json().as_bytes()), problem);
        }
        for urn in ["about:blank", "batchMismatch", "urn:ietf:params:ppm:dap:error:", "urn:ietf:params:ppm:dap:error:x"]
        {
            assert_eq!(ProblemType::from_urn(urn), None, "{urn}");
        }
    }

    #[test]
    fn maps_types_to_status() {
        for kind in ProblemType::DEFINED {
            assert_eq!(kind.status(), if kind == ProblemType::UnauthorizedRequest { 403 } else { 400 });
        }
    }

    #[test]
    fn keeps_title_of_unknown_type() {
        let body = br#"{"type":"https://example.com/busy","title":"Overloaded.","status":1,"detail":"Later,\u001b[31m please."}"#;
        let problem = Problem::from_json(429, body);
        assert_eq!(problem.kind, ProblemType::HttpStatus(429));
        assert_eq!(problem.to_string(), "429 Too Many Requests: Overloaded. Later, [31m please.");
    }

    #[test]
    fn accepts_arbitrary_bodies() {
        let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(MAX_TEXT + 1));
        assert_eq!(Problem::from_json(400, long.as_bytes()).detail.len(), MAX_TEXT);
        let huge = format!(r#"{{"detail":"{}"}}"#, "x".repeat(MAX_DOCUMENT));
        let nested = "[".repeat(MAX_DOCUMENT);
        for body in ["", "<html>", "null", "[]", r#"{"type":1,"status":"x","taskid":[]}"#, &huge, &nested] {
            assert_eq!(Problem::from_json(502, body.as_bytes()), Problem::from_status(502));
        }
    }

    #[test]
    fn displays_status_type_and_detail() {
        let problem = Problem::new(ProblemType::UnrecognizedTask);
        assert_eq!(problem.to_string(), "400 unrecognizedTask: The task is unknown.");
        assert_eq!(Problem::from_status(503).to_string(), "503 Service Unavailable");
        assert_eq!(Problem::from(Malformed::new("Report", "is truncated")).detail, "malformed Report: is truncated");
    }

    proptest! {
        #[test]
        fn random_bodies_never_panic(status: u16, body: Vec<u8>) {
            prop_assert_eq!(Problem::from_json(status, &body).status, status);
        }
    }
}
