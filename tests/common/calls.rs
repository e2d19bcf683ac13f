//! Single requests of the protocol, in whichever revision the task speaks, with whatever comes back.

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobInitReq, CollectionReq, Extension, PrepareResp, Query, Report, ReportError,
        ReportId, Revision, TaskId, TaskParameters,
    },
    peer::{Answer, join},
    wire::{self, Problem, ProblemType, RequestSpec, ResourceKind, Wire},
};

use super::{PATIENCE, Parties, peer};

/// What a request that makes a resource came to.
#[derive(Clone, Debug)]
pub struct Made {
    pub answer: Answer,
    /// The path of the resource below its server's base URL, if there is one.
    pub place: Option<String>,
}

impl Made {
    /// The path of the resource.
    #[track_caller]
    pub fn place(&self) -> &str {
        assert!(self.answer.is_success(), "{:?}", self.answer);
        self.place.as_deref().unwrap_or_else(|| panic!("nobody says where it is: {:?}", self.answer))
    }
}

/// What a refusal says, checked to be a problem document.
#[track_caller]
pub fn problem(answer: &Answer) -> Problem {
    assert_eq!(answer.content_type.as_deref(), Some("application/problem+json"), "{answer:?}");
    Problem::from_json(answer.status, &answer.body)
}

/// What a revision says where it has no such name.
pub fn in_words_of(revision: Revision, kind: ProblemType) -> ProblemType {
    match (revision, kind) {
        (Revision::Dap09, ProblemType::InvalidAggregationParameter) => ProblemType::InvalidMessage,
        (Revision::Dap18, ProblemType::UnauthorizedRequest) => ProblemType::HttpStatus(403),
        (_, kind) => kind,
    }
}

/// Insists that the answer is a refusal of this kind, in the words of the task's revision, and names the task
/// (DAP-09 section 3.2, DAP-18 section 3.6).
#[track_caller]
pub fn assert_refused(answer: &Answer, parties: &Parties, kind: ProblemType) {
    let (problem, kind) = (problem(answer), in_words_of(parties.revision(), kind));
    assert_eq!((problem.kind, problem.status), (kind, kind.status()), "{problem}");
    assert_eq!(problem.task_id, Some(parties.id()), "{problem}");
}

/// Insists that the answer says of a report that it is not taken, and why (DAP-09 section 4.4.2, DAP-18 section
/// 4.4.2.2).
#[track_caller]
pub fn assert_upload_refused(answer: &Answer, parties: &Parties, report: &Report, error: ReportError) {
    match parties.revision() {
        Revision::Dap09 => {
            let kind = match error {
                ReportError::ReportTooEarly => ProblemType::ReportTooEarly,
                ReportError::OutdatedConfig => ProblemType::OutdatedConfig,
                _ => ProblemType::ReportRejected,
            };
            assert_refused(answer, parties, kind);
        }
        Revision::Dap18 => {
            let error = match error {
                ReportError::TaskExpired | ReportError::TaskNotStarted => ReportError::ReportDropped,
                error => error,
            };
            assert_eq!(upload_errors(answer, parties), [(report.metadata.id, error)]);
        }
    }
}

/// What an answer to an upload says of the reports that are not taken.
#[track_caller]
pub fn upload_errors(answer: &Answer, parties: &Parties) -> Vec<(ReportId, ReportError)> {
    assert!(answer.is_success(), "{answer:?}");
    parties.wire().decode_upload_answer(&answer.body).unwrap()
}

/// Insists that everything that was uploaded is taken.
#[track_caller]
pub fn assert_taken(answer: &Answer) {
    assert!(answer.status == 200 && answer.body.is_empty(), "{answer:?}");
}

/// Whether the answer says that the resource is not ready yet: success, and nothing else.
pub fn is_pending(answer: &Answer, parties: &Parties) -> bool {
    answer.is_success() && answer.body.is_empty() && !parties.wire().is_deleted_status(answer.status)
}

/// Insists that there is no such resource any more.
#[track_caller]
pub fn assert_deleted(answer: &Answer, parties: &Parties) {
    let says_so = answer.is_success() && parties.wire().is_deleted_status(answer.status);
    assert!(says_so || matches!(answer.status, 404 | 410), "{answer:?}");
}

impl Parties {
    /// The revision that the task speaks.
    pub fn revision(&self) -> Revision {
        self.leader.public.revision
    }

    /// The messages of that revision.
    pub fn wire(&self) -> &'static dyn Wire {
        wire::for_revision(self.revision())
    }

    /// What all parties know.
    pub fn task(&self) -> &TaskParameters {
        &self.leader.public
    }

    /// Whether whoever asks for a job says what it is called.
    pub fn chooses_ids(&self) -> bool {
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

    /// Sends a request to whom it is for, with credentials.
    pub async fn send(&self, to: ResourceKind, call: &RequestSpec, body: impl Into<Bytes>) -> Answer {
        let task = self.task();
        let (url, token) = match to {
            ResourceKind::CollectionJob => (&task.leader_url, &self.collector_token),
            ResourceKind::AggregationJob | ResourceKind::AggregateShare => (&task.helper_url, &self.helper_token),
        };
        peer().send(url, call, Some(token), body.into()).await.unwrap()
    }

    /// Asks for a resource; `id` is what it is called if that is up to us.
    pub async fn create(&self, kind: ResourceKind, id: &[u8; 16], body: impl Into<Bytes>) -> Made {
        let call = self.wire().create_request(kind, &self.id(), id);
        let answer = self.send(kind, &call, body).await;
        let place = call.resource_path.clone().or_else(|| self.place_in(&answer));
        Made { answer, place }
    }

    /// The path below the base URL that an answer's `Location` names.
    pub fn place_in(&self, answer: &Answer) -> Option<String> {
        let location = answer.location.as_deref()?;
        let (_, place) = location.split_once(&format!("/{}/", self.wire().path_prefix())).unwrap();
        Some(place.to_owned())
    }

    /// A path where there is no resource.
    pub fn nowhere(&self, kind: ResourceKind) -> String {
        self.nowhere_of(kind, self.id())
    }

    /// The same of another task.
    pub fn nowhere_of(&self, kind: ResourceKind, task: TaskId) -> String {
        let resource = match kind {
            ResourceKind::AggregationJob => "aggregation_jobs",
            ResourceKind::AggregateShare => "aggregate_shares",
            ResourceKind::CollectionJob => "collection_jobs",
        };
        format!("tasks/{task}/{resource}/{}", ReportId::random())
    }

    /// Asks how a resource is.
    pub async fn poll_at(&self, kind: ResourceKind, place: &str) -> Answer {
        self.send(kind, &self.wire().poll_request(kind, place).unwrap(), Bytes::new()).await
    }

    /// Deletes a resource.
    pub async fn delete_at(&self, kind: ResourceKind, place: &str) -> Answer {
        self.send(kind, &self.wire().delete_request(kind, place).unwrap(), Bytes::new()).await
    }

    /// The answer, or what it becomes when the resource is ready.
    pub async fn settle(&self, kind: ResourceKind, made: Made) -> Answer {
        let deadline = std::time::Instant::now() + PATIENCE;
        let (mut answer, mut place) = (made.answer, made.place);
        while is_pending(&answer, self) {
            assert!(std::time::Instant::now() < deadline, "{kind:?} does not end");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            answer = self.poll_at(kind, place.as_deref().unwrap()).await;
            place = self.place_in(&answer).or(place);
        }
        answer
    }
}

/// Uploads.
impl Parties {
    /// Uploads a report once.
    pub async fn upload(&self, report: &Report) -> Answer {
        self.upload_at_once(std::slice::from_ref(report)).await
    }

    /// Uploads reports in one request.
    pub async fn upload_at_once(&self, reports: &[Report]) -> Answer {
        self.upload_bytes(self.wire().encode_upload(self.task(), reports)).await
    }

    /// Uploads anything once.
    pub async fn upload_bytes(&self, bytes: Vec<u8>) -> Answer {
        let call = self.wire().upload_request(&self.id());
        peer().send(&self.task().leader_url, &call, None, Bytes::from(bytes)).await.unwrap()
    }

    /// Uploads a report once, to a server that may not be there (any more).
    pub async fn try_upload(&self, report: &Report) -> Option<Answer> {
        let body = Bytes::from(self.wire().encode_upload(self.task(), std::slice::from_ref(report)));
        let call = self.wire().upload_request(&self.id());
        peer().send(&self.task().leader_url, &call, None, body).await.ok()
    }

    /// Uploads reports, each by itself, that are all taken.
    pub async fn upload_all<'a>(&self, reports: impl IntoIterator<Item = &'a Report>) {
        for report in reports {
            assert_taken(&self.upload(report).await);
        }
    }
}

/// Collection jobs, each by its path at the leader.
impl Parties {
    /// The bytes of a collector's request.
    pub fn collection_req(&self, query: Query) -> Bytes {
        self.collection_req_with(query, b"", Vec::new())
    }

    /// The same with an aggregation parameter, which no Prio3 has, and extensions.
    pub fn collection_req_with(&self, query: Query, parameter: &'static [u8], extensions: Vec<Extension>) -> Bytes {
        let request = CollectionReq { query, aggregation_parameter: Bytes::from_static(parameter), extensions };
        self.wire().encode_collection_req(self.task(), &request).unwrap().into()
    }

    /// Asks for a collection job; `id` is what it is called if that is up to us.
    pub async fn ask_collection_as(&self, id: &[u8; 16], query: Query) -> Made {
        self.create(ResourceKind::CollectionJob, id, self.collection_req(query)).await
    }

    /// Asks for a collection job.
    pub async fn ask_collection(&self, query: Query) -> Made {
        self.ask_collection_as(ReportId::random().as_bytes(), query).await
    }

    /// Starts a collection job that is taken.
    pub async fn start_collection(&self, query: Query) -> String {
        self.ask_collection(query).await.place().to_owned()
    }

    /// Asks once how a collection job is.
    pub async fn poll(&self, job: &str) -> Answer {
        self.poll_at(ResourceKind::CollectionJob, job).await
    }

    /// Asks until a collection job is over, one way or the other.
    pub async fn outcome(&self, job: &str) -> Answer {
        let made = Made { answer: self.poll(job).await, place: Some(job.to_owned()) };
        self.settle(ResourceKind::CollectionJob, made).await
    }

    /// What becomes of a query: the answer to the request or, if that is taken, the outcome of the job.
    pub async fn outcome_of(&self, query: Query) -> Answer {
        let made = self.ask_collection(query).await;
        match made.answer.is_success() {
            true => self.outcome(made.place()).await,
            false => made.answer,
        }
    }

    /// Deletes a collection job.
    pub async fn delete_collection(&self, job: &str) -> Answer {
        self.delete_at(ResourceKind::CollectionJob, job).await
    }
}

/// What a leader asks of the helper.
impl Parties {
    /// Sends an aggregation job; `id` is what it is called if that is up to us.
    pub async fn put_job(&self, id: &[u8; 16], init: &AggregationJobInitReq) -> Made {
        self.put_job_bytes(id, self.wire().encode_job_init(self.task(), init)).await
    }

    /// Sends anything as an aggregation job.
    pub async fn put_job_bytes(&self, id: &[u8; 16], body: Vec<u8>) -> Made {
        self.create(ResourceKind::AggregationJob, id, body).await
    }

    /// Sends a new aggregation job.
    pub async fn ask_job(&self, init: &AggregationJobInitReq) -> Made {
        self.put_job(ReportId::random().as_bytes(), init).await
    }

    /// Sends a new aggregation job that the helper answers.
    pub async fn run_job(&self, init: &AggregationJobInitReq) -> Vec<PrepareResp> {
        let answer = self.settle(ResourceKind::AggregationJob, self.ask_job(init).await).await;
        assert!(answer.is_success(), "{answer:?}");
        self.wire().decode_job_resp(&answer.body, init.prepare_inits.len()).unwrap()
    }

    /// Deletes an aggregation job at the helper.
    pub async fn delete_job(&self, job: &str) -> Answer {
        self.delete_at(ResourceKind::AggregationJob, job).await
    }

    /// Asks the helper for its aggregate share: the answer when it is ready.
    pub async fn ask_share(&self, request: &AggregateShareReq) -> Answer {
        let body = self.wire().encode_aggregate_share_req(self.task(), request);
        let made = self.create(ResourceKind::AggregateShare, ReportId::random().as_bytes(), body).await;
        self.settle(ResourceKind::AggregateShare, made).await
    }
}
