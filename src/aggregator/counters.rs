//! The names of a task's counters.
//!
//! They match the aggregator API of control planes where it defines a name.

use std::{borrow::Cow, collections::BTreeMap};

use dapbox_protocol::model::ReportError;
use dapbox_support::format;

/// A report was stored at upload.
pub const REPORT_SUCCESS: &str = "report_success";
/// Upload rejected: its interval is collected.
pub const INTERVAL_COLLECTED: &str = "interval_collected";
/// Upload rejected: it does not decode.
pub const REPORT_DECODE_FAILURE: &str = "report_decode_failure";
/// Upload rejected: it is older than the retention period.
pub const REPORT_EXPIRED: &str = "report_expired";
/// Upload rejected: it is sealed to an unknown key.
pub const REPORT_OUTDATED_KEY: &str = "report_outdated_key";
/// Upload rejected: its time is too far ahead.
pub const REPORT_TOO_EARLY: &str = "upload_too_early";
/// Upload rejected: its time is after the end of the task.
pub const TASK_EXPIRED: &str = "upload_task_expired";
/// Upload rejected: its time is before the start of the task.
pub const TASK_NOT_STARTED: &str = "upload_task_not_started";
/// Upload rejected: it has an unknown extension.
pub const UNSUPPORTED_EXTENSION: &str = "upload_unsupported_extension";
/// Upload ignored: the report is already stored or aggregated.
pub const REPORT_REPEATED: &str = "upload_repeated";
/// Upload rejected: the task has too many open batch buckets.
pub const BUCKET_LIMIT: &str = "upload_bucket_limit";
/// A report was aggregated.
pub const AGGREGATE_SUCCESS: &str = "aggregate_success";
/// A report was dropped because the helper violated the protocol.
pub const HELPER_PROTOCOL_ERROR: &str = "helper_protocol_error";
/// The leader rejected a report that the helper accepted. The helper has aggregated it, so its batch does not match and
/// cannot be collected.
pub const REJECTED_AFTER_CONTINUE: &str = "rejected_after_continue";

/// An aggregated report was deleted before its batch was collected.
pub const SUM_GIVEN_UP: &str = "sum_given_up";
/// A collected batch and its result expired.
pub const BATCH_FORGOTTEN: &str = "batch_forgotten";

/// A request named the task for the first time. Counted once, and only if nothing else is counted yet.
pub const CONTACTED: &str = "contacted";

/// The counter of reports that this aggregator rejects with an error.
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
        ReportError::UnknownVerificationKeyId => "unknown_verification_key_id",
        ReportError::UnsupportedExtension => "unsupported_extension",
        ReportError::Unknown(_) => "unknown_error",
    }
}

/// The counter of reports that the helper rejects with an error (leader). Each unknown code has its own counter.
pub fn refused_by_helper(error: ReportError) -> Cow<'static, str> {
    Cow::Borrowed(match error {
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
        ReportError::UnknownVerificationKeyId => "helper_unknown_verification_key_id",
        ReportError::UnsupportedExtension => "helper_unsupported_extension",
        ReportError::Unknown(code) => return Cow::Owned(format!("helper_unknown_error_{code}")),
    })
}

/// The warning about reports that the leader rejected after the helper accepted them, if there are any.
pub fn contradiction(counters: &BTreeMap<String, u64>) -> Option<String> {
    let count = counters.get(REJECTED_AFTER_CONTINUE).copied().filter(|count| *count > 0)?;
    let (reports, them) = (format::counted(count, "report"), if count == 1 { "it" } else { "them" });
    Some(format!(
        "{reports} rejected after the helper had accepted {them}: batches with {them} do not match and cannot be collected. \
         Ask the helper's operator to update its software"
    ))
}

/// Whether a counter counts rejected reports.
pub fn is_refusal(name: &str) -> bool {
    !matches!(name, REPORT_SUCCESS | REPORT_REPEATED | AGGREGATE_SUCCESS | SUM_GIVEN_UP | BATCH_FORGOTTEN | CONTACTED)
}

/// Describes a counter of rejected reports, to follow a number: "3 sealed to an unknown key". Rejections by the helper
/// have the same texts.
pub fn reason(name: &str) -> &str {
    match name.strip_prefix("helper_").unwrap_or(name) {
        INTERVAL_COLLECTED | "batch_collected" => "too late: the batch is collected",
        REPORT_DECODE_FAILURE => "not decodable",
        REPORT_EXPIRED => "older than the retention period",
        REPORT_OUTDATED_KEY | "outdated_config" | "hpke_unknown_config_id" => "sealed to an unknown key",
        REPORT_TOO_EARLY | "report_too_early" => "with a time too far ahead",
        TASK_EXPIRED | "task_expired" => "with a time after the end of the task",
        TASK_NOT_STARTED | "task_not_started" => "with a time before the start of the task",
        BUCKET_LIMIT => "beyond the limit of open batch buckets",
        UNSUPPORTED_EXTENSION | "unsupported_extension" => "with an unknown extension",
        "unknown_verification_key_id" => "verified with an unknown key",
        "report_replayed" => "replayed",
        "report_dropped" => "dropped: from before the horizon",
        "hpke_decrypt_error" => "not decryptable",
        "vdaf_prep_error" => "with an invalid proof",
        "batch_saturated" => "in a full batch",
        "invalid_message" => "with malformed content",
        "protocol_error" => "dropped after a protocol violation of the helper",
        REJECTED_AFTER_CONTINUE => "rejected by the leader but accepted by the helper",
        unknown if unknown.starts_with("unknown_error") => "rejected with an unknown error code",
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_every_refusal() {
        let errors = ReportError::KNOWN.into_iter().chain([ReportError::Unknown(42)]);
        let of_reports = errors.flat_map(|error| [refused(error).into(), refused_by_helper(error)]);
        let of_uploads = [
            INTERVAL_COLLECTED,
            REPORT_DECODE_FAILURE,
            REPORT_EXPIRED,
            REPORT_OUTDATED_KEY,
            REPORT_TOO_EARLY,
            TASK_EXPIRED,
            TASK_NOT_STARTED,
            UNSUPPORTED_EXTENSION,
            BUCKET_LIMIT,
            HELPER_PROTOCOL_ERROR,
            REJECTED_AFTER_CONTINUE,
        ];
        for name in of_reports.chain(of_uploads.map(Cow::Borrowed)) {
            assert!(is_refusal(&name) && reason(&name) != name, "{name} has no description");
        }
        assert!(!is_refusal(REPORT_SUCCESS) && !is_refusal(AGGREGATE_SUCCESS) && !is_refusal(CONTACTED));
    }
}
