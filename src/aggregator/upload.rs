//! Uploads: the reports that a leader accepts (DAP-09 section 4.4.2, DAP-18 section 4.4.2).
//!
//! A report is stored encrypted as it arrives. Its share is opened when its aggregation job runs. A sample of shares is
//! opened earlier, so that clients with invalid reports get an error.
//!
//! # Decision: an unknown extension rejects the whole upload
//!
//! The protocol cannot report the extensions of a single report to a client. So an unknown extension fails the upload,
//! after its other reports are stored.

use std::collections::HashMap;

use super::{
    Error, InputShareOpener, KeyRing, TaskContext, batches, check_horizon, check_time, counters, leader,
    shares::catch_panic,
};
use crate::config::Limits;
use dapbox_protocol::{
    model::{Duration, Report, ReportError, ReportId, Task, TaskId, Time},
    wire::{Problem, ProblemType},
};
use dapbox_store::{TaskState, Tx, WriteError};
use dapbox_support::Fault;

/// The outcome of an uploaded report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stored.
    Stored,
    /// Ignored: it was stored or aggregated before.
    Repeated,
    /// Rejected.
    Refused(ReportError),
    /// Rejected: its time would open too many batch buckets.
    BucketLimit,
    /// Rejected: it has unknown public extensions of these types.
    UnknownExtensions(Vec<u16>),
}

/// Sampled reports whose leader share is invalid, with the error.
pub type Sampled = HashMap<ReportId, ReportError>;

/// Stores acceptable reports and returns the outcome of each, in order.
///
/// Stores none of them if they would exceed `limits.max_waiting_reports`: the client repeats the upload.
pub fn accept(
    tx: &mut Tx<'_>,
    now: Time,
    limits: &Limits,
    keys: &KeyRing,
    task: &TaskId,
    reports: &[Report],
    sampled: &Sampled,
) -> Result<Vec<Verdict>, WriteError<Error>> {
    let Some(state) = tx.task(task) else {
        return Err(WriteError::Refused(Problem::new(ProblemType::UnrecognizedTask).with_task(*task).into()));
    };
    if (state.waiting.len() + reports.len()) as u64 > limits.max_waiting_reports {
        return Err(WriteError::Refused(Error::Busy));
    }
    let mut verdicts = Vec::with_capacity(reports.len());
    for report in reports {
        let Some(state) = tx.task(task) else { break };
        let verdict = check(state, now, limits, keys, report, sampled);
        if verdict == Verdict::Stored {
            let at = tx.append_report(task, report)?;
            if let Some(state) = tx.task_mut(task) {
                state.waiting.note_arrival(at, now);
            }
        }
        tx.count(task, counter(&verdict), 1)?;
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// Counts an upload that does not decode, if the task still exists.
pub fn count_malformed(tx: &mut Tx<'_>, task: &TaskId) -> Result<(), Fault> {
    match tx.task(task) {
        Some(_) => tx.count(task, counters::REPORT_DECODE_FAILURE, 1),
        None => Ok(()),
    }
}

fn counter(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Stored => counters::REPORT_SUCCESS,
        Verdict::Repeated => counters::REPORT_REPEATED,
        Verdict::UnknownExtensions(_) => counters::UNSUPPORTED_EXTENSION,
        Verdict::BucketLimit => counters::BUCKET_LIMIT,
        Verdict::Refused(ReportError::ReportTooEarly) => counters::REPORT_TOO_EARLY,
        Verdict::Refused(ReportError::TaskExpired) => counters::TASK_EXPIRED,
        Verdict::Refused(ReportError::TaskNotStarted) => counters::TASK_NOT_STARTED,
        Verdict::Refused(ReportError::OutdatedConfig) => counters::REPORT_OUTDATED_KEY,
        Verdict::Refused(ReportError::BatchCollected) => counters::INTERVAL_COLLECTED,
        Verdict::Refused(error) if is_of_share(*error) => counters::refused(*error),
        Verdict::Refused(_) => counters::REPORT_EXPIRED,
    }
}

/// Whether the error concerns the content of the leader's share.
fn is_of_share(error: ReportError) -> bool {
    use ReportError::{HpkeDecryptError, InvalidMessage, VdafPrepError};
    matches!(error, HpkeDecryptError | InvalidMessage | VdafPrepError)
}

/// Opens and prepares the leader's share of a report, as its job will. Runs on the pool.
pub fn try_share(context: &TaskContext, keys: &KeyRing, report: Report) -> Result<(), ReportError> {
    let metadata = report.metadata;
    let opener = InputShareOpener::new(context, keys);
    catch_panic(&metadata, || leader::start_report(context, &opener, context.verification(), report).map(drop))
}

/// Checks a report whose task is not set up yet.
pub fn check_before_setup(
    task: &Task,
    now: Time,
    limits: &Limits,
    keys: &KeyRing,
    report: &Report,
) -> Result<(), ReportError> {
    let skew = Duration(limits.clock_skew.as_secs());
    check_time(task, task.public.task_expiration, now, skew, report.metadata.time)?;
    if keys.get(report.leader_share.config_id).is_none() {
        return Err(ReportError::OutdatedConfig);
    }
    Ok(())
}

fn check(state: &TaskState, now: Time, limits: &Limits, keys: &KeyRing, report: &Report, sampled: &Sampled) -> Verdict {
    let metadata = &report.metadata;
    let skew = Duration(limits.clock_skew.as_secs());
    let timely = check_time(&state.task, state.end(), now, skew, metadata.time);
    if let Err(error) = timely.and_then(|()| check_horizon(&state.replay, metadata.time)) {
        return Verdict::Refused(error);
    }
    if !report.extensions.is_empty() {
        return Verdict::UnknownExtensions(report.extensions.iter().map(|extension| extension.kind).collect());
    }
    if keys.get(report.leader_share.config_id).is_none() {
        return Verdict::Refused(ReportError::OutdatedConfig);
    }
    if state.waiting.contains(&metadata.id) || state.replay.contains(&metadata.id) {
        return Verdict::Repeated;
    }
    let bucket = state.task.public.time_bucket(metadata.time);
    if bucket.is_some_and(|bucket| state.collected.covers(&bucket)) {
        return Verdict::Refused(ReportError::BatchCollected);
    }
    if let Some(error) = sampled.get(&metadata.id) {
        return Verdict::Refused(*error);
    }
    if !batches::has_room(state, metadata.time, limits.max_open_buckets) {
        return Verdict::BucketLimit;
    }
    Verdict::Stored
}
