//! Times, lengths of time, rates and sizes, as the page writes them.

use maud::{Markup, html};

use crate::model::{Duration, Interval, Time, calendar, words::count};

const DAY: u64 = 86_400;

/// The last second that has a date of four digits, which is all that HTML knows.
const LAST: u64 = 253_402_300_799;

/// A length of time in its two largest units: `3 d 4 h`, `12 min`, `45 s`.
pub fn span(length: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", DAY), ("h", 3600), ("min", 60), ("s", 1)];
    let at = UNITS.iter().position(|(_, unit)| length.0 >= *unit).unwrap_or(3);
    let (name, unit) = UNITS[at];
    let whole = format!("{} {name}", count(length.0 / unit));
    match UNITS.get(at + 1).map(|(name, next)| (name, length.0 % unit / next)) {
        // Seconds beside minutes would only be restless.
        Some((name, rest)) if rest > 0 && unit > 60 => format!("{whole} {rest} {name}"),
        _ => whole,
    }
}

/// Where a moment lies from now: `12 min ago`, `in 3 d 4 h`.
pub fn relative(at: Time, now: Time) -> String {
    match (at.0.cmp(&now.0), at.0.abs_diff(now.0)) {
        (std::cmp::Ordering::Less, away) => format!("{} ago", span(Duration(away))),
        (std::cmp::Ordering::Equal, _) => "now".to_owned(),
        (std::cmp::Ordering::Greater, away) => format!("in {}", span(Duration(away))),
    }
}

/// A moment in UTC: the time to the second if it is today, else the date and the time to the minute.
pub fn instant(at: Time, now: Time) -> Markup {
    let text = if at.0 / DAY == now.0 / DAY { written(at, 11, 19) } else { written(at, 0, 16) };
    element(at, &format!("{text} UTC"))
}

/// A moment in UTC, and where it lies from now.
pub fn moment(at: Time, now: Time) -> Markup {
    html! { (instant(at, now)) ", " (relative(at, now)) }
}

/// An interval in UTC; seconds only where there are any.
pub fn interval(interval: Interval) -> Markup {
    let (start, end) = (interval.start(), interval.end());
    let last = if start.0.is_multiple_of(60) && end.0.is_multiple_of(60) { 16 } else { 19 };
    let first = if start.0 / DAY == end.0 / DAY { 11 } else { 0 };
    html! {
        (element(start, &written(start, 0, last)))
        " – "
        (element(end, &format!("{} UTC", written(end, first, last))))
    }
}

fn element(at: Time, text: &str) -> Markup {
    html! { time datetime=[(at.0 <= LAST).then(|| calendar::show(at))] { (text) } }
}

/// A part of `2026-11-25 04:30:00`. A moment that has no such text is written as seconds: a task may end at any number.
fn written(at: Time, from: usize, to: usize) -> String {
    let text = calendar::show(at).replace('T', " ");
    text.get(from..to).filter(|_| at.0 <= LAST).map_or_else(|| count(at.0), str::to_owned)
}

/// How many per second, or per minute if they are few.
pub fn rate(per_second: f64) -> String {
    let per_minute = per_second * 60.0;
    match per_second {
        s if s.is_nan() || s <= 0.0 => "none".to_owned(),
        s if s >= 10.0 => format!("{}/s", count(s.round() as u64)),
        s if s >= 1.0 => format!("{s:.1}/s"),
        _ if per_minute >= 10.0 => format!("{per_minute:.0}/min"),
        _ if per_minute >= 0.1 => format!("{per_minute:.1}/min"),
        _ => "below 0.1/min".to_owned(),
    }
}

/// A size in the unit that suits it.
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (size as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}
