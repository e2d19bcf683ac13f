//! The DAP collector: requests an aggregate from the leader, waits for it, opens both aggregate shares and combines
//! them (DAP-09 section 4.6, DAP-18 section 4.6).

mod journal;
mod resume;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration as Span,
};

use bytes::Bytes;

use crate::peer::{Backoff, Peer, Reply, RequestError, RetryPolicy, retry};
use dapbox_protocol::{
    hpke::{HpkeError, Keypair},
    model::{
        BatchId, BatchSelector, Collection, CollectionJobId, CollectionReq, FixedSizeQuery, Interval,
        PartialBatchSelector, Query, Role, Secret, TaskParameters,
    },
    vdaf::{self, AggregateResult, Preparer, VdafError},
    wire::{self, Malformed, RequestSpec, ResourceKind},
};

pub use journal::{CollectionJob, CollectionJournal, CollectionJournalError, CollectionRecord};

/// A task as its collector configures it.
#[derive(Clone, Debug)]
pub struct CollectorTask {
    /// Public parameters.
    pub public: TaskParameters,
    /// The token to present to the leader.
    pub token: Secret,
    /// The previous token, presented if the leader rejects the new one.
    pub previous_token: Option<Secret>,
}

/// A collected aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectedAggregate {
    /// Number of reports in the aggregate.
    pub report_count: u64,
    /// The smallest aligned interval that contains the times of the reports.
    pub interval: Interval,
    /// The batch id, for fixed-size tasks whose leader reports it.
    pub batch_id: Option<BatchId>,
    /// Path of the collection job at the leader.
    pub location: Option<String>,
    /// The aggregate.
    pub result: AggregateResult,
}

/// Progress of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The leader accepted the request.
    Accepted,
    /// The result is not ready; the number of polls so far.
    Waiting(u64),
}

/// The reason why a collection failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CollectError {
    /// The task's parameters are invalid, or the shares do not match them.
    #[error(transparent)]
    Vdaf(#[from] VdafError),
    /// The leader rejected the request, or the request failed.
    #[error("request to the leader failed: {0}")]
    Request(RequestError),
    /// The protocol has no such query.
    #[error("unsupported query: {0}")]
    UnsupportedQuery(Malformed),
    /// The response does not decode.
    #[error("invalid response of the leader: {0}")]
    Malformed(#[from] Malformed),
    /// The response does not match the query.
    #[error("the response of the leader does not match the query: {0}")]
    AnswerMismatch(&'static str),
    /// A share cannot be opened with the collector's key.
    #[error("cannot open the aggregate share of the {0}: {1}")]
    Open(Role, HpkeError),
    /// The leader has deleted the result.
    #[error("the leader has deleted the result")]
    Deleted,
    /// The result was not ready in time.
    #[error("the result was not ready within {}", dapbox_support::duration::show(*.0))]
    TimedOut(Span),
    /// The result is not ready, and the caller asked to poll once.
    #[error("the result is not ready")]
    NotReady,
    /// The journal cannot be read or written.
    #[error(transparent)]
    CollectionJournal(#[from] CollectionJournalError),
}

/// A request for a collection job.
struct JobRequest {
    id: CollectionJobId,
    query: Query,
    body: Bytes,
}

/// A step of a collection job.
enum JobEvent<'a> {
    /// The leader accepted the job, at this path if known.
    Accepted(Option<&'a str>),
    /// The result is not ready; the number of polls so far.
    Waiting(u64),
    /// The body of a result whose shares were opened.
    Result(&'a Bytes),
}

/// Collects the aggregates of one task.
pub struct Collector {
    task: CollectorTask,
    keypair: Keypair,
    preparer: Arc<dyn Preparer>,
    peer: Peer,
    retries: RetryPolicy,
    advertisement: Option<String>,
}

impl Collector {
    /// Creates a collector for a task. Fails if the task's parameters are invalid.
    pub fn new(task: CollectorTask, keypair: Keypair, peer: Peer, retries: RetryPolicy) -> Result<Self, CollectError> {
        let preparer = vdaf::preparer_for_task(&task.public)?;
        let peer = peer.with_fallback_tokens(task.previous_token.clone());
        Ok(Self { task, keypair, preparer, peer, retries, advertisement: None })
    }

    /// Advertises the configuration of an in-band task with every request (draft-wang-ppm-dap-taskprov-06 section 7).
    pub fn with_advertisement(self, configuration: &[u8]) -> Self {
        let taskprov = wire::taskprov::for_revision(self.task.public.revision);
        Self { advertisement: taskprov.map(|taskprov| taskprov.encode_header(configuration)), ..self }
    }

    /// Collects a batch: creates a collection job and polls it until it is done, for at most `timeout`.
    pub async fn collect(
        &self,
        query: Query,
        timeout: Option<Span>,
        progress: impl FnMut(Progress),
    ) -> Result<CollectedAggregate, CollectError> {
        let collected = async {
            let job = JobRequest { id: CollectionJobId::random(), query, body: self.encode(query)? };
            let mut progress = progress;
            let on_event = |event: JobEvent| {
                event.progress().into_iter().for_each(&mut progress);
                Ok(())
            };
            self.run_job(&job, None, &AtomicBool::new(false), on_event).await
        };
        with_timeout(timeout, collected).await
    }

    /// Encodes the request for a query.
    fn encode(&self, query: Query) -> Result<Bytes, CollectError> {
        let (wire, task) = (wire::for_revision(self.task.public.revision), &self.task.public);
        let request = CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: Vec::new() };
        wire.encode_collection_req(task, &request).map(Bytes::from).map_err(CollectError::UnsupportedQuery)
    }

    /// The request that creates a job at the leader. It is idempotent.
    fn create_request(&self, id: &CollectionJobId) -> RequestSpec {
        let wire = wire::for_revision(self.task.public.revision);
        wire.create_request(ResourceKind::CollectionJob, &self.task.public.id, id.as_bytes())
    }

    /// Creates a job at the leader, unless its location is known, and polls it until it is done. Sets `may_exist` once
    /// the leader may have the job.
    async fn run_job(
        &self,
        job: &JobRequest,
        mut location: Option<String>,
        may_exist: &AtomicBool,
        mut on_event: impl FnMut(JobEvent) -> Result<(), CollectError>,
    ) -> Result<CollectedAggregate, CollectError> {
        let (wire, task) = (wire::for_revision(self.task.public.revision), &self.task.public);
        // The batch may be ready soon, so the first polls are frequent.
        let mut backoff = Backoff::new(Span::from_millis(100), Span::from_secs(30));
        let mut asked = 0;
        let mut reply = match &location {
            Some(location) => self.poll(location, may_exist).await?,
            None => self.ask(&self.create_request(&job.id), job.body.clone(), may_exist).await?,
        };
        location = reply.location.or(location);
        on_event(JobEvent::Accepted(location.as_deref()))?;
        loop {
            if let Some(body) = reply.ready {
                let collection = wire.decode_collection(task, &body)?;
                let collected = self.open(&job.query, &job.body, &collection, location)?;
                on_event(JobEvent::Result(&body))?;
                return Ok(collected);
            }
            let at = location.as_deref().ok_or(CollectError::AnswerMismatch("neither a result nor a location"))?;
            // Poll immediately the first time, unless the leader requests a delay.
            if asked > 0 || reply.retry_after.is_some() {
                tokio::time::sleep(backoff.next_delay(reply.retry_after)).await;
            }
            reply = self.poll(at, may_exist).await?;
            if let Some(moved) = reply.location.take().filter(|moved| *moved != at) {
                on_event(JobEvent::Accepted(Some(&moved)))?;
                location = Some(moved);
            }
            if reply.ready.is_none() {
                asked += 1;
                on_event(JobEvent::Waiting(asked))?;
            }
        }
    }

    /// Polls a job.
    async fn poll(&self, location: &str, may_exist: &AtomicBool) -> Result<Reply, CollectError> {
        let wire = wire::for_revision(self.task.public.revision);
        let poll = wire.poll_request(ResourceKind::CollectionJob, location);
        let poll = poll.ok_or(CollectError::AnswerMismatch("neither a result nor a location"))?;
        match self.ask(&poll, Bytes::new(), may_exist).await {
            Ok(reply) if wire.is_deleted_status(reply.status) => Err(CollectError::Deleted),
            reply => reply,
        }
    }

    /// Tells the leader to delete a result (DAP-09 section 4.6.1, DAP-18 section 4.6.3).
    ///
    /// For tasks whose leader creates the batches, the next collection returns the next batch and this one is lost.
    /// Store the result first.
    pub async fn release(&self, collected: &CollectedAggregate) -> Result<(), CollectError> {
        match &collected.location {
            Some(location) => self.delete(location).await,
            None => Ok(()),
        }
    }

    /// Deletes the job with this path at the leader.
    async fn delete(&self, location: &str) -> Result<(), CollectError> {
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

    /// Validates a response, opens both aggregate shares and combines them.
    fn open(
        &self,
        query: &Query,
        request: &[u8],
        collection: &Collection,
        location: Option<String>,
    ) -> Result<CollectedAggregate, CollectError> {
        let batch = self.check(query, collection)?;
        let wire = wire::for_revision(self.task.public.revision);
        let aad = wire.aggregate_share_aad(&self.task.public, request, &batch);
        let open = |role, sealed| {
            let info = wire.aggregate_share_info(role);
            self.keypair.open(&info, &aad, sealed).map_err(|e| CollectError::Open(role, e))
        };
        let leader = open(Role::Leader, &collection.leader_share)?;
        let helper = open(Role::Helper, &collection.helper_share)?;
        Ok(CollectedAggregate {
            report_count: collection.report_count,
            interval: collection.interval,
            batch_id: match collection.batch {
                Some(PartialBatchSelector::FixedSize(id)) => Some(id),
                Some(PartialBatchSelector::TimeInterval) | None => None,
            },
            location,
            result: self.preparer.unshard(&leader, &helper, collection.report_count)?,
        })
    }

    /// The batch of a response. Fails if it is not the requested one.
    fn check(&self, query: &Query, collection: &Collection) -> Result<BatchSelector, CollectError> {
        let found = collection.interval;
        if collection.report_count == 0 {
            return Err(CollectError::AnswerMismatch("no reports"));
        }
        if !found.is_aligned(self.task.public.time_precision) {
            return Err(CollectError::AnswerMismatch("an interval that is not aligned to the task's time precision"));
        }
        match (query, collection.batch) {
            (Query::TimeInterval(wanted), Some(PartialBatchSelector::TimeInterval) | None) => {
                if found.start() < wanted.start() || found.end() > wanted.end() {
                    return Err(CollectError::AnswerMismatch("reports outside the interval"));
                }
                Ok(BatchSelector::TimeInterval(*wanted))
            }
            (Query::FixedSize(FixedSizeQuery::CurrentBatch), Some(PartialBatchSelector::FixedSize(id))) => {
                Ok(BatchSelector::FixedSize(id))
            }
            (Query::FixedSize(FixedSizeQuery::ByBatchId(wanted)), Some(PartialBatchSelector::FixedSize(id)))
                if id == *wanted =>
            {
                Ok(BatchSelector::FixedSize(id))
            }
            // If the leader does not report the batch, the shares are not bound to it.
            (Query::FixedSize(FixedSizeQuery::CurrentBatch), None) => {
                Ok(BatchSelector::FixedSize(BatchId::new([0; 32])))
            }
            (Query::FixedSize(_), Some(PartialBatchSelector::FixedSize(_))) => {
                Err(CollectError::AnswerMismatch("another batch"))
            }
            _ => Err(CollectError::AnswerMismatch("another kind of batch")),
        }
    }
}

impl JobEvent<'_> {
    /// The progress to report to the caller.
    fn progress(&self) -> Option<Progress> {
        match self {
            Self::Accepted(_) => Some(Progress::Accepted),
            Self::Waiting(asked) => Some(Progress::Waiting(*asked)),
            Self::Result(_) => None,
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

/// Limits a collection to `timeout`.
async fn with_timeout(
    timeout: Option<Span>,
    collected: impl Future<Output = Result<CollectedAggregate, CollectError>>,
) -> Result<CollectedAggregate, CollectError> {
    match timeout {
        Some(limit) => tokio::time::timeout(limit, collected).await.unwrap_or(Err(CollectError::TimedOut(limit))),
        None => collected.await,
    }
}

#[cfg(test)]
mod tests;
