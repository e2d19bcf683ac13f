//! Problem documents (RFC 9457): what a peer is told when its request fails, and what we make of what a peer tells us.

use std::fmt;

use serde_json::{Map, Value};

use super::codec::Malformed;
use crate::model::{AggregationJobId, CollectionJobId, TaskId};

/// The media type of problem documents.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What the types of the protocol's problems begin with (DAP-09 section 3.2).
const URN_PREFIX: &str = "urn:ietf:params:ppm:dap:error:";

/// The longest document of a peer that is looked into, in bytes.
const MAX_DOCUMENT: usize = 64 * 1024;
/// What somebody who comes while we are busy is told, in seconds: no job takes longer.
const BUSY_RETRY_AFTER: u64 = 2;
/// How much of a peer's text is kept, in characters.
const MAX_TEXT: usize = 500;

/// What kind of problem it is (DAP-09 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemType {
    /// A message does not decode, or is invalid in another way.
    InvalidMessage,
    /// The task is not known here.
    UnrecognizedTask,
    /// The aggregation job is not known here.
    UnrecognizedAggregationJob,
    /// A report is sealed to a key that is not known here, or not any more.
    OutdatedConfig,
    /// A report is not accepted.
    ReportRejected,
    /// A report's time is too far in the future.
    ReportTooEarly,
    /// The bounds of a batch are not what they should be.
    BatchInvalid,
    /// A batch has too few reports, or too many.
    InvalidBatchSize,
    /// A batch was queried as often as it may be.
    BatchQueriedTooManyTimes,
    /// Leader and helper did not aggregate the same reports.
    BatchMismatch,
    /// The request does not show that its sender may make it.
    UnauthorizedRequest,
    /// Configurations were asked for without saying for which task.
    MissingTaskId,
    /// Leader and helper are at different steps of an aggregation job.
    StepMismatch,
    /// Reports of the batch were collected in another batch already.
    BatchOverlap,
    /// The aggregation parameter is not one of the task's VDAF.
    InvalidAggregationParameter,
    /// A list of extensions has one that is not known here.
    UnsupportedExtension,
    /// A list of extensions is out of order, or one of them is not what it should be.
    InvalidExtension,
    /// A task that a request sets up is not taken (draft-wang-ppm-dap-taskprov-06).
    InvalidTask,
    /// Any other problem: all that is said of it is its HTTP status. The protocol's own names may not be used then.
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

    /// The protocol's name of the type; `None` for problems that the protocol does not define.
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

    /// The type that a `type` member names, if the protocol defines it.
    pub fn from_urn(urn: &str) -> Option<Self> {
        let token = urn.strip_prefix(URN_PREFIX)?;
        Self::DEFINED.into_iter().find(|kind| kind.name() == Some(token))
    }

    /// The `title` member of the document: the type in words, or the usual words for the HTTP status.
    pub fn title(self) -> &'static str {
        match self {
            Self::InvalidMessage => "The message is malformed or invalid.",
            Self::UnrecognizedTask => "The task is not known here.",
            Self::UnrecognizedAggregationJob => "The aggregation job is not known here.",
            Self::OutdatedConfig => "The report is sealed to an HPKE key that is not in use here (any more).",
            Self::ReportRejected => "The report is not accepted.",
            Self::ReportTooEarly => "The report's time is too far in the future.",
            Self::BatchInvalid => "The bounds of the batch are not valid for the task.",
            Self::InvalidBatchSize => "The batch has too few or too many reports.",
            Self::BatchQueriedTooManyTimes => "The batch was queried as often as the task allows.",
            Self::BatchMismatch => "Leader and helper did not aggregate the same reports.",
            Self::UnauthorizedRequest => "The request's credentials are missing or wrong.",
            Self::MissingTaskId => "HPKE configurations are given for a task only: say which one.",
            Self::StepMismatch => "Leader and helper are at different steps of the aggregation job.",
            Self::BatchOverlap => "Reports of the batch were collected in another batch already.",
            Self::InvalidAggregationParameter => "The task's VDAF has no such aggregation parameter.",
            Self::UnsupportedExtension => "An extension is not known here.",
            Self::InvalidExtension => "The extensions are out of order, or one of them is malformed.",
            Self::InvalidTask => "The task that the request sets up is not taken here.",
            Self::HttpStatus(status) => status_phrase(status),
        }
    }

    /// The HTTP status that the problem is sent with.
    ///
    /// Where the protocol says "abort" this is 400 (section 3.2). It leaves authentication open: 403, as deployed peers
    /// answer.
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

/// A problem: its document, its HTTP status, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of problem it is.
    pub kind: ProblemType,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time, for people; may be empty.
    pub detail: String,
    /// The task, if it is known.
    pub task_id: Option<TaskId>,
    /// The aggregation job, if the problem is about one.
    pub aggregation_job_id: Option<AggregationJobId>,
    /// The collection job, if the problem is about one.
    pub collection_job_id: Option<CollectionJobId>,
    /// The numbers of the extensions that are not known, if the problem is about such.
    pub unsupported_extensions: Vec<u16>,
    /// After how many seconds to try again: the `Retry-After` header, which is not part of the document.
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem with the status of its kind.
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

    /// A problem that the protocol does not define, by its HTTP status.
    pub fn from_status(status: u16) -> Self {
        Self::new(ProblemType::HttpStatus(status))
    }

    /// We have too much to do: try again in a moment.
    pub fn busy() -> Self {
        Self::from_status(503).with_detail("the aggregator is busy").with_retry_after(BUSY_RETRY_AFTER)
    }

    /// Says what went wrong this time.
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// Names the task, which the protocol asks for wherever it is known.
    ///
    /// Do so for every request whose path or query names one, also with [`ProblemType::HttpStatus`]: the JavaScript client
    /// of DAP-09 cannot read a document without `taskid` and then reports nothing but its own confusion.
    pub fn with_task(self, task: TaskId) -> Self {
        Self { task_id: Some(task), ..self }
    }

    /// Names the aggregation job.
    pub fn with_aggregation_job(self, job: AggregationJobId) -> Self {
        Self { aggregation_job_id: Some(job), ..self }
    }

    /// Names the collection job.
    pub fn with_collection_job(self, job: CollectionJobId) -> Self {
        Self { collection_job_id: Some(job), ..self }
    }

    /// Names the extensions that are not known, by their numbers (DAP-18 section 4.4.2).
    pub fn with_unsupported_extensions(self, numbers: impl IntoIterator<Item = u16>) -> Self {
        Self { unsupported_extensions: numbers.into_iter().collect(), ..self }
    }

    /// Says after how many seconds to try again.
    pub fn with_retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// The problem's document.
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

    /// What a peer tells us with an HTTP status and a body, which may be anything at all.
    ///
    /// The status is that of the HTTP answer: the document's is advisory only (RFC 9457 section 3.1.2). A type that the
    /// protocol does not define becomes [`ProblemType::HttpStatus`], with the document's title in the detail. Text is cut to
    /// a moderate length and freed of control characters, as it ends up in logs and on terminals.
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
        // Only queries and batch selectors have intervals.
        let kind = if malformed.is_out_of_range() { ProblemType::BatchInvalid } else { ProblemType::InvalidMessage };
        let problem = Self::new(kind).with_detail(malformed.to_string());
        // A leader learns from the status that a shorter job may be taken.
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

/// The extension numbers that a peer lists, as far as they are some; no more than there are.
fn numbers(list: Option<&Value>) -> Vec<u16> {
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_u64).filter_map(|number| number.try_into().ok()).collect()
}

/// A peer's text as one line of moderate length.
fn readable(text: &str) -> String {
    let line: String = text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().to_owned()
}

/// The usual words for an HTTP status (RFC 9110 section 15), as RFC 9457 section 4.2.1 asks of `about:blank`.
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
                "title": "Leader and helper did not aggregate the same reports.",
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
        assert_eq!(problem.to_string(), "400 unrecognizedTask: The task is not known here.");
        assert_eq!(Problem::from_status(503).to_string(), "503 Service Unavailable");
        assert_eq!(
            Problem::from(Malformed::new("Report", "ends too early")).detail,
            "malformed Report: ends too early"
        );
    }

    proptest! {
        #[test]
        fn random_bodies_never_panic(status: u16, body: Vec<u8>) {
            prop_assert_eq!(Problem::from_json(status, &body).status, status);
        }
    }
}
