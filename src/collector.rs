//! The collector of a task: asks the leader for an aggregate, waits for it, opens both shares and puts them together
//! (DAP-09 section 4.6, DAP-18 section 4.6).

use std::{sync::Arc, time::Duration as Span};

use bytes::Bytes;

use crate::{
    hpke::{HpkeError, Keypair},
    model::{
        BatchId, BatchSelector, Collection, CollectionJobId, CollectionReq, FixedSizeQuery, Interval, PartialBatch,
        Query, Role, Secret, TaskParameters,
    },
    peer::{Backoff, CallError, Peer, Reply, Retries, retry},
    vdaf::{self, AggregateResult, Preparer, VdafError},
    wire::{self, Call, Interaction, Malformed},
};

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
pub struct Collected {
    /// How many reports are in it.
    pub report_count: u64,
    /// The smallest aligned interval that holds the times of those reports.
    pub interval: Interval,
    /// The batch's id, if the leader makes the batches and says which one it is.
    pub batch_id: Option<BatchId>,
    /// The path of the collection job at the leader.
    pub place: Option<String>,
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
    /// The protocol has no such query.
    #[error("the query: {0}")]
    Impossible(Malformed),
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
    advertisement: Option<String>,
}

impl Collector {
    /// A collector for a task. Fails if the task's parameters are wrong.
    pub fn new(task: CollectorTask, keypair: Keypair, peer: Peer, retries: Retries) -> Result<Self, CollectError> {
        let preparer = vdaf::of_task(&task.public)?;
        let peer = peer.or_with(task.previous_token.clone());
        Ok(Self { task, keypair, preparer, peer, retries, advertisement: None })
    }

    /// The same for a task that is set up in-band with this configuration, which goes with every request
    /// (draft-wang-ppm-dap-taskprov-06 section 7).
    pub fn advertising(self, configuration: &[u8]) -> Self {
        let taskprov = wire::taskprov::of(self.task.public.revision);
        Self { advertisement: taskprov.map(|taskprov| taskprov.encode_header(configuration)), ..self }
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
        let (wire, task) = (wire::of(self.task.public.revision), &self.task.public);
        let request = CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: Vec::new() };
        let request = wire.encode_collection_req(task, &request).map_err(CollectError::Impossible)?;
        let request = Bytes::from(request);
        let create = wire.create_call(Interaction::CollectionJob, &task.id, CollectionJobId::random().as_bytes());
        // Repeating the request is harmless.
        let mut reply = self.ask(&create, request.clone()).await?;
        progress(Progress::Accepted);
        // Starts fast, as a batch may be ready, and ends at a pace that does not matter.
        let mut backoff = Backoff::new(Span::from_millis(100), Span::from_secs(30));
        let (mut place, mut asked) = (None, 0);
        loop {
            place = reply.place.or(place);
            if let Some(body) = reply.ready {
                let collection = wire.decode_collection(task, &body)?;
                return self.open(&query, &request, &collection, place);
            }
            let poll = place.as_deref().and_then(|place| wire.poll_call(Interaction::CollectionJob, place));
            let poll = poll.ok_or(CollectError::Unfit("neither a result nor a place to ask for it"))?;
            // The first time at once, unless the leader says that this is of no use.
            if asked > 0 || reply.retry_after.is_some() {
                tokio::time::sleep(backoff.next_delay(reply.retry_after)).await;
            }
            reply = self.ask(&poll, Bytes::new()).await?;
            if wire.says_deleted(reply.status) {
                return Err(CollectError::Deleted);
            }
            if reply.ready.is_none() {
                asked += 1;
                progress(Progress::Waiting(asked));
            }
        }
    }

    /// Tells the leader that a result is not needed any more (DAP-09 section 4.6.1, DAP-18 section 4.6.3). Where the
    /// leader makes the batches, a collection after this gets the next one, and this one is gone: keep the result first.
    pub async fn release(&self, collected: &Collected) -> Result<(), CollectError> {
        let wire = wire::of(self.task.public.revision);
        let delete = |place: &String| wire.delete_call(Interaction::CollectionJob, place);
        match collected.place.as_ref().and_then(delete) {
            Some(call) => {
                let call = call.advertising(self.advertisement.clone());
                let (url, token) = (&self.task.public.leader_url, Some(&self.task.token));
                let release = || self.peer.call(url, &call, token, Bytes::new());
                retry(self.retries, release).await.map(drop).map_err(CollectError::Call)
            }
            None => Ok(()),
        }
    }

    async fn ask(&self, call: &Call, body: Bytes) -> Result<Reply, CollectError> {
        let (url, token) = (&self.task.public.leader_url, Some(&self.task.token));
        let call = call.clone().advertising(self.advertisement.clone());
        retry(self.retries, || self.peer.ask(url, &call, token, body.clone())).await.map_err(CollectError::Call)
    }

    /// Checks that the answer is one to the query, opens both shares and puts them together.
    fn open(
        &self,
        query: &Query,
        request: &[u8],
        collection: &Collection,
        place: Option<String>,
    ) -> Result<Collected, CollectError> {
        let batch = self.check(query, collection)?;
        let wire = wire::of(self.task.public.revision);
        let aad = wire.aggregate_share_aad(&self.task.public, request, &batch);
        let open = |role, sealed| {
            let info = wire.aggregate_share_info(role);
            self.keypair.open(&info, &aad, sealed).map_err(|e| CollectError::Open(role, e))
        };
        let leader = open(Role::Leader, &collection.leader_share)?;
        let helper = open(Role::Helper, &collection.helper_share)?;
        Ok(Collected {
            report_count: collection.report_count,
            interval: collection.interval,
            batch_id: match collection.batch {
                Some(PartialBatch::FixedSize(id)) => Some(id),
                Some(PartialBatch::TimeInterval) | None => None,
            },
            place,
            result: self.preparer.unshard(&leader, &helper, collection.report_count)?,
        })
    }

    /// The batch that the answer is about, if that is what was asked for.
    fn check(&self, query: &Query, collection: &Collection) -> Result<BatchSelector, CollectError> {
        let found = collection.interval;
        if collection.report_count == 0 {
            return Err(CollectError::Unfit("no reports"));
        }
        if !found.is_aligned(self.task.public.time_precision) {
            return Err(CollectError::Unfit("an interval that is not aligned to the task's time precision"));
        }
        match (query, collection.batch) {
            (Query::TimeInterval(wanted), Some(PartialBatch::TimeInterval) | None) => {
                if found.start() < wanted.start() || found.end() > wanted.end() {
                    return Err(CollectError::Unfit("reports from outside the interval"));
                }
                Ok(BatchSelector::TimeInterval(*wanted))
            }
            (Query::FixedSize(FixedSizeQuery::CurrentBatch), Some(PartialBatch::FixedSize(id))) => {
                Ok(BatchSelector::FixedSize(id))
            }
            (Query::FixedSize(FixedSizeQuery::ByBatchId(wanted)), Some(PartialBatch::FixedSize(id)))
                if id == *wanted =>
            {
                Ok(BatchSelector::FixedSize(id))
            }
            // Where the leader does not say which batch it took, shares are not bound to it either.
            (Query::FixedSize(FixedSizeQuery::CurrentBatch), None) => {
                Ok(BatchSelector::FixedSize(BatchId::new([0; 32])))
            }
            (Query::FixedSize(_), Some(PartialBatch::FixedSize(_))) => Err(CollectError::Unfit("another batch")),
            _ => Err(CollectError::Unfit("another kind of batch")),
        }
    }
}

#[cfg(test)]
mod tests;
