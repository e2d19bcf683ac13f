//! The messages of the interop test API (draft-dcook-ppm-dap-interop-test-design-07 section 4).
//!
//! Implementations differ from the design, so members are read under every known name and unknown members are ignored.
//! DAP-18 needs members that the design lacks: everything that report shares are bound to.

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

/// Path of the API below a party's base URL.
pub const PREFIX: &str = "internal/test/";

/// Task info in DAP-18, which the API has no member for; Janus uses this value.
pub const TASK_INFO: &str = "task-info";

/// `QueryType.time_interval`, `BatchMode.time_interval`.
const TIME_INTERVAL: u64 = 1;
/// `QueryType.fixed_size`, `BatchMode.leader_selected`.
const FIXED_SIZE: u64 = 2;

/// The status of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The request was carried out.
    #[serde(rename = "success")]
    Success,
    /// The request failed.
    #[serde(rename = "error")]
    Error,
    /// The result is available.
    #[serde(rename = "complete")]
    Complete,
    /// The result is not available yet.
    #[serde(rename = "in progress")]
    InProgress,
}

/// Asks whether a party is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {}

/// Asks a client to upload a measurement (section 4.2.2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// The task.
    pub task_id: TaskId,
    /// The leader's DAP URL.
    pub leader: String,
    /// The helper's DAP URL.
    pub helper: String,
    /// The VDAF.
    pub vdaf: VdafObject,
    /// The measurement.
    pub measurement: Numbers,
    /// Time of the measurement; now by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<JsonNumber>,
    /// Time precision, in seconds.
    pub time_precision: JsonNumber,
    /// Task parameters that reports are bound to in DAP-18; an extension of the design.
    #[serde(flatten)]
    pub bound: SharedTaskParams,
}

/// Asks an aggregator for its DAP URL for a task (section 4.3.2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointForTask {
    /// The task.
    pub task_id: TaskId,
    /// The role of the aggregator in the task.
    pub role: Aggregator,
    /// The host name that other parties use for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// The role of an aggregator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregator {
    /// Receives uploads and drives aggregation.
    #[serde(alias = "Leader")]
    Leader,
    /// Answers the leader's requests.
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
    /// The VDAF.
    pub vdaf: VdafObject,
    /// The token that the leader sends to the helper.
    pub leader_authentication_token: String,
    /// The token that the collector sends to the leader; only sent to the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector_authentication_token: Option<String>,
    /// The role of this aggregator.
    pub role: Aggregator,
    /// The VDAF verification key.
    pub vdaf_verify_key: Base64Url,
    /// Maximum number of aggregation parameters per batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_query_count: Option<JsonNumber>,
    /// Maximum number of reports per batch, for fixed-size tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<JsonNumber>,
    /// Time precision, in seconds.
    pub time_precision: JsonNumber,
    /// The collector's encoded `HpkeConfig`.
    pub collector_hpke_config: Base64Url,
    /// End of the task, in the design's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_expiration: Option<JsonNumber>,
    /// End and perhaps start of the task, in Daphne's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Lifetime>,
    /// Parameters common to all parties.
    #[serde(flatten)]
    pub bound: SharedTaskParams,
}

/// Task parameters common to all parties: in DAP-18, report shares are bound to them. The design sends some of them to
/// the aggregators only, or under other names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTaskParams {
    /// Batch mode, under the design's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_type: Option<JsonNumber>,
    /// Batch mode, under the name of newer implementations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_mode: Option<JsonNumber>,
    /// Minimum number of reports per batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_batch_size: Option<JsonNumber>,
    /// Start of the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_start: Option<JsonNumber>,
    /// End of the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_end: Option<JsonNumber>,
}

/// The lifetime of a task in Daphne's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "snake_case")]
pub enum Lifetime {
    /// Start and duration.
    Latest {
        /// The start.
        start: JsonNumber,
        /// The duration, in seconds.
        duration: JsonNumber,
    },
    /// DAP-09 has an end only.
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
    /// The helper's DAP URL; an extension of the design.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// The VDAF.
    pub vdaf: VdafObject,
    /// The token that the collector sends to the leader.
    pub collector_authentication_token: String,
    /// Time precision, in seconds; an extension of the design.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_precision: Option<JsonNumber>,
    /// Parameters common to all parties.
    #[serde(flatten)]
    pub bound: SharedTaskParams,
}

/// Asks a collector to collect a batch (section 4.4.3).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectionStart {
    /// The task.
    pub task_id: TaskId,
    /// The aggregation parameter.
    pub agg_param: Base64Url,
    /// The batch.
    pub query: QueryObject,
}

/// The query for a batch (section 4.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryObject {
    /// The batch mode.
    #[serde(rename = "type", alias = "batch_mode")]
    pub kind: JsonNumber,
    /// Start of the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_interval_start: Option<JsonNumber>,
    /// Duration of the interval, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_interval_duration: Option<JsonNumber>,
    /// 0: the batch with `batch_id`. 1: any batch that is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtype: Option<JsonNumber>,
    /// The batch id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<BatchId>,
}

/// Asks for the status of a collection (section 4.4.4).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectionPoll {
    /// The handle from `collection_start`.
    pub handle: String,
}

/// Any reply: a status, and members that depend on the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The status.
    pub status: Status,
    /// Description of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `endpoint_for_task`: the DAP URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `add_task` of a collector: its encoded `HpkeConfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector_hpke_config: Option<Base64Url>,
    /// `collection_start`: the handle of the collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// `collection_poll`: the batch id, if the batch has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<String>,
    /// `collection_poll`: number of reports in the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_count: Option<JsonNumber>,
    /// `collection_poll`: start of the interval that contains the reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_start: Option<JsonNumber>,
    /// `collection_poll`: duration of that interval, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_duration: Option<JsonNumber>,
    /// `collection_poll`: the aggregate result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Numbers>,
}

impl Reply {
    /// A reply with a status only.
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

    /// An error reply.
    pub fn error(why: impl ToString) -> Self {
        Self { error: Some(why.to_string()), ..Self::of(Status::Error) }
    }
}

/// Bytes as base64url; padding is optional on input.
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

/// Encodes an `HpkeConfig`, without the length that a list of them has.
pub fn encode_key(revision: Revision, key: &HpkeConfig) -> Base64Url {
    Base64Url(wire::for_revision(revision).encode_hpke_configs(std::slice::from_ref(key)).split_off(2))
}

/// Decodes an `HpkeConfig`.
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
    /// Start of the task, if given.
    pub fn start(&self) -> Option<Time> {
        self.task_start.map(|start| Time(start.0))
    }

    /// End of the task, if given.
    pub fn end(&self) -> Option<Time> {
        self.task_end.map(|end| Time(end.0))
    }

    /// The batch mode; time-interval if not given.
    pub fn mode(&self, max_batch_size: Option<JsonNumber>) -> Result<BatchMode, String> {
        match self.query_type.or(self.batch_mode).map_or(TIME_INTERVAL, |kind| kind.0) {
            TIME_INTERVAL => Ok(BatchMode::TimeInterval),
            FIXED_SIZE => Ok(BatchMode::fixed_size(max_batch_size.map(|max| max.0))),
            other => Err(format!("unknown query type {other}")),
        }
    }
}

impl AddTask {
    /// Start of the task, if given in any form.
    pub fn start(&self) -> Option<Time> {
        let of_lifetime = match self.lifetime {
            Some(Lifetime::Latest { start, .. }) => Some(start),
            _ => None,
        };
        self.bound.start().or(of_lifetime.map(|start| Time(start.0)))
    }

    /// End of the task, if given in any form.
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
    /// Converts the query.
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
            // Newer implementations have this kind only, and no subtype.
            (FIXED_SIZE, Some(1) | None) => Ok(Query::FixedSize(FixedSizeQuery::CurrentBatch)),
            (FIXED_SIZE, Some(other)) => Err(format!("unknown subtype {other}")),
            (other, _) => Err(format!("unknown query type {other}")),
        }
    }
}

#[cfg(test)]
mod tests;
