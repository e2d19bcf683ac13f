//! A task under test: its random parameters, and the requests that add and use it.

use std::time::Duration as Span;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    super::{
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
    cli::args::QueryKind,
    model::{BatchId, Duration, Interval, Revision, Secret, TaskId, Time, VdafConfig},
    vdaf,
};
use dapbox_support::clock;

/// Time precision of the task.
const PRECISION: Duration = Duration(300);
/// Maximum clock skew of the parties.
const SKEW: Duration = Duration(60);
/// Unit of the task's lifetime.
const DAY: Duration = Duration(86_400);
/// Concurrent uploads.
const UPLOADS: usize = 8;
/// Shortest and longest pause between two polls for a result.
const POLL: [Span; 2] = [Span::from_millis(50), Span::from_secs(1)];

/// Why a cell is not ok.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellFailure {
    /// A party behaved wrongly.
    Failed(String),
    /// A party does not support what the cell needs.
    NotSupported(String),
}

impl CellFailure {
    /// Returns a failure.
    pub fn failed<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self::Failed(why.into()))
    }
}

/// An error in a request that must succeed.
impl From<RemoteError> for CellFailure {
    fn from(trouble: RemoteError) -> Self {
        Self::Failed(trouble.text())
    }
}

/// A party that rejects a task or cannot parse a measurement lacks the VDAF or the batch mode.
fn unsupported(trouble: RemoteError) -> CellFailure {
    match trouble {
        RemoteError::Refused(why) | RemoteError::BadRequest(why) => CellFailure::NotSupported(why),
        RemoteError::Invalid(why) => CellFailure::Failed(why),
    }
}

/// A fault injected into the task of one party, to check that it is detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// No fault.
    None,
    /// The collector has a different token than the leader.
    CollectorToken,
    /// The helper has a different token than the leader.
    LeaderToken,
    /// The helper has a different verification key.
    VerifyKey,
    /// The aggregators have a key that does not belong to the collector.
    CollectorKey,
    /// The task has expired.
    Expired,
}

/// A task under test.
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

/// A result reported by the collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The aggregate result.
    pub result: Numbers,
    /// Number of reports in the batch.
    pub report_count: u64,
    /// Batch id, if the leader selects the batches.
    pub batch_id: Option<BatchId>,
    /// The interval that contains the reports.
    interval: Option<Interval>,
}

/// The state of a collection after some time.
pub enum Attempt {
    /// There is a result.
    Complete(Collected),
    /// A party refused the request.
    Refused(String),
    /// There is no result yet.
    Pending,
}

impl<'a> Task<'a> {
    /// Generates a task and asks the aggregators for their DAP URLs. No party has the task yet.
    pub async fn generate(
        context: &'a RunContext,
        vdaf: &VdafConfig,
        mode: QueryKind,
        min_batch_size: usize,
        fault: InjectedFault,
    ) -> Result<Self, CellFailure> {
        let id = TaskId::random();
        let begun = clock::now();
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
            // All names in use are sent; a party ignores those that it does not know.
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

    /// Generates a task and adds it to all parties.
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

    /// Adds the task to the collector, which returns its HPKE config.
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
            Revision::Dap18 | Revision::Dap19 => {
                Lifetime::Latest { start, duration: JsonNumber(end.0.saturating_sub(start.0)) }
            }
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

    /// Adds the task with another VDAF to an aggregator.
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

    /// Asks the client to upload a measurement.
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

    /// Uploads measurements that the client must accept.
    pub async fn upload_all(&self, measurements: &[Numbers]) -> Result<(), CellFailure> {
        let uploads = stream::iter(measurements).map(|measurement| async {
            self.upload(measurement.clone(), None).await.map_err(|trouble| match trouble {
                RemoteError::BadRequest(why) => CellFailure::NotSupported(why),
                other => other.into(),
            })
        });
        uploads.buffer_unordered(UPLOADS).try_collect().await
    }

    /// A query for all uploaded reports, extended by `around` units of time precision on both sides.
    pub fn query(&self, around: u64) -> QueryObject {
        let around = Duration(around * PRECISION.0);
        let start = self.begun.saturating_sub(SKEW).truncate(PRECISION).saturating_sub(around);
        let end =
            clock::now().saturating_add(SKEW).truncate(PRECISION).saturating_add(PRECISION).saturating_add(around);
        let is_by_time = self.mode == QueryKind::TimeInterval;
        QueryObject {
            kind: JsonNumber(kind(self.mode)),
            batch_interval_start: is_by_time.then_some(JsonNumber(start.0)),
            batch_interval_duration: is_by_time.then_some(JsonNumber(end.0 - start.0)),
            subtype: (!is_by_time).then_some(JsonNumber(1)),
            batch_id: None,
        }
    }

    /// Collects a result that must appear in time.
    pub async fn collect(&self, query: &QueryObject) -> Result<Collected, CellFailure> {
        let (begun, within) = (Instant::now(), self.context.timeout);
        loop {
            let attempt = self.attempt(query, begun + within).await?;
            match attempt {
                Attempt::Complete(collected) => return Ok(collected),
                Attempt::Pending => return CellFailure::failed(format!("no result within {} s", within.as_secs_f32())),
                // Some leaders refuse until the batch is ready.
                Attempt::Refused(_) if self.mode == QueryKind::FixedSize && begun.elapsed() < within / 3 => {
                    sleep(POLL[1]).await;
                }
                Attempt::Refused(why) => return CellFailure::failed(why),
            }
        }
    }

    /// Fails if a result appears.
    pub async fn expect_no_result(&self, query: &QueryObject, why: &str) -> Result<(), CellFailure> {
        match self.attempt(query, Instant::now() + self.context.wait).await? {
            Attempt::Complete(found) => {
                CellFailure::failed(format!("a result of {} reports, {}, {why}", found.report_count, found.result))
            }
            Attempt::Refused(_) | Attempt::Pending => Ok(()),
        }
    }

    /// Starts a collection and polls it until `until`.
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

    /// Fails if the result does not match the uploaded measurements.
    pub fn check(&self, expected: &Numbers, count: usize, query: &QueryObject) -> Result<(), CellFailure> {
        if self.report_count != count as u64 {
            return CellFailure::failed(format!("report_count is {}, not {count}", self.report_count));
        }
        if self.result != *expected {
            return CellFailure::failed(format!("the result is {}, not {expected}", self.result));
        }
        let Some(found) = self.interval else { return CellFailure::failed("the result has no interval") };
        let Ok(crate::model::Query::TimeInterval(asked)) = query.query() else { return Ok(()) };
        if found.start() < asked.start() || found.end() > asked.end() {
            return CellFailure::failed(format!("the interval from {} is outside the query", found.start().0));
        }
        Ok(())
    }
}

/// The code of a batch mode.
fn kind(mode: QueryKind) -> u64 {
    match mode {
        QueryKind::TimeInterval => 1,
        QueryKind::FixedSize => 2,
    }
}

fn token() -> String {
    Secret::random_token().expose_text().unwrap_or_default().to_owned()
}

/// Different bytes of the same length.
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
