//! The limit: cryptography alone, from memory on all cores, with the functions that the server calls.

use std::time::Duration as Span;

use super::{
    cores::{self, Rate},
    template::PartyContext,
};
use crate::{
    aggregator::{InputShareOpener, helper, leader},
    cli::failure::Failure,
    model::{PrepareInit, Report, ReportError},
};

/// Maximum duration of a limit's measurement.
pub const TIME: Span = Span::from_secs(1);

/// Measures the helper: opens and prepares reports.
pub fn helper(ours: &PartyContext, reports: &[PrepareInit], time: Span) -> Result<Rate, Failure> {
    let opener = InputShareOpener::new(&ours.context, &ours.keys);
    let one = |init: &PrepareInit| {
        helper::answer(&ours.context, &opener, ours.context.verification(), init).map(drop).map_err(invalid_report)
    };
    cores::measure_rate(reports, time, one)
}

/// Measures both aggregators: opens, prepares and finishes reports.
pub fn both(leader: &PartyContext, helper: &PartyContext, reports: &[Report], time: Span) -> Result<Rate, Failure> {
    let (ours, theirs) =
        (InputShareOpener::new(&leader.context, &leader.keys), InputShareOpener::new(&helper.context, &helper.keys));
    let (first, second) = (leader.context.verification(), helper.context.verification());
    let one = |report: &Report| {
        let (init, pending) =
            leader::start_report(&leader.context, &ours, first, report.clone()).map_err(invalid_report)?;
        let (_, message) = helper::answer(&helper.context, &theirs, second, &init).map_err(invalid_report)?;
        pending.finish(&message).map(drop).map_err(invalid_report)
    };
    cores::measure_rate(reports, time, one)
}

/// The error of a freshly generated report that is rejected.
pub fn invalid_report(error: ReportError) -> Failure {
    Failure::new(format!("a freshly generated report was rejected: {error:?}"))
}
