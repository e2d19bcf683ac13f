//! The selection of windows in the address of a page or file: `?from=2026-11-01&to=2026-12-01&sum=1`.

use std::fmt;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use url::form_urlencoded;

use crate::view::TaskView;
use dapbox_protocol::model::Time;
use dapbox_results::Window;

/// Maximum length of a query, in bytes.
const MAX_QUERY: usize = 1_000;

/// What to show. Its text form is the query of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Windows that end after this time; all, if absent.
    pub from: Option<Time>,
    /// Windows that start before this time; all, if absent.
    pub to: Option<Time>,
    /// A second range, to compare with.
    pub compare: Option<(Time, Time)>,
    /// Whether the windows are added up.
    pub sum: bool,
    /// A window to show alone, such as the distribution of a histogram.
    pub window: Option<u64>,
}

/// A query that does not select anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// The query is too long.
    #[error("the query is longer than {MAX_QUERY} bytes")]
    TooLong,
    /// A value is not a time.
    #[error("invalid {name} '{value}' (hint: use a date such as 2026-11-01, or a time such as 2026-11-01T10:00:00Z)")]
    Time {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A window is not a number.
    #[error("invalid window '{0}' (hint: use the number of a window)")]
    Window(String),
    /// A range ends before it starts.
    #[error("the range ends before it starts (hint: exchange {0} and {1})")]
    Reversed(&'static str, &'static str),
    /// Half of a range to compare with.
    #[error("a comparison needs both compare_from and compare_to")]
    HalfComparison,
}

impl Selection {
    /// Parses the query of an address. A date is the start of the day in `zone`. Unknown parameters and empty values are ignored.
    ///
    /// # Errors
    ///
    /// Fails if a value is malformed or a range ends before it starts.
    pub fn parse(query: &str, zone: &TimeZone) -> Result<Self, SelectionError> {
        if query.len() > MAX_QUERY {
            return Err(SelectionError::TooLong);
        }
        let (mut selection, mut compare) = (Self::default(), (None, None));
        for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
            match name.as_ref() {
                "from" => selection.from = Some(parse_time("from", &value, zone)?),
                "to" => selection.to = Some(parse_time("to", &value, zone)?),
                "compare_from" => compare.0 = Some(parse_time("compare_from", &value, zone)?),
                "compare_to" => compare.1 = Some(parse_time("compare_to", &value, zone)?),
                "sum" => selection.sum = value != "0",
                "window" => {
                    let number = value.parse().map_err(|_| SelectionError::Window(shortened(&value)))?;
                    selection.window = Some(number);
                }
                _ => {}
            }
        }
        selection.compare = match compare {
            (None, None) => None,
            (Some(from), Some(to)) if from < to => Some((from, to)),
            (Some(_), Some(_)) => return Err(SelectionError::Reversed("compare_from", "compare_to")),
            _ => return Err(SelectionError::HalfComparison),
        };
        match (selection.from, selection.to) {
            (Some(from), Some(to)) if from >= to => Err(SelectionError::Reversed("from", "to")),
            _ => Ok(selection),
        }
    }

    /// The query that selects the same, without a question mark. Days that start in `zone` are written as dates.
    pub fn query(&self, zone: &TimeZone) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let (compare_from, compare_to) = self.compare.unzip();
        let times = [("from", self.from), ("to", self.to), ("compare_from", compare_from), ("compare_to", compare_to)];
        for (name, time) in times {
            if let Some(time) = time {
                query.append_pair(name, &show_time(time, zone));
            }
        }
        if self.sum {
            query.append_pair("sum", "1");
        }
        if let Some(window) = self.window {
            query.append_pair("window", &window.to_string());
        }
        query.finish()
    }

    /// Whether a window is selected. A window without a time is selected unless the selection has a range.
    pub fn contains(&self, window: &Window) -> bool {
        if self.window.is_some_and(|number| number != window.number) {
            return false;
        }
        overlaps(window, self.from, self.to)
    }

    /// Whether a window is in the range to compare with.
    pub fn compares(&self, window: &Window) -> bool {
        self.compare.is_some_and(|(from, to)| overlaps(window, Some(from), Some(to)))
    }

    /// The numbers of the collected windows whose results the selection needs.
    pub fn needed_results<'a>(&self, windows: impl IntoIterator<Item = &'a Window>) -> Vec<u64> {
        let is_needed =
            |window: &&Window| window.collected().is_some() && (self.contains(window) || self.compares(window));
        windows.into_iter().filter(is_needed).map(|window| window.number).collect()
    }
}

impl TaskView {
    /// The windows that a selection contains.
    pub fn selected(&self, selection: &Selection) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(move |window| selection.contains(window))
    }

    /// The time zone of the task's schedule; UTC if it is unknown.
    pub fn zone(&self) -> TimeZone {
        self.settings.schedule.zone().unwrap_or(TimeZone::UTC)
    }
}

/// A time as a date in a time zone if it is the start of a day there, and in UTC otherwise.
struct ShownTime<'a>(Time, &'a TimeZone);

impl fmt::Display for ShownTime<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(timestamp) = i64::try_from(self.0.0).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
        else {
            return write!(f, "{}", self.0.0);
        };
        let date = self.1.to_datetime(timestamp).date();
        match start_of(date, self.1) == Some(self.0) {
            true => write!(f, "{date}"),
            false => write!(f, "{timestamp}"),
        }
    }
}

fn show_time(time: Time, zone: &TimeZone) -> String {
    ShownTime(time, zone).to_string()
}

fn parse_time(name: &'static str, value: &str, zone: &TimeZone) -> Result<Time, SelectionError> {
    let date = || value.parse::<Date>().ok().and_then(|date| start_of(date, zone));
    let instant = || value.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_second()).ok()).map(Time);
    let seconds = || value.parse::<u64>().ok().map(Time);
    // An instant also parses as a date, without its time.
    let time = instant().or_else(seconds).or_else(|| date().filter(|_| !value.contains('T')));
    time.ok_or_else(|| SelectionError::Time { name, value: shortened(value) })
}

fn start_of(date: Date, zone: &TimeZone) -> Option<Time> {
    let start = zone.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
    u64::try_from(start.as_second()).ok().map(Time)
}

fn overlaps(window: &Window, from: Option<Time>, to: Option<Time>) -> bool {
    match window.shown_interval() {
        Some(interval) => from.is_none_or(|from| interval.end() > from) && to.is_none_or(|to| interval.start() < to),
        None => from.is_none() && to.is_none(),
    }
}

/// The first characters of a value, for messages.
fn shortened(value: &str) -> String {
    value.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    #[test]
    fn reads_dates_in_time_zone_of_schedule() {
        let selection = Selection::parse("from=2026-07-01&to=2026-07-02T10:00:00Z&sum=1&window=", &berlin()).unwrap();
        assert_eq!(selection.from, Some(Time(1_782_856_800)));
        assert_eq!(selection.to, Some(Time(1_782_986_400)));
        assert!(selection.sum && selection.window.is_none());
        assert_eq!(selection.query(&berlin()), "from=2026-07-01&to=2026-07-02T10%3A00%3A00Z&sum=1");
    }

    #[test]
    fn rejects_malformed_values() {
        for query in [
            "from=yesterday",
            "window=x",
            "from=2026-07-02&to=2026-07-01",
            "compare_from=2026-07-02",
            "compare_from=2026-07-02&compare_to=2026-07-02",
        ] {
            assert!(Selection::parse(query, &berlin()).is_err(), "{query}");
        }
        assert_eq!(Selection::parse(&"x".repeat(2_000), &berlin()), Err(SelectionError::TooLong));
    }

    proptest! {
        #[test]
        fn parses_its_own_query(
            from in prop::option::of(0u64..4_000_000_000),
            to in prop::option::of(4_000_000_001u64..9_000_000_000),
            compare in prop::option::of((0u64..1_000_000, 1_000_001u64..2_000_000)),
            sum in any::<bool>(),
            window in any::<Option<u64>>(),
        ) {
            let compare = compare.map(|(from, to)| (Time(from), Time(to)));
            let selection = Selection { from: from.map(Time), to: to.map(Time), compare, sum, window };
            prop_assert_eq!(Selection::parse(&selection.query(&berlin()), &berlin()), Ok(selection));
        }

        #[test]
        fn reads_any_query(query in ".{0,200}") {
            let _ = Selection::parse(&query, &berlin());
        }
    }
}
