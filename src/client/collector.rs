//! The DAP collector: requests an aggregate from the leader, waits for it, opens both aggregate shares and combines
//! them (DAP-09 section 4.6, DAP-18 section 4.6).

mod journal;
mod resume;
mod steps;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration as Span,
};

use bytes::Bytes;

use crate::peer::{Backoff, Peer, RequestError, RetryPolicy};
use dapbox_protocol::{
    hpke::{HpkeError, Keypair},
    model::{
        BatchId, BatchSelector, Collection, CollectionJobId, FixedSizeQuery, Interval, PartialBatchSelector, Query,
        Role, Secret, TaskParameters,
    },
    vdaf::{self, AggregateResult, Preparer, VdafError},
    wire::{self, Malformed},
};

pub use journal::{CollectionJob, CollectionJournal, CollectionJournalError, CollectionRecord};
pub use steps::Step;

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

    /// Creates a job at the leader, unless its location is known, and polls it until it is done. Sets `may_exist` once
    /// the leader may have the job.
    async fn run_job(
        &self,
        job: &JobRequest,
        mut location: Option<String>,
        may_exist: &AtomicBool,
        mut on_event: impl FnMut(JobEvent) -> Result<(), CollectError>,
    ) -> Result<CollectedAggregate, CollectError> {
        // The batch may be ready soon, so the first polls are frequent.
        let mut backoff = Backoff::new(Span::from_millis(100), Span::from_secs(30));
        let mut asked = 0;
        let mut reply = match &location {
            Some(location) => self.poll(location, may_exist).await?,
            None => self.request(&job.id, job.body.clone(), may_exist).await?,
        };
        location = reply.location.or(location);
        on_event(JobEvent::Accepted(location.as_deref()))?;
        loop {
            if let Some(body) = reply.ready {
                let collected = self.open_result(&job.query, &job.body, &body)?;
                on_event(JobEvent::Result(&body))?;
                return Ok(CollectedAggregate { location, ..collected });
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

    /// Tells the leader to delete a result (DAP-09 section 4.6.1, DAP-18 section 4.6.3).
    ///
    /// For tasks whose leader creates the batches, the next collection returns the next batch and this one is lost.
    /// Store the result first.
    pub async fn release(&self, collected: &CollectedAggregate) -> Result<(), CollectError> {
        match &collected.location {
            Some(location) => self.delete_existing(location).await,
            None => Ok(()),
        }
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
