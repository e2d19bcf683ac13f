//! The decisions of a DAP aggregator, one file per interaction.
//!
//! Everything here but `offline` is synchronous and takes `now` as an argument: functions over a store transaction, which decide
//! first and then mutate, and pure functions over report shares, which run on the worker pool. Sockets, waiting and
//! retries belong to the server.
//!
//! # Decision: no aggregation parameter, one query per batch
//!
//! Prio3 has a single, empty aggregation parameter, and any other is refused. A batch therefore cannot be queried a
//! second time, and `max_batch_query_count` only has to be at least one.

pub mod api_tokens;
pub mod batches;
pub mod collect;
pub mod collecting;
pub mod config;
pub mod counters;
pub mod demand;
mod error;
pub mod future_timestamps;
pub mod helper;
pub mod idle;
pub mod keys;
pub mod leader;
pub mod never_contacted;
pub mod offline;
pub mod phase;
pub mod privacy;
pub mod progress;
pub mod provision;
pub mod resource_id;
pub mod restored;
pub mod results;
pub mod retention;
mod shares;
pub mod taskprov;
pub mod tasks;
pub mod tokens;
pub mod upload;
pub mod verify_keys;
pub mod views;

use std::sync::{Arc, atomic::AtomicBool};

use bytes::Bytes;

use dapbox_protocol::{
    model::{Duration, Extension, ReportError, ReportId, Role, Secret, Task, Time, Tokens, VerifyKeys},
    vdaf::{self, Preparer, VdafError, VerifyParams},
    wire::{self, Problem, ProblemType, Wire},
};
use dapbox_store::ReplayIndex;

pub use error::Error;
pub use keys::KeyRing;
pub use shares::{BucketAccumulator, BucketAccumulators, InputShareOpener};

/// A task with everything needed to work on it: its encodings and its VDAF.
pub struct TaskContext {
    /// The task.
    pub task: Arc<Task>,
    /// The tokens that were valid when this context was created.
    pub tokens: Tokens,
    /// The verification keys when this context was created.
    pub verify_keys: VerifyKeys,
    /// The message encodings of its revision.
    pub wire: &'static dyn Wire,
    /// Its VDAF.
    pub preparer: Arc<dyn Preparer>,
    /// Whether no request had named the task when this context was created. Becomes false with the first request.
    pub is_never_contacted: AtomicBool,
    /// For an in-band task: its configuration as the header that all requests about it carry.
    pub advertisement: Option<String>,
    /// The extension that every report must have, with empty data.
    report_extension: Option<u16>,
    vdaf_context: Vec<u8>,
}

impl TaskContext {
    /// Instantiates the VDAF of the task. Fails if its parameters are out of range.
    pub fn new(task: Arc<Task>) -> Result<Self, VdafError> {
        let wire = wire::for_revision(task.public.revision);
        let preparer = vdaf::preparer_for_task(&task.public)?;
        let (tokens, verify_keys) = (Tokens::of(&task.party), VerifyKeys::of(&task));
        Ok(Self {
            tokens,
            verify_keys,
            is_never_contacted: AtomicBool::new(false),
            vdaf_context: wire.vdaf_context(&task.public.id),
            task,
            wire,
            preparer,
            advertisement: None,
            report_extension: None,
        })
    }

    /// Adds the configuration of an in-band task.
    pub fn with_advertisement(self, configuration: &Bytes) -> Self {
        let Some(taskprov) = wire::taskprov::for_revision(self.task.public.revision) else { return self };
        let advertisement = Some(taskprov.encode_header(configuration));
        Self { advertisement, report_extension: taskprov.report_extension(), ..self }
    }

    /// Whether a report share has exactly the required extensions. Every extension is mandatory to understand (DAP-09
    /// section 4.4.3). Reports of an in-band task carry the task's extension (draft-wang-ppm-dap-taskprov-06 sections 4
    /// and 6).
    pub fn has_valid_extensions(&self, extensions: &[Extension]) -> bool {
        match (self.report_extension, extensions) {
            (None, []) => true,
            (Some(kind), [only]) => only.kind == kind && only.data.is_empty(),
            _ => false,
        }
    }

    /// Replaces the tokens.
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Self { tokens, ..self }
    }

    /// Replaces the verification keys.
    pub fn with_verify_keys(self, verify_keys: VerifyKeys) -> Self {
        Self { verify_keys, ..self }
    }

    /// Sets whether no request has named the task.
    pub fn with_never_contacted(self, is_never_contacted: bool) -> Self {
        Self { is_never_contacted: AtomicBool::new(is_never_contacted), ..self }
    }

    /// The context of report verification, with the key that the task began with.
    pub fn verification(&self) -> VerifyParams<'_> {
        self.verification_with(&self.task.verify_key)
    }

    /// The context of report verification, with this key.
    pub fn verification_with<'a>(&'a self, key: &'a Secret) -> VerifyParams<'a> {
        VerifyParams { key: key.expose(), context: &self.vdaf_context }
    }

    /// Our role in the task.
    pub fn role(&self) -> Role {
        self.task.role()
    }
}

/// Checks that the aggregation parameter is empty (DAP-18 section 4.3).
pub(crate) fn check_aggregation_parameter(parameter: &[u8]) -> Result<(), Problem> {
    if parameter.is_empty() {
        return Ok(());
    }
    let detail = "the task's VDAF takes no aggregation parameter";
    Err(Problem::new(ProblemType::InvalidAggregationParameter).with_detail(detail))
}

/// Rejects request extensions. Every extension is mandatory to understand, and [`wire`] handles the known ones itself.
pub(crate) fn check_extensions(extensions: &[Extension]) -> Result<(), Problem> {
    if extensions.is_empty() {
        return Ok(());
    }
    let numbers = extensions.iter().map(|extension| extension.kind);
    let detail = "the request has unknown extensions";
    Err(Problem::new(ProblemType::UnsupportedExtension).with_detail(detail).with_unsupported_extensions(numbers))
}

/// Rejects a report before the task's horizon, whose replay protection may be gone.
pub fn check_horizon(replay: &ReplayIndex, time: Time) -> Result<(), ReportError> {
    if Some(time) < replay.horizon() { Err(ReportError::ReportDropped) } else { Ok(()) }
}

/// Rejects a report that was aggregated before, as far as is still known (DAP-09 section 4.5.1.4).
pub fn check_replay(replay: &ReplayIndex, id: &ReportId, time: Time) -> Result<(), ReportError> {
    check_horizon(replay, time)?;
    if replay.contains(id) { Err(ReportError::ReportReplayed) } else { Ok(()) }
}

/// Checks whether a report may be aggregated by its time (DAP-09 section 4.5.1.4). `skew` is the allowed clock
/// difference, and `end` the current end of the task, see [`TaskState::end`](dapbox_store::TaskState::end).
pub fn check_time(task: &Task, end: Option<Time>, now: Time, skew: Duration, time: Time) -> Result<(), ReportError> {
    if time > now.saturating_add(skew) {
        return Err(ReportError::ReportTooEarly);
    }
    if task.public.task_interval.is_some_and(|interval| time < interval.start()) {
        return Err(ReportError::TaskNotStarted);
    }
    let is_over = end.is_some_and(|end| time > end);
    if is_over || task.public.task_interval.is_some_and(|interval| time >= interval.end()) {
        return Err(ReportError::TaskExpired);
    }
    // Replay protection of reports this old may be gone.
    if task.report_expiry_age.is_some_and(|age| time < now.saturating_sub(age)) {
        return Err(ReportError::ReportDropped);
    }
    Ok(())
}

#[cfg(any(test, feature = "testing"))]
pub mod testing;
