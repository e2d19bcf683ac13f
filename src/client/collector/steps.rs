//! The single requests of a collection: create a job, poll it, open its result, delete it.
//!
//! A caller that persists each step before the next one never loses a result:
//! [`encode`](Collector::encode) the request and store it with its id, [`request`](Collector::request) the job and store
//! its location, [`poll`](Collector::poll) it and store the result, then [`delete`](Collector::delete) it if needed.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{CollectError, CollectedAggregate, Collector};
use crate::peer::{Reply, RequestError, retry};
use dapbox_protocol::{
    model::{CollectionJobId, CollectionReq, Query, Time},
    wire::{self, ProblemType, RequestSpec, ResourceKind},
};

/// The state of a collection job after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Path of the job at the leader, relative to the leader's base URL, if known.
    pub location: Option<String>,
    /// The sealed result, if it is ready.
    pub ready: Option<Bytes>,
    /// Delay that the leader requests.
    pub retry_after: Option<std::time::Duration>,
    /// Time of the response by the leader's clock, if stated.
    pub leader_time: Option<Time>,
}

impl Collector {
    /// Encodes the request for a query.
    pub fn encode(&self, query: Query) -> Result<Bytes, CollectError> {
        let (wire, task) = (wire::for_revision(self.task.public.revision), &self.task.public);
        let request = CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: Vec::new() };
        wire.encode_collection_req(task, &request).map(Bytes::from).map_err(CollectError::UnsupportedQuery)
    }

    /// Creates a job with an encoded request at the leader. The request is idempotent. Sets `may_exist` once the leader
    /// may have the job.
    pub async fn request(
        &self,
        id: &CollectionJobId,
        body: Bytes,
        may_exist: &AtomicBool,
    ) -> Result<Step, CollectError> {
        self.ask(&self.create_request(id), body, may_exist).await.map(Step::from)
    }

    /// Polls the job with this path.
    pub async fn poll(&self, location: &str, may_exist: &AtomicBool) -> Result<Step, CollectError> {
        let wire = wire::for_revision(self.task.public.revision);
        let poll = wire.poll_request(ResourceKind::CollectionJob, location);
        let poll = poll.ok_or(CollectError::AnswerMismatch("neither a result nor a location"))?;
        match self.ask(&poll, Bytes::new(), may_exist).await {
            Ok(reply) if wire.is_deleted_status(reply.status) => Err(CollectError::Deleted),
            reply => reply.map(Step::from),
        }
    }

    /// Opens a sealed result: the response `result` to the encoded request `body` for `query`.
    pub fn open_result(&self, query: &Query, body: &[u8], result: &Bytes) -> Result<CollectedAggregate, CollectError> {
        let wire = wire::for_revision(self.task.public.revision);
        let collection = wire.decode_collection(&self.task.public, result)?;
        self.open(query, body, &collection, None)
    }

    /// Deletes the job with this path at the leader. Succeeds if the leader does not have it.
    pub async fn delete(&self, location: &str) -> Result<(), CollectError> {
        match self.delete_existing(location).await {
            Err(CollectError::Request(error))
                if is_job_deleted(&error) || error.problem().is_some_and(|p| p.status == 404) =>
            {
                Ok(())
            }
            deleted => deleted,
        }
    }

    /// The time by the leader's clock. `None` if the leader does not state it.
    pub async fn leader_time(&self) -> Result<Option<Time>, CollectError> {
        let task = &self.task.public;
        let spec = wire::for_revision(task.revision).hpke_config_request(Some(&task.id));
        let spec = spec.with_advertisement(self.advertisement.clone());
        let ask = || self.peer.call(&task.leader_url, &spec, None, Bytes::new());
        retry(self.retries, ask).await.map(|answer| seconds(answer.date)).map_err(CollectError::Request)
    }

    /// The path of a job, if this side and not the leader chooses it.
    pub fn chosen_location(&self, id: &CollectionJobId) -> Option<String> {
        self.create_request(id).resource_path
    }

    /// The request that creates a job at the leader. It is idempotent.
    fn create_request(&self, id: &CollectionJobId) -> RequestSpec {
        let wire = wire::for_revision(self.task.public.revision);
        wire.create_request(ResourceKind::CollectionJob, &self.task.public.id, id.as_bytes())
    }

    /// Deletes the job with this path at the leader. Fails if the leader does not have it.
    pub(super) async fn delete_existing(&self, location: &str) -> Result<(), CollectError> {
        let Some(spec) =
            wire::for_revision(self.task.public.revision).delete_request(ResourceKind::CollectionJob, location)
        else {
            return Ok(());
        };
        let spec = spec.with_advertisement(self.advertisement.clone());
        let (url, token) = (&self.task.public.leader_url, Some(&self.task.token));
        let delete = || self.peer.call(url, &spec, token, Bytes::new());
        retry(self.retries, delete).await.map(drop).map_err(CollectError::Request)
    }

    async fn ask(&self, spec: &RequestSpec, body: Bytes, may_exist: &AtomicBool) -> Result<Reply, CollectError> {
        let (url, token) = (&self.task.public.leader_url, Some(&self.task.token));
        let spec = spec.clone().with_advertisement(self.advertisement.clone());
        let ask = async || {
            let reply = self.peer.ask(url, &spec, token, body.clone()).await;
            let proves_absent = match &reply {
                Ok(_) => false,
                Err(RequestError::NoAnswer(error)) => error.never_sent(),
                Err(RequestError::Refused(_)) => !reply.as_ref().is_err_and(RequestError::is_retryable),
                Err(RequestError::Unexpected(_)) => false,
            };
            may_exist.fetch_or(!proves_absent, Ordering::Relaxed);
            reply
        };
        retry(self.retries, ask).await.map_err(|error| match is_job_deleted(&error) {
            true => CollectError::Deleted,
            false => CollectError::Request(error),
        })
    }
}

impl From<Reply> for Step {
    fn from(reply: Reply) -> Self {
        let Reply { status: _, location, ready, retry_after, date } = reply;
        Self { location, ready, retry_after, leader_time: seconds(date) }
    }
}

impl CollectError {
    /// Whether a job with this error will never have a result. `may_exist` is whether the leader may have the job.
    pub fn is_final(&self, may_exist: bool) -> bool {
        match self {
            Self::Deleted | Self::UnsupportedQuery(_) => true,
            Self::Request(RequestError::Refused(problem)) => {
                let is_final = !crate::peer::is_retryable(problem.status);
                if may_exist { is_final && !self.concerns_collector() } else { is_final }
            }
            Self::Request(_) => !may_exist,
            _ => false,
        }
    }

    /// Whether the leader rejected the request for a reason that concerns this collector, such as its token, rather than
    /// the job.
    pub fn concerns_collector(&self) -> bool {
        let Self::Request(RequestError::Refused(problem)) = self else { return false };
        matches!(problem.status, 401 | 403 | 404)
            || matches!(problem.kind, ProblemType::UnauthorizedRequest | ProblemType::UnrecognizedTask)
    }

    /// The leader's problem, if it rejected the request.
    pub fn problem(&self) -> Option<&wire::Problem> {
        match self {
            Self::Request(error) => error.problem(),
            _ => None,
        }
    }
}

/// Whether the leader states that the job does not exist. A 404 of a proxy does not.
fn is_job_deleted(error: &RequestError) -> bool {
    error.problem().is_some_and(|problem| match problem.status {
        410 => true,
        404 => problem.collection_job_id.is_some(),
        _ => false,
    })
}

fn seconds(date: Option<SystemTime>) -> Option<Time> {
    date?.duration_since(UNIX_EPOCH).ok().map(|since| Time(since.as_secs()))
}
