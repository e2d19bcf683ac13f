//! The collector behind the interop test API: collects batches and stores the results.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration as Span,
};

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::{
    api::{self, CollectionPoll, CollectionStart, CollectorAddTask, Reply, Status},
    description::TaskDescription,
    number::JsonNumber,
    response::{ApiResponse, ok_response},
    vdaf::to_numbers,
};
use crate::{
    collector::{CollectError, CollectedAggregate, Collector, CollectorTask, Progress},
    hpke::{Keypair, Suite},
    model::{FixedSizeQuery, Query, Revision, Secret, TaskId},
    peer::{Peer, RetryPolicy},
    support::fault::panic_text,
};

/// Time limit for a collection, longer than any runner waits.
const COLLECTION_TIMEOUT: Span = Span::from_secs(600);
/// Short, because the runner waits for the reply.
const RETRIES: RetryPolicy =
    RetryPolicy { initial: Span::from_millis(100), max: Span::from_secs(2), give_up_after: Span::from_secs(10) };

/// A collector of any number of tasks.
pub struct Party {
    revision: Revision,
    peer: Peer,
    tasks: Mutex<HashMap<TaskId, Arc<Collector>>>,
    /// By handle.
    collections: Mutex<BTreeMap<String, Outcome>>,
}

/// The outcome of a collection; `None` while it is in progress.
type Outcome = Option<Result<CollectedAggregate, String>>;

impl Party {
    /// A collector without tasks.
    pub fn new(revision: Revision, peer: Peer) -> Self {
        Self { revision, peer, tasks: Mutex::default(), collections: Mutex::default() }
    }

    /// Answers `add_task`: generates a key pair for the task.
    pub fn add_task(&self, request: &CollectorAddTask) -> ApiResponse {
        ok_response(match self.add(request) {
            Ok(key) => Reply { collector_hpke_config: Some(key), ..Reply::of(Status::Success) },
            Err(why) => Reply::error(why),
        })
    }

    fn add(&self, request: &CollectorAddTask) -> Result<api::Base64Url, String> {
        let description = TaskDescription {
            id: request.task_id,
            leader: &request.leader,
            // The collector never contacts the helper. In DAP-18 shares are bound to its URL.
            helper: request.helper.as_deref().unwrap_or(&request.leader),
            vdaf: &request.vdaf,
            time_precision: request.time_precision,
            bound: &request.bound,
            max_batch_size: None,
            start: request.bound.start(),
            end: request.bound.end(),
        };
        let token = Secret::token(&request.collector_authentication_token)
            .map_err(|why| format!("collector_authentication_token: {why}"))?;
        let task = CollectorTask { public: description.parameters(self.revision)?, token, previous_token: None };
        let keypair = Keypair::generate(1, Suite::DEFAULT).map_err(|error| error.to_string())?;
        let key = api::encode_key(self.revision, keypair.config());
        let collector = Collector::new(task, keypair, self.peer.clone(), RETRIES).map_err(|error| error.to_string())?;
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.contains_key(&request.task_id) {
            return Err("a task with this id exists already".to_owned());
        }
        tasks.insert(request.task_id, Arc::new(collector));
        Ok(key)
    }

    /// Answers `collection_start` once the leader has accepted the request.
    pub async fn collection_start(self: &Arc<Self>, request: &CollectionStart) -> ApiResponse {
        ok_response(match self.start(request).await {
            Ok(handle) => Reply { handle: Some(handle), ..Reply::of(Status::Success) },
            Err(why) => Reply::error(why),
        })
    }

    async fn start(self: &Arc<Self>, request: &CollectionStart) -> Result<String, String> {
        let query = request.query.query()?;
        if !request.agg_param.0.is_empty() {
            return Err("agg_param must be empty for Prio3".to_owned());
        }
        let collector = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(&request.task_id).cloned();
        let collector = collector.ok_or("unknown task")?;
        let handle = Secret::random_token().expose_text().unwrap_or_default().to_owned();
        self.set_outcome(&handle, None);
        let (accepted, is_accepted) = oneshot::channel();
        let (party, name) = (self.clone(), handle.clone());
        tokio::spawn(async move {
            let mut accepted = Some(accepted);
            let collected = AssertUnwindSafe(collect(&collector, query, &mut accepted)).catch_unwind().await;
            let outcome = match collected {
                Ok(outcome) => outcome.map_err(|error| error.to_string()),
                Err(panic) => Err(format!("the collection panicked: {}", panic_text(&*panic))),
            };
            party.set_outcome(&name, Some(outcome));
            // If the leader has not accepted the request, this wakes the waiting reply, which finds the outcome.
            drop(accepted);
        });
        if is_accepted.await.is_err()
            && let Some(Some(Err(why))) = self.outcome(&handle)
        {
            return Err(why);
        }
        Ok(handle)
    }

    /// Answers `collection_poll`.
    pub fn collection_poll(&self, request: &CollectionPoll) -> ApiResponse {
        ok_response(match self.outcome(&request.handle) {
            None => Reply::error("unknown collection handle"),
            Some(None) => Reply::of(Status::InProgress),
            Some(Some(Err(why))) => Reply::error(why),
            Some(Some(Ok(collected))) => Reply {
                batch_id: collected.batch_id.map(|id| id.to_string()),
                report_count: Some(JsonNumber(collected.report_count)),
                interval_start: Some(JsonNumber(collected.interval.start().0)),
                interval_duration: Some(JsonNumber(collected.interval.duration().0)),
                result: to_numbers(collected.result),
                ..Reply::of(Status::Complete)
            },
        })
    }

    fn outcome(&self, handle: &str) -> Option<Outcome> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner).get(handle).cloned()
    }

    fn set_outcome(&self, handle: &str, outcome: Outcome) {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner).insert(handle.to_owned(), outcome);
    }
}

/// Collects, and signals when the leader has accepted the request.
async fn collect(
    collector: &Collector,
    query: Query,
    accepted: &mut Option<oneshot::Sender<()>>,
) -> Result<CollectedAggregate, CollectError> {
    let outcome = collector.collect(query, Some(COLLECTION_TIMEOUT), |_: Progress| {
        if let Some(accepted) = accepted.take() {
            // The receiver may be gone.
            let _ = accepted.send(());
        }
    });
    let collected = outcome.await?;
    let is_repeatable = query == Query::FixedSize(FixedSizeQuery::CurrentBatch) && collected.batch_id.is_none();
    if is_repeatable {
        // The result is complete, so the next collection gets the next batch.
        collector.release(&collected).await?;
    }
    Ok(collected)
}
