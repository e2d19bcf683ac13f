//! Single protocol requests in the revision of the task. They return every answer, including errors.

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobInitReq, CollectionReq, Extension, PrepareResp, Query, Report, ReportError,
        ReportId, Revision, TaskId, TaskParameters,
    },
    peer::{Answer, join},
    wire::{self, Problem, ProblemType, RequestSpec, ResourceKind, Wire},
};

use super::{Parties, TEST_TIMEOUT, peer};

/// The answer to a request that creates a resource.
#[derive(Clone, Debug)]
pub struct Created {
    pub answer: Answer,
    /// The path of the resource below the base URL of its server.
    pub resource_path: Option<String>,
}

impl Created {
    /// Returns the path of the created resource.
    #[track_caller]
    pub fn resource_path(&self) -> &str {
        assert!(self.answer.is_success(), "{:?}", self.answer);
        self.resource_path.as_deref().unwrap_or_else(|| panic!("no location in {:?}", self.answer))
    }
}

/// Parses a problem document and checks its media type.
#[track_caller]
pub fn problem(answer: &Answer) -> Problem {
    assert_eq!(answer.content_type.as_deref(), Some("application/problem+json"), "{answer:?}");
    Problem::from_json(answer.status, &answer.body)
}

/// Maps a problem type to the one that a revision uses instead.
pub fn expected_kind(revision: Revision, kind: ProblemType) -> ProblemType {
    match (revision, kind) {
        (Revision::Dap09, ProblemType::InvalidAggregationParameter) => ProblemType::InvalidMessage,
        (Revision::Dap18 | Revision::Dap19, ProblemType::UnauthorizedRequest) => ProblemType::HttpStatus(403),
        (_, kind) => kind,
    }
}

/// Asserts that the answer is a problem of this kind, mapped to the task's revision, and that it names the task (DAP-09
/// section 3.2, DAP-18 section 3.6).
#[track_caller]
pub fn assert_rejected(answer: &Answer, parties: &Parties, kind: ProblemType) {
    let (problem, kind) = (problem(answer), expected_kind(parties.revision(), kind));
    assert_eq!((problem.kind, problem.status), (kind, kind.status()), "{problem}");
    assert_eq!(problem.task_id, Some(parties.id()), "{problem}");
}

/// Asserts that the answer rejects a report with this error (DAP-09 section 4.4.2, DAP-18 section 4.4.2.2).
#[track_caller]
pub fn assert_report_rejected(answer: &Answer, parties: &Parties, report: &Report, error: ReportError) {
    match parties.revision() {
        Revision::Dap09 => {
            let kind = match error {
                ReportError::ReportTooEarly => ProblemType::ReportTooEarly,
                ReportError::OutdatedConfig => ProblemType::OutdatedConfig,
                _ => ProblemType::ReportRejected,
            };
            assert_rejected(answer, parties, kind);
        }
        revision => {
            let error = match error {
                ReportError::TaskExpired | ReportError::TaskNotStarted => ReportError::ReportDropped,
                ReportError::OutdatedConfig if revision == Revision::Dap19 => ReportError::HpkeUnknownConfigId,
                error => error,
            };
            assert_eq!(upload_errors(answer, parties), [(report.metadata.id, error)]);
        }
    }
}

/// Decodes the rejected reports in the answer to an upload.
#[track_caller]
pub fn upload_errors(answer: &Answer, parties: &Parties) -> Vec<(ReportId, ReportError)> {
    assert!(answer.is_success(), "{answer:?}");
    parties.wire().decode_upload_answer(&answer.body).unwrap()
}

/// Asserts that all uploaded reports are accepted.
#[track_caller]
pub fn assert_accepted(answer: &Answer) {
    assert!(answer.status == 200 && answer.body.is_empty(), "{answer:?}");
}

/// Whether the resource is pending: success with an empty body.
pub fn is_pending(answer: &Answer, parties: &Parties) -> bool {
    answer.is_success() && answer.body.is_empty() && !parties.wire().is_deleted_status(answer.status)
}

/// Asserts that the resource is deleted.
#[track_caller]
pub fn assert_deleted(answer: &Answer, parties: &Parties) {
    let says_so = answer.is_success() && parties.wire().is_deleted_status(answer.status);
    assert!(says_so || matches!(answer.status, 404 | 410), "{answer:?}");
}

impl Parties {
    /// The protocol revision of the task.
    pub fn revision(&self) -> Revision {
        self.leader.public.revision
    }

    /// The codec of that revision.
    pub fn wire(&self) -> &'static dyn Wire {
        wire::for_revision(self.revision())
    }

    /// The public parameters of the task.
    pub fn task(&self) -> &TaskParameters {
        &self.leader.public
    }

    /// Whether the requester chooses the ids of jobs.
    pub fn requester_chooses_ids(&self) -> bool {
        self.wire().create_request(ResourceKind::AggregationJob, &self.id(), &[0; 16]).resource_path.is_some()
    }

    /// The URL of a path at the leader.
    pub fn at_leader(&self, path: &str) -> String {
        join(&self.task().leader_url, path)
    }

    /// The URL of a path at the helper.
    pub fn at_helper(&self, path: &str) -> String {
        join(&self.task().helper_url, path)
    }

    /// Sends a request with its token to the server of that kind of resource.
    pub async fn send(&self, to: ResourceKind, call: &RequestSpec, body: impl Into<Bytes>) -> Answer {
        let task = self.task();
        let (url, token) = match to {
            ResourceKind::CollectionJob => (&task.leader_url, &self.collector_token),
            ResourceKind::AggregationJob | ResourceKind::AggregateShare => (&task.helper_url, &self.helper_token),
        };
        peer().send(url, call, Some(token), body.into()).await.unwrap()
    }

    /// Creates a resource; `id` is its name where the requester chooses names.
    pub async fn create(&self, kind: ResourceKind, id: &[u8; 16], body: impl Into<Bytes>) -> Created {
        let call = self.wire().create_request(kind, &self.id(), id);
        let answer = self.send(kind, &call, body).await;
        let resource_path = call.resource_path.clone().or_else(|| self.location_path(&answer));
        Created { answer, resource_path }
    }

    /// The path below the base URL in the `Location` of an answer.
    pub fn location_path(&self, answer: &Answer) -> Option<String> {
        let location = answer.location.as_deref()?;
        let (_, path) = location.split_once(&format!("/{}/", self.wire().path_prefix())).unwrap();
        Some(path.to_owned())
    }

    /// A path without a resource.
    pub fn missing_path(&self, kind: ResourceKind) -> String {
        self.missing_path_of(kind, self.id())
    }

    /// A path of another task without a resource.
    pub fn missing_path_of(&self, kind: ResourceKind, task: TaskId) -> String {
        let resource = match kind {
            ResourceKind::AggregationJob => "aggregation_jobs",
            ResourceKind::AggregateShare => "aggregate_shares",
            ResourceKind::CollectionJob => "collection_jobs",
        };
        format!("tasks/{task}/{resource}/{}", ReportId::random())
    }

    /// Polls a resource.
    pub async fn poll_at(&self, kind: ResourceKind, path: &str) -> Answer {
        self.send(kind, &self.wire().poll_request(kind, path).unwrap(), Bytes::new()).await
    }

    /// Deletes a resource.
    pub async fn delete_at(&self, kind: ResourceKind, path: &str) -> Answer {
        self.send(kind, &self.wire().delete_request(kind, path).unwrap(), Bytes::new()).await
    }

    /// Polls until the resource is ready; returns its answer.
    pub async fn poll_until_ready(&self, kind: ResourceKind, made: Created) -> Answer {
        let deadline = std::time::Instant::now() + TEST_TIMEOUT;
        let (mut answer, mut path) = (made.answer, made.resource_path);
        while is_pending(&answer, self) {
            assert!(std::time::Instant::now() < deadline, "{kind:?} does not end");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            answer = self.poll_at(kind, path.as_deref().unwrap()).await;
            path = self.location_path(&answer).or(path);
        }
        answer
    }
}

/// Uploads.
impl Parties {
    /// Uploads a report once.
    pub async fn upload(&self, report: &Report) -> Answer {
        self.upload_together(std::slice::from_ref(report)).await
    }

    /// Uploads reports in one request.
    pub async fn upload_together(&self, reports: &[Report]) -> Answer {
        self.upload_bytes(self.wire().encode_upload(self.task(), reports)).await
    }

    /// Uploads any bytes once.
    pub async fn upload_bytes(&self, bytes: Vec<u8>) -> Answer {
        let call = self.wire().upload_request(&self.id());
        peer().send(&self.task().leader_url, &call, None, Bytes::from(bytes)).await.unwrap()
    }

    /// Uploads a report once. The server may be down; the result is then `None`.
    pub async fn try_upload(&self, report: &Report) -> Option<Answer> {
        let body = Bytes::from(self.wire().encode_upload(self.task(), std::slice::from_ref(report)));
        let call = self.wire().upload_request(&self.id());
        peer().send(&self.task().leader_url, &call, None, body).await.ok()
    }

    /// Uploads reports in one request each and asserts that all are accepted.
    pub async fn upload_all<'a>(&self, reports: impl IntoIterator<Item = &'a Report>) {
        for report in reports {
            assert_accepted(&self.upload(report).await);
        }
    }
}

/// Collection jobs, each by its path at the leader.
impl Parties {
    /// Encodes a collection request.
    pub fn collection_req(&self, query: Query) -> Bytes {
        self.collection_req_with(query, b"", Vec::new())
    }

    /// Encodes a collection request with an aggregation parameter and extensions. Prio3 defines no aggregation
    /// parameter.
    pub fn collection_req_with(&self, query: Query, parameter: &'static [u8], extensions: Vec<Extension>) -> Bytes {
        let request = CollectionReq { query, aggregation_parameter: Bytes::from_static(parameter), extensions };
        self.wire().encode_collection_req(self.task(), &request).unwrap().into()
    }

    /// Requests a collection job; `id` is its name where the requester chooses names.
    pub async fn create_collection_as(&self, id: &[u8; 16], query: Query) -> Created {
        self.create(ResourceKind::CollectionJob, id, self.collection_req(query)).await
    }

    /// Requests a collection job.
    pub async fn create_collection(&self, query: Query) -> Created {
        self.create_collection_as(ReportId::random().as_bytes(), query).await
    }

    /// Creates a collection job and returns its path.
    pub async fn start_collection(&self, query: Query) -> String {
        self.create_collection(query).await.resource_path().to_owned()
    }

    /// Polls a collection job once.
    pub async fn poll(&self, job: &str) -> Answer {
        self.poll_at(ResourceKind::CollectionJob, job).await
    }

    /// Polls a collection job until it is finished or fails.
    pub async fn outcome(&self, job: &str) -> Answer {
        let made = Created { answer: self.poll(job).await, resource_path: Some(job.to_owned()) };
        self.poll_until_ready(ResourceKind::CollectionJob, made).await
    }

    /// The answer to a collection request or, if a job was created, its outcome.
    pub async fn outcome_of(&self, query: Query) -> Answer {
        let made = self.create_collection(query).await;
        match made.answer.is_success() {
            true => self.outcome(made.resource_path()).await,
            false => made.answer,
        }
    }

    /// Deletes a collection job.
    pub async fn delete_collection(&self, job: &str) -> Answer {
        self.delete_at(ResourceKind::CollectionJob, job).await
    }
}

/// Requests of the leader to the helper.
impl Parties {
    /// Sends an aggregation job; `id` is its name where the requester chooses names.
    pub async fn send_job(&self, id: &[u8; 16], init: &AggregationJobInitReq) -> Created {
        self.send_job_bytes(id, self.wire().encode_job_init(self.task(), init)).await
    }

    /// Sends any bytes as an aggregation job.
    pub async fn send_job_bytes(&self, id: &[u8; 16], body: Vec<u8>) -> Created {
        self.create(ResourceKind::AggregationJob, id, body).await
    }

    /// Sends a new aggregation job.
    pub async fn send_new_job(&self, init: &AggregationJobInitReq) -> Created {
        self.send_job(ReportId::random().as_bytes(), init).await
    }

    /// Sends a new aggregation job and returns the helper's answer to each report.
    pub async fn run_job(&self, init: &AggregationJobInitReq) -> Vec<PrepareResp> {
        let answer = self.poll_until_ready(ResourceKind::AggregationJob, self.send_new_job(init).await).await;
        assert!(answer.is_success(), "{answer:?}");
        self.wire().decode_job_resp(&answer.body, init.prepare_inits.len()).unwrap()
    }

    /// Deletes an aggregation job at the helper.
    pub async fn delete_job(&self, job: &str) -> Answer {
        self.delete_at(ResourceKind::AggregationJob, job).await
    }

    /// Requests the helper's aggregate share and polls until it is ready.
    pub async fn request_share(&self, request: &AggregateShareReq) -> Answer {
        let body = self.wire().encode_aggregate_share_req(self.task(), request);
        let made = self.create(ResourceKind::AggregateShare, ReportId::random().as_bytes(), body).await;
        self.poll_until_ready(ResourceKind::AggregateShare, made).await
    }
}
