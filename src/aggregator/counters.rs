//! The names under which a task counts what happened to its reports.
//!
//! They are those of the aggregator API that control planes read, where it has a name.

use crate::model::ReportError;

/// A report was stored at upload.
pub const REPORT_SUCCESS: &str = "report_success";
/// An upload was refused: its interval was collected already.
pub const INTERVAL_COLLECTED: &str = "interval_collected";
/// An upload was refused: it does not decode.
pub const REPORT_DECODE_FAILURE: &str = "report_decode_failure";
/// An upload was refused: it is older than the retention window.
pub const REPORT_EXPIRED: &str = "report_expired";
/// An upload was refused: it is sealed to a key that we do not have.
pub const REPORT_OUTDATED_KEY: &str = "report_outdated_key";
/// An upload was refused: its time is too far in the future.
pub const REPORT_TOO_EARLY: &str = "upload_too_early";
/// An upload was refused: its time is after the end of the task.
pub const TASK_EXPIRED: &str = "upload_task_expired";
/// An upload was refused: its time is before the start of the task.
pub const TASK_NOT_STARTED: &str = "upload_task_not_started";
/// An upload was refused: it has an extension that we do not know.
pub const UNSUPPORTED_EXTENSION: &str = "upload_unsupported_extension";
/// An upload repeated a report that is stored or aggregated, and was ignored.
pub const REPORT_REPEATED: &str = "upload_repeated";
/// A report was aggregated.
pub const AGGREGATE_SUCCESS: &str = "aggregate_success";
/// A report was given up because the helper broke the protocol about its job.
pub const HELPER_PROTOCOL_ERROR: &str = "helper_protocol_error";

/// A report was aggregated, and its sum was dropped later without having been collected.
pub const SUM_GIVEN_UP: &str = "sum_given_up";
/// A collected batch was forgotten, and its result if there was one.
pub const BATCH_FORGOTTEN: &str = "batch_forgotten";

/// The counter of reports that we refused to aggregate for a reason.
pub fn refused(error: ReportError) -> &'static str {
    match error {
        ReportError::BatchCollected => "batch_collected",
        ReportError::ReportReplayed => "report_replayed",
        ReportError::ReportDropped => "report_dropped",
        ReportError::HpkeUnknownConfigId => "hpke_unknown_config_id",
        ReportError::HpkeDecryptError => "hpke_decrypt_error",
        ReportError::VdafPrepError => "vdaf_prep_error",
        ReportError::BatchSaturated => "batch_saturated",
        ReportError::TaskExpired => "task_expired",
        ReportError::InvalidMessage => "invalid_message",
        ReportError::ReportTooEarly => "report_too_early",
        ReportError::TaskNotStarted => "task_not_started",
        ReportError::OutdatedConfig => "outdated_config",
    }
}

/// The counter of reports that the helper refused to aggregate for a reason (leader).
pub fn refused_by_helper(error: ReportError) -> &'static str {
    match error {
        ReportError::BatchCollected => "helper_batch_collected",
        ReportError::ReportReplayed => "helper_report_replayed",
        ReportError::ReportDropped => "helper_report_dropped",
        ReportError::HpkeUnknownConfigId => "helper_hpke_unknown_config_id",
        ReportError::HpkeDecryptError => "helper_hpke_decrypt_error",
        ReportError::VdafPrepError => "helper_vdaf_prep_error",
        ReportError::BatchSaturated => "helper_batch_saturated",
        ReportError::TaskExpired => "helper_task_expired",
        ReportError::InvalidMessage => "helper_invalid_message",
        ReportError::ReportTooEarly => "helper_report_too_early",
        ReportError::TaskNotStarted => "helper_task_not_started",
        ReportError::OutdatedConfig => "helper_outdated_config",
    }
}

/// What the name of a counter of refused reports means, in words that go on after "reports".
pub fn meaning(name: &str) -> String {
    match (reason(name), name.strip_prefix("helper_").and_then(reason)) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(reason)) => format!("{reason}, says the helper"),
        (None, None) => name.replace('_', " "),
    }
}

fn reason(name: &str) -> Option<&'static str> {
    Some(match name {
        INTERVAL_COLLECTED => "uploaded after their time was collected",
        REPORT_DECODE_FAILURE => "that could not be read at upload",
        REPORT_EXPIRED => "uploaded when they were older than the task keeps reports",
        REPORT_OUTDATED_KEY => "uploaded sealed to an HPKE key that is not kept any more",
        REPORT_TOO_EARLY => "uploaded with a time in the future: a clock is wrong",
        TASK_EXPIRED => "uploaded after the end of the task",
        TASK_NOT_STARTED => "uploaded before the start of the task",
        UNSUPPORTED_EXTENSION => "uploaded with an extension that is not supported",
        REPORT_REPEATED => "uploaded again, which changes nothing",
        HELPER_PROTOCOL_ERROR => "given up because the helper broke the protocol",
        "batch_collected" => "whose batch was collected already",
        "report_replayed" => "that were aggregated already",
        "report_dropped" => "too old to tell whether they were aggregated already",
        "hpke_unknown_config_id" => "sealed to an HPKE key that the server does not have",
        "hpke_decrypt_error" => "that do not open: sealed for another task or key, or changed on the way",
        "vdaf_prep_error" => "whose proof does not hold: out of range, or forged",
        "batch_saturated" => "whose batch is full",
        "task_expired" => "of after the end of the task",
        "invalid_message" => "that could not be read, or with an unknown extension",
        "report_too_early" => "with a time in the future: a clock is wrong",
        "task_not_started" => "of before the start of the task",
        "outdated_config" => "sealed to an HPKE key that the leader does not have any more",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_meaning_and_the_helpers_are_told_apart() {
        let errors = [
            ReportError::BatchCollected,
            ReportError::ReportReplayed,
            ReportError::ReportDropped,
            ReportError::HpkeUnknownConfigId,
            ReportError::HpkeDecryptError,
            ReportError::VdafPrepError,
            ReportError::BatchSaturated,
            ReportError::TaskExpired,
            ReportError::InvalidMessage,
            ReportError::ReportTooEarly,
            ReportError::TaskNotStarted,
            ReportError::OutdatedConfig,
        ];
        for error in errors {
            let ours = reason(refused(error)).unwrap();
            assert_eq!(meaning(refused_by_helper(error)), format!("{ours}, says the helper"));
        }
        assert_eq!(meaning(HELPER_PROTOCOL_ERROR), "given up because the helper broke the protocol");
        assert_eq!(meaning("of_a_later_release"), "of a later release");
    }
}
