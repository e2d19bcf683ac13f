//! The interop test API on the wire, as the parties read it
//! (draft-dcook-ppm-dap-interop-test-design-07 section 4).
//!
//! Peers have drifted from the design. So what is read may have either name, and members that are not known are ignored.
//! For DAP-18 there is more than in the design: what shares are bound to.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    number::{JsonNumber, Numbers},
    vdaf::VdafObject,
};
use crate::{
    model::{BatchId, BatchMode, Duration, FixedSizeQuery, HpkeConfig, Interval, Query, Revision, TaskId, Time},
    wire,
};

/// Where the API is, below a party's base URL.
pub const PREFIX: &str = "internal/test/";

/// The text that tells a task from others in DAP-18 and that the API has no place for: what Janus takes.
pub const TASK_INFO: &str = "task-info";

/// `QueryType.time_interval`, `BatchMode.time_interval`.
const TIME_INTERVAL: u64 = 1;
/// `QueryType.fixed_size`, `BatchMode.leader_selected`.
const FIXED_SIZE: u64 = 2;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It was done.
    #[serde(rename = "success")]
    Success,
    /// It could not be done.
    #[serde(rename = "error")]
    Error,
    /// The result is there.
    #[serde(rename = "complete")]
    Complete,
    /// The result is not there yet.
    #[serde(rename = "in progress")]
    InProgress,
}

/// Whether a party is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {}

/// Has a client upload a measurement (section 4.2.2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// The task.
    pub task_id: TaskId,
    /// The leader's DAP URL.
    pub leader: String,
    /// The helper's DAP URL.
    pub helper: String,
    /// What is measured.
    pub vdaf: VdafObject,
    /// The measurement.
    pub measurement: Numbers,
    /// When it was made, if not now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<JsonNumber>,
    /// The unit of report times in seconds.
    pub time_precision: JsonNumber,
    /// What reports are bound to in DAP-18; not in the design.
    #[serde(flatten)]
    pub bound: SharedTaskParams,
}

/// Where an aggregator will answer DAP for a task (section 4.3.2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointForTask {
    /// The task.
    pub task_id: TaskId,
    /// The role that the aggregator will have.
    pub role: Aggregator,
    /// The name under which it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// The role of an aggregator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregator {
    /// Takes uploads and drives the protocol.
    #[serde(alias = "Leader")]
    Leader,
    /// Answers the leader.
    #[serde(alias = "Helper")]
    Helper,
}

/// Adds a task to an aggregator (section 4.3.3).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddTask {
    /// The task.
    pub task_id: TaskId,
    /// The leader's DAP URL.
    pub leader: String,
    /// The helper's DAP URL.
    pub helper: String,
    /// What is measured.
    pub vdaf: VdafObject,
    /// The token that the leader presents to the helper.
    pub leader_authentication_token: String,
    /// The token that the collector presents to the leader; only the leader is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector_authentication_token: Option<String>,
    /// The role that the aggregator has.
    pub role: Aggregator,
    /// The key to verify reports.
    pub vdaf_verify_key: Base64Url,
    /// How many aggregation parameters a batch may be queried with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_query_count: Option<JsonNumber>,
    /// The most reports that a batch may have; only of fixed-size tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<JsonNumber>,
    /// The unit of report times in seconds.
    pub time_precision: JsonNumber,
    /// The collector's `HpkeConfig`.
    pub collector_hpke_config: Base64Url,
    /// When the task ends, by the name in the design.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_expiration: Option<JsonNumber>,
    /// When it ends, and perhaps begins, as Daphne has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Lifetime>,
    /// The kind of batches and what else is told to all.
    #[serde(flatten)]
    pub bound: SharedTaskParams,
}

/// What the design tells only aggregators, or calls otherwise, and what all parties must know in DAP-18: shares are bound to
/// it there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTaskParams {
    /// The kind of batches, by the name in the design.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_type: Option<JsonNumber>,
    /// The kind of batches, by the name that newer peers have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_mode: Option<JsonNumber>,
    /// No aggregate of fewer reports is given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_batch_size: Option<JsonNumber>,
    /// When the task begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_start: Option<JsonNumber>,
    /// When the task ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_end: Option<JsonNumber>,
}

/// When a task ends, and perhaps begins, as Daphne has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "snake_case")]
pub enum Lifetime {
    /// With a beginning.
    Latest {
        /// The beginning.
        start: JsonNumber,
        /// How long it goes on.
        duration: JsonNumber,
    },
    /// In DAP-09 there is only an end.
    Draft09 {
        /// The end.
        expiration: JsonNumber,
    },
}

/// Adds a task to a collector (section 4.4.2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectorAddTask {
    /// The task.
    pub task_id: TaskId,
    /// The leader's DAP URL.
    pub leader: String,
    /// The helper's DAP URL; not in the design.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// What is measured.
    pub vdaf: VdafObject,
    /// The token that the collector presents to the leader.
    pub collector_authentication_token: String,
    /// The unit of report times in seconds; not in the design.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_precision: Option<JsonNumber>,
    /// The kind of batches and what else is told to all.
    #[serde(flatten)]
    pub bound: SharedTaskParams,
}

/// Has a collector ask for a batch (section 4.4.3).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectionStart {
    /// The task.
    pub task_id: TaskId,
    /// The aggregation parameter.
    pub agg_param: Base64Url,
    /// Which batch.
    pub query: QueryObject,
}

/// Which batch is asked for (section 4.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryObject {
    /// The kind of batches.
    #[serde(rename = "type", alias = "batch_mode")]
    pub kind: JsonNumber,
    /// Where the interval begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_interval_start: Option<JsonNumber>,
    /// How long the interval is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_interval_duration: Option<JsonNumber>,
    /// 0: the batch with this id. 1: any that is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtype: Option<JsonNumber>,
    /// The batch's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<BatchId>,
}

/// Asks how a collection is (section 4.4.4).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectionPoll {
    /// What the collector calls it.
    pub handle: String,
}

/// Any answer: a status, and what belongs to the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// What became of it.
    pub status: Status,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Of `endpoint_for_task`: the DAP URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of a collector's `add_task`: its `HpkeConfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector_hpke_config: Option<Base64Url>,
    /// Of `collection_start`: what the collector calls the collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Of `collection_poll`: the batch's id, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<String>,
    /// Of `collection_poll`: how many reports are in the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_count: Option<JsonNumber>,
    /// Of `collection_poll`: where the interval of the reports begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_start: Option<JsonNumber>,
    /// Of `collection_poll`: how long it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_duration: Option<JsonNumber>,
    /// Of `collection_poll`: the aggregate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Numbers>,
}

impl Reply {
    /// Only a status.
    pub fn of(status: Status) -> Self {
        Self {
            status,
            error: None,
            endpoint: None,
            collector_hpke_config: None,
            handle: None,
            batch_id: None,
            report_count: None,
            interval_start: None,
            interval_duration: None,
            result: None,
        }
    }

    /// That something could not be done.
    pub fn error(why: impl ToString) -> Self {
        Self { error: Some(why.to_string()), ..Self::of(Status::Error) }
    }
}

/// Bytes as base64url, read with or without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64Url(pub Vec<u8>);

impl Serialize for Base64Url {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Url {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
        bytes.map(Self).map_err(|_| serde::de::Error::custom("expected base64url"))
    }
}

/// An encoded `HpkeConfig`: in a list there is a length before it.
pub fn encode_key(revision: Revision, key: &HpkeConfig) -> Base64Url {
    Base64Url(wire::for_revision(revision).encode_hpke_configs(std::slice::from_ref(key)).split_off(2))
}

/// Reads an encoded `HpkeConfig`.
pub fn decode_key(revision: Revision, blob: &Base64Url) -> Result<HpkeConfig, String> {
    let length = u16::try_from(blob.0.len()).map_err(|_| "collector_hpke_config is too long".to_owned())?;
    let list = Bytes::from([&length.to_be_bytes()[..], &blob.0].concat());
    let keys = wire::for_revision(revision).decode_hpke_configs(&list);
    match keys.map(<[HpkeConfig; 1]>::try_from) {
        Ok(Ok([key])) => Ok(key),
        _ => Err("collector_hpke_config is not an encoded HpkeConfig".to_owned()),
    }
}

impl SharedTaskParams {
    /// When the task begins, if that is said.
    pub fn start(&self) -> Option<Time> {
        self.task_start.map(|start| Time(start.0))
    }

    /// When the task ends, if that is said.
    pub fn end(&self) -> Option<Time> {
        self.task_end.map(|end| Time(end.0))
    }

    /// The kind of batches; by time if nothing is said.
    pub fn mode(&self, max_batch_size: Option<JsonNumber>) -> Result<BatchMode, String> {
        match self.query_type.or(self.batch_mode).map_or(TIME_INTERVAL, |kind| kind.0) {
            TIME_INTERVAL => Ok(BatchMode::TimeInterval),
            FIXED_SIZE => Ok(BatchMode::fixed_size(max_batch_size.map(|max| max.0))),
            other => Err(format!("unknown query type {other}")),
        }
    }
}

impl AddTask {
    /// When the task begins, if that is said.
    pub fn start(&self) -> Option<Time> {
        let of_lifetime = match self.lifetime {
            Some(Lifetime::Latest { start, .. }) => Some(start),
            _ => None,
        };
        self.bound.start().or(of_lifetime.map(|start| Time(start.0)))
    }

    /// When the task ends, if that is said.
    pub fn end(&self) -> Option<Time> {
        let of_lifetime = match self.lifetime {
            Some(Lifetime::Latest { start, duration }) => Some(JsonNumber(start.0.saturating_add(duration.0))),
            Some(Lifetime::Draft09 { expiration }) => Some(expiration),
            None => None,
        };
        self.bound.end().or(self.task_expiration.or(of_lifetime).map(|end| Time(end.0)))
    }
}

impl QueryObject {
    /// The query that is written.
    pub fn query(&self) -> Result<Query, String> {
        match (self.kind.0, self.subtype.map(|subtype| subtype.0)) {
            (TIME_INTERVAL, _) => {
                let start = self.batch_interval_start.ok_or("batch_interval_start is missing")?;
                let duration = self.batch_interval_duration.ok_or("batch_interval_duration is missing")?;
                let interval = Interval::new(Time(start.0), Duration(duration.0));
                Ok(Query::TimeInterval(interval.ok_or("the interval is too long")?))
            }
            (FIXED_SIZE, Some(0)) => {
                Ok(Query::FixedSize(FixedSizeQuery::ByBatchId(self.batch_id.ok_or("batch_id is missing")?)))
            }
            // Newer peers have only this one, and no subtype.
            (FIXED_SIZE, Some(1) | None) => Ok(Query::FixedSize(FixedSizeQuery::CurrentBatch)),
            (FIXED_SIZE, Some(other)) => Err(format!("unknown subtype {other}")),
            (other, _) => Err(format!("unknown query type {other}")),
        }
    }
}

#[cfg(test)]
mod tests;
