//! Moments, as the page writes them.

use maud::{Markup, html};

use dapbox_protocol::model::{Interval, Time};
use dapbox_support::{
    format::{count, relative},
    timestamp,
};

const DAY: u64 = 86_400;

/// The last second that has a date of four digits, which is all that HTML knows.
const LAST: u64 = 253_402_300_799;

/// A moment in UTC: the time to the second if it is today, else the date and the time to the minute.
pub fn instant(at: Time, now: Time) -> Markup {
    let text = if at.0 / DAY == now.0 / DAY { written(at, 11, 19) } else { written(at, 0, 16) };
    element(at, &format!("{text} UTC"))
}

/// A moment in UTC, as briefly as it can be told from now.
pub fn brief(at: Time, now: Time) -> Markup {
    element(at, &format!("{} UTC", timestamp::brief(at, now)))
}

/// Where a moment lies from now.
pub fn ago(at: Time, now: Time) -> Markup {
    element(at, &relative(at, now))
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
    html! { time datetime=[(at.0 <= LAST).then(|| timestamp::show(at))] { (text) } }
}

/// A part of `2026-11-25 04:30:00`. A moment that has no such text is written as seconds: a task may end at any number.
fn written(at: Time, from: usize, to: usize) -> String {
    let text = timestamp::show(at).replace('T', " ");
    text.get(from..to).filter(|_| at.0 <= LAST).map_or_else(|| count(at.0), str::to_owned)
}
