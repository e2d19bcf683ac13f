//! The collector of a task: asks the leader for an aggregate, waits for it, opens both shares and puts them together
//! (DAP-09 section 4.6).

use std::{sync::Arc, time::Duration as Span};

use bytes::Bytes;

use crate::{
    hpke::{HpkeError, Keypair},
    model::{
        BatchId, BatchSelector, Collection, CollectionJobId, CollectionReq, Duration, FixedSizeQuery, Interval,
        PartialBatch, Query, Revision, Role, Secret, TaskId, VdafConfig,
    },
    peer::{Answer, Backoff, CallError, Peer, Retries, retry},
    vdaf::{self, AggregateResult, Preparer, VdafError},
    wire::{self, Malformed},
};

/// A task as its collector knows it.
#[derive(Clone, Debug)]
pub struct CollectorTask {
    /// The task's id.
    pub id: TaskId,
    /// The protocol that all parties of the task speak.
    pub revision: Revision,
    /// Base URL of the leader, with the revision's prefix.
    pub leader_url: String,
    /// What is measured.
    pub vdaf: VdafConfig,
    /// The unit of report times and batch intervals.
    pub time_precision: Duration,
    /// The token that we present to the leader.
    pub token: Secret,
}

/// An aggregate, as it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// How many reports are in it.
    pub report_count: u64,
    /// The smallest aligned interval that holds the times of those reports.
    pub interval: Interval,
    /// The batch's id, if the leader makes the batches.
    pub batch_id: Option<BatchId>,
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
    Call(CallError),
    /// The answer does not decode.
    #[error("the leader's answer: {0}")]
    Malformed(#[from] Malformed),
    /// The answer is for another question.
    #[error("the leader's answer does not fit the query: {0}")]
    Unfit(&'static str),
    /// A share does not open with the collector's key.
    #[error("the {0}'s share does not open: {1}")]
    Open(Role, HpkeError),
    /// The leader has deleted the result.
    #[error("the leader has deleted the result")]
    Deleted,
    /// There was no result within the given time.
    #[error("not ready within {}", crate::config::span::show(*.0))]
    Deadline(Span),
}

/// Collects the aggregates of one task.
pub struct Collector {
    task: CollectorTask,
    keypair: Keypair,
    preparer: Arc<dyn Preparer>,
    peer: Peer,
    retries: Retries,
}

impl Collector {
    /// A collector for a task. Fails if the task's parameters are wrong.
    pub fn new(task: CollectorTask, keypair: Keypair, peer: Peer, retries: Retries) -> Result<Self, CollectError> {
        let preparer = vdaf::preparer(task.revision, &task.vdaf)?;
        Ok(Self { task, keypair, preparer, peer, retries })
    }

    /// Collects a batch: starts a collection job and asks until it is done, for at most `patience`.
    pub async fn collect(
        &self,
        query: Query,
        patience: Option<Span>,
        progress: impl FnMut(Progress),
    ) -> Result<Collected, CollectError> {
        let collected = self.collect_patiently(query, progress);
        match patience {
            Some(limit) => tokio::time::timeout(limit, collected).await.unwrap_or(Err(CollectError::Deadline(limit))),
            None => collected.await,
        }
    }

    async fn collect_patiently(
        &self,
        query: Query,
        mut progress: impl FnMut(Progress),
    ) -> Result<Collected, CollectError> {
        let job = self.create(&query).await?;
        progress(Progress::Accepted);
        // Starts fast, as a batch may be ready, and ends at a pace that does not matter.
        let mut backoff = Backoff::new(Span::from_millis(100), Span::from_secs(30));
        let mut asked = 0;
        loop {
            let delay = match self.poll(&job).await? {
                Poll::Ready(collection) => return self.open(&query, &collection),
                Poll::Pending(retry_after) => backoff.next_delay(retry_after),
            };
            asked += 1;
            progress(Progress::Waiting(asked));
            tokio::time::sleep(delay).await;
        }
    }

    /// Starts a collection job under a fresh id (DAP-09 section 4.6.1). Repeating the request is harmless.
    async fn create(&self, query: &Query) -> Result<CollectionJobId, CollectError> {
        let wire = wire::of(self.task.revision);
        let job = CollectionJobId::random();
        let request = CollectionReq { query: *query, aggregation_parameter: Bytes::new() };
        let body = Bytes::from(wire.encode_collection_req(&request));
        let call = wire.collection_create_call(&self.task.id, &job);
        let (url, token) = (&self.task.leader_url, Some(&self.task.token));
        retry(self.retries, || self.peer.call(url, &call, token, body.clone())).await.map_err(CollectError::Call)?;
        Ok(job)
    }

    async fn poll(&self, job: &CollectionJobId) -> Result<Poll, CollectError> {
        let wire = wire::of(self.task.revision);
        let call = wire.collection_poll_call(&self.task.id, job);
        let (url, token) = (&self.task.leader_url, Some(&self.task.token));
        let ask = async || {
            let answer = self.peer.send(url, &call, token, Bytes::new()).await?;
            // Only the final answer has a body whose type matters.
            let accept = call.accept.filter(|_| answer.status == 200);
            answer.expect(accept)
        };
        let answer: Answer = retry(self.retries, ask).await.map_err(CollectError::Call)?;
        match answer.status {
            200 => Ok(Poll::Ready(Box::new(wire.decode_collection(&answer.body)?))),
            204 => Err(CollectError::Deleted),
            _ => Ok(Poll::Pending(answer.retry_after)),
        }
    }

    /// Checks that the answer is one to the query, opens both shares and puts them together.
    fn open(&self, query: &Query, collection: &Collection) -> Result<Collected, CollectError> {
        let batch = self.check(query, collection)?;
        let wire = wire::of(self.task.revision);
        let aad = wire.aggregate_share_aad(&self.task.id, &[], &batch);
        let open = |role, sealed| {
            let info = wire.aggregate_share_info(role);
            self.keypair.open(&info, &aad, sealed).map_err(|e| CollectError::Open(role, e))
        };
        let leader = open(Role::Leader, &collection.leader_share)?;
        let helper = open(Role::Helper, &collection.helper_share)?;
        Ok(Collected {
            report_count: collection.report_count,
            interval: collection.interval,
            batch_id: match batch {
                BatchSelector::TimeInterval(_) => None,
                BatchSelector::FixedSize(id) => Some(id),
            },
            result: self.preparer.unshard(&leader, &helper, collection.report_count)?,
        })
    }

    /// The batch that the answer is about, if that is what was asked for.
    fn check(&self, query: &Query, collection: &Collection) -> Result<BatchSelector, CollectError> {
        let found = collection.interval;
        if collection.report_count == 0 {
            return Err(CollectError::Unfit("no reports"));
        }
        if !found.is_aligned(self.task.time_precision) {
            return Err(CollectError::Unfit("an interval that is not aligned to the task's time precision"));
        }
        match (query, collection.batch) {
            (Query::TimeInterval(wanted), PartialBatch::TimeInterval) => {
                if found.start() < wanted.start() || found.end() > wanted.end() {
                    return Err(CollectError::Unfit("reports from outside the interval"));
                }
                Ok(BatchSelector::TimeInterval(*wanted))
            }
            (Query::FixedSize(FixedSizeQuery::CurrentBatch), PartialBatch::FixedSize(id)) => {
                Ok(BatchSelector::FixedSize(id))
            }
            (Query::FixedSize(FixedSizeQuery::ByBatchId(wanted)), PartialBatch::FixedSize(id)) if id == *wanted => {
                Ok(BatchSelector::FixedSize(id))
            }
            (Query::FixedSize(_), PartialBatch::FixedSize(_)) => Err(CollectError::Unfit("another batch")),
            _ => Err(CollectError::Unfit("another kind of batch")),
        }
    }
}

enum Poll {
    Ready(Box<Collection>),
    Pending(Option<Span>),
}

#[cfg(test)]
mod tests;
