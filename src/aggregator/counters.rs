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
