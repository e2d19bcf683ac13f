//! When windows end and when they are requested.

use serde::{Deserialize, Serialize};

use crate::settings::OnTooFew;
use dapbox_support::duration::Seconds;

/// The schedule of a task. Fixed-size tasks use `on_too_few` and `patience` of it only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
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
