//! The limit: what cryptography alone takes, from memory on all cores, by the very functions that the server calls.

use std::time::Duration as Span;

use super::{
    cores::{self, Rate},
    stage::PartyContext,
};
use crate::{
    aggregator::{Opener, helper, leader},
    cli::Failure,
    model::{PrepareInit, Report, ReportError},
};

/// How long a limit is measured, at most.
pub const TIME: Span = Span::from_secs(1);

/// Opening and preparing one report at the helper.
pub fn helper(ours: &PartyContext, reports: &[PrepareInit], time: Span) -> Result<Rate, Failure> {
    let opener = Opener::new(&ours.context, &ours.keys);
    let one = |init: &PrepareInit| helper::answer(&ours.context, &opener, init).map(drop).map_err(invalid_report);
    cores::measure_rate(reports, time, one)
}

/// Opening, preparing and finishing one report at both aggregators.
pub fn both(leader: &PartyContext, helper: &PartyContext, reports: &[Report], time: Span) -> Result<Rate, Failure> {
    let (ours, theirs) = (Opener::new(&leader.context, &leader.keys), Opener::new(&helper.context, &helper.keys));
    let one = |report: &Report| {
        let (init, pending) = leader::start_report(&leader.context, &ours, report.clone()).map_err(invalid_report)?;
        let (_, message) = helper::answer(&helper.context, &theirs, &init).map_err(invalid_report)?;
        pending.finish(&message).map(drop).map_err(invalid_report)
    };
    cores::measure_rate(reports, time, one)
}

/// A report that was just made does not hold.
pub fn invalid_report(error: ReportError) -> Failure {
    Failure::new(format!("a report that was just made is refused: {error:?}"))
}
