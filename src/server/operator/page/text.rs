//! Times and names of tasks, as the page writes them.

use maud::{Markup, html};

use dapbox_aggregator::views::status::TaskStatus;
use dapbox_protocol::model::{Interval, Time};
use dapbox_support::{
    format::{self, count, relative},
    timestamp,
};

const DAY: u64 = 86_400;

/// The last time with a year of four digits, the limit of HTML.
const MAX_HTML_TIME: u64 = 253_402_300_799;

/// Number of characters of an abbreviated id.
const SHORT_ID_CHARS: usize = 8;

/// A short name of a task.
pub fn task_name(status: &TaskStatus) -> String {
    let what = match &status.name {
        Some(name) => name.to_string(),
        None if status.info.is_empty() => format::vdaf(&status.vdaf),
        None => status.info.clone(),
    };
    format!("{what} ({})", short_id(status))
}

/// The first characters of a task id.
pub fn short_id(status: &TaskStatus) -> String {
    status.id.to_string().chars().take(SHORT_ID_CHARS).collect()
}

/// Renders a time in UTC: to the second if it is today, otherwise the date and the minute.
pub fn instant(at: Time, now: Time) -> Markup {
    let text = if at.0 / DAY == now.0 / DAY { written(at, 11, 19) } else { written(at, 0, 16) };
    element(at, &format!("{text} UTC"))
}

/// Renders a time in UTC, abbreviated relative to now.
pub fn brief(at: Time, now: Time) -> Markup {
    element(at, &format!("{} UTC", timestamp::brief(at, now)))
}

/// Renders a time relative to now.
pub fn ago(at: Time, now: Time) -> Markup {
    element(at, &relative(at, now))
}

/// Renders a time in UTC and relative to now.
pub fn moment(at: Time, now: Time) -> Markup {
    html! { (instant(at, now)) ", " (relative(at, now)) }
}

/// Renders an interval in UTC, with seconds only if there are any.
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
    html! { time datetime=[(at.0 <= MAX_HTML_TIME).then(|| timestamp::show(at))] { (text) } }
}

/// A part of `2026-11-25 04:30:00`; seconds since 1970 for a time that has no such text.
fn written(at: Time, from: usize, to: usize) -> String {
    let text = timestamp::show(at).replace('T', " ");
    text.get(from..to).filter(|_| at.0 <= MAX_HTML_TIME).map_or_else(|| count(at.0), str::to_owned)
}
