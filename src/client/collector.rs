//! The collector of a task: asks the leader for an aggregate, waits for it, opens both shares and puts them together
//! (DAP-09 section 4.6, DAP-18 section 4.6).

mod ledger;
mod resume;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration as Span,
};

use bytes::Bytes;

use crate::peer::{Backoff, CallError, Peer, Reply, Retries, retry};
use dapbox_protocol::{
    hpke::{HpkeError, Keypair},
    model::{
        BatchId, BatchSelector, Collection, CollectionJobId, CollectionReq, FixedSizeQuery, Interval, PartialBatch,
        Query, Role, Secret, TaskParameters,
    },
    vdaf::{self, AggregateResult, Preparer, VdafError},
    wire::{self, Call, Interaction, Malformed},
};

pub use ledger::{Job, Ledger, LedgerError, Record};

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
    #[error("not ready within {}", dapbox_support::span::show(*.0))]
    Deadline(Span),
    /// The leader is not done, and was only to be asked how it is.
    #[error("the leader is not done")]
    NotReady,
    /// The collection could not be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
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
        let collected = async {
            let job = JobRequest { id: CollectionJobId::random(), query, body: self.encode(query)? };
            let mut progress = progress;
            let on_event = |event: JobEvent| {
                event.progress().into_iter().for_each(&mut progress);
                Ok(())
            };
            self.run_job(&job, None, &AtomicBool::new(false), on_event).await
        };
        within(patience, collected).await
    }

    /// The body of the request for a query.
    fn encode(&self, query: Query) -> Result<Bytes, CollectError> {
        let (wire, task) = (wire::of(self.task.public.revision), &self.task.public);
        let request = CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: Vec::new() };
        wire.encode_collection_req(task, &request).map(Bytes::from).map_err(CollectError::Impossible)
    }

    /// The call that makes a job at the leader. Repeating it is harmless.
    fn create_call(&self, id: &CollectionJobId) -> Call {
        let wire = wire::of(self.task.public.revision);
        wire.create_call(Interaction::CollectionJob, &self.task.public.id, id.as_bytes())
    }

    /// Makes a job at the leader, unless its path there is known, and asks until it is done. `may_be_there` becomes true
    /// once the leader may have the job.
    async fn run_job(
        &self,
        job: &JobRequest,
        mut place: Option<String>,
        may_be_there: &AtomicBool,
        mut on_event: impl FnMut(JobEvent) -> Result<(), CollectError>,
    ) -> Result<Collected, CollectError> {
        let (wire, task) = (wire::of(self.task.public.revision), &self.task.public);
        // Starts fast, as a batch may be ready, and ends at a pace that does not matter.
        let mut backoff = Backoff::new(Span::from_millis(100), Span::from_secs(30));
        let mut asked = 0;
        let mut reply = match &place {
            Some(place) => self.poll(place, may_be_there).await?,
            None => self.ask(&self.create_call(&job.id), job.body.clone(), may_be_there).await?,
        };
        place = reply.place.or(place);
        on_event(JobEvent::Accepted(place.as_deref()))?;
        loop {
            if let Some(body) = reply.ready {
                let collection = wire.decode_collection(task, &body)?;
                let collected = self.open(&job.query, &job.body, &collection, place)?;
                on_event(JobEvent::Result(&body))?;
                return Ok(collected);
            }
            let at = place.as_deref().ok_or(CollectError::Unfit("neither a result nor a place to ask for it"))?;
            // The first time at once, unless the leader says that this is of no use.
            if asked > 0 || reply.retry_after.is_some() {
                tokio::time::sleep(backoff.next_delay(reply.retry_after)).await;
            }
            reply = self.poll(at, may_be_there).await?;
            if let Some(moved) = reply.place.take().filter(|moved| *moved != at) {
                on_event(JobEvent::Accepted(Some(&moved)))?;
                place = Some(moved);
            }
            if reply.ready.is_none() {
                asked += 1;
                on_event(JobEvent::Waiting(asked))?;
            }
        }
    }

    /// Asks how a job is.
    async fn poll(&self, place: &str, may_be_there: &AtomicBool) -> Result<Reply, CollectError> {
        let wire = wire::of(self.task.public.revision);
        let poll = wire.poll_call(Interaction::CollectionJob, place);
        let poll = poll.ok_or(CollectError::Unfit("neither a result nor a place to ask for it"))?;
        match self.ask(&poll, Bytes::new(), may_be_there).await {
            Ok(reply) if wire.says_deleted(reply.status) => Err(CollectError::Deleted),
            reply => reply,
        }
    }

    /// Tells the leader that a result is not needed any more (DAP-09 section 4.6.1, DAP-18 section 4.6.3). Where the
    /// leader makes the batches, a collection after this gets the next one, and this one is gone: keep the result first.
    pub async fn release(&self, collected: &Collected) -> Result<(), CollectError> {
        match &collected.place {
            Some(place) => self.delete(place).await,
            None => Ok(()),
        }
    }

    /// Deletes the job with a path at the leader.
    async fn delete(&self, place: &str) -> Result<(), CollectError> {
        let Some(call) = wire::of(self.task.public.revision).delete_call(Interaction::CollectionJob, place) else {
            return Ok(());
        };
        let call = call.advertising(self.advertisement.clone());
        let (url, token) = (&self.task.public.leader_url, Some(&self.task.token));
        let delete = || self.peer.call(url, &call, token, Bytes::new());
        retry(self.retries, delete).await.map(drop).map_err(CollectError::Call)
    }

    async fn ask(&self, call: &Call, body: Bytes, may_be_there: &AtomicBool) -> Result<Reply, CollectError> {
        let (url, token) = (&self.task.public.leader_url, Some(&self.task.token));
        let call = call.clone().advertising(self.advertisement.clone());
        let ask = async || {
            let reply = self.peer.ask(url, &call, token, body.clone()).await;
            let proves_nothing_there = match &reply {
                Ok(_) => false,
                Err(CallError::Unanswered(error)) => error.never_sent(),
                Err(CallError::Refused(_)) => !reply.as_ref().is_err_and(CallError::is_retryable),
                Err(CallError::Unexpected(_)) => false,
            };
            may_be_there.fetch_or(!proves_nothing_there, Ordering::Relaxed);
            reply
        };
        retry(self.retries, ask).await.map_err(|error| match is_gone(&error) {
            true => CollectError::Deleted,
            false => CollectError::Call(error),
        })
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
fn is_gone(error: &CallError) -> bool {
    error.problem().is_some_and(|problem| match problem.status {
        410 => true,
        404 => problem.collection_job_id.is_some(),
        _ => false,
    })
}

/// The outcome, if it is there within `patience`.
async fn within(
    patience: Option<Span>,
    collected: impl Future<Output = Result<Collected, CollectError>>,
) -> Result<Collected, CollectError> {
    match patience {
        Some(limit) => tokio::time::timeout(limit, collected).await.unwrap_or(Err(CollectError::Deadline(limit))),
        None => collected.await,
    }
}

#[cfg(test)]
mod tests;
