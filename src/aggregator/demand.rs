//! What collections ask of aggregation: who shall be aggregated now, and who shall rest.

use super::phase::{Phase, phase};
use dapbox_protocol::model::{Interval, Query, Time};
use dapbox_store::{CollectionState, Entry, ReportRef, TaskState};

/// Which intervals or whole tasks must be aggregated at once or must rest, for the sake of collections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Any waiting report is wanted now (fixed-size tasks).
    pub any: bool,
    /// Reports in these intervals that were uploaded before these positions are wanted now.
    pub wanted: Vec<(Interval, ReportRef)>,
    /// Reports in these intervals must not start: a collection waits for the jobs in flight.
    pub resting: Vec<Interval>,
}

impl Demand {
    /// What the task's waiting collection jobs ask for.
    pub fn of(state: &TaskState) -> Self {
        let mut demand = Self::default();
        for job in state.collections.values().filter(|job| matches!(job.state, CollectionState::Waiting)) {
            match (phase(state, &job.query, job.accepted_before), job.query) {
                (Phase::Hungry, Query::TimeInterval(interval)) => demand.wanted.push((interval, ReportRef::END)),
                (Phase::Draining, Query::TimeInterval(interval)) => demand.wanted.push((interval, job.accepted_before)),
                (Phase::Hungry | Phase::Draining, Query::FixedSize(_)) => demand.any = true,
                (Phase::Settling, Query::TimeInterval(interval)) => demand.resting.push(interval),
                _ => {}
            }
        }
        demand
    }

    /// Whether nobody waits for a report.
    pub fn is_empty(&self) -> bool {
        !self.any && self.wanted.is_empty()
    }

    /// Whether somebody waits for the report, and it may start. Intervals are made of whole buckets of time, so that of
    /// a bucket's reports only the first ones are wanted, or all, or none.
    pub fn wants(&self, entry: &Entry) -> bool {
        let is_wanted =
            |(interval, before): &(Interval, ReportRef)| interval.contains(entry.time) && entry.at < *before;
        (self.any || self.wanted.iter().any(is_wanted)) && !self.rests(entry.time)
    }

    /// Whether a report of this time must not start.
    pub fn rests(&self, time: Time) -> bool {
        self.resting.iter().any(|interval| interval.contains(time))
    }
}
