//! Times as people read them, in the time zone of a task's schedule.

use dapbox_protocol::model::{Interval, Time};
use dapbox_support::timestamp;
use jiff::{
    Span, Timestamp, ToSpan,
    civil::{Date, DateTime, Time as Clock},
    tz::TimeZone,
};

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

/// A time zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
}

/// A labelled time on an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// The time.
    pub at: Time,
    /// Its label.
    pub label: String,
}

/// The distance of ticks.
#[derive(Clone, Copy)]
enum Step {
    Seconds(i64),
    Days(i64),
    Months(i64),
}

const STEPS: [Step; 21] = [
    Step::Seconds(MINUTE),
    Step::Seconds(5 * MINUTE),
    Step::Seconds(15 * MINUTE),
    Step::Seconds(30 * MINUTE),
    Step::Seconds(HOUR),
    Step::Seconds(3 * HOUR),
    Step::Seconds(6 * HOUR),
    Step::Seconds(12 * HOUR),
    Step::Days(1),
    Step::Days(2),
    Step::Days(7),
    Step::Days(14),
    Step::Months(1),
    Step::Months(2),
    Step::Months(3),
    Step::Months(6),
    Step::Months(12),
    Step::Months(24),
    Step::Months(60),
    Step::Months(120),
    Step::Months(600),
];

impl Calendar {
    /// The time zone with a name of the IANA database; UTC if there is none.
    pub fn new(name: &str) -> Self {
        Self { zone: TimeZone::get(name).unwrap_or(TimeZone::UTC) }
    }

    fn local(&self, at: Time) -> Option<DateTime> {
        let timestamp = Timestamp::from_second(i64::try_from(at.0).ok()?).ok()?;
        Some(self.zone.to_datetime(timestamp))
    }

    fn write(&self, at: Time, format: &str) -> String {
        let local = self.local(at).filter(|local| local.year() <= 9999);
        local.map_or_else(|| timestamp::show(at), |local| local.strftime(format).to_string())
    }

    /// A day: `22 Nov 2026`.
    pub fn day(&self, at: Time) -> String {
        self.write(at, "%-d %b %Y")
    }

    /// A minute: `22 Nov 2026, 10:30`.
    pub fn minute(&self, at: Time) -> String {
        self.write(at, "%-d %b %Y, %H:%M")
    }

    /// The date of a form field: `2026-11-22`.
    pub fn date_field(&self, at: Time) -> String {
        self.write(at, "%Y-%m-%d")
    }

    /// A span of time, as briefly as it is unambiguous: `November 2026`, `22 Nov 2026`, `16–22 Nov 2026`,
    /// `22 Nov 2026, 10:00–11:00`.
    pub fn span(&self, interval: Interval) -> String {
        let (Some(start), Some(end)) = (self.local(interval.start()), self.local(interval.end())) else {
            return format!("{} – {}", timestamp::show(interval.start()), timestamp::show(interval.end()));
        };
        let is_whole_days = start.time() == Clock::midnight() && end.time() == Clock::midnight() && start < end;
        if is_whole_days {
            return days(start.date(), end.date());
        }
        if start.date() == end.date() {
            return format!("{}, {}–{}", start.strftime("%-d %b %Y"), start.strftime("%H:%M"), end.strftime("%H:%M"));
        }
        format!("{} – {}", start.strftime("%-d %b %Y, %H:%M"), end.strftime("%-d %b %Y, %H:%M"))
    }

    /// At most `most` labelled times between two times, at least about `least` seconds apart.
    pub fn ticks(&self, start: Time, end: Time, most: usize, least: u64) -> Vec<Tick> {
        let (Some(first), Some(last)) = (self.local(start), self.local(end)) else { return Vec::new() };
        let length = (end.0.saturating_sub(start.0)) as f64;
        // A day with a change of the clock has 23 hours.
        let fits = |step: &Step| step.seconds() >= least as f64 * 0.9 && length / step.seconds() <= most as f64;
        let step = STEPS.into_iter().find(fits);
        self.tick_times(first, last, step.unwrap_or(Step::Months(1200)))
    }

    fn tick_times(&self, first: DateTime, last: DateTime, step: Step) -> Vec<Tick> {
        let mut ticks: Vec<Tick> = Vec::new();
        let mut at = step.before(first);
        while let Some(now) = at.filter(|now| *now <= last) {
            let timestamp = self.zone.to_timestamp(now).ok().and_then(|at| u64::try_from(at.as_second()).ok());
            if let Some(at) = timestamp.filter(|_| now >= first) {
                ticks.push(Tick { at: Time(at), label: step.label(now, ticks.is_empty()) });
            }
            at = now.checked_add(step.span()).ok().filter(|next| *next > now);
        }
        ticks
    }
}

impl Step {
    /// The approximate length.
    fn seconds(self) -> f64 {
        match self {
            Self::Seconds(seconds) => seconds as f64,
            Self::Days(days) => days as f64 * 86_400.0,
            Self::Months(months) => months as f64 * 30.44 * 86_400.0,
        }
    }

    fn span(self) -> Span {
        match self {
            Self::Seconds(seconds) => seconds.seconds(),
            Self::Days(days) => days.days(),
            Self::Months(months) => months.months(),
        }
    }

    /// A round time at or before `at`.
    fn before(self, at: DateTime) -> Option<DateTime> {
        let date = match self {
            Self::Seconds(_) | Self::Days(1 | 2) => at.date(),
            Self::Days(_) => at.date().checked_sub(i64::from(at.weekday().to_monday_zero_offset()).days()).ok()?,
            Self::Months(months) if months >= 12 => {
                let years = i16::try_from(months / 12).ok()?;
                Date::new(at.year() - at.year().rem_euclid(years), 1, 1).ok()?
            }
            Self::Months(months) => {
                let month = i64::from(at.month()) - 1;
                Date::new(at.year(), i8::try_from(month - month % months + 1).ok()?, 1).ok()?
            }
        };
        Some(date.to_datetime(Clock::midnight()))
    }

    fn label(self, at: DateTime, is_first: bool) -> String {
        let format = match self {
            Self::Seconds(_) if is_first || at.time() == Clock::midnight() => "%-d %b %H:%M",
            Self::Seconds(_) => "%H:%M",
            Self::Days(_) if is_first => "%-d %b %Y",
            Self::Days(_) => "%-d %b",
            Self::Months(months) if months >= 12 => "%Y",
            Self::Months(_) if is_first || at.month() == 1 => "%b %Y",
            Self::Months(_) => "%b",
        };
        at.strftime(format).to_string()
    }
}

/// Whole days from `start` to before `end`.
fn days(start: Date, end: Date) -> String {
    let Ok(last) = end.yesterday() else { return start.to_string() };
    let is_month_start = start.day() == 1 && end.day() == 1;
    if start == last {
        return start.strftime("%-d %b %Y").to_string();
    }
    if is_month_start && start.month() == last.month() && start.year() == last.year() {
        return start.strftime("%B %Y").to_string();
    }
    let first = match (start.year() == last.year(), start.month() == last.month()) {
        (true, true) => start.strftime("%-d"),
        (true, false) => start.strftime("%-d %b"),
        (false, _) => start.strftime("%-d %b %Y"),
    };
    let dash = if start.year() == last.year() && start.month() == last.month() { "–" } else { " – " };
    format!("{first}{dash}{}", last.strftime("%-d %b %Y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(calendar: &Calendar, start: &str, end: &str) -> String {
        let (start, end) = (timestamp::parse(start).unwrap(), timestamp::parse(end).unwrap());
        let length = dapbox_protocol::model::Duration(end.0 - start.0);
        calendar.span(Interval::new(start, length).unwrap())
    }

    #[test]
    fn spans_are_brief() {
        let utc = Calendar::new("UTC");
        for (start, end, expected) in [
            ("2026-11-22", "2026-11-23", "22 Nov 2026"),
            ("2026-11-01", "2026-12-01", "November 2026"),
            ("2026-11-16", "2026-11-23", "16–22 Nov 2026"),
            ("2026-10-26", "2026-11-02", "26 Oct – 1 Nov 2026"),
            ("2026-12-28", "2027-01-04", "28 Dec 2026 – 3 Jan 2027"),
            ("2026-11-22T10:00", "2026-11-22T11:00", "22 Nov 2026, 10:00–11:00"),
            ("2026-11-22T22:00", "2026-11-23T02:00", "22 Nov 2026, 22:00 – 23 Nov 2026, 02:00"),
        ] {
            assert_eq!(span(&utc, start, end), expected);
        }
        let berlin = Calendar::new("Europe/Berlin");
        assert_eq!(span(&berlin, "2026-10-24T22:00", "2026-10-25T23:00"), "25 Oct 2026");
        assert_eq!(Calendar::new("Nowhere/Land").day(timestamp::parse("2026-10-24T23:00").unwrap()), "24 Oct 2026");
    }

    #[test]
    fn ticks_are_round_and_few() {
        let calendar = Calendar::new("Europe/Berlin");
        let start = timestamp::parse("2026-01-14T10:17:00Z").unwrap();
        for length in [600, 7200, 86_400, 86_400 * 9, 86_400 * 60, 86_400 * 400, 86_400 * 365 * 9, 86_400 * 365 * 700] {
            let ticks = calendar.ticks(start, Time(start.0 + length), 8, 0);
            assert!((1..=9).contains(&ticks.len()), "{length}: {ticks:?}");
        }
        let labels = |days: u64| {
            let ticks = calendar.ticks(start, Time(start.0 + days * 86_400), 6, 0);
            ticks.into_iter().map(|tick| tick.label).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels(150), "Feb 2026 Mar Apr May Jun");
        assert_eq!(labels(1800), "2027 2028 2029 2030");
        assert_eq!(calendar.ticks(Time(u64::MAX - 1), Time(u64::MAX), 5, 0), []);
    }
}
