//! The limit: what cryptography alone takes, from memory on all cores, by the very functions that the server calls.

use std::time::Duration as Span;

use super::{cores, stage::Stage};
use crate::{
    aggregator::{Opener, helper},
    cli::Failure,
    model::PrepareInit,
};

/// How long a limit is measured, at most.
pub const TIME: Span = Span::from_secs(1);

/// How many reports a helper can open and prepare in a second.
pub fn helper(stage: &Stage, reports: &[PrepareInit], time: Span) -> Result<f64, Failure> {
    let (context, keys) = (&stage.context, &stage.keys);
    let opener = Opener::new(context, keys);
    cores::rate(reports, time, |init| match helper::answer(context, &opener, init) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(format!("a report that was just made does not hold: {error:?}"))),
    })
}
