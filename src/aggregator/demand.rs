//! What collections demand of aggregation: which reports go first, and which must wait.
//!
//! # Decision: a collection pauses its batch before closing it
//!
//! A batch with running jobs cannot be closed. New uploads could keep a busy batch open forever. So once all reports
//! accepted before the collection are aggregated, no new job takes reports of its interval. The running jobs end, and
//! the batch is closed.

use super::phase::{CollectionPhase, collection_phase};
use dapbox_protocol::model::{Interval, Query, Time};
use dapbox_store::{CollectionState, ReportEntry, ReportRef, TaskState};

/// The demand of a task's collection jobs on its aggregation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CollectionDemand {
    /// Whether any waiting report is demanded (fixed-size tasks).
    pub any: bool,
    /// Intervals whose reports are demanded if they were uploaded before the position.
    pub wanted: Vec<(Interval, ReportRef)>,
    /// Intervals that are paused: a collection waits for their running jobs.
    pub paused: Vec<Interval>,
}

impl CollectionDemand {
    /// Computes the demand of the waiting collection jobs.
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

    /// Whether no report is demanded.
    pub fn is_empty(&self) -> bool {
        !self.any && self.wanted.is_empty()
    }

    /// Whether a report is demanded and not paused. Intervals consist of whole time buckets, so the demanded reports of
    /// a bucket are the first ones, all or none.
    pub fn is_wanted(&self, entry: &ReportEntry) -> bool {
        let is_in_demand =
            |(interval, before): &(Interval, ReportRef)| interval.contains(entry.time) && entry.at < *before;
        (self.any || self.wanted.iter().any(is_in_demand)) && !self.is_paused(entry.time)
    }

    /// Whether reports of this time are paused.
    pub fn is_paused(&self, time: Time) -> bool {
        self.paused.iter().any(|interval| interval.contains(time))
    }
}
