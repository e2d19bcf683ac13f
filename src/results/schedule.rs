//! When windows end and when they are requested.

use std::time::Duration as Span;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{BatchMode, Duration, TaskParameters, Time};
use dapbox_support::duration::{self, Seconds};

/// Start of the years in which the boundaries of calendar units are checked: 2020.
const SAMPLE_START: u64 = 1_577_836_800;
/// Number of months in which they are checked.
const SAMPLE_MONTHS: u64 = 12 * 12;

/// The schedule of a task. Fixed-size tasks use `on_too_few` and `patience` of it only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Start of the first window; by default the start of the first collection.
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::instant::optional")]
    pub start: Option<Time>,
    /// Length of the windows of a time-interval task.
    pub every: Unit,
    /// Time zone of calendar units, as in the IANA database.
    pub time_zone: String,
    /// How long to wait for late reports after the end of a window.
    pub grace: Seconds,
    /// What to do with a window that has too few reports.
    pub on_too_few: OnTooFew,
    /// How long the leader may have no result before the window counts as having too few reports.
    pub patience: Seconds,
}

/// What to do with a window that has fewer reports than the minimum batch size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTooFew {
    /// Wait for late reports; the window stays requested.
    #[default]
    Wait,
    /// Join the window with the following ones until they have enough reports.
    Extend,
    /// Give the window up. Its reports stay uncollected.
    Skip,
}

/// The length of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Unit {
    /// Multiples of a duration since the UNIX epoch; a multiple of the task's time precision.
    Span(Seconds),
    /// Calendar days.
    Day,
    /// Calendar weeks, from Monday.
    Week,
    /// Calendar months.
    Month,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            start: None,
            every: Unit::Day,
            time_zone: "UTC".to_owned(),
            grace: Seconds::new(600),
            on_too_few: OnTooFew::default(),
            patience: Seconds::new(3600),
        }
    }
}

impl From<Unit> for String {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Span(length) => dapbox_support::duration::show(*length),
            Unit::Day => "day".to_owned(),
            Unit::Week => "week".to_owned(),
            Unit::Month => "month".to_owned(),
        }
    }
}

impl TryFrom<String> for Unit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(match text.as_str() {
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            span => Self::Span(Seconds(
                dapbox_support::duration::parse(span)
                    .map_err(|why| format!("{why}; a window is a 'day', 'week', 'month' or a duration"))?,
            )),
        })
    }
}

/// Maximum length of a window, in seconds: ten years.
const MAX_LENGTH: u64 = 3_660 * 86_400;

impl Schedule {
    /// Checks that the schedule fits a task. The error says what to change.
    pub fn check(&self, task: &TaskParameters) -> Result<(), String> {
        let zone = self.zone()?;
        if task.batch_mode != BatchMode::TimeInterval {
            return Ok(());
        }
        let precision = task.time_precision;
        match self.every {
            Unit::Span(length) => {
                let seconds = length.as_secs();
                let is_multiple = length.subsec_nanos() == 0 && seconds.is_multiple_of(precision.0.max(1));
                if seconds == 0 || seconds > MAX_LENGTH || !is_multiple {
                    return Err(format!(
                        "windows of {} are not a multiple of the task's time precision, {} (hint: set every to a multiple, at \
                         most ten years)",
                        duration::show(*length),
                        duration::show(Span::from_secs(precision.0)),
                    ));
                }
            }
            Unit::Day | Unit::Week | Unit::Month => {
                // Offsets from UTC are compared over some years, for time zones that change them.
                let day = 86_400;
                let is_aligned = |month: u64| {
                    let end = self.end_in(&zone, Time(SAMPLE_START + month * 30 * day));
                    end.is_some_and(|end| end.truncate(precision) == end)
                };
                if !(0..SAMPLE_MONTHS).all(is_aligned) {
                    return Err(format!(
                        "the time precision of the task, {}, cannot express a calendar {} in {} (hint: use time_zone = \"UTC\", \
                         or a multiple of the precision)",
                        duration::show(Span::from_secs(precision.0)),
                        String::from(self.every),
                        self.time_zone,
                    ));
                }
            }
        }
        Ok(())
    }

    /// The end of the window that starts at `start`: the next boundary after it, a multiple of the time precision.
    pub fn window_end(&self, start: Time, precision: Duration) -> Time {
        let end = match self.every {
            Unit::Span(length) => next_multiple(start, length.as_secs()),
            Unit::Day | Unit::Week | Unit::Month => {
                let zone = self.zone().unwrap_or(TimeZone::UTC);
                self.end_in(&zone, start).unwrap_or_else(|| next_multiple(start, 86_400)).truncate(precision)
            }
        };
        // Only a schedule that was not checked has windows shorter than the precision.
        if end > start { end } else { next_multiple(start, precision.0) }
    }

    /// The time zone of the schedule.
    pub fn zone(&self) -> Result<TimeZone, String> {
        TimeZone::get(&self.time_zone).map_err(|_| {
            format!(
                "unknown time zone '{}' (hint: use a name of the IANA database, such as Europe/Berlin)",
                self.time_zone
            )
        })
    }

    /// The next boundary of a calendar unit; `None` outside of the years that the calendar supports.
    fn end_in(&self, zone: &TimeZone, start: Time) -> Option<Time> {
        let start = Timestamp::from_second(i64::try_from(start.0).ok()?).ok()?;
        let date = zone.to_datetime(start).date();
        let next = match self.every {
            Unit::Month => date.first_of_month().checked_add(1.month()).ok()?,
            Unit::Week => {
                let since_monday = date.weekday().to_monday_zero_offset();
                date.checked_add((7 - i64::from(since_monday)).days()).ok()?
            }
            Unit::Day | Unit::Span(_) => date.tomorrow().ok()?,
        };
        let end = zone.to_timestamp(next.at(0, 0, 0, 0)).ok()?;
        u64::try_from(end.as_second()).ok().map(Time)
    }
}

/// The next multiple of `length` seconds after a time.
fn next_multiple(time: Time, length: u64) -> Time {
    let length = Duration(length.max(1));
    time.truncate(length).saturating_add(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_berlin(every: Unit) -> Schedule {
        Schedule { every, time_zone: "Europe/Berlin".to_owned(), ..Schedule::default() }
    }

    fn at(text: &str) -> Time {
        Time(text.parse::<Timestamp>().unwrap().as_second() as u64)
    }

    fn ends(schedule: &Schedule, start: &str, count: usize) -> Vec<String> {
        let next = |start: &Time| Some(schedule.window_end(*start, Duration(3600)));
        let ends = std::iter::successors(Some(at(start)), next).skip(1).take(count);
        ends.map(|end| Timestamp::from_second(end.0 as i64).unwrap().to_string()).collect()
    }

    #[test]
    fn follows_daylight_saving_time() {
        let days = ends(&in_berlin(Unit::Day), "2026-03-27T23:00:00Z", 3);
        assert_eq!(days, ["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z"]);
        let days = ends(&in_berlin(Unit::Day), "2026-10-24T22:00:00Z", 2);
        assert_eq!(days, ["2026-10-25T23:00:00Z", "2026-10-26T23:00:00Z"]);
    }

    #[test]
    fn starts_weeks_on_monday_and_months_on_the_first() {
        let weeks = ends(&in_berlin(Unit::Week), "2026-12-02T10:00:00Z", 2);
        assert_eq!(weeks, ["2026-12-06T23:00:00Z", "2026-12-13T23:00:00Z"]);
        let months = ends(&Schedule { every: Unit::Month, ..Schedule::default() }, "2026-12-02T10:00:00Z", 3);
        assert_eq!(months, ["2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"]);
    }

    #[test]
    fn aligns_spans_with_epoch() {
        let schedule = Schedule { every: Unit::Span(Seconds::new(6 * 3600)), ..Schedule::default() };
        assert_eq!(ends(&schedule, "2026-12-02T10:00:00Z", 2), ["2026-12-02T12:00:00Z", "2026-12-02T18:00:00Z"]);
    }
}
