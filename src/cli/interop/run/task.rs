//! A task that is tried: what the runner draws for it, how the parties are told, and what they are then asked to do.

use std::time::Duration as Span;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    super::{
        super::args::QueryKind,
        api::{
            AddTask, Aggregator, Base64Url, CollectionPoll, CollectionStart, CollectorAddTask, EndpointForTask,
            Lifetime, QueryObject, Reply, SharedTaskParams, Status, Upload,
        },
        number::{JsonNumber, Numbers},
        vdaf::VdafObject,
    },
    RunContext,
    remote::{RemoteError, RemoteParty},
};
use crate::{
    model::{BatchId, Duration, Interval, Revision, Secret, TaskId, Time, VdafConfig},
    vdaf,
};

/// The unit of report times.
const PRECISION: Duration = Duration(300);
/// How far the parties' clocks may be from ours.
const SKEW: Duration = Duration(60);
/// How long a task goes on; and, if it is over, how long ago it was.
const DAY: Duration = Duration(86_400);
/// How many reports are uploaded at once.
const UPLOADS: usize = 8;
/// The pauses between two questions for a result.
const POLL: [Span; 2] = [Span::from_millis(50), Span::from_secs(1)];

/// Why a cell is not ok.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellFailure {
    /// Something was not as it must be.
    Failed(String),
    /// A party does not know what the cell needs.
    NotSupported(String),
}

impl CellFailure {
    /// A failure.
    pub fn failed<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self::Failed(why.into()))
    }
}

/// Trouble where there must be none.
impl From<RemoteError> for CellFailure {
    fn from(trouble: RemoteError) -> Self {
        Self::Failed(trouble.text())
    }
}

/// A party that does not take a task, or cannot read a measurement, does not know the VDAF or the kind of batches.
fn unsupported(trouble: RemoteError) -> CellFailure {
    match trouble {
        RemoteError::Refused(why) | RemoteError::BadRequest(why) => CellFailure::NotSupported(why),
        RemoteError::Invalid(why) => CellFailure::Failed(why),
    }
}

/// What is told wrongly to one party, to see that somebody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// Nothing.
    None,
    /// The collector has another token than the leader.
    CollectorToken,
    /// The helper has another token than the leader.
    LeaderToken,
    /// The helper has another verification key.
    VerifyKey,
    /// The aggregators have a key that is not the collector's.
    CollectorKey,
    /// The task is over.
    Expired,
}

/// A task.
pub struct Task<'a> {
    context: &'a RunContext,
    id: TaskId,
    mode: QueryKind,
    vdaf: VdafObject,
    leader: String,
    helper: String,
    min_batch_size: u64,
    bound: SharedTaskParams,
    begun: Time,
    collector_token: String,
    leader_token: String,
    verify_key: Base64Url,
}

/// What a collector says that it has collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The aggregate.
    pub result: Numbers,
    /// How many reports are in it.
    pub report_count: u64,
    /// Which batch it is, if the leader makes the batches.
    pub batch_id: Option<BatchId>,
    /// The interval that the reports are in.
    interval: Option<Interval>,
}

/// What becomes of a collection in some time.
pub enum Attempt {
    /// There is a result.
    Complete(Collected),
    /// A party refuses.
    Refused(String),
    /// There is nothing yet.
    Pending,
}

impl<'a> Task<'a> {
    /// Draws a task, and learns where the aggregators will answer for it. Nobody has it yet.
    pub async fn generate(
        context: &'a RunContext,
        vdaf: &VdafConfig,
        mode: QueryKind,
        min_batch_size: usize,
        fault: InjectedFault,
    ) -> Result<Self, CellFailure> {
        let id = TaskId::random();
        let begun = Time::now();
        let today = begun.truncate(PRECISION);
        let (start, end) = match fault {
            InjectedFault::Expired => (today.saturating_sub(Duration(7 * DAY.0)), today.saturating_sub(DAY)),
            _ => (today.saturating_sub(DAY), today.saturating_add(Duration(7 * DAY.0))),
        };
        let preparer = vdaf::preparer(context.revision, vdaf).map_err(|error| CellFailure::NotSupported(error.0))?;
        let kind = Some(JsonNumber(kind(mode)));
        Ok(Self {
            leader: endpoint(&context.parties.leader, id, Aggregator::Leader).await?,
            helper: endpoint(&context.parties.helper, id, Aggregator::Helper).await?,
            context,
            id,
            mode,
            vdaf: vdaf.into(),
            min_batch_size: min_batch_size as u64,
            // Everything by all of its names: whoever knows one of them does not mind the others.
            bound: SharedTaskParams {
                query_type: kind,
                batch_mode: kind,
                min_batch_size: Some(JsonNumber(min_batch_size as u64)),
                task_start: Some(JsonNumber(start.0)),
                task_end: Some(JsonNumber(end.0)),
            },
            begun,
            collector_token: token(),
            leader_token: token(),
            verify_key: Base64Url(Secret::random(preparer.verify_key_length()).expose().to_vec()),
        })
    }

    /// Draws a task and tells all parties of it.
    pub async fn set_up(
        context: &'a RunContext,
        vdaf: &VdafConfig,
        mode: QueryKind,
        min_batch_size: usize,
        fault: InjectedFault,
    ) -> Result<Self, CellFailure> {
        let task = Task::generate(context, vdaf, mode, min_batch_size, fault).await?;
        let key = task.add_to_collector(fault).await?;
        for role in [Aggregator::Leader, Aggregator::Helper] {
            task.add_to_aggregator(role, &key, fault).await.map_err(unsupported)?;
        }
        Ok(task)
    }

    /// Adds the task to the collector, which answers its key.
    pub async fn add_to_collector(&self, fault: InjectedFault) -> Result<Base64Url, CellFailure> {
        let wrong = fault == InjectedFault::CollectorToken;
        let request = CollectorAddTask {
            task_id: self.id,
            leader: self.leader.clone(),
            helper: Some(self.helper.clone()),
            vdaf: self.vdaf.clone(),
            collector_authentication_token: if wrong { token() } else { self.collector_token.clone() },
            time_precision: Some(JsonNumber(PRECISION.0)),
            bound: self.bound.clone(),
        };
        let reply = self.context.parties.collector.ask("add_task", &request).await.map_err(unsupported)?;
        reply
            .collector_hpke_config
            .ok_or_else(|| CellFailure::Failed("collector, add_task: no collector_hpke_config".into()))
    }

    /// Adds the task to an aggregator.
    pub async fn add_to_aggregator(
        &self,
        role: Aggregator,
        key: &Base64Url,
        fault: InjectedFault,
    ) -> Result<Reply, RemoteError> {
        let is_leader = role == Aggregator::Leader;
        let mut request = self.description(role, key.clone());
        match fault {
            InjectedFault::LeaderToken if !is_leader => request.leader_authentication_token = token(),
            InjectedFault::VerifyKey if !is_leader => request.vdaf_verify_key = other(&self.verify_key),
            InjectedFault::CollectorKey => request.collector_hpke_config = other(key),
            _ => {}
        }
        let party = if is_leader { &self.context.parties.leader } else { &self.context.parties.helper };
        party.ask("add_task", &request).await
    }

    fn description(&self, role: Aggregator, key: Base64Url) -> AddTask {
        let (start, end) = (self.bound.task_start, self.bound.task_end);
        let lifetime = start.zip(end).map(|(start, end)| match self.context.revision {
            Revision::Dap09 => Lifetime::Draft09 { expiration: end },
            Revision::Dap18 => Lifetime::Latest { start, duration: JsonNumber(end.0.saturating_sub(start.0)) },
        });
        let is_capped = self.mode == QueryKind::FixedSize && self.context.revision == Revision::Dap09;
        AddTask {
            task_id: self.id,
            leader: self.leader.clone(),
            helper: self.helper.clone(),
            vdaf: self.vdaf.clone(),
            leader_authentication_token: self.leader_token.clone(),
            collector_authentication_token: (role == Aggregator::Leader).then(|| self.collector_token.clone()),
            role,
            vdaf_verify_key: self.verify_key.clone(),
            max_batch_query_count: Some(JsonNumber(1)),
            max_batch_size: is_capped.then_some(JsonNumber(self.min_batch_size)),
            time_precision: JsonNumber(PRECISION.0),
            collector_hpke_config: key,
            task_expiration: end,
            lifetime,
            bound: self.bound.clone(),
        }
    }

    /// Asks an aggregator for the same task with another VDAF.
    pub async fn add_with_vdaf(
        &self,
        role: Aggregator,
        key: &Base64Url,
        vdaf: VdafObject,
    ) -> Result<Reply, RemoteError> {
        let party =
            if role == Aggregator::Leader { &self.context.parties.leader } else { &self.context.parties.helper };
        party.ask("add_task", &AddTask { vdaf, ..self.description(role, key.clone()) }).await
    }

    /// Has the client upload a measurement.
    pub async fn upload(&self, measurement: Numbers, time: Option<Time>) -> Result<(), RemoteError> {
        let request = Upload {
            task_id: self.id,
            leader: self.leader.clone(),
            helper: self.helper.clone(),
            vdaf: self.vdaf.clone(),
            measurement,
            time: time.map(|time| JsonNumber(time.0)),
            time_precision: JsonNumber(PRECISION.0),
            bound: self.bound.clone(),
        };
        self.context.parties.client.ask("upload", &request).await.map(drop)
    }

    /// Has the client upload measurements that it must upload.
    pub async fn upload_all(&self, measurements: &[Numbers]) -> Result<(), CellFailure> {
        let uploads = stream::iter(measurements).map(|measurement| async {
            self.upload(measurement.clone(), None).await.map_err(|trouble| match trouble {
                RemoteError::BadRequest(why) => CellFailure::NotSupported(why),
                other => other.into(),
            })
        });
        uploads.buffer_unordered(UPLOADS).try_collect().await
    }

    /// The query for all that was uploaded. `around` is how much earlier it begins and later it ends.
    pub fn query(&self, around: u64) -> QueryObject {
        let around = Duration(around * PRECISION.0);
        let start = self.begun.saturating_sub(SKEW).truncate(PRECISION).saturating_sub(around);
        let end = Time::now().saturating_add(SKEW).truncate(PRECISION).saturating_add(PRECISION).saturating_add(around);
        let is_by_time = self.mode == QueryKind::TimeInterval;
        QueryObject {
            kind: JsonNumber(kind(self.mode)),
            batch_interval_start: is_by_time.then_some(JsonNumber(start.0)),
            batch_interval_duration: is_by_time.then_some(JsonNumber(end.0 - start.0)),
            subtype: (!is_by_time).then_some(JsonNumber(1)),
            batch_id: None,
        }
    }

    /// Collects what must come out, in some time.
    pub async fn collect(&self, query: &QueryObject) -> Result<Collected, CellFailure> {
        let (begun, within) = (Instant::now(), self.context.timeout);
        loop {
            let attempt = self.attempt(query, begun + within).await?;
            match attempt {
                Attempt::Complete(collected) => return Ok(collected),
                Attempt::Pending => return CellFailure::failed(format!("no result within {} s", within.as_secs_f32())),
                // Some leaders say that there is no batch for as long as they make it.
                Attempt::Refused(_) if self.mode == QueryKind::FixedSize && begun.elapsed() < within / 3 => {
                    sleep(POLL[1]).await;
                }
                Attempt::Refused(why) => return CellFailure::failed(why),
            }
        }
    }

    /// Sees to it that a result does not come.
    pub async fn expect_no_result(&self, query: &QueryObject, why: &str) -> Result<(), CellFailure> {
        match self.attempt(query, Instant::now() + self.context.wait).await? {
            Attempt::Complete(found) => CellFailure::failed(format!(
                "there is a result of {} reports, {}, {why}",
                found.report_count, found.result
            )),
            Attempt::Refused(_) | Attempt::Pending => Ok(()),
        }
    }

    /// Collects, and sees what comes until then.
    pub async fn attempt(&self, query: &QueryObject, until: Instant) -> Result<Attempt, CellFailure> {
        let collector = &self.context.parties.collector;
        let start = CollectionStart { task_id: self.id, agg_param: Base64Url(Vec::new()), query: query.clone() };
        let reply = match collector.ask("collection_start", &start).await {
            Err(RemoteError::Refused(why)) => return Ok(Attempt::Refused(why)),
            other => other?,
        };
        let Some(handle) = reply.handle else { return CellFailure::failed("collector, collection_start: no handle") };
        let mut pause = POLL[0];
        loop {
            match collector.ask("collection_poll", &CollectionPoll { handle: handle.clone() }).await {
                Err(RemoteError::Refused(why)) => return Ok(Attempt::Refused(why)),
                Err(other) => return Err(other.into()),
                Ok(reply) if reply.status == Status::Complete => return Ok(Attempt::Complete(Collected::read(reply)?)),
                Ok(reply) if reply.status == Status::InProgress => {}
                Ok(_) => return CellFailure::failed("collector, collection_poll: neither complete nor in progress"),
            }
            if Instant::now() >= until {
                return Ok(Attempt::Pending);
            }
            sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(POLL[1]);
        }
    }
}

impl Collected {
    fn read(reply: Reply) -> Result<Self, CellFailure> {
        let missing = |name: &str| CellFailure::Failed(format!("collector, collection_poll: no {name}"));
        let interval = match (reply.interval_start, reply.interval_duration) {
            (Some(start), Some(duration)) => Interval::new(Time(start.0), Duration(duration.0)),
            _ => None,
        };
        Ok(Self {
            result: reply.result.ok_or_else(|| missing("result"))?,
            report_count: reply.report_count.ok_or_else(|| missing("report_count"))?.0,
            batch_id: reply.batch_id.and_then(|text| serde_json::from_value(json!(text)).ok()),
            interval,
        })
    }

    /// Fails if it is not what was uploaded.
    pub fn check(&self, expected: &Numbers, count: usize, query: &QueryObject) -> Result<(), CellFailure> {
        if self.report_count != count as u64 {
            return CellFailure::failed(format!("{} reports are counted, not {count}", self.report_count));
        }
        if self.result != *expected {
            return CellFailure::failed(format!("the result is {}, not {expected}", self.result));
        }
        let Some(found) = self.interval else { return CellFailure::failed("the result has no interval") };
        let Ok(crate::model::Query::TimeInterval(asked)) = query.query() else { return Ok(()) };
        if found.start() < asked.start() || found.end() > asked.end() {
            return CellFailure::failed(format!("the interval from {} on is not in what was asked", found.start().0));
        }
        Ok(())
    }
}

/// How the kind of batches is written.
fn kind(mode: QueryKind) -> u64 {
    match mode {
        QueryKind::TimeInterval => 1,
        QueryKind::FixedSize => 2,
    }
}

fn token() -> String {
    Secret::random_token().expose_text().unwrap_or_default().to_owned()
}

/// Bytes of the same length that are others.
fn other(bytes: &Base64Url) -> Base64Url {
    let mut bytes = bytes.0.clone();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    Base64Url(bytes)
}

async fn endpoint(party: &RemoteParty, id: TaskId, role: Aggregator) -> Result<String, CellFailure> {
    let request = EndpointForTask { task_id: id, role, hostname: party.host_name() };
    let reply = party.ask("endpoint_for_task", &request).await.map_err(unsupported)?;
    match reply.endpoint {
        Some(endpoint) => Ok(party.absolute(&endpoint)),
        None => CellFailure::failed(format!("{}, endpoint_for_task: no endpoint", party.name)),
    }
}
