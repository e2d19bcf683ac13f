//! Uploads: which reports a leader takes (DAP-09 section 4.4.2).
//!
//! A report is stored as it comes, still encrypted. Its share is opened when its aggregation job runs.

use super::{Error, KeyRing, check_time, counters};
use crate::{
    config::Limits,
    model::{Duration, Fault, Report, ReportError, TaskId, Time},
    store::{TaskState, Tx},
    wire::{Problem, ProblemType},
};

/// Stores a report, or says why not. A report that is stored or aggregated already is ignored.
pub fn accept(
    tx: &mut Tx<'_>,
    now: Time,
    limits: &Limits,
    keys: &KeyRing,
    task: &TaskId,
    report: &Report,
) -> Result<Result<(), Error>, Fault> {
    let Some(state) = tx.task(task) else {
        return Ok(Err(Problem::new(ProblemType::UnrecognizedTask).with_task(*task).into()));
    };
    match check(state, now, limits, keys, report) {
        Verdict::Store => {
            tx.append_report(task, report)?;
            tx.count(task, counters::REPORT_SUCCESS, 1)?;
            Ok(Ok(()))
        }
        Verdict::Ignore => {
            tx.count(task, counters::REPORT_REPEATED, 1)?;
            Ok(Ok(()))
        }
        Verdict::Busy => Ok(Err(Error::Busy)),
        Verdict::Refuse(kind, counter, detail) => {
            tx.count(task, counter, 1)?;
            Ok(Err(Problem::new(kind).with_detail(detail).with_task(*task).into()))
        }
    }
}

/// Counts an upload that does not decode, if the task is still there.
pub fn count_malformed(tx: &mut Tx<'_>, task: &TaskId) -> Result<(), Fault> {
    match tx.task(task) {
        Some(_) => tx.count(task, counters::REPORT_DECODE_FAILURE, 1),
        None => Ok(()),
    }
}

enum Verdict {
    Store,
    Ignore,
    Busy,
    Refuse(ProblemType, &'static str, &'static str),
}

fn check(state: &TaskState, now: Time, limits: &Limits, keys: &KeyRing, report: &Report) -> Verdict {
    let metadata = &report.metadata;
    let skew = Duration(limits.clock_skew.as_secs());
    match check_time(&state.task, now, skew, metadata.time) {
        Ok(()) => {}
        Err(ReportError::ReportTooEarly) => {
            let detail = "the report's time is too far in the future; check the client's clock and upload it later";
            return Verdict::Refuse(ProblemType::ReportTooEarly, counters::REPORT_TOO_EARLY, detail);
        }
        Err(ReportError::TaskExpired) => {
            let detail = "the report's time is after the end of the task";
            return Verdict::Refuse(ProblemType::ReportRejected, counters::TASK_EXPIRED, detail);
        }
        Err(_) => {
            let detail = "the report is older than the task's retention window";
            return Verdict::Refuse(ProblemType::ReportRejected, counters::REPORT_EXPIRED, detail);
        }
    }
    if keys.get(report.leader_share.config_id).is_none() {
        let detail = "the leader's share is sealed to an unknown key; fetch the HPKE configurations again";
        return Verdict::Refuse(ProblemType::OutdatedConfig, counters::REPORT_OUTDATED_KEY, detail);
    }
    if state.waiting.contains(&metadata.id) || state.replay.contains(&metadata.id, metadata.time) {
        return Verdict::Ignore;
    }
    if state.task.time_bucket(metadata.time).is_some_and(|bucket| state.collected.covers(&bucket)) {
        let detail = "the batch that the report's time belongs to was collected already";
        return Verdict::Refuse(ProblemType::ReportRejected, counters::INTERVAL_COLLECTED, detail);
    }
    if state.waiting.len() as u64 >= limits.max_waiting_reports {
        return Verdict::Busy;
    }
    Verdict::Store
}
