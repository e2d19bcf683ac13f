//! A task that is tried: what the runner draws for it, how the parties are told, and what they are then asked to do.

use std::time::Duration as Span;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    super::{
        super::args::QueryKind,
        api::{
            AddTask, Aggregator, Blob, Bound, CollectionPoll, CollectionStart, CollectorAddTask, EndpointForTask,
            Lifetime, QueryObject, Reply, Status, Upload,
        },
        number::{Numbers, Plain},
        vdaf::VdafObject,
    },
    World,
    remote::{Remote, Trouble},
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
pub enum Bad {
    /// Something was not as it must be.
    Failed(String),
    /// A party does not know what the cell needs.
    NotSupported(String),
}

impl Bad {
    /// A failure.
    pub fn failed<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self::Failed(why.into()))
    }
}

/// Trouble where there must be none.
impl From<Trouble> for Bad {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble.text())
    }
}

/// A party that does not take a task, or cannot read a measurement, does not know the VDAF or the kind of batches.
fn unsupported(trouble: Trouble) -> Bad {
    match trouble {
        Trouble::Refused(why) | Trouble::Unreadable(why) => Bad::NotSupported(why),
        Trouble::Broken(why) => Bad::Failed(why),
    }
}

/// What is told wrongly to one party, to see that somebody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
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
    Over,
}

/// A task.
pub struct Task<'a> {
    world: &'a World,
    id: TaskId,
    mode: QueryKind,
    vdaf: VdafObject,
    leader: String,
    helper: String,
    min_batch_size: u64,
    bound: Bound,
    begun: Time,
    collector_token: String,
    leader_token: String,
    verify_key: Blob,
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
    pub async fn draw(
        world: &'a World,
        vdaf: &VdafConfig,
        mode: QueryKind,
        min_batch_size: usize,
        twist: Twist,
    ) -> Result<Self, Bad> {
        let id = TaskId::random();
        let begun = Time::now();
        let today = begun.truncate(PRECISION);
        let (start, end) = match twist {
            Twist::Over => (today.saturating_sub(Duration(7 * DAY.0)), today.saturating_sub(DAY)),
            _ => (today.saturating_sub(DAY), today.saturating_add(Duration(7 * DAY.0))),
        };
        let preparer = vdaf::preparer(world.revision, vdaf).map_err(|error| Bad::NotSupported(error.0))?;
        let kind = Some(Plain(kind(mode)));
        Ok(Self {
            leader: endpoint(&world.parties.leader, id, Aggregator::Leader).await?,
            helper: endpoint(&world.parties.helper, id, Aggregator::Helper).await?,
            world,
            id,
            mode,
            vdaf: vdaf.into(),
            min_batch_size: min_batch_size as u64,
            // Everything by all of its names: whoever knows one of them does not mind the others.
            bound: Bound {
                query_type: kind,
                batch_mode: kind,
                min_batch_size: Some(Plain(min_batch_size as u64)),
                task_start: Some(Plain(start.0)),
                task_end: Some(Plain(end.0)),
            },
            begun,
            collector_token: token(),
            leader_token: token(),
            verify_key: Blob(Secret::random(preparer.verify_key_length()).expose().to_vec()),
        })
    }

    /// Draws a task and tells all parties of it.
    pub async fn set_up(
        world: &'a World,
        vdaf: &VdafConfig,
        mode: QueryKind,
        min_batch_size: usize,
        twist: Twist,
    ) -> Result<Self, Bad> {
        let task = Self::draw(world, vdaf, mode, min_batch_size, twist).await?;
        let key = task.tell_collector(twist).await?;
        for role in [Aggregator::Leader, Aggregator::Helper] {
            task.tell(role, &key, twist).await.map_err(unsupported)?;
        }
        Ok(task)
    }

    /// Adds the task to the collector, which answers its key.
    pub async fn tell_collector(&self, twist: Twist) -> Result<Blob, Bad> {
        let wrong = twist == Twist::CollectorToken;
        let request = CollectorAddTask {
            task_id: self.id,
            leader: self.leader.clone(),
            helper: Some(self.helper.clone()),
            vdaf: self.vdaf.clone(),
            collector_authentication_token: if wrong { token() } else { self.collector_token.clone() },
            time_precision: Some(Plain(PRECISION.0)),
            bound: self.bound.clone(),
        };
        let reply = self.world.parties.collector.ask("add_task", &request).await.map_err(unsupported)?;
        reply.collector_hpke_config.ok_or_else(|| Bad::Failed("collector, add_task: no collector_hpke_config".into()))
    }

    /// Adds the task to an aggregator.
    pub async fn tell(&self, role: Aggregator, key: &Blob, twist: Twist) -> Result<Reply, Trouble> {
        let is_leader = role == Aggregator::Leader;
        let mut request = self.description(role, key.clone());
        match twist {
            Twist::LeaderToken if !is_leader => request.leader_authentication_token = token(),
            Twist::VerifyKey if !is_leader => request.vdaf_verify_key = other(&self.verify_key),
            Twist::CollectorKey => request.collector_hpke_config = other(key),
            _ => {}
        }
        let party = if is_leader { &self.world.parties.leader } else { &self.world.parties.helper };
        party.ask("add_task", &request).await
    }

    fn description(&self, role: Aggregator, key: Blob) -> AddTask {
        let (start, end) = (self.bound.task_start, self.bound.task_end);
        let lifetime = start.zip(end).map(|(start, end)| match self.world.revision {
            Revision::Dap09 => Lifetime::Draft09 { expiration: end },
            Revision::Dap18 => Lifetime::Latest { start, duration: Plain(end.0.saturating_sub(start.0)) },
        });
        let is_capped = self.mode == QueryKind::FixedSize && self.world.revision == Revision::Dap09;
        AddTask {
            task_id: self.id,
            leader: self.leader.clone(),
            helper: self.helper.clone(),
            vdaf: self.vdaf.clone(),
            leader_authentication_token: self.leader_token.clone(),
            collector_authentication_token: (role == Aggregator::Leader).then(|| self.collector_token.clone()),
            role,
            vdaf_verify_key: self.verify_key.clone(),
            max_batch_query_count: Some(Plain(1)),
            max_batch_size: is_capped.then_some(Plain(self.min_batch_size)),
            time_precision: Plain(PRECISION.0),
            collector_hpke_config: key,
            task_expiration: end,
            lifetime,
            bound: self.bound.clone(),
        }
    }

    /// Asks an aggregator for the same task with another VDAF.
    pub async fn tell_with(&self, role: Aggregator, key: &Blob, vdaf: VdafObject) -> Result<Reply, Trouble> {
        let party = if role == Aggregator::Leader { &self.world.parties.leader } else { &self.world.parties.helper };
        party.ask("add_task", &AddTask { vdaf, ..self.description(role, key.clone()) }).await
    }

    /// Has the client upload a measurement.
    pub async fn upload(&self, measurement: Numbers, time: Option<Time>) -> Result<(), Trouble> {
        let request = Upload {
            task_id: self.id,
            leader: self.leader.clone(),
            helper: self.helper.clone(),
            vdaf: self.vdaf.clone(),
            measurement,
            time: time.map(|time| Plain(time.0)),
            time_precision: Plain(PRECISION.0),
            bound: self.bound.clone(),
        };
        self.world.parties.client.ask("upload", &request).await.map(drop)
    }

    /// Has the client upload measurements that it must upload.
    pub async fn upload_all(&self, measurements: &[Numbers]) -> Result<(), Bad> {
        let uploads = stream::iter(measurements).map(|measurement| async {
            self.upload(measurement.clone(), None).await.map_err(|trouble| match trouble {
                Trouble::Unreadable(why) => Bad::NotSupported(why),
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
            kind: Plain(kind(self.mode)),
            batch_interval_start: is_by_time.then_some(Plain(start.0)),
            batch_interval_duration: is_by_time.then_some(Plain(end.0 - start.0)),
            subtype: (!is_by_time).then_some(Plain(1)),
            batch_id: None,
        }
    }

    /// Collects what must come out, in some time.
    pub async fn collect(&self, query: &QueryObject) -> Result<Collected, Bad> {
        let (begun, within) = (Instant::now(), self.world.timeout);
        loop {
            let attempt = self.attempt(query, begun + within).await?;
            match attempt {
                Attempt::Complete(collected) => return Ok(collected),
                Attempt::Pending => return Bad::failed(format!("no result within {} s", within.as_secs_f32())),
                // Some leaders say that there is no batch for as long as they make it.
                Attempt::Refused(_) if self.mode == QueryKind::FixedSize && begun.elapsed() < within / 3 => {
                    sleep(POLL[1]).await;
                }
                Attempt::Refused(why) => return Bad::failed(why),
            }
        }
    }

    /// Sees to it that a result does not come.
    pub async fn never(&self, query: &QueryObject, why: &str) -> Result<(), Bad> {
        match self.attempt(query, Instant::now() + self.world.wait).await? {
            Attempt::Complete(found) => {
                Bad::failed(format!("there is a result of {} reports, {}, {why}", found.report_count, found.result))
            }
            Attempt::Refused(_) | Attempt::Pending => Ok(()),
        }
    }

    /// Collects, and sees what comes until then.
    pub async fn attempt(&self, query: &QueryObject, until: Instant) -> Result<Attempt, Bad> {
        let collector = &self.world.parties.collector;
        let start = CollectionStart { task_id: self.id, agg_param: Blob(Vec::new()), query: query.clone() };
        let reply = match collector.ask("collection_start", &start).await {
            Err(Trouble::Refused(why)) => return Ok(Attempt::Refused(why)),
            other => other?,
        };
        let Some(handle) = reply.handle else { return Bad::failed("collector, collection_start: no handle") };
        let mut pause = POLL[0];
        loop {
            match collector.ask("collection_poll", &CollectionPoll { handle: handle.clone() }).await {
                Err(Trouble::Refused(why)) => return Ok(Attempt::Refused(why)),
                Err(other) => return Err(other.into()),
                Ok(reply) if reply.status == Status::Complete => return Ok(Attempt::Complete(Collected::read(reply)?)),
                Ok(reply) if reply.status == Status::InProgress => {}
                Ok(_) => return Bad::failed("collector, collection_poll: neither complete nor in progress"),
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
    fn read(reply: Reply) -> Result<Self, Bad> {
        let missing = |name: &str| Bad::Failed(format!("collector, collection_poll: no {name}"));
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
    pub fn check(&self, expected: &Numbers, count: usize, query: &QueryObject) -> Result<(), Bad> {
        if self.report_count != count as u64 {
            return Bad::failed(format!("{} reports are counted, not {count}", self.report_count));
        }
        if self.result != *expected {
            return Bad::failed(format!("the result is {}, not {expected}", self.result));
        }
        let Some(found) = self.interval else { return Bad::failed("the result has no interval") };
        let Ok(crate::model::Query::TimeInterval(asked)) = query.query() else { return Ok(()) };
        if found.start() < asked.start() || found.end() > asked.end() {
            return Bad::failed(format!("the interval from {} on is not in what was asked", found.start().0));
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
fn other(bytes: &Blob) -> Blob {
    let mut bytes = bytes.0.clone();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    Blob(bytes)
}

async fn endpoint(party: &Remote, id: TaskId, role: Aggregator) -> Result<String, Bad> {
    let request = EndpointForTask { task_id: id, role, hostname: party.host_name() };
    let reply = party.ask("endpoint_for_task", &request).await.map_err(unsupported)?;
    match reply.endpoint {
        Some(endpoint) => Ok(party.absolute(&endpoint)),
        None => Bad::failed(format!("{}, endpoint_for_task: no endpoint", party.name)),
    }
}
