//! What collections ask of aggregation: who shall be aggregated now, and who shall rest.

use super::phase::{CollectionPhase, collection_phase};
use dapbox_protocol::model::{Interval, Query, Time};
use dapbox_store::{CollectionState, ReportEntry, ReportRef, TaskState};

/// Which intervals or whole tasks must be aggregated at once or must rest, for the sake of collections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CollectionDemand {
    /// Any waiting report is wanted now (fixed-size tasks).
    pub any: bool,
    /// Reports in these intervals that were uploaded before these positions are wanted now.
    pub wanted: Vec<(Interval, ReportRef)>,
    /// Reports in these intervals must not start: a collection waits for the jobs in flight.
    pub paused: Vec<Interval>,
}

impl CollectionDemand {
    /// What the task's waiting collection jobs ask for.
    pub fn of(state: &TaskState) -> Self {
        let mut demand = Self::default();
        for job in state.collections.values().filter(|job| matches!(job.state, CollectionState::Waiting)) {
            match (collection_phase(state, &job.query, job.accepted_before), job.query) {
                (CollectionPhase::TooFewReports, Query::TimeInterval(interval)) => {
                    demand.wanted.push((interval, ReportRef::END))
                }
                (CollectionPhase::AwaitingAggregation, Query::TimeInterval(interval)) => {
                    demand.wanted.push((interval, job.accepted_before))
                }
                (CollectionPhase::TooFewReports | CollectionPhase::AwaitingAggregation, Query::FixedSize(_)) => {
                    demand.any = true
                }
                (CollectionPhase::AwaitingJobs, Query::TimeInterval(interval)) => demand.paused.push(interval),
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
    pub fn is_wanted(&self, entry: &ReportEntry) -> bool {
        let is_in_demand =
            |(interval, before): &(Interval, ReportRef)| interval.contains(entry.time) && entry.at < *before;
        (self.any || self.wanted.iter().any(is_in_demand)) && !self.is_paused(entry.time)
    }

    /// Whether a report of this time must not start.
    pub fn is_paused(&self, time: Time) -> bool {
        self.paused.iter().any(|interval| interval.contains(time))
    }
}
