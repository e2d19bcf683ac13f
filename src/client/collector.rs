//! The collector of a task: asks the leader for an aggregate, waits for it, opens both shares and puts them together
//! (DAP-09 section 4.6, DAP-18 section 4.6).

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

/// A task as its collector knows it.
#[derive(Clone, Debug)]
pub struct CollectorTask {
    /// What all parties know.
    pub public: TaskParameters,
    /// The token that we present to the leader.
    pub token: Secret,
    /// The one before, which is tried where the leader does not know the new one yet.
    pub previous_token: Option<Secret>,
}

/// An aggregate, as it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectedAggregate {
    /// How many reports are in it.
    pub report_count: u64,
    /// The smallest aligned interval that holds the times of those reports.
    pub interval: Interval,
    /// The batch's id, if the leader makes the batches and says which one it is.
    pub batch_id: Option<BatchId>,
    /// The path of the collection job at the leader.
    pub location: Option<String>,
    /// The aggregate.
    pub result: AggregateResult,
}

/// How a collection is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The leader has taken the request.
    Accepted,
    /// It is not ready yet; asked that many times.
    Waiting(u64),
}

/// Why there is no aggregate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CollectError {
    /// The task's parameters are wrong, or the shares do not fit them.
    #[error(transparent)]
    Vdaf(#[from] VdafError),
    /// The leader did not take the request, or could not fulfil it.
    #[error("the leader: {0}")]
    Request(RequestError),
    /// The protocol has no such query.
    #[error("the query: {0}")]
    UnsupportedQuery(Malformed),
    /// The answer does not decode.
    #[error("the leader's answer: {0}")]
    Malformed(#[from] Malformed),
    /// The answer is for another question.
    #[error("the leader's answer does not fit the query: {0}")]
    AnswerMismatch(&'static str),
    /// A share does not open with the collector's key.
    #[error("the {0}'s share does not open: {1}")]
    Open(Role, HpkeError),
    /// The leader has deleted the result.
    #[error("the leader has deleted the result")]
    Deleted,
    /// There was no result within the given time.
    #[error("not ready within {}", dapbox_support::duration::show(*.0))]
    TimedOut(Span),
    /// The leader is not done, and was only to be asked how it is.
    #[error("the leader is not done")]
    NotReady,
    /// The collection could not be recorded.
    #[error(transparent)]
    CollectionJournal(#[from] CollectionJournalError),
}

/// A collection job, as the leader is asked for it.
struct JobRequest {
    id: CollectionJobId,
    query: Query,
    body: Bytes,
}

/// What happens to a job that is asked for.
enum JobEvent<'a> {
    /// The leader has accepted it, and names its path.
    Accepted(Option<&'a str>),
    /// It is not ready yet; asked that many times.
    Waiting(u64),
    /// The body of a result that opens.
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
    /// A collector for a task. Fails if the task's parameters are wrong.
    pub fn new(task: CollectorTask, keypair: Keypair, peer: Peer, retries: RetryPolicy) -> Result<Self, CollectError> {
        let preparer = vdaf::preparer_for_task(&task.public)?;
        let peer = peer.with_fallback_tokens(task.previous_token.clone());
        Ok(Self { task, keypair, preparer, peer, retries, advertisement: None })
    }

    /// The same for a task that is set up in-band with this configuration, which goes with every request
    /// (draft-wang-ppm-dap-taskprov-06 section 7).
    pub fn with_advertisement(self, configuration: &[u8]) -> Self {
        let taskprov = wire::taskprov::for_revision(self.task.public.revision);
        Self { advertisement: taskprov.map(|taskprov| taskprov.encode_header(configuration)), ..self }
    }

    /// Collects a batch: starts a collection job and asks until it is done, for at most `timeout`.
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

    /// The body of the request for a query.
    fn encode(&self, query: Query) -> Result<Bytes, CollectError> {
        let (wire, task) = (wire::for_revision(self.task.public.revision), &self.task.public);
        let request = CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: Vec::new() };
        wire.encode_collection_req(task, &request).map(Bytes::from).map_err(CollectError::UnsupportedQuery)
    }

    /// The call that makes a job at the leader. Repeating it is harmless.
    fn create_request(&self, id: &CollectionJobId) -> RequestSpec {
        let wire = wire::for_revision(self.task.public.revision);
        wire.create_request(ResourceKind::CollectionJob, &self.task.public.id, id.as_bytes())
    }

    /// Makes a job at the leader, unless its path there is known, and asks until it is done. `may_exist` becomes true
    /// once the leader may have the job.
    async fn run_job(
        &self,
        job: &JobRequest,
        mut location: Option<String>,
        may_exist: &AtomicBool,
        mut on_event: impl FnMut(JobEvent) -> Result<(), CollectError>,
    ) -> Result<CollectedAggregate, CollectError> {
        let (wire, task) = (wire::for_revision(self.task.public.revision), &self.task.public);
        // Starts fast, as a batch may be ready, and ends at a pace that does not matter.
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
            let at = location
                .as_deref()
                .ok_or(CollectError::AnswerMismatch("neither a result nor a location to ask for it"))?;
            // The first time at once, unless the leader says that this is of no use.
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

    /// Asks how a job is.
    async fn poll(&self, location: &str, may_exist: &AtomicBool) -> Result<Reply, CollectError> {
        let wire = wire::for_revision(self.task.public.revision);
        let poll = wire.poll_request(ResourceKind::CollectionJob, location);
        let poll = poll.ok_or(CollectError::AnswerMismatch("neither a result nor a location to ask for it"))?;
        match self.ask(&poll, Bytes::new(), may_exist).await {
            Ok(reply) if wire.is_deleted_status(reply.status) => Err(CollectError::Deleted),
            reply => reply,
        }
    }

    /// Tells the leader that a result is not needed any more (DAP-09 section 4.6.1, DAP-18 section 4.6.3). Where the
    /// leader makes the batches, a collection after this gets the next one, and this one is gone: keep the result first.
    pub async fn release(&self, collected: &CollectedAggregate) -> Result<(), CollectError> {
        match &collected.location {
            Some(location) => self.delete(location).await,
            None => Ok(()),
        }
    }

    /// Deletes the job with a path at the leader.
    async fn delete(&self, location: &str) -> Result<(), CollectError> {
        let Some(call) =
            wire::for_revision(self.task.public.revision).delete_request(ResourceKind::CollectionJob, location)
        else {
            return Ok(());
        };
        let call = call.with_advertisement(self.advertisement.clone());
        let (url, token) = (&self.task.public.leader_url, Some(&self.task.token));
        let delete = || self.peer.call(url, &call, token, Bytes::new());
        retry(self.retries, delete).await.map(drop).map_err(CollectError::Request)
    }

    async fn ask(&self, call: &RequestSpec, body: Bytes, may_exist: &AtomicBool) -> Result<Reply, CollectError> {
        let (url, token) = (&self.task.public.leader_url, Some(&self.task.token));
        let call = call.clone().with_advertisement(self.advertisement.clone());
        let ask = async || {
            let reply = self.peer.ask(url, &call, token, body.clone()).await;
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

    /// Checks that the answer is one to the query, opens both shares and puts them together.
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

    /// The batch that the answer is about, if that is what was asked for.
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
                    return Err(CollectError::AnswerMismatch("reports from outside the interval"));
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
            // Where the leader does not say which batch it took, shares are not bound to it either.
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
    /// The progress that a caller sees.
    fn progress(&self) -> Option<Progress> {
        match self {
            Self::Accepted(_) => Some(Progress::Accepted),
            Self::Waiting(asked) => Some(Progress::Waiting(*asked)),
            Self::Result(_) => None,
        }
    }
}

/// Whether the leader says that it does not have the job. A proxy's 404 says nothing about jobs.
fn is_job_deleted(error: &RequestError) -> bool {
    error.problem().is_some_and(|problem| match problem.status {
        410 => true,
        404 => problem.collection_job_id.is_some(),
        _ => false,
    })
}

/// The outcome, if it is there within `timeout`.
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
