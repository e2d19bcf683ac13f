//! The drafts that share the messages and resources of this module: a row of constants and rules for each.
//!
//! A later draft, and the RFC, are further rows.

use crate::{model::ReportError, wire::ReportPolicy};

/// A draft.
#[derive(Debug)]
pub struct Draft {
    /// Its name in texts.
    pub name: &'static str,
    /// Its version in paths, HPKE labels and the VDAF's application context.
    pub version: &'static str,
    /// The codes of `ReportError` (section 4.1).
    report_errors: &'static [(ReportError, u8)],
    /// The errors without a code, and errors of other sections, with those that are sent instead.
    substitutes: &'static [(ReportError, ReportError)],
    /// Further substitutes in responses to uploads (section 4.4.2.2).
    upload_substitutes: &'static [(ReportError, ReportError)],
    /// Whether a task needs an info.
    pub requires_info: bool,
    /// Rules for reports.
    pub report_policy: ReportPolicy,
}

/// DAP-18.
pub static DAP_18: Draft = Draft {
    name: "DAP-18",
    version: "dap-18",
    report_errors: &[
        (ReportError::BatchCollected, 1),
        (ReportError::ReportReplayed, 2),
        (ReportError::ReportDropped, 3),
        (ReportError::HpkeUnknownConfigId, 4),
        (ReportError::HpkeDecryptError, 5),
        (ReportError::VdafPrepError, 6),
        (ReportError::TaskExpired, 7),
        (ReportError::InvalidMessage, 8),
        (ReportError::ReportTooEarly, 9),
        (ReportError::TaskNotStarted, 10),
        (ReportError::OutdatedConfig, 11),
    ],
    substitutes: &[
        // Batches have no maximum size.
        (ReportError::BatchSaturated, ReportError::ReportDropped),
        // The error has a code, but section 4.5.3.3 requires the other one.
        (ReportError::HpkeUnknownConfigId, ReportError::HpkeDecryptError),
        (ReportError::UnknownVerificationKeyId, ReportError::ReportDropped),
        (ReportError::UnsupportedExtension, ReportError::InvalidMessage),
    ],
    // The section also allows `report_replayed` for a collected batch; `batch_collected` is more precise.
    upload_substitutes: &[
        (ReportError::TaskExpired, ReportError::ReportDropped),
        (ReportError::TaskNotStarted, ReportError::ReportDropped),
        (ReportError::HpkeUnknownConfigId, ReportError::OutdatedConfig),
    ],
    requires_info: true,
    report_policy: ReportPolicy { extensions_reject_upload: true, unknown_key_aborts_job: true },
};

/// DAP-19.
pub static DAP_19: Draft = Draft {
    name: "DAP-19",
    version: "dap-19",
    report_errors: &[
        (ReportError::BatchCollected, 1),
        (ReportError::ReportReplayed, 2),
        (ReportError::ReportDropped, 3),
        (ReportError::HpkeUnknownConfigId, 4),
        (ReportError::HpkeDecryptError, 5),
        (ReportError::VdafPrepError, 6),
        (ReportError::InvalidMessage, 7),
        (ReportError::ReportTooEarly, 8),
        (ReportError::UnknownVerificationKeyId, 9),
        (ReportError::UnsupportedExtension, 10),
    ],
    substitutes: &[
        (ReportError::BatchSaturated, ReportError::ReportDropped),
        (ReportError::TaskExpired, ReportError::ReportDropped),
        (ReportError::TaskNotStarted, ReportError::ReportDropped),
        (ReportError::OutdatedConfig, ReportError::HpkeUnknownConfigId),
    ],
    upload_substitutes: &[],
    requires_info: false,
    report_policy: ReportPolicy { extensions_reject_upload: false, unknown_key_aborts_job: false },
};

impl Draft {
    /// The error that an aggregator sends for an error of a report in a job.
    pub fn sent_in_job(&self, error: ReportError) -> ReportError {
        substitute(self.substitutes, error)
    }

    /// The error that a leader sends for an error of an uploaded report.
    pub fn sent_for_upload(&self, error: ReportError) -> ReportError {
        self.sent_in_job(substitute(self.upload_substitutes, error))
    }

    /// The code of an error that is sent.
    pub fn code(&self, error: ReportError) -> u8 {
        if let ReportError::Unknown(code) = error {
            return code;
        }
        let codes = [error, ReportError::ReportDropped]
            .into_iter()
            .flat_map(|error| self.report_errors.iter().filter(move |(of, _)| *of == error).map(|(_, code)| *code));
        codes.into_iter().next().unwrap_or_default()
    }

    /// The error with a code. An unknown code rejects its report only (section 4.5.3.1).
    pub fn report_error(&self, code: u8) -> ReportError {
        let found = self.report_errors.iter().find(|(_, of)| *of == code);
        found.map_or(ReportError::Unknown(code), |(error, _)| *error)
    }
}

fn substitute(substitutes: &[(ReportError, ReportError)], error: ReportError) -> ReportError {
    substitutes.iter().find(|(of, _)| *of == error).map_or(error, |(_, sent)| *sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_sent_with_a_code_of_its_draft() {
        for draft in [&DAP_18, &DAP_19] {
            for error in ReportError::KNOWN {
                for sent in [draft.sent_in_job(error), draft.sent_for_upload(error)] {
                    let has_code = draft.report_errors.iter().any(|(of, _)| *of == sent);
                    assert!(has_code, "{}: {error} as {sent}", draft.name);
                    assert_eq!(draft.report_error(draft.code(sent)), sent, "{}", draft.name);
                }
            }
            assert_eq!(draft.code(ReportError::Unknown(200)), 200);
            assert_eq!(draft.report_error(0), ReportError::Unknown(0));
        }
        // The same code means different errors.
        assert_eq!(
            [&DAP_18, &DAP_19].map(|draft| draft.report_error(7)),
            [ReportError::TaskExpired, ReportError::InvalidMessage]
        );
    }
}
